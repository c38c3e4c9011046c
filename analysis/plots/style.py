"""What figures have in common: colours of arms, panels, legends, and how they are written."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType

from analysis.plots.panels import panel_boxes
from analysis.render.files import write_atomic
from analysis.render.page import DENSITY, PANELS
from analysis.render.text import MINUS, arm_title
from trainables.arms import CE

BASELINE_COLOUR = "0.35"
GREY = 3
"""Index of the baseline's grey in the cycle `petroff10`."""
LEGEND_ROWS, LEGEND_ROW = 3, 0.2
"""Rows of a legend that a figure has room for, and inches for each further one."""
SIDEWAYS = 10
"""Arms from which on their names stand beside the panels, not below."""
PANEL = (2.95, 2.75)
"""Width and height of a panel in inches: two figures of two stand side by side on a laptop's page."""
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Left out, so that the same results give the same files."""


def arm_colours(arms: Sequence[str]) -> dict[str, ColorType]:
    """A colour for each arm (or what is drawn in its place), also for colour-blind readers; `ce` is grey."""
    others = [arm for arm in arms if arm != CE]
    # Without its grey, which is the baseline's.
    cycle = [colour for i, colour in enumerate(mpl.color_sequences["petroff10"]) if i != GREY]
    if len(others) > len(cycle):  # too many to distinguish by colour alone, but none may repeat
        cycle = list(mpl.colormaps["turbo"](np.linspace(0.03, 0.97, len(others))))
    colours = dict(zip(others, cycle, strict=False))
    return {arm: colours.get(arm, BASELINE_COLOUR) for arm in arms}


def panels_of(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, in rows of at most three."""
    columns = min(count, 3) if count != 4 else 2
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:count])


def sideways_panels(count: int, arms: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side with a line for each arm, whose names stand at the left."""
    figure = Figure(figsize=(3 + 3.2 * count, 1 + 0.28 * len(arms)), layout="constrained")
    grid = figure.subplots(1, count, squeeze=False, sharey=True).ravel()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.93")
        axes.set_axisbelow(True)
    grid[0].set_yticks(range(len(arms)), list(map(arm_title, arms)), fontsize=9)
    grid[0].set_ylim(len(arms) - 0.5, -0.5)
    return figure, list(grid)


def name_arms(axes: Axes, arms: Sequence[str]) -> None:
    """Arms along the x-axis, slanted where they would overlap."""
    names = list(map(arm_title, arms))
    long = sum(map(len, names)) > 28
    axes.set_xticks(
        range(len(arms)), names, rotation=40 if long else 0, ha="right" if long else "center", fontsize=9
    )


def legend_below(figure: Figure, axes: Axes) -> None:
    """A legend below the panels, in as many columns as fit; the figure gets room for many rows of it."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    fitting = int(figure.get_figwidth() / (0.075 * longest + 0.5))  # inches per name at this size
    columns = max(1, min(len(names), 5, fitting))
    if (rows := -(-len(names) // columns)) > LEGEND_ROWS:
        figure.set_figheight(figure.get_figheight() + LEGEND_ROW * (rows - LEGEND_ROWS))
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([28])


def per_cent(axis: "mpl.axis.Axis") -> None:
    """Ticks in per cent, few enough not to overlap."""
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(_per_cent)


def _per_cent(value: float, _: object) -> str:  # no lambda: figures are pickled
    return f"{100 * value:g} %".replace("-", MINUS)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write the figure as PNG and PDF (with text that can be searched and edited); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    # Laid out once: layout takes longer than drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    metadata = {**METADATA["png"], PANELS: json.dumps(panel_boxes(figure, DENSITY))}
    with io.BytesIO() as drawn:
        figure.savefig(drawn, format="png", dpi=DENSITY, metadata=metadata)
        write_atomic(png, drawn.getvalue())
    with io.BytesIO() as drawn, mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(drawn, format="pdf", dpi=DENSITY, metadata=METADATA["pdf"])
        write_atomic(pdf, drawn.getvalue())
    return png, pdf
