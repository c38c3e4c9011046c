"""Figures of a search."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.plots.style import arm_colours, legend_below, per_cent
from analysis.stats.search import method_title
from search_spaces.ranges import Range
from trainables.metrics import METRICS, OBJECTIVES

INTERPOLATED = 6
"""Fewest finished trials with which the space between them is coloured."""
ABREAST = 4
"""Most panels in a row."""
STOPPED = "stopped early, as it was then"


def history(members: pd.DataFrame, objective: str) -> Figure:
    """The objective of each configuration in the order of suggestion, and the best so far, a panel a method.

    `members` has `method`, `number`, `value` (of the objective; NaN unless finished), `stopped` (validation
    accuracy when it was stopped early; NaN for others), and where values are means, their standard errors in
    a column named after the objective with `_error`.
    """
    methods = list(dict.fromkeys(members["method"]))
    figure, grid = _panels(len(methods), sharey=True)
    for axes, (method, colour) in zip(grid, arm_colours(methods).items(), strict=True):
        part = members[members["method"] == method].sort_values("number")
        done, stopped = part.dropna(subset="value"), part.dropna(subset="stopped")
        axes.plot(done["number"], done["value"], "o", color=colour, markersize=5, label="to the last epoch")
        if objective == "val_acc" and len(stopped):
            places = stopped["number"], stopped["stopped"]
            axes.plot(*places, "v", markerfacecolor="none", color="0.55", markersize=5, label=STOPPED)
        if (error := f"{objective}_error") in done:
            axes.errorbar(done["number"], done["value"], done[error], fmt="none", color=colour, linewidth=1)
        if len(done):
            values = done["value"]
            best = values.cummax() if OBJECTIVES[objective] == "maximize" else values.cummin()
            line = [*done["number"], part["number"].max() + 0.5], [*best, best.iloc[-1]]
            axes.step(*line, where="post", color=colour, linewidth=1.2, alpha=0.6, label="best so far")
        axes.set_title(method_title(method), fontsize=11)
        axes.set_xlabel("Configuration")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _scale(axes.yaxis, objective)
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(METRICS[objective].axis)
    legend_below(figure, grid[0])
    return figure


def shares(importances: Mapping[str, pd.DataFrame]) -> Figure:
    """Shares of variance that parameters explain (`analysis.stats.importances`), a panel per method."""
    colours = arm_colours(list(importances))
    figure, grid = _panels(len(importances))
    for axes, (method, table) in zip(grid, importances.items(), strict=True):
        places = np.arange(len(table))[::-1]
        axes.barh(places, table["share"], color=colours[method], height=0.62, alpha=0.8)
        axes.hlines(places, table["low"], table["high"], color="0.15", linewidth=1)
        axes.set_yticks(places, list(table.index))
        axes.set_xlim(0, 1)
        axes.set_title(method_title(method), fontsize=11)
        axes.set_xlabel("Share of variance")
        per_cent(axes.xaxis)
    return figure


def slices(panels: Mapping[str, tuple[pd.DataFrame, Sequence[tuple[str, Range]]]], objective: str) -> Figure:
    """The objective against the two most important parameters, and over both, a row per method.

    `panels` has by method its trials (`value`, `stopped` and a column per parameter), and the parameters with
    their ranges, the most important first.
    """
    colours = arm_colours(list(panels))
    figure, grid = _grid(len(panels), 3)
    for row, (method, (members, parameters)) in zip(grid, panels.items(), strict=True):
        for axes, (name, allowed) in zip(row, parameters, strict=False):
            finished, stopped = (members.dropna(subset=[column, name]) for column in ("value", "stopped"))
            if len(stopped) and objective == "val_acc":
                places = _places(stopped[name], allowed), stopped["stopped"]
                axes.plot(*places, "v", color="0.55", markersize=5, markerfacecolor="none", label=STOPPED)
            if len(finished):
                places = _places(finished[name], allowed), finished["value"]
                axes.plot(*places, "o", color=colours[method], markersize=5, label="to the last epoch")
            _name_axis(axes, "x", name, allowed)
            _scale(axes.yaxis, objective)
            axes.set_ylabel(METRICS[objective].axis)
            axes.set_title(method_title(method), fontsize=11)
        _contour(row[2], members, parameters, objective)
    legend_below(figure, grid[0][0])
    return figure


def pareto(members: pd.DataFrame, x: str, y: str, front: Sequence[bool]) -> Figure:
    """One objective against another, with the front: the finished trials that no other one dominates."""
    methods = list(dict.fromkeys(members["method"]))
    colours = arm_colours(methods)
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    best = members[np.asarray(front, bool)].sort_values(x)
    axes.plot(best[x], best[y], color="0.7", linewidth=1.2, zorder=1, label="no other is better in both")
    for method in methods:
        part = members[members["method"] == method]
        axes.plot(part[x], part[y], "o", color=colours[method], markersize=6, label=method_title(method))
    axes.set_xlabel(METRICS[x].axis)
    axes.set_ylabel(METRICS[y].axis)
    _scale(axes.xaxis, x)
    _scale(axes.yaxis, y)
    legend_below(figure, axes)
    return figure


def _panels(count: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel for each method, in rows of at most `ABREAST`."""
    figure, grid = _grid(-(-count // ABREAST), min(count, ABREAST), sharey=sharey)
    panels = [axes for row in grid for axes in row]
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _grid(rows: int, columns: int, *, sharey: bool = False) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(3.7 * max(columns, 1.4), 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    return figure, [list(row) for row in grid]


def _contour(
    axes: Axes, members: pd.DataFrame, parameters: Sequence[tuple[str, Range]], objective: str
) -> None:
    """The objective over two parameters: points, and an interpolation between enough numbers."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    if len(parameters) < 2:
        axes.set_axis_off()
        return
    (first, across), (second, up) = parameters[:2]
    done = members.dropna(subset=["value", first, second])
    x, y = _places(done[first], across), _places(done[second], up)
    limits = (float(done["value"].min()), float(done["value"].max()))
    if "categorical" not in (across.kind, up.kind) and len(done) >= INTERPOLATED and limits[0] < limits[1]:
        scaled = [np.log10(v) if own.log else np.asarray(v) for v, own in ((x, across), (y, up))]
        lines = [np.linspace(v.min(), v.max(), 80) for v in scaled]
        with contextlib.suppress(QhullError):  # all points are on one line
            surface = griddata(tuple(scaled), done["value"], tuple(np.meshgrid(*lines)), rescale=True)
            mesh = [10**line if own.log else line for line, own in zip(lines, (across, up), strict=True)]
            axes.contourf(*mesh, surface, levels=8, cmap="cividis", alpha=0.75)
    points = axes.scatter(
        x, y, c=done["value"], cmap="cividis", edgecolors="0.1", linewidths=0.7, s=34, zorder=2
    )
    bar = axes.figure.colorbar(points, ax=axes)
    bar.ax.tick_params(labelsize=8)
    _scale(bar.ax.yaxis, objective)
    _name_axis(axes, "x", first, across)
    _name_axis(axes, "y", second, up)
    title = method_title(members["method"].iloc[0])
    axes.set_title(f"{title}: {METRICS[objective].axis.lower()}", fontsize=10)


def _places(values: pd.Series, allowed: Range) -> list[float]:
    return [
        float(allowed.choices.index(value) if allowed.kind == "categorical" else value) for value in values
    ]


def _name_axis(axes: Axes, which: str, name: str, allowed: Range) -> None:
    if allowed.kind == "categorical":
        names = [str(choice) for choice in allowed.choices]
        ticks = {f"{which}ticks": range(len(names)), f"{which}ticklabels": names}
        axes.set(**{f"{which}label": name, f"{which}lim": (-0.5, len(names) - 0.5), **ticks})
        axes.tick_params(axis=which, labelsize=7 if len(names) > 5 else 9)  # type: ignore[arg-type]
        if which == "x" and sum(map(len, names)) > 24:
            axes.tick_params(axis="x", labelrotation=90 if len(names) > 5 else 40)
        return
    # The whole range, and room for points at its ends.
    low, high = np.log10([allowed.low, allowed.high]) if allowed.log else (allowed.low, allowed.high)
    room = 0.04 * (high - low)
    ends = (10 ** (low - room), 10 ** (high + room)) if allowed.log else (low - room, high + room)
    scale = {f"{which}scale": "log"} if allowed.log else {}
    axes.set(**{f"{which}label": name, **scale, f"{which}lim": ends})


def _scale(axis: Any, objective: str) -> None:
    if METRICS[objective].unit == "%":
        per_cent(axis)
