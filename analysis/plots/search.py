"""Figures of a search."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import BASELINE_COLOUR, legend_below, per_cent
from search_spaces.searches import Range

OBJECTIVE_NAMES = {
    "val_acc": "Validation accuracy",
    "val_ece": "Validation calibration error (ECE)",
    "train_seconds": "Training time (s)",
}
INTERPOLATED = 6
"""Finished trials from which on the space between them is coloured."""
METHOD_NAMES = {"ce": "CE", "siamese": "Siamese"}


def method_colours(methods: Sequence[str]) -> dict[str, Any]:
    """Cross-entropy alone is grey, as everywhere."""
    return {
        method: BASELINE_COLOUR if method == "ce" else mpl.color_sequences["petroff10"][0]
        for method in methods
    }


def history(members: pd.DataFrame, objective: str, *, highest: bool) -> Figure:
    """The objective of each configuration in the order of suggestion, and the best so far, a panel a method.

    Args:
        members: `method`, `number`, `value` (of the objective; NaN unless finished) and `stopped` (validation
            accuracy where it was stopped early; NaN for others).
        objective: its name.
        highest: whether more is better.
    """
    methods = list(dict.fromkeys(members["method"]))
    colours = method_colours(methods)
    figure, grid = _grid(1, len(methods), sharey=True)
    for axes, method in zip(grid[0], methods, strict=True):
        part = members[members["method"] == method].sort_values("number")
        done = part.dropna(subset="value")
        best = done["value"].cummax() if highest else done["value"].cummin()
        axes.plot(
            done["number"], done["value"], "o", color=colours[method], markersize=5, label="to the last epoch"
        )
        stopped = part.dropna(subset="stopped")
        if objective == "val_acc" and len(stopped):
            axes.plot(
                *(stopped["number"], stopped["stopped"]),
                *("v",),
                markerfacecolor="none",
                color="0.55",
                markersize=5,
                label="stopped early, as it was then",
            )
        if len(best):
            numbers = [*done["number"], part["number"].max() + 0.5]
            axes.step(
                *(numbers, [*best, best.iloc[-1]]),
                where="post",
                color=colours[method],
                linewidth=1.2,
                alpha=0.6,
                label="best so far",
            )
        axes.set_title(METHOD_NAMES[method], fontsize=11)
        axes.set_xlabel("Configuration")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _scale(axes.yaxis, objective)
    grid[0][0].set_ylabel(OBJECTIVE_NAMES[objective])
    legend_below(figure, grid[0][0])
    return figure


def shares(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Shares of variance that parameters explain, a panel a method.

    Args:
        found: of `analysis.stats.importances.importances`, by method.
    """
    colours = method_colours(list(found))
    figure, grid = _grid(1, len(found))
    for axes, (method, table) in zip(grid[0], found.items(), strict=True):
        places = np.arange(len(table))[::-1]
        axes.barh(places, table["share"], color=colours[method], height=0.62, alpha=0.8)
        axes.hlines(places, table["low"], table["high"], color="0.15", linewidth=1)
        axes.set_yticks(places, list(table.index))
        axes.set_xlim(0, 1)
        axes.set_title(METHOD_NAMES[method], fontsize=11)
        axes.set_xlabel("Share of variance")
        per_cent(axes.xaxis)
    return figure


def slices(panels: Mapping[str, tuple[pd.DataFrame, Sequence[tuple[str, Range]]]], objective: str) -> Figure:
    """The objective against the two most important parameters, and over both, a row a method.

    Args:
        panels: by method: its members (`value`, `stopped` and a column a parameter), and the parameters with
            their ranges, the most important first.
        objective: its name.
    """
    colours = method_colours(list(panels))
    figure, grid = _grid(len(panels), 3)
    for row, (method, (members, parameters)) in zip(grid, panels.items(), strict=True):
        for axes, (name, allowed) in zip(row, parameters, strict=False):
            for column, style in (("stopped", {"color": "0.55", "marker": "v"}), ("value", {"marker": "o"})):
                part = members.dropna(subset=[column, name])
                if part.empty or (column == "stopped" and objective != "val_acc"):
                    continue
                colour = style.get("color", colours[method])
                axes.plot(
                    *(_places(part[name], allowed), part[column]),
                    linestyle="none",
                    marker=style["marker"],
                    color=colour,
                    markersize=5,
                    markerfacecolor="none" if column == "stopped" else colour,
                    label="stopped early, as it was then" if column == "stopped" else "to the last epoch",
                )
            _name_axis(axes, "x", name, allowed)
            _scale(axes.yaxis, objective)
            axes.set_ylabel(OBJECTIVE_NAMES[objective])
            axes.set_title(METHOD_NAMES[method], fontsize=11)
        _contour(figure, row[2], members, parameters, objective=objective, title=METHOD_NAMES[method])
    legend_below(figure, grid[0][0])
    return figure


