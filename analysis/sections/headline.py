"""What a report begins with: the question that its arms ask, and the answer in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.render.text import arm_title, interval, join_and, number_of, points_text, range_text, span
from analysis.stats.comparisons import TESTED, claimed
from analysis.stats.paired import FEWEST
from analysis.stats.results import Results
from search_spaces.families import FIXMATCH, LEVEL
from trainables.arms import CE, CONTROL, Arm
from trainables.catalogue import TERMS

OPEN = "Not known yet:"
"""How an answer begins that takes more seeds."""
MOST_SETS = 3
"""Most sets of cells with arms of their own that have an answer each."""
NAMED = 3
"""Most arms that an answer names, those with the largest differences."""
ANY = "Which of these arms has the highest test accuracy?"
"""The question of arms that are not compared with a baseline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """The question, and what the comparisons answer: a sentence for each family, the most important first."""

    question: str
    answers: tuple[str, ...]


def headline(results: Results) -> Headline:
    """The question of a study and its answers."""
    compared = results.compared
    tested = compared[(compared["metric"] == TESTED)]
    names = by_importance(list(dict.fromkeys(tested["baseline"])))
    if not names:
        return Headline(question=ANY, answers=("No arm here has a baseline: nothing is compared.",))
    main, *others = names
    # Controls of the thesis's other readings have families of their own: the findings have them.
    also = [name for name in others if name == CE]
    asked = question(main, tested[tested["baseline"] == main])
    answers = [
        text for name in (main, *also) for text in _of_family(results, name, asked if name == main else "")
    ]
    known = [text for text in answers if not text.startswith(OPEN)] or answers[:1]
    return Headline(question=asked, answers=tuple(known))


def by_importance(baselines: Sequence[str]) -> list[str]:
    """Names of families: what the term does first, then what two views do, then all others."""
    ranks = {CONTROL: 0, FIXMATCH: 1, CE: 2}
    return sorted(baselines, key=lambda name: ranks.get(name, len(ranks)))


def question(baseline: str, family: pd.DataFrame) -> str:
    """What the comparisons with one baseline ask."""
    if baseline == FIXMATCH:
        return "Does FixMatch's unlabelled loss improve test accuracy?"
    if baseline in (CONTROL, CE):
        return _of_terms(baseline, family)
    if baseline.startswith(f"{CE} "):
        return "Do two views improve on cross-entropy with another budget?"
    return f"Does {baseline.partition('=')[0]} change test accuracy?"


def _of_terms(baseline: str, family: pd.DataFrame) -> str:
    """What comparisons with the control, or with cross-entropy alone, ask."""
    arms = [Arm.parse(label) for label in dict.fromkeys(family["arm_label"])]
    terms = list(dict.fromkeys(TERMS[arm.term].title for arm in arms if arm.gamma))
    if baseline == CONTROL:
        if len(terms) == 1:
            return f"Does {terms[0]} improve test accuracy?"
        return f"Does one of {len(terms)} consistency terms improve test accuracy?"
    if not terms:
        return "Does a second view improve test accuracy?"
    if len(terms) == 1 and all(arm.method == "siamese" for arm in arms):
        return f"Does a second view with {terms[0]} improve test accuracy?"
    return "Which arms improve on cross-entropy alone?"


def _of_family(results: Results, baseline: str, asked: str) -> list[str]:
    """The answers for one family: of the only cell, of cells pooled, or counted where they cannot be.

    `asked` is as for `answer`.
    """
    tested = results.compared[results.compared["metric"] == TESTED]
    tested = tested[tested["baseline"] == baseline]
    cells = tested["cell"].nunique()
    if cells == 1:
        return [answer(tested, asked)]
    sets = pooled_sets(results, baseline, cells)
    if not sets:
        return [_counted(tested, cells, first=bool(asked))]
    return [
        answer(part, "" if number else asked, where=f", mean over {title}")
        for number, (title, part) in enumerate(sets.items())
    ]


def pooled_sets(results: Results, baseline: str, cells: int) -> dict[str, pd.DataFrame]:
    """The pooled comparisons with a baseline by title of their cells, the largest set first.

    Empty where they do not cover all of the cells, or are too many to be read as one answer.
    """
    parts = [table[table["baseline"] == baseline] for table in results.pooled]
    parts = sorted((part for part in parts if len(part)), key=lambda part: -int(part["cells"].iloc[0]))
    if sum(int(part["cells"].iloc[0]) for part in parts) != cells or len(parts) > MOST_SETS:
        return {}
    kinds = [str(part["kind"].iloc[0]) for part in parts]
    counts = [number_of(int(part["cells"].iloc[0]), "cell") for part in parts]
    titles = [f"{count}, {kind}" if kind else count for count, kind in zip(counts, kinds, strict=True)]
    return dict(zip(titles, parts, strict=True))


