"""PCA and t-SNE of what trials kept of their images: a panel an arm, comparable with each other.

As a script: `python analysis/embeddings.py --space NAME` writes the figures as PNG and PDF.

Shapes: N images, D dimensions of the features `h` or of the embedding `z`.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import ColorType

from analysis.plots.projections import (
    KINDS,
    NEIGHBOURS,
    SPLITS,
    Embedding,
    Points,
    baseline_first,
    knn_accuracy,
    pca_layouts,
    perplexity_for,
    read,
    shown_seed,
    silhouette,
    tsne_layouts,
)
from analysis.plots.style import save
from analysis.render.text import MINUS, NO_VALUE, arm_text
from analysis.trials import parse_command_line
from study.ledger.ledger import Ledger

COLOURS = mpl.color_sequences["petroff10"]  # colour-blind readers can tell these apart
MARKERS = ("o", "^", "s")
"""Of the classes 0 to 9, 10 to 19 and 20 to 29."""
PANEL = 1.3
"""Side of a small panel, in inches, where the page has room."""
PAGE = (7.7, 11.1)
"""What a printer reaches of A4, in inches."""


def draw(panels: Sequence[Embedding], classes: int | None = None) -> Figure:
    """The figure of one cell: PCA above, t-SNE below, a column an arm, in the order given.

    Args:
        panels: of the same images.
        classes: how many there are; None: as many as the labels tell.
    """
    figure = Figure(figsize=(max(2.6 * len(panels), 5.2), 6.2), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    for axes, name in zip(grid[:, 0], ("PCA", "t-SNE"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    sound = [panel for panel in panels if panel.flaw is None]
    layouts = iter(zip(pca_layouts(sound), tsne_layouts(sound), strict=True))
    for (above, below), panel in zip(grid.T, panels, strict=True):
        above.set_title(_title(panel.arm), fontsize=11)
        if panel.flaw:
            _tell(above, panel.flaw, fontsize=10)
            _tell(below, panel.flaw, fontsize=10)
            continue
        (pca, variance), tsne = next(layouts)
        size = float(np.clip(2500 / len(pca), 3, 14))
        _scatter(above, pca, panel.labels, size)
        _scatter(below, tsne, panel.labels, size)
        above.set_xlabel(f"{' · '.join(_scores(panel))}\n{100 * variance:.0f} % of variance", fontsize=8)
    if sound:
        _legend(figure, classes or _classes(panels), fontsize=9)
    return figure


def multiples(rows: Sequence[tuple[str, Sequence[Embedding]]]) -> Figure:
    """PCA of several cells on one page of at most A4: a row a cell, a column an arm.

    The panels of a row are turned onto its first one, and that onto the first one of the page where both
    show the same images.

    Args:
        rows: label and panels of each cell, one at least with a panel. Columns are ordered as the longest.
    """
    arms = _columns([row for _, row in rows])
    figure, grid = _page(len(rows), len(arms))
    roomy = len(arms) <= 5
    for axes, arm in zip(grid[0], arms, strict=True):
        axes.set_title(_title(arm), fontsize=8 if roomy else 6)
    first: tuple[npt.NDArray[np.int64], Points] | None = None
    for cells, (label, row) in zip(grid, rows, strict=True):
        cells[0].set_ylabel(_wrapped(label), fontsize=7, rotation=0, ha="right", va="center")
        sound = [panel for panel in row if panel.flaw is None]
        comparable = first and sound and np.array_equal(first[0], sound[0].index)
        layouts = pca_layouts(sound, onto=first[1] if first and comparable else None)
        if sound and not first:
            first = sound[0].index, layouts[0][0]
        drawn = {panel.arm: points for panel, (points, _) in zip(sound, layouts, strict=True)}
        panels = {panel.arm: panel for panel in row}
        for axes, arm in zip(cells, arms, strict=True):
            _draw_small(axes, panels.get(arm), drawn.get(arm), separator=" · " if roomy else "\n")
    if first:
        _legend(figure, _classes([panel for _, row in rows for panel in row]), fontsize=7)
    return figure


def _title(arm: str) -> str:
    """An arm above its panels; fields that tell it from others get their own lines."""
    return arm_text(arm).replace(" (", "\n(").replace(", ", ",\n")


def _columns(rows: Sequence[Sequence[Embedding]]) -> list[str]:
    """The arms of all rows, ordered as in the longest, the baseline first."""
    longest_first = sorted(rows, key=len, reverse=True)
    return baseline_first(list(dict.fromkeys(panel.arm for row in longest_first for panel in row)))


def _page(rows: int, columns: int) -> tuple[Figure, npt.NDArray[np.object_]]:
    """A figure that A4 holds, with its (rows, columns) axes: many rows are lower, many columns narrower."""
    size = (min(1 + PANEL * max(columns, 2), PAGE[0]), min(0.7 + (PANEL + 0.25) * rows, PAGE[1]))
    figure = Figure(figsize=size, layout="constrained")
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _wrapped(text: str) -> str:
    """A row's label, or a reason, in lines that leave room for the panels, or fit into one."""
    return textwrap.fill(text.replace("+", " + "), 18)