def pareto(members: pd.DataFrame, x: str, y: str, front: Sequence[bool]) -> Figure:
    """One objective against another, and the configurations that none beats in both.

    Args:
        members: finished ones: `method` and a column an objective.
        x: objective along the x-axis.
        y: objective along the y-axis.
        front: which of the members no other one beats.
    """
    methods = list(dict.fromkeys(members["method"]))
    colours = method_colours(methods)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    best = members[np.asarray(front, bool)].sort_values(x)
    axes.plot(best[x], best[y], color="0.7", linewidth=1.2, zorder=1, label="no other is better in both")
    for method in methods:
        part = members[members["method"] == method]
        axes.plot(part[x], part[y], "o", color=colours[method], markersize=6, label=METHOD_NAMES[method])
    axes.set_xlabel(OBJECTIVE_NAMES[x])
    axes.set_ylabel(OBJECTIVE_NAMES[y])
    _scale(axes.xaxis, x)
    _scale(axes.yaxis, y)
    legend_below(figure, axes)
    return figure


def _grid(rows: int, columns: int, *, sharey: bool = False) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(3.7 * max(columns, 1.4), 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    return figure, [list(row) for row in grid]


def _contour(
    figure: Figure,
    axes: Axes,
    members: pd.DataFrame,
    parameters: Sequence[tuple[str, Range]],
    *,
    objective: str,
    title: str,
) -> None:
    """The objective over two parameters: points, and between numbers what interpolation says."""
    if len(parameters) < 2:
        axes.set_axis_off()
        return
    (first, across), (second, up) = parameters[:2]
    done = members.dropna(subset=["value", first, second])
    x, y = _places(done[first], across), _places(done[second], up)
    limits = (float(done["value"].min()), float(done["value"].max()))
    if "categorical" not in (across.kind, up.kind) and len(done) >= INTERPOLATED and limits[0] < limits[1]:
        _interpolate(axes, x, y, done["value"].to_numpy(float), (across.log, up.log))
    points = axes.scatter(
        x, y, c=done["value"], cmap="cividis", edgecolors="0.1", linewidths=0.7, s=34, zorder=2
    )
    bar = figure.colorbar(points, ax=axes)
    bar.ax.tick_params(labelsize=8)
    _scale(bar.ax.yaxis, objective)
    _name_axis(axes, "x", first, across)
    _name_axis(axes, "y", second, up)
    axes.set_title(f"{title}: {OBJECTIVE_NAMES[objective].lower()}", fontsize=10)


def _interpolate(
    axes: Axes, x: Sequence[float], y: Sequence[float], values: np.ndarray, log: tuple[bool, bool]
) -> None:
    """Colour what lies between points, linear on the axes' own scales; nothing if all are on one line."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    scaled = [np.log10(v) if is_log else np.asarray(v) for v, is_log in zip((x, y), log, strict=True)]
    lines = [np.linspace(v.min(), v.max(), 80) for v in scaled]
    # Triangles of like sides in either direction.
    spread = [max(float(np.ptp(v)), 1e-12) for v in scaled]
    points = np.column_stack([v / s for v, s in zip(scaled, spread, strict=True)])
    mesh = np.meshgrid(*(line / s for line, s in zip(lines, spread, strict=True)))
    try:
        surface = griddata(points, values, tuple(mesh))
    except QhullError:
        return
    shown = [10**line if is_log else line for line, is_log in zip(lines, log, strict=True)]
    axes.contourf(*shown, surface, levels=8, cmap="cividis", alpha=0.75)


def _places(values: pd.Series, allowed: Range) -> list[float]:
    if allowed.kind == "categorical":
        return [float(allowed.choices.index(value)) for value in values]
    return [float(value) for value in values]


def _name_axis(axes: Axes, which: str, name: str, allowed: Range) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_label_text(name)
    if allowed.kind == "categorical":
        names = [str(choice) for choice in allowed.choices]
        long = which == "x" and sum(map(len, names)) > 24
        set_ticks = axes.set_xticks if which == "x" else axes.set_yticks
        set_ticks(range(len(names)), names, fontsize=7 if len(names) > 5 else 9)
        if long:
            axes.tick_params(axis="x", labelrotation=90 if len(names) > 5 else 40)
        limits = axes.set_xlim if which == "x" else axes.set_ylim
        limits(-0.5, len(names) - 0.5)
    elif allowed.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if allowed.kind != "categorical":
        # All of the range, and room for points at its ends.
        low, high = np.log10([allowed.low, allowed.high]) if allowed.log else (allowed.low, allowed.high)
        room = 0.04 * (high - low)
        ends = (10 ** (low - room), 10 ** (high + room)) if allowed.log else (low - room, high + room)
        (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)


def _scale(axis: Any, objective: str) -> None:
    if objective != "train_seconds":
        per_cent(axis)