def answer(family: pd.DataFrame, asked: str, *, where: str = "", seed: str = "seed") -> str:
    """What the comparisons with one baseline answer, in a sentence.

    `family` are rows of `comparisons` or `pooled_comparisons`; `asked` is the question that it answers, empty
    where another sentence does; `where` tells what was averaged, `seed` what a replicate is called.
    """
    against = _baseline_title(family)
    known = family[family["n"] > 0]
    n = int(known["n"].max()) if len(known) else 0
    if n < FEWEST:
        return f"{OPEN} {number_of(n, seed)} against {against}{where}; a claim takes {FEWEST}."
    counted = f"n = {number_of(n, seed)}{where}"
    sure = known[claimed(known)].sort_values("delta", key=abs, ascending=False)
    if sure.empty:
        return f"{_without_claim(known, against, asked)} ({counted})."
    higher, lower = sure[sure["delta"] > 0], sure[sure["delta"] < 0]
    rest = known.drop(sure.index)
    parts = [f"higher with {_named(higher)}"] if len(higher) else []
    parts += [f"lower with {_named(lower)}"] if len(lower) else []
    said = _yes_or_no(asked, higher, lower, rest)
    begin = f"{said} against" if said else "Against"
    more = f"; for {_titles(rest)} no difference is shown" if len(rest) else ""
    return f"{begin} {against}, test accuracy is {' and '.join(parts)}{more} ({counted})."


def _without_claim(known: pd.DataFrame, against: str, asked: str) -> str:
    """The answer where no difference is claimed: all are small, or some remain possible."""
    small, open_ = (known[(known["verdict"] == "small") == is_small] for is_small in (True, False))
    if open_.empty:
        begin = "No: the" if asked and not asked.startswith("Which") else "The"
        return f"{begin} difference from {against} is smaller than {_margin(small)}: {_each(small)}"
    begin = f"Not shown: against {against}," if asked else f"Against {against}, no difference is shown:"
    if open_["delta_low_holm"].isna().all():
        return f"{begin} differences are the same in all seeds, and without any spread there is no test"
    text = f"{begin} differences {_each(open_)} remain possible"
    if len(small):
        text += f"; smaller than {_margin(small)} for {_titles(small)}"
    return text


def _margin(small: pd.DataFrame) -> str:
    return points_text(small["margin"].iloc[0])


def _each(rows: pd.DataFrame) -> str:
    """`from −1.6 to +1.8 points with γ = 10⁻³ and from … with γ = 10⁻²`, or the whole range of many arms."""
    bounds = [
        (row["arm_label"], *(row[f"delta_{end}_holm"] for end in ("low", "high")))
        for row in rows.dropna(subset="delta_low_holm").to_dict("records")
    ]
    if len(rows) > NAMED or len(bounds) < len(rows):
        return range_text(*_bounds(rows))
    named = [f"{range_text(low, high)} with {arm_title(arm)}" for arm, low, high in bounds]
    return join_and(named) if len(named) > 1 else range_text(*bounds[0][1:])


def _titles(rows: pd.DataFrame) -> str:
    titles = list(map(arm_title, rows["arm_label"]))
    return join_and(titles) if len(titles) <= NAMED else number_of(len(titles), "other arm")


def _yes_or_no(asked: str, higher: pd.DataFrame, lower: pd.DataFrame, rest: pd.DataFrame) -> str:
    """How the answer begins where some differences are claimed; empty if it is not a yes or no.

    A no takes every arm: one without a verdict may still be higher.
    """
    if not asked or asked.startswith("Which"):
        return ""
    if lower.empty or " change " in asked:
        return "Yes:"
    if len(higher):
        return "It depends on the arm:"
    return "No:" if (rest["verdict"] == "small").all() else "Not shown:"


def _named(sure: pd.DataFrame) -> str:
    """`γ = 10⁻² by 1.2 points (+0.3 to +2.1)`, for the largest differences."""
    named = [
        f"{arm_title(row['arm_label'])} by {abs(100 * row['delta']):.1f} points"
        f" ({interval(row['delta_low_holm'], row['delta_high_holm'])})"
        for row in sure.head(NAMED).to_dict("records")
    ]
    more = len(sure) - NAMED
    return join_and([*named, number_of(more, "other arm")] if more > 0 else named)


def _bounds(rows: pd.DataFrame) -> tuple[float, float]:
    """The lowest and the highest bound of adjusted intervals; of differences without spread, the values."""
    low, high = (rows[f"delta_{end}_holm"].fillna(rows["delta"]) for end in ("low", "high"))
    return float(low.min()), float(high.max())


def _baseline_title(family: pd.DataFrame) -> str:
    """`CE`, `the control γ = 0`; for pairs of arms that differ in a field, its reference."""
    labels = list(dict.fromkeys(family["baseline_label"]))
    if len(labels) > 1:
        return str(family["baseline"].iloc[0]).replace("=", " = ")
    title = arm_title(str(labels[0]))
    return f"the control {title}" if labels[0] == CONTROL else title


def _counted(tested: pd.DataFrame, cells: int, *, first: bool) -> str:
    """The answer of cells that are not averaged: how many comparisons show a difference."""
    against = _baseline_title(tested)
    possible = tested[tested["n"] >= FEWEST]
    if possible.empty:
        return f"{OPEN} too few seeds against {against} in {cells} cells; a claim takes {FEWEST}."
    sure = tested[claimed(tested)]
    higher = int((sure["delta"] > 0).sum())
    lower = len(sure) - higher
    shown = f"{higher} of {len(possible)} comparisons with {against} are higher and {lower} lower"
    families = len(possible.drop_duplicates("cell"))
    chance = f"without any true difference, up to {LEVEL * families:.1f} cells would show one"
    begin = ("Not shown in any cell: " if sure.empty else "In some cells: ") if first else ""
    text = f"{begin}{shown} ({cells} cells, n = {span(set(possible['n']))}; {chance})."
    return text[0].upper() + text[1:]
