"""Paired differences as people read them."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.render.table import Table, texts
from analysis.render.text import (
    NO_VALUE,
    arm_text,
    difference_text,
    interval,
    joined,
    number_of,
    p_value,
    points,
    seeds_text,
    span,
)
from analysis.stats.comparisons import TESTED
from search_spaces.families import CE, CONTROL, EXACT, RANDOM_PATTERNS

DIFFERENCE_COLUMNS = (
    "Difference",
    "95 % interval",
    "Holm-adjusted",
    "Wins",
    "p (t)",
    "p (Holm)",
    "p (sign flips)",
)


def difference_table(compared: pd.DataFrame, name: str, title: str) -> Table | None:
    """Differences in test accuracy as people read them, in points; None where there are none.

    Args:
        compared: rows of `comparisons` for one cell, or of `pooled_comparisons`.
        name: of the table.
        title: of the table.
    """
    if "metric" in compared:
        compared = compared[compared["metric"] == TESTED]
    shown = compared[compared["n"] > 0]
    if shown.empty:
        return None
    rows = tuple(
        (difference_text(row["arm_label"], row["baseline_label"]), texts(*in_words(row)))
        for row in compared.to_dict("records")
    )
    return Table(
        name=name,
        title=title,
        corner="Test accuracy (points)",
        columns=DIFFERENCE_COLUMNS,
        rows=rows,
        caption=_difference_caption(compared, shown),
    )


def in_words(row: Mapping[Hashable, Any]) -> list[str]:
    """The entries of `DIFFERENCE_COLUMNS` for a row of `analysis.stats.paired.compare`."""
    return [
        points(row["delta"]),
        interval(row["delta_low"], row["delta_high"]),
        interval(row["delta_low_holm"], row["delta_high_holm"]),
        f"{row['wins']} of {row['n']}" if row["n"] else NO_VALUE,
        p_value(row["p_t"]),
        p_value(row["p_holm"]),
        p_value(row["p_sign_flip"]),
    ]


def _difference_caption(compared: pd.DataFrame, shown: pd.DataFrame) -> str:
    n, floor = int(shown["n"].max()), float(shown["p_floor"].min())
    sizes = compared["baseline"].value_counts(sort=False)
    named = joined([f"{size} against {baseline_text(str(name))}" for name, size in sizes.items()])
    lowest = max(int(size) for size in sizes) * floor
    adjusted = f", {min(lowest, 1):.2g} after Holm over {max(sizes)}" if max(sizes) > 1 else ""
    patterns = "Exact sign-flip" if n <= EXACT else f"Sign-flip (of {RANDOM_PATTERNS:,} random patterns)"
    text = (
        f"Arm minus baseline, paired by seed, n = {span(set(shown['n']))}; t-test and its"
        f" 95 % interval, adjusted after Holm for all comparisons with one baseline ({named}). {patterns}"
        f" p-values are not adjusted; with {number_of(n, 'seed')} they are {floor:.2g} at"
        f" least{adjusted}."
    )
    if "cells" in compared:
        cells = joined([str(count) for count in dict.fromkeys(compared["cells"])])
        text += f" Mean over {cells} cells within each seed: this speaks for these cells only."
    return text + _left_out(shown)


def _left_out(shown: pd.DataFrame) -> str:
    """Which seeds are left out, and in which comparisons where it is not in all."""
    dropped = shown.groupby("baseline", sort=False)["dropped"].first()
    if not dropped.any():
        return ""
    if len(set(dropped)) == 1:
        return f" Left out, as not every arm has them: {seeds_text(dropped.iloc[0].split())}."
    named = [
        f"{seeds_text(seeds.split())} against {baseline_text(str(baseline))}"
        for baseline, seeds in dropped.items()
        if seeds
    ]
    return f" Left out, as not every arm has them: {joined(named)}."


def baseline_text(family: str) -> str:
    """What the arms of a family are held against: `CE`, `γ = 0`, `views=symmetric`."""
    return arm_text(family) if family.partition(" ")[0] in (CE, CONTROL) else family
