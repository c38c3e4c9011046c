"""PCA and t-SNE of what trials kept of their images: a panel an arm, comparable with each other.

As a script: `python analysis/embeddings.py --space NAME` writes the figures as PNG and PDF.

Shapes: N images, D dimensions of the features `h` or of the embedding `z`.
"""

import argparse
import contextlib
import os
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from scipy.linalg import orthogonal_procrustes

from analysis.figures import save
from analysis.labels import MINUS, NO_VALUE, arm_text
from analysis.trials import finished, parse_command_line
from study.ledger import Ledger

Points = npt.NDArray[np.float64]

PERPLEXITY = 30.0
NEIGHBOURS = 20
ROUNDING = 1e-12
"""Cosine distances below this are 0: what rounding leaves in double precision is far smaller."""
SPLITS = {"train": "augmented training images", "test": "clean test images"}
"""Kept splits with what a caption calls them."""
KINDS = {"h": "features h", "z": "embeddings z (kept where γ > 0)"}
"""What can be shown of an image, with what a caption calls it."""

COLOURS = mpl.color_sequences["petroff10"]  # colour-blind readers can tell these apart
MARKERS = ("o", "^", "s")
"""Of the classes 0 to 9, 10 to 19 and 20 to 29."""
PANEL = 1.3
"""Side of a small panel, in inches, where the page has room."""
PAGE = (7.7, 11.1)
"""What a printer reaches of A4, in inches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """What one trial kept of one split.

    Attributes:
        arm: label of the trial's arm.
        values: (N, D) features or embeddings, in the half precision in which they are kept: a page of small
            multiples holds gigabytes of them otherwise.
        labels: (N,) classes.
        index: (N,) positions in the split, equal for all trials that are compared.
    """

    arm: str
    values: npt.NDArray[np.floating]
    labels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    @property
    def flaw(self) -> str | None:
        """Why there is nothing to lay out in two dimensions, or None."""
        if not np.isfinite(self.values).all():
            return "features are not finite"
        if self.values.shape[0] < 4 or self.values.shape[1] < 2:
            return "too few images or features"
        return "collapsed: all features alike" if (self.values == self.values[0]).all() else None


def shown_seed(trials: pd.DataFrame) -> int | None:
    """The lowest seed that every arm has finished, never one chosen by eye; None where there is none.

    Args:
        trials: of one cell, or of several that are shown on one page. Arms of a cell without any finished
            trial are passed over.
    """
    seeds = [set(arm["seed"]) for _, arm in finished(trials).groupby(["cell", "arm_label"])]
    common = set.intersection(*seeds) if seeds else set()
    return min(common, default=None)


def read(cell: pd.DataFrame, seed: int, split: str, ledger: Ledger, *, what: str = "h") -> list[Embedding]:
    """What each arm of a cell kept for one seed: the baseline first, else in the order of the space.

    Args:
        cell: the trials of one cell.
        seed: of the trials that are read.
        split: one of `SPLITS`.
        ledger: where their artifacts are.
        what: one of `KINDS`; trials that keep no z are left out for it.

    Raises:
        ValueError: `what` is none of these, or the trials kept different images.
        OSError: what a trial kept is not there any more.
    """
    if what not in KINDS:
        raise ValueError(f"what: got {what!r}; allowed: {', '.join(KINDS)}")
    panels = []
    for _, trial in finished(cell)[finished(cell)["seed"] == seed].iterrows():
        with _kept(ledger.artifact(trial["run_id"], "embeddings.npz")) as kept:
            if what == "z" and f"{split}_z" not in kept:
                continue
            panels.append(
                Embedding(
                    arm=trial["arm_label"],
                    values=kept[f"{split}_{what}"],
                    labels=kept[f"{split}_labels"],
                    index=kept[f"{split}_index"],
                )
            )
    if any(not np.array_equal(panel.index, panels[0].index) for panel in panels):
        raise ValueError("embeddings: the trials of a cell kept different images")
    order = _baseline_first([panel.arm for panel in panels])
    return sorted(panels, key=lambda panel: order.index(panel.arm))


@contextlib.contextmanager
def _kept(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of a file; OSError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise OSError(f"{path} is damaged: {error}") from error


def _baseline_first(arms: Sequence[str]) -> list[str]:
    """Labels of arms, cross-entropy alone first; where there is none, γ = 0."""
    names = [label.partition(" ")[0] for label in arms]
    baseline = "ce" if "ce" in names else "siamese-0"
    return sorted(arms, key=lambda label: label.partition(" ")[0] != baseline)


def silhouette(panel: Embedding) -> float | None:
    """Mean silhouette (Rousseeuw 1987) of the classes over all D dimensions, cosine distance.

    None where there is a flaw, one class only, or no two images of a class.
    """
    from sklearn.metrics import silhouette_score

    if panel.flaw or not 1 < len(np.unique(panel.labels)) < len(panel.labels):
        return None
    distance = 1 - _cosines(panel.values)
    np.fill_diagonal(distance, 0)
    # What is left by rounding, and below 0 at times, is no distance between equal directions.
    distance[distance < ROUNDING] = 0
    return float(silhouette_score(distance, panel.labels, metric="precomputed"))


def knn_accuracy(panel: Embedding) -> float | None:
    """Share of images whose nearest others among those shown vote for the right class; None at a flaw.

    The `NEIGHBOURS` nearest by cosine over all D dimensions (all others where there are fewer) have one
    vote each; of classes with equal votes the lowest wins.
    """
    if panel.flaw:
        return None
    cosines = _cosines(panel.values)
    np.fill_diagonal(cosines, -np.inf)
    k = min(NEIGHBOURS, len(cosines) - 1)
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    votes = np.zeros((len(cosines), panel.labels.max() + 1), dtype=np.int64)
    np.add.at(votes, (np.arange(len(cosines))[:, None], panel.labels[nearest]), 1)
    return float((votes.argmax(1) == panel.labels).mean())  # the first of equal maxima: the lowest class


def _cosines(values: npt.NDArray[np.floating]) -> Points:
    """(N, N) cosines between the rows; 0 for a row of zeros, which has no direction."""
    values = values.astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    directions = values / np.where(lengths > 0, lengths, 1)
    cosines: Points = directions @ directions.T
    return cosines


def pca_layouts(panels: Sequence[Embedding], onto: Points | None = None) -> list[tuple[Points, float]]:
    """Two principal components of each panel, turned onto those of the first; explained variance.

    Args:
        panels: without flaws, of the same images.
        onto: (N, 2) layout of these images that the first panel is turned onto; None: it stays.

    Returns:
        For each panel (N, 2) and the share of the variance that the two components explain.
    """
    layouts: list[tuple[Points, float]] = []
    for panel in panels:
        points, variance = _principal_components(panel.values)
        if onto is not None:
            # Axes of a PCA have no sign and no order that means anything across panels.
            turn, _ = orthogonal_procrustes(points, onto)
            points = points @ turn
        layouts.append((points, variance))
        onto = layouts[0][0]
    return layouts


def _principal_components(values: npt.NDArray[np.floating]) -> tuple[Points, float]:
    """The first two, (N, 2), and the share of the variance that they explain."""
    from sklearn.decomposition import PCA

    # All components of 2,000 x 2,048 features take half a minute. ARPACK finds two of them to the same
    # digits in less than a second, where there are more than two.
    solver = "arpack" if min(values.shape) > 2 else "full"
    pca = PCA(n_components=2, svd_solver=solver, random_state=0)
    points: Points = pca.fit_transform(values.astype(np.float64))
    return points, float(pca.explained_variance_ratio_.sum())


def tsne_layouts(panels: Sequence[Embedding]) -> list[Points]:
    """t-SNE of each panel, (N, 2): one perplexity and seed, the others begun from the first's layout."""
    if not panels:
        return []
    first, *others = panels
    start = _tsne(first.values, _principal_components(first.values)[0])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [start, *threads.map(lambda panel: _tsne(panel.values, start), others)]


def _tsne(values: npt.NDArray[np.floating], start: Points) -> Points:
    """Layout (N, 2) of values (N, D), begun from a layout (N, 2) of any scale."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    tsne = TSNE(perplexity=_perplexity(len(values)), init=start / start.std() * 1e-4, random_state=0)
    # One thread a panel: OpenMP's threads wait for each other at every step, and where anything else runs
    # beside them that made one layout twenty times slower.
    with threadpool_limits(1):
        layout: Points = tsne.fit_transform(values.astype(np.float64)).astype(np.float64)
    return layout


def _perplexity(images: int) -> float:
    return min(PERPLEXITY, (images - 1) / 3)


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
    return _baseline_first(list(dict.fromkeys(panel.arm for row in longest_first for panel in row)))


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
        f" layout (perplexity {_perplexity(images):.0f}). Silhouette (cosine distance) and kNN accuracy"
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
