"""The figure that a report begins with: every difference with its intervals, its verdict and its numbers."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.render.text import MINUS, arm_title, format_points, interval
from analysis.stats.comparisons import claimed

HIGHER, LOWER, SMALL, OPEN = "#1f6fb2", "#c8501e", "#1d7f6e", "#6b7480"
"""Colours of verdicts; filled marks and their texts say the same without colour."""
ROW = 0.29
"""Inches for each line."""
WIDTH = 5.8
SHORT, LETTER = 9, 0.075
"""Letters of an arm's title for which the figure has room, and inches for each further one."""


def differences(families: Mapping[str, pd.DataFrame], dots: pd.DataFrame | None = None) -> Figure:
    """Differences in test accuracy in points, a line each, under the title of their family.

    Args:
        families: by title, rows of `comparisons` or `pooled_comparisons` with results: `arm_label, delta`,
            both intervals, `p_holm`, `n`, `verdict` and `margin`.
        dots: single cells behind pooled rows: `arm_label`, `baseline` and `delta` of each.
    """
    lines = len(families) + sum(map(len, families.values()))
    longest = max(len(arm_title(arm)) for rows in families.values() for arm in rows["arm_label"])
    width = WIDTH + LETTER * max(longest - SHORT, 0)
    figure = Figure(figsize=(width, 0.75 + ROW * lines), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.3", linewidth=0.9, zorder=1)
    _margins(axes, pd.concat(families.values()))
    names: dict[float, str] = {}
    place = 0.0
    for title, rows in families.items():
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        _write(axes, title, (0, place), 2, fontsize=10, fontweight="bold", bbox=behind)
        shown = rows.assign(sure=claimed(rows))
        for row in shown.to_dict("records"):
            place += 1
            names[place] = arm_title(row["arm_label"])
            if dots is not None:
                own = dots[(dots["arm_label"] == row["arm_label"]) & (dots["baseline"] == row["baseline"])]
                axes.plot(
                    100 * own["delta"], np.full(len(own), place), ".", color="0.75", markersize=4, zorder=2
                )
            _line(axes, place, row)
        place += 1
    axes.set_yticks(list(names), list(names.values()))
    axes.set_ylim(place - 0.4, -0.6)
    axes.set_xlabel("Difference in test accuracy (points)")
    axes.xaxis.set_major_formatter(_signed)
    axes.margins(x=0.06)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.93", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=9.5)
    return figure


def _line(axes: Axes, place: float, row: Mapping[Hashable, Any]) -> None:
    """One comparison: adjusted interval thin, its own interval thick, the mean, and the numbers."""
    values = {name: float(row[name]) for name in _INTERVALS}
    colour, filled = _look(row, values["delta"])
    for low, high, width in (("delta_low_holm", "delta_high_holm", 1.1), ("delta_low", "delta_high", 3.2)):
        axes.hlines(place, 100 * values[low], 100 * values[high], color=colour, linewidth=width, zorder=3)
    axes.plot(
        100 * values["delta"],
        place,
        "o",
        color=colour,
        markerfacecolor=colour if filled else "white",
        markersize=5.5,
        markeredgewidth=1.4,
        zorder=4,
    )
    text = format_points(values["delta"])
    if np.isfinite(values["delta_low_holm"]):
        text += f"  ({interval(values['delta_low_holm'], values['delta_high_holm'])})"
    look = {"color": colour, "fontweight": "bold"} if filled else {"color": "0.25"}
    _write(axes, text, (1, place), 8, fontsize=9.5, **look)


def _write(axes: Axes, text: str, where: tuple[float, float], gap: float, **look: Any) -> None:
    """Text so many points to the right of a place: share of the width, and line."""
    axes.annotate(
        text,
        where,
        xycoords=("axes fraction", "data"),
        xytext=(gap, 0),
        textcoords="offset points",
        va="center",
        annotation_clip=False,
        **look,
    )


_INTERVALS = ("delta", "delta_low", "delta_high", "delta_low_holm", "delta_high_holm")


def _look(row: Mapping[Hashable, Any], delta: float) -> tuple[str, bool]:
    """The colour of a verdict, and whether its mark is filled."""
    if row["sure"]:
        return (HIGHER if delta > 0 else LOWER), True
    return (SMALL, True) if row["verdict"] == "small" else (OPEN, False)


def _margins(axes: Axes, rows: pd.DataFrame) -> None:
    """A band for the margin that was declared, if it is one for all."""
    margins = set(rows["margin"].dropna()) if "margin" in rows else set()
    if len(margins) == 1:
        (margin,) = margins
        axes.axvspan(-margin, margin, color=SMALL, alpha=0.1, linewidth=0, zorder=0)


def shown_families(families: Mapping[str, pd.DataFrame], most: int) -> tuple[dict[str, pd.DataFrame], int]:
    """The families that fit into so many lines, the first cut to its largest differences if it must be.

    Returns also how many comparisons are left out.
    """
    total = sum(map(len, families.values()))
    shown: dict[str, pd.DataFrame] = {}
    room = most
    for title, rows in families.items():
        if len(rows) <= room:
            shown[title] = rows
        elif not shown:
            shown[title] = rows[rows.index.isin(rows["delta"].abs().nlargest(room).index)]
        room -= len(shown.get(title, ()))
    return shown, total - sum(map(len, shown.values()))


def _signed(value: float, _: object) -> str:  # no lambda: figures are pickled
    return f"{value:+g}".replace("-", MINUS) if value else "0"