def _draw_small(axes: Axes, panel: Embedding | None, points: Points | None, *, separator: str) -> None:
    """One of the small multiples; the arm has no result, or a flaw, where it has no points."""
    if panel is None or points is None:
        _tell(axes, _wrapped(panel.flaw if panel and panel.flaw else "no result"), fontsize=6)
        return
    _scatter(axes, points, panel.labels, size=float(np.clip(1000 / len(points), 0.5, 5)))
    axes.set_xlabel(separator.join(_scores(panel)), fontsize=5.5, labelpad=1.5)


def _scores(panel: Embedding) -> tuple[str, str]:
    """`silhouette 0.31` and `kNN 87.2 %`, with a dash for what is not defined."""
    score, accuracy = silhouette(panel), knn_accuracy(panel)
    return (
        f"silhouette {NO_VALUE if score is None else f'{score:z.2f}'.replace('-', MINUS)}",
        f"kNN {NO_VALUE if accuracy is None else f'{100 * accuracy:.1f} %'}",
    )


def _frame(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")


def _tell(axes: Axes, reason: str, *, fontsize: float) -> None:
    """Say why a panel is empty."""
    _frame(axes)
    text = axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=fontsize, color="0.4")
    text.set_transform(axes.transAxes)


def _scatter(axes: Axes, points: Points, labels: npt.NDArray[np.int64], size: float) -> None:
    """Points (N, 2) by class; pixels in a PDF too, where thousands of shapes would be slow to show."""
    _frame(axes)
    # In an order of chance: else the last class would hide the others wherever they meet.
    order = np.random.default_rng(0).permutation(len(labels))
    looks = [_look(int(c)) for c in labels[order]]
    for marker in MARKERS:
        has_it = [own == marker for _, own in looks]
        x, y = points[order][has_it].T
        colours = [colour for colour, own in looks if own == marker]
        axes.scatter(x, y, c=colours, s=size, marker=marker, linewidths=0, rasterized=True)


def _classes(panels: Sequence[Embedding]) -> int:
    return int(max(panel.labels.max() for panel in panels)) + 1


