"""Confusion matrices: which classes a network takes for which, a panel per arm.

Shapes: K classes.
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from analysis.plots.kept import drawn_title
from analysis.render.text import arm_title
from analysis.stats.confusions import Shares

NUMBERED = 10
"""Most classes of a matrix with numbers in its cells."""
LABELLED = 30
"""Most classes of a matrix whose rows and columns are named one by one."""
SMALL, MEDIUM, LARGE = 2.1, 2.6, 3.2
"""Inches that a matrix takes: one of three side by side, one of two, one of many classes."""
SQUEEZE = 0.5
"""Power of a share that its colour goes by: errors of a few per cent are seen beside hits of ninety."""


def draw(shares: Mapping[str, Shares], names: Sequence[str] = ()) -> Figure:
    """The shares (K, K) of each arm as a matrix; rows are true classes, columns predicted ones."""
    count = len(next(iter(shares.values())))
    three = len(shares) == 3 and count <= NUMBERED
    columns, side = (3, SMALL) if three else (min(len(shares), 2), MEDIUM if count <= NUMBERED else LARGE)
    rows = -(-len(shares) // columns)
    titles = [drawn_title(c, names) for c in range(count)]
    margin = 0.075 * max(map(len, titles)) if count <= LABELLED else 0.0
    size = (side * columns + margin + 0.9, (side + 0.4) * rows + margin + 0.3)
    figure = Figure(figsize=size, layout="compressed")  # of squares
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.ravel()[len(shares) :]:
        axes.set_axis_off()
    for axes, (arm, matrix) in zip(grid.ravel(), shares.items(), strict=False):
        image = axes.imshow(matrix, cmap="Blues", norm=PowerNorm(SQUEEZE, 0, 1), interpolation="nearest")
        axes.set_title(arm_title(arm).replace(" (", "\n("), fontsize=10)
        axes.spines[:].set_color("0.7")
        axes.tick_params(length=0 if count <= LABELLED else 2, labelsize=7.5)
        _name(axes, titles)
        if count <= NUMBERED:
            _write_numbers(axes, matrix)
    for axes in grid[:, 0]:
        axes.set_ylabel("True class", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("Predicted class", fontsize=9)
    if len(shares) < grid.size:  # above the empty place
        grid[-2, -1].tick_params(labelbottom=True)
        grid[-2, -1].set_xlabel("Predicted class", fontsize=9)
    bar = figure.colorbar(image, ax=grid, shrink=0.75, aspect=30, pad=0.01)
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar.set_ticks(ticks, labels=[f"{100 * tick:.0f} %" for tick in ticks])
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    return figure


def _name(axes: Axes, titles: Sequence[str]) -> None:
    """Classes along both axes; of many, every tenth number."""
    if len(titles) > LABELLED:
        places = np.arange(0, len(titles), 10 if len(titles) <= 200 else 100)
        axes.set_xticks(places, list(map(str, places)))
        axes.set_yticks(places, list(map(str, places)))
        return
    places = np.arange(len(titles))
    long = max(map(len, titles)) > 2
    axes.set_xticks(places, titles, rotation=90 if long else 0, ha="center")
    axes.set_yticks(places, titles)


def _write_numbers(axes: Axes, matrix: Shares) -> None:
    """Each share in per cent; nothing where it is 0, a dash in the rows of classes without images."""
    colours = mpl.colormaps["Blues"]
    for (i, j), share in np.ndenumerate(matrix):
        if share == 0:
            continue
        text = "–" if np.isnan(share) else f"{100 * share:.0f}" if share >= 0.01 else "<1"
        red, green, blue, _ = colours(float(np.nan_to_num(share)) ** SQUEEZE)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        number = axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "0.1")
        number.set_in_layout(False)  # it is within the matrix: measuring hundreds takes a second
