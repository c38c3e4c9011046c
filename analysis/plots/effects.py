"""Figures of differences and effects, with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from analysis.plots.style import arm_colours, legend_below
from analysis.render.text import MINUS, difference_title, format_points
from analysis.stats.comparisons import claimed
from analysis.stats.factors import Column
from analysis.stats.paired import Vector


def forest(
    compared: pd.DataFrame,
    labels: Mapping[int, str],
    pooled: pd.DataFrame | None = None,
    *,
    known: Sequence[str] = (),
) -> Figure | None:
    """Paired differences in test accuracy, a row per cell: 95 % intervals, and adjusted ones as thin lines.

    Marks are filled where a difference is claimed. The rows are for test accuracy and one baseline;
    pooled ones are drawn as diamonds below. Of all `known` arms of the study each has its colour from the
    other figures.
    """
    compared = compared[compared["n"] > 0]
    if compared.empty:
        return None
    parts = compared.groupby(["arm_label", "baseline_label"], sort=False)
    colours = arm_colours(list(dict.fromkeys([*known, *compared["arm_label"]])))
    rows: dict[object, int] = {cell: place for place, cell in enumerate(dict.fromkeys(compared["cell"]))}
    height = 0.9 + (len(rows) + (pooled is not None)) * max(0.3, 0.13 * len(parts))
    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.3", linewidth=0.8)
    step = 0.8 / max(len(parts), 2)
    for i, (pair, part) in enumerate(parts):
        arm, baseline = map(str, pair)
        offset = (i - (len(parts) - 1) / 2) * step
        places = np.array([rows[cell] for cell in part["cell"]]) + offset
        _intervals(axes, part, places, colours[arm], label=difference_title(arm, baseline))
        if pooled is not None:
            whole = pooled[(pooled["arm_label"] == arm) & (pooled["baseline_label"] == baseline)]
            _intervals(axes, whole, np.full(len(whole), len(rows) + offset), colours[arm], marker="D")
    names = [labels[int(str(cell))] for cell in rows] + (["together"] if pooled is not None else [])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("Difference in test accuracy (points)")
    for line in range(1, len(names)):
        axes.axhline(line - 0.5, color="0.93", linewidth=0.8, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.xaxis.set_major_formatter(_plain)
    legend_below(figure, axes)
    return figure


def _intervals(
    axes: Axes,
    rows: pd.DataFrame,
    places: Vector,
    colour: ColorType,
    *,
    marker: str = "o",
    label: str | None = None,
) -> None:
    for low, high, width in (("delta_low_holm", "delta_high_holm", 0.9), ("delta_low", "delta_high", 2.4)):
        axes.hlines(places, 100 * rows[low], 100 * rows[high], color=colour, linewidth=width)
    axes.plot([], [], marker, color=colour, markersize=5, label=label)  # in the legend
    sure = claimed(rows).to_numpy(bool)
    for some, face in ((sure, colour), (~sure, "white")):
        deltas = 100 * rows["delta"][some]
        axes.plot(deltas, places[some], marker, color=colour, markerfacecolor=face, markersize=5)


def effects_figure(effects: Mapping[Column, pd.DataFrame]) -> Figure:
    """Main effects of the augmentations with intervals, and a matrix of interactions for each column."""
    found = {difference_title(*column): table for column, table in effects.items()}
    tables = list(found.values())
    factors = [term for term in tables[0].index if ":" not in term]
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 2.6 + 2.15 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.4, 2.15 * rows])[:, 0]
    axes = above.subplots()
    axes.axhline(0, color="0.3", linewidth=0.8)
    colours = arm_colours([arm if control is None else f"{arm} {control}" for arm, control in effects])
    for i, ((title, table), colour) in enumerate(zip(found.items(), colours.values(), strict=True)):
        places = np.arange(len(factors)) + (i - (len(found) - 1) / 2) * 0.8 / max(len(found), 2)
        part = 100 * table.loc[factors, ["effect", "low", "high"]]
        spread = [part["effect"] - part["low"], part["high"] - part["effect"]]
        axes.errorbar(
            places, part["effect"], spread, fmt="o", color=colour, markersize=4, capsize=2, label=title
        )
    axes.set_xticks(range(len(factors)), factors)
    axes.set_ylabel("Main effect (points)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    largest = max(100 * float(t.drop(factors)["effect"].abs().max()) for t in tables) or 1.0
    grid = below.subplots(rows, columns, squeeze=False).ravel()
    for panel in grid[len(found) :]:
        panel.set_axis_off()
    for panel, (title, table) in zip(grid, found.items(), strict=False):
        _interactions(panel, title, table, factors, largest)
    return figure


def _interactions(
    axes: Axes, title: str, table: pd.DataFrame, factors: Sequence[str], largest: float
) -> None:
    """A triangle of interactions in points; bold where p <= 0.05 after Holm."""
    matrix = np.full((len(factors), len(factors)), np.nan)
    for term, row in table.iterrows():
        if ":" in str(term):
            j, i = (factors.index(name) for name in str(term).split(":"))
            matrix[i, j] = 100 * row["effect"]
            weight = "bold" if row["claimed"] else "normal"
            axes.text(
                j, i, format_points(row["effect"]), ha="center", va="center", fontsize=8, fontweight=weight
            )
    axes.imshow(
        matrix[1:, :-1],
        cmap="PuOr_r",
        vmin=-1.6 * largest,
        vmax=1.6 * largest,
        extent=(-0.5, len(factors) - 1.5, len(factors) - 0.5, 0.5),
    )
    axes.set_xticks(range(len(factors) - 1), factors[:-1], rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(1, len(factors)), factors[1:], fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _plain(value: float, _: object) -> str:  # no lambda: figures are pickled
    return f"{value:g}".replace("-", MINUS)