def _look(c: int) -> tuple[ColorType, str]:
    """Colour and marker of a class; the same again after as many as there are of both."""
    return COLOURS[c % len(COLOURS)], MARKERS[c // len(COLOURS) % len(MARKERS)]


def _legend(figure: Figure, classes: int, *, fontsize: float) -> None:
    """Name the classes below the panels, unless there are more than can be told apart."""
    columns = len(COLOURS)
    if classes > columns * len(MARKERS):
        return
    # Legends are filled column by column: each column has one colour, each row one marker.
    order = [c for column in range(columns) for c in range(column, classes, columns)]
    looks = [_look(c) for c in order]
    handles = [Line2D([], [], linestyle="", color=colour, marker=marker) for colour, marker in looks]
    figure.legend(
        handles,
        [str(c) for c in order],
        loc="outside lower center",
        ncols=min(classes, columns),
        frameon=False,
        fontsize=fontsize,
        title="class",
        title_fontsize=fontsize,
        handlelength=1,
        handletextpad=0.2,
        columnspacing=0.9,
    )


def caption(panels: Sequence[Embedding], split: str, seed: int, *, what: str = "h") -> str:
    """What a figure of `draw` shows, for those who read it.

    Args:
        panels: that were drawn, one at least.
        split: one of `SPLITS`.
        seed: of all panels.
        what: one of `KINDS`.
    """
    images = len(panels[0].labels)
    alike = "the same images in the same views" if split == "train" else "the same images"
    return (
        f"PCA and t-SNE of the {KINDS[what]} of {images:,} {SPLITS[split]}, {alike} for every arm, coloured"
        f" by class; seed {seed}, the lowest that every arm has finished. The principal components of each"
        " panel are rotated or mirrored onto those of the first, and each t-SNE begins from the first panel's"
        f" layout (perplexity {perplexity_for(images):.0f}). Silhouette (cosine distance) and kNN accuracy"
        f" (k = {min(NEIGHBOURS, images - 1)}, cosine, each image classified by the others shown) are of all"
        " dimensions, not of the two that are drawn."
    )


def write(
    trials: pd.DataFrame,
    ledger: Ledger,
    folder: Path,
    *,
    what: str = "h",
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Write a figure of each cell, and a page of each group of cells that differ in augmentations alone.

    Args:
        trials: of any number of cells, as `analysis.trials.load` gives them.
        ledger: where their artifacts are.
        folder: gets `embeddings-<split>-<cell>` and `embeddings-<split>-subsets-<group>`, as PNG and PDF.
        what: one of `KINDS`; for z the names begin with `embeddings-z`.
        say: told of each file, and of what cannot be drawn.

    Returns:
        The files.
    """
    stem = "embeddings" if what == "h" else f"embeddings-{what}"
    written: list[Path] = []
    for name, label, part in _parts(trials):
        seed = shown_seed(part)
        if seed is None:
            say(f"{label}: no seed that every arm has finished")
            continue
        for split, images in SPLITS.items():
            try:
                rows = _rows(part, seed, split, ledger, what)
            except OSError as error:  # artifacts may be deleted to save space
                say(f"{label}: {error}")
                continue
            if not any(panels for _, panels in rows):
                say(f"{label}: no arm has kept {what}")
                continue
            figure = draw(rows[0][1]) if len(rows) == 1 else multiples(rows)
            for path in save(figure, folder, f"{stem}-{split}-{name}"):
                say(f"wrote {path}: {label}, {images}, seed {seed}")
                written.append(path)
    return written


def _parts(trials: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """What gets a figure: name, label and trials of each cell, then of each group of cells."""
    cells = [
        (f"{number}", part["cell_label"].iloc[0], part) for number, part in trials.groupby("cell", sort=False)
    ]
    groups = [
        (f"subsets-{number}", f"{part['group_label'].iloc[0]} · by augmentations", part)
        for number, part in trials.groupby("group", sort=False)
        if len(part["cell"].unique()) > 1
    ]
    return cells + groups


def _rows(
    trials: pd.DataFrame, seed: int, split: str, ledger: Ledger, what: str
) -> list[tuple[str, list[Embedding]]]:
    """Augmentations and panels of each cell."""
    return [
        (cell["subset"].iloc[0], read(cell, seed, split, ledger, what=what))
        for _, cell in trials.groupby("cell", sort=False)
    ]


def add_what_argument(parser: argparse.ArgumentParser) -> None:
    """The option that says what is shown of an image."""
    parser.add_argument(
        "--what",
        choices=list(KINDS),
        default="h",
        help="features h, or embeddings z of the arms with gamma > 0 (default: h)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures of a space; returns the exit code."""
    inputs = parse_command_line(
        "Embedding figures of a space.", argv, subfolder="figures", extend=add_what_argument
    )
    write(inputs.trials, inputs.ledger, inputs.folder, what=inputs.args.what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
