"""Which rule the p-values and intervals follow, and why: what was planned, and what was looked at."""

import pandas as pd

from analysis.render.text import arm_title, interval, join_and, number_of, points_text, span
from analysis.stats.comparisons import TESTED
from analysis.stats.sequential import SHARE_OF_OTHERS, nominal_level
from search_spaces.families import LEVEL
from search_spaces.seeds import parse_seeds

P_TITLES = {"t": "p (t)", "range": "p (range)", "anytime": "p (any time)"}
"""Headings of p-values by rule."""


def p_title(compared: pd.DataFrame) -> str:
    """The heading of these rows' p-values."""
    rules = set(compared["rule"])
    return P_TITLES[rules.pop()] if len(rules) == 1 else "p"


def rule_sentences(compared: pd.DataFrame) -> list[str]:
    """A sentence for each rule among comparisons of test accuracy that have results."""
    shown = compared[(compared["n"] > 0)]
    if "metric" in shown:
        shown = shown[shown["metric"] == TESTED]
    if shown.empty:
        return []
    parts = shown.groupby(["rule", "planned", "planned_on"], sort=False, dropna=False)
    return [_sentence(part) for _, part in parts]


def _sentence(part: pd.DataFrame) -> str:
    seeds, first = span(set(part["seeds"])), part.iloc[0]
    rule, planned, day = str(first["rule"]), first["planned"], first["planned_on"]
    if planned is None or pd.isna(planned):
        if rule == "t":
            return "Paired t-tests, which hold for a single look: no number of planned seeds is recorded."
        return f"Cells with different plans ({seeds} seeds): p-values and intervals hold at any look."
    plan, made = parse_seeds(str(planned)), _made(str(planned), str(day))
    if rule == "t":
        return f"{made} and all have ended{'' if seeds == '1' else ': paired t-tests'}."
    if rule == "range":
        level = nominal_level(LEVEL, plan.low, plan.high)
        return (
            f"{made}: verdicts hold after any number of seeds in that range (now {seeds}); t-tests at a"
            f" constant level of {level:.2g} in place of {LEVEL}."
        )
    return (
        f"{made}; this is another look, after {seeds}. P-values and intervals hold at any look, after any"
        f" number of seeds (e-process), but are wider: what was planned has the level of {LEVEL}, all"
        f" others share {LEVEL * SHARE_OF_OTHERS:g}."
    )


def _made(planned: str, day: str) -> str:
    """`3 seeds were planned (2026-11-25)`."""
    if day.endswith("(adopted)"):
        return (
            f"What was planned before the first look is not known; the {planned} seeds that were there on"
            f" {day.split(maxsplit=1)[0]} count as planned"
        )
    if ".." in planned:
        return f"{planned.replace('..', ' to ')} seeds were declared beforehand ({day})"
    return f"{number_of(int(planned), 'seed')} {'was' if planned == '1' else 'were'} planned ({day})"


def bounds_note(compared: pd.DataFrame) -> str:
    """What a caption says of intervals that need not lie around their mean; empty where they do."""
    if set(compared["rule"]) <= {"t"}:
        return ""
    return (
        " Each bound is the strictest of all looks so far, so that the mean of all seeds need not be in the"
        " middle of its interval."
    )


def small_sentences(family: pd.DataFrame, baseline: str) -> list[str]:
    """A sentence on the arms whose difference from the baseline is smaller than the declared margin."""
    small = family[family["verdict"] == "small"]
    if small.empty:
        return []
    low, high = small["delta_low_holm"].min(), small["delta_high_holm"].max()
    names = join_and([arm_title(arm) for arm in small["arm_label"]])
    return [
        f"{names} {'differs' if len(small) == 1 else 'differ'} from {baseline} by less than the declared"
        f" margin of {points_text(small['margin'].iloc[0])} of test accuracy (Holm-adjusted intervals from"
        f" {interval(low, high)}, n = {span(set(small['n']))})."
    ]
