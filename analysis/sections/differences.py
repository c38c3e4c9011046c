"""Tables of paired differences."""

import math
from collections.abc import Iterable

import pandas as pd

from analysis.render.table import Entry, Table, entries
from analysis.render.text import (
    NO_VALUE,
    arm_title,
    difference_title,
    format_points,
    interval,
    join_and,
    number_of,
    p_value,
    seeds_text,
    span,
)
from analysis.sections.rules import bounds_note, p_title, rule_sentences
from analysis.stats.comparisons import TESTED
from search_spaces.families import EXACT, RANDOM_PATTERNS


def difference_table(compared: pd.DataFrame, name: str, title: str, note: str = "") -> Table | None:
    """Differences in test accuracy in points; None if there are none.

    `compared` has rows of `comparisons` for one cell, or of `pooled_comparisons`; `note` ends the caption.
    """
    if "metric" in compared:
        compared = compared[compared["metric"] == TESTED]
    shown = compared[compared["n"] > 0]
    if shown.empty:
        return None
    titles = map(difference_title, compared["arm_label"], compared["baseline_label"])
    return Table(
        name=name,
        title=title,
        corner="Test accuracy (points)",
        columns=difference_columns(shown),
        rows=difference_rows(titles, compared),
        caption=_difference_caption(compared, shown) + note,
    )


def difference_columns(compared: pd.DataFrame) -> tuple[str, ...]:
    """The titles of what `difference_rows` shows."""
    titles = ("Difference", "95 % interval", "Holm-adjusted", "Wins", "P(higher)")
    return (*titles, p_title(compared), "p (Holm)", "p (sign flips)")


def difference_rows(
    titles: Iterable[str], compared: pd.DataFrame
) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    """A row of `difference_columns` for each row of comparisons, with its title."""
    rows = (
        entries(
            format_points(row["delta"]),
            interval(row["delta_low"], row["delta_high"]),
            interval(row["delta_low_holm"], row["delta_high_holm"]),
            f"{row['wins']} of {row['n']}" if row["n"] else NO_VALUE,
            _share(row["improvement"], row["improvement_low"], row["improvement_high"]),
            *(p_value(row[name]) for name in ("p", "p_holm", "p_sign_flip_joint")),
        )
        for row in compared.to_dict("records")
    )
    return tuple(zip(titles, rows, strict=True))


def _share(share: float, low: float, high: float) -> str:
    """`0.80 (0.28 to 0.99)`."""
    return NO_VALUE if math.isnan(share) else f"{share:.2f} ({low:.2f} to {high:.2f})"


def _difference_caption(compared: pd.DataFrame, shown: pd.DataFrame) -> str:
    sizes = compared["baseline"].value_counts(sort=False)
    named = join_and([f"{size} against {arm_title(str(name))}" for name, size in sizes.items()])
    pooled = "cells" in compared
    text = (
        f"Arm minus baseline, paired by seed, n = {span(set(shown['n']))}. {' '.join(rule_sentences(shown))}"
        f"{bounds_note(shown)} Adjusted after Holm for all comparisons with one baseline ({named})."
        f" P(higher): share of {'cells and ' if pooled else ''}seeds in which the arm is higher, ties half,"
        f" and its 95 % interval. {sign_flip_note(shown)}"
    )
    if pooled:
        cells = join_and([str(count) for count in dict.fromkeys(compared["cells"])])
        text += f" Mean over {cells} cells within each seed: this holds for these cells only."
    return text + _left_out(shown)


def sign_flip_note(shown: pd.DataFrame) -> str:
    """What the p-values of sign flips are, in these rows of comparisons, and how small they can be."""
    n, floor = int(shown["n"].max()), float(shown["p_floor"].min())
    patterns = "Exact sign-flip" if n <= EXACT else f"Sign-flip (of {RANDOM_PATTERNS:,} random patterns)"
    return (
        f"{patterns} p-values are joint for these comparisons (step-down max-T); with {number_of(n, 'seed')}"
        f" they are {floor:.2g} at least, however many arms are compared."
    )


def _left_out(shown: pd.DataFrame) -> str:
    """Which seeds are left out, and in which comparisons if not in all."""
    dropped = shown.groupby("baseline", sort=False)["dropped"].first()
    alike = len(set(dropped)) == 1
    named = [
        seeds_text(lost.split()) + ("" if alike else f" against {arm_title(str(baseline))}")
        for baseline, lost in dropped.items()
        if lost
    ]
    seeds = join_and(named[:1] if alike else named)
    return f" Left out, as not every arm has them: {seeds}." if named else ""
