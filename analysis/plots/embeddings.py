"""Figures of embeddings: PCA and t-SNE, a panel per arm.

Shapes: N images, D dimensions of the features `h` or of the embedding `z`.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.plots import classes, projections
from analysis.plots.projections import KINDS, NEIGHBOURS, SPLITS, Embedding, Points, perplexity_for
from analysis.render.text import MINUS, NO_VALUE, arm_title

CELL_PANELS = (1.9, 2.6)
"""Least and largest width of the panels of a cell's figure, in inches; between them four fit a page."""
PANEL = 1.3
"""Side of a small panel, in inches, where the page has room."""
PAGE = (7.7, 11.1)
"""The printable area of A4, in inches."""


def draw(panels: Sequence[Embedding], names: Sequence[str] = ()) -> Figure:
    """The figure of one cell: PCA above, t-SNE below, a column per arm; the panels show the same images.

    `names` are those of the classes, where they are known.
    """
    side = float(np.clip(PAGE[0] / len(panels), *CELL_PANELS))
    figure = Figure(
        figsize=(max(side * len(panels), 2 * CELL_PANELS[1]), 2 * side + 1.4), layout="constrained"
    )
    grid = figure.subplots(2, len(panels), squeeze=False)
    for axes, name in zip(grid[:, 0], ("PCA", "t-SNE"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    sound = [panel for panel in panels if panel.flaw is None]
    layouts = iter(zip(projections.pca_layouts(sound), projections.tsne_layouts(sound), strict=True))
    for (above, below), panel in zip(grid.T, panels, strict=True):
        above.set_title(_title(panel.arm), fontsize=11)
        if panel.flaw:
            for axes in (above, below):
                _explain(axes, panel.flaw, fontsize=10)
            continue
        (pca, variance), tsne = next(layouts)
        size = float(np.clip(2500 / len(pca), 3, 14))
        for axes, points in ((above, pca), (below, tsne)):
            _frame(axes)
            classes.scatter(axes, points, panel.labels, size)
            classes.name_classes(axes, points, panel.labels, (side - 0.2, side - 0.2))
        scores = (" · " if side > 2.2 else "\n").join(_scores(panel))
        above.set_xlabel(f"{scores}\n{100 * variance:.0f} % of variance", fontsize=8)
    if sound:
        classes.legend(figure, _class_count(panels), names, fontsize=9)
    return figure


def multiples(rows: Sequence[tuple[str, Sequence[Embedding]]]) -> Figure:
    """PCA of several cells on one page of at most A4: a row per cell, a column per arm.

    Columns have the longest row's order. The panels of a row are rotated onto its first one, and that onto
    the first one of the page if both show the same images. At least one row must have a panel.
    """
    longest_first = sorted((row for _, row in rows), key=len, reverse=True)
    found = dict.fromkeys(panel.arm for row in longest_first for panel in row)
    arms = projections.baseline_first(list(found))
    # Many rows are lower, many columns narrower.
    size = (min(1 + PANEL * max(len(arms), 2), PAGE[0]), min(0.7 + (PANEL + 0.25) * len(rows), PAGE[1]))
    figure = Figure(figsize=size, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    grid = figure.subplots(len(rows), len(arms), squeeze=False)
    roomy = len(arms) <= 5
    for axes, arm in zip(grid[0], arms, strict=True):
        axes.set_title(_title(arm), fontsize=8 if roomy else 6)
    first: tuple[npt.NDArray[np.int64], Points] | None = None
    for cells, (label, row) in zip(grid, rows, strict=True):
        cells[0].set_ylabel(_wrapped(label), fontsize=7, rotation=0, ha="right", va="center")
        sound = [panel for panel in row if panel.flaw is None]
        comparable = first and sound and np.array_equal(first[0], sound[0].index)
        layouts = projections.pca_layouts(sound, onto=first[1] if first and comparable else None)
        if sound and not first:
            first = sound[0].index, layouts[0][0]
        drawn = {panel.arm: (panel, points) for panel, (points, _) in zip(sound, layouts, strict=True)}
        flaws = {panel.arm: panel.flaw for panel in row}
        for axes, arm in zip(cells, arms, strict=True):
            if arm not in drawn:
                _explain(axes, _wrapped(flaws.get(arm) or "no result"), fontsize=6)
                continue
            panel, points = drawn[arm]
            _frame(axes)
            classes.scatter(axes, points, panel.labels, size=float(np.clip(1000 / len(points), 0.5, 5)))
            separator = " · " if roomy else "\n"
            axes.set_xlabel(separator.join(_scores(panel)), fontsize=5.5, labelpad=1.5)
    if first:
        count = _class_count([panel for _, row in rows for panel in row])
        classes.legend(figure, count, fontsize=7)
    return figure


def _class_count(panels: Sequence[Embedding]) -> int:
    return int(max(panel.labels.max() for panel in panels)) + 1


def _title(arm: str) -> str:
    """The title of an arm; fields that distinguish it from others have their own lines."""
    return arm_title(arm).replace(" (", "\n(").replace(", ", ",\n")


def _wrapped(text: str) -> str:
    """A row's label, or a reason, in lines that leave room for the panels, or fit into one."""
    return textwrap.fill(text.replace("+", " + "), 18)


def _scores(panel: Embedding) -> tuple[str, str]:
    """`silhouette 0.31` and `kNN 87.2 %`, with a dash for undefined values."""
    score, accuracy = projections.silhouette(panel), projections.knn_accuracy(panel)
    return (
        f"silhouette {NO_VALUE if score is None else f'{score:z.2f}'.replace('-', MINUS)}",
        f"kNN {NO_VALUE if accuracy is None else f'{100 * accuracy:.1f} %'}",
    )


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")


def _explain(axes: Axes, reason: str, *, fontsize: float) -> None:
    """Write into an empty panel why it is."""
    _frame(axes)
    text = axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=fontsize, color="0.4")
    text.set_transform(axes.transAxes)


def caption(panels: Sequence[Embedding], split: str, seed: int) -> str:
    """The caption of a figure of `draw` that shows features h."""
    images = len(panels[0].labels)
    alike = "the same images in the same views" if split == "train" else "the same images"
    return (
        f"PCA and t-SNE of the {KINDS['h']} of {images:,} {SPLITS[split]}, {alike} for every arm, coloured"
        f" by class; seed {seed}, the lowest that every arm has finished. Numbers stand at the"
        " median of their class. The principal components of each panel are rotated or mirrored onto those of"
        " the first, and each t-SNE begins from the first panel's layout"
        f" (perplexity {perplexity_for(images):.0f}). Silhouette (cosine distance) and kNN accuracy"
        f" (k = {min(NEIGHBOURS, images - 1)}, cosine, each image classified by the others shown) are of all"
        " dimensions, not of the two that are drawn."
    )
