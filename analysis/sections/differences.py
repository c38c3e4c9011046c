"""Tables of paired differences."""

import pandas as pd

from analysis.render.table import Table, entries
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
from analysis.sections.rules import p_title, rule_sentences
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
    heading = p_title(shown)
    rows = [
        {
            "Difference": format_points(row["delta"]),
            "95 % interval": interval(row["delta_low"], row["delta_high"]),
            "Holm-adjusted": interval(row["delta_low_holm"], row["delta_high_holm"]),
            "Wins": f"{row['wins']} of {row['n']}" if row["n"] else NO_VALUE,
            heading: p_value(row["p"]),
            "p (Holm)": p_value(row["p_holm"]),
            "p (sign flips)": p_value(row["p_sign_flip"]),
        }
        for row in compared.to_dict("records")
    ]
    titles = map(difference_title, compared["arm_label"], compared["baseline_label"])
    return Table(
        name=name,
        title=title,
        corner="Test accuracy (points)",
        columns=tuple(rows[0]),
        rows=tuple((title, entries(*row.values())) for title, row in zip(titles, rows, strict=True)),
        caption=_difference_caption(compared, shown) + note,
    )


def _difference_caption(compared: pd.DataFrame, shown: pd.DataFrame) -> str:
    n, floor = int(shown["n"].max()), float(shown["p_floor"].min())
    sizes = compared["baseline"].value_counts(sort=False)
    named = join_and([f"{size} against {arm_title(str(name))}" for name, size in sizes.items()])
    lowest = max(int(size) for size in sizes) * floor
    adjusted = f", {min(lowest, 1):.2g} after Holm over {max(sizes)}" if max(sizes) > 1 else ""
    patterns = "Exact sign-flip" if n <= EXACT else f"Sign-flip (of {RANDOM_PATTERNS:,} random patterns)"
    text = (
        f"Arm minus baseline, paired by seed, n = {span(set(shown['n']))}. {' '.join(rule_sentences(shown))}"
        f" Adjusted after Holm for all comparisons with one baseline ({named}). {patterns}"
        f" p-values are not adjusted; with {number_of(n, 'seed')} they are {floor:.2g} at"
        f" least{adjusted}."
    )
    if "cells" in compared:
        cells = join_and([str(count) for count in dict.fromkeys(compared["cells"])])
        text += f" Mean over {cells} cells within each seed: this holds for these cells only."
    return text + _left_out(shown)


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
