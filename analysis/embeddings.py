"""PCA and t-SNE of the features that trials kept: a panel an arm, comparable with each other.

As a script: `python analysis/embeddings.py --space NAME` writes the figures as PNG and PDF.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from scipy.linalg import orthogonal_procrustes

from analysis.figures import save
from analysis.labels import arm_text
from analysis.trials import cell_labels, finished, load, parse_command_line
from study.ledger import Ledger

Points = npt.NDArray[np.float64]

PERPLEXITY = 30.0
SPLITS = {"train": "augmented training images", "test": "clean test images"}
"""Kept splits with what a caption calls them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """What one trial kept of one split.

    Attributes:
        arm: label of the trial's arm.
        h: (N, D) features.
        labels: (N,) classes.
        index: (N,) positions in the split, equal for all trials that are compared.
    """

    arm: str
    h: Points
    labels: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    @property
    def flaw(self) -> str | None:
        """Why there is nothing to lay out in two dimensions, or None."""
        if not np.isfinite(self.h).all():
            return "features are not finite"
        if self.h.shape[0] < 4 or self.h.shape[1] < 2:
            return "too few images or features"
        return "collapsed: all features alike" if np.ptp(self.h, axis=0).max() == 0 else None


def shown_seed(cell: pd.DataFrame) -> int | None:
    """The lowest seed that every arm has finished, never one chosen by eye; None where there is none.

    Args:
        cell: the trials of one cell. Arms without any finished trial are passed over.
    """
    seeds = [set(arm["seed"]) for _, arm in finished(cell).groupby("arm_label")]
    common = set.intersection(*seeds) if seeds else set()
    return min(common, default=None)


def read(cell: pd.DataFrame, seed: int, split: str, ledger: Ledger) -> list[Embedding]:
    """The kept features of each arm of a cell for one seed, in the order of the space."""
    panels = []
    for _, trial in finished(cell)[finished(cell)["seed"] == seed].iterrows():
        with np.load(ledger.artifact(trial["run_id"], "embeddings.npz"), allow_pickle=False) as kept:
            panels.append(
                Embedding(
                    arm=trial["arm_label"],
                    h=kept[f"{split}_h"].astype(np.float64),
                    labels=kept[f"{split}_labels"],
                    index=kept[f"{split}_index"],
                )
            )
    if any(not np.array_equal(panel.index, panels[0].index) for panel in panels):
        raise ValueError("embeddings: the trials of a cell kept different images")
    return panels


def pca_layouts(panels: Sequence[Embedding]) -> list[tuple[Points, float]]:
    """Two principal components of each panel, turned onto those of the first; explained variance.

    Returns:
        For each panel (N, 2) and the share of the variance that the two components explain.
    """
    from sklearn.decomposition import PCA

    layouts: list[tuple[Points, float]] = []
    for panel in panels:
        pca = PCA(n_components=2, svd_solver="full")
        points = pca.fit_transform(panel.h)
        if layouts:
            # Axes of a PCA have no sign and no order that means anything across panels.
            turn, _ = orthogonal_procrustes(points, layouts[0][0])
            points = points @ turn
        layouts.append((points, float(pca.explained_variance_ratio_.sum())))
    return layouts


def tsne_layouts(panels: Sequence[Embedding]) -> list[Points]:
    """t-SNE of each panel, (N, 2): one perplexity and seed, the others begun from the first's layout."""
    from sklearn.decomposition import PCA

    if not panels:
        return []
    first = panels[0].h
    start = _tsne(first, PCA(n_components=2, svd_solver="full").fit_transform(first))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [start, *threads.map(lambda panel: _tsne(panel.h, start), panels[1:])]


def _tsne(h: Points, start: Points) -> Points:
    """Layout (N, 2) of features (N, D), begun from a layout (N, 2) of any scale."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(h) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start / start.std() * 1e-4, random_state=0)
    # One thread a panel: OpenMP's threads wait for each other at every step, and where anything else runs
    # beside them that made one layout twenty times slower.
    with threadpool_limits(1):
        layout: Points = tsne.fit_transform(h).astype(np.float64)
    return layout


def draw(panels: Sequence[Embedding], classes: int | None = None) -> Figure:
    """The figure of one cell: PCA above, t-SNE below, a column an arm, the baseline first."""
    width = 2.6 * len(panels)
    figure = Figure(figsize=(max(width, 5.2), 5.9), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False)
    count = classes or int(max(panel.labels.max() for panel in panels)) + 1
    colours = mpl.color_sequences["petroff10"]  # colour-blind readers can tell these apart
    handles: list[PathCollection] = []
    sound = [panel for panel in panels if panel.flaw is None]
    layouts = zip(sound, pca_layouts(sound), tsne_layouts(sound), strict=True)
    drawn = {panel.arm: (pca, variance, tsne) for panel, (pca, variance), tsne in layouts}
    for column, panel in enumerate(panels):
        grid[0, column].set_title(arm_text(panel.arm), fontsize=11)
        if panel.arm not in drawn:
            for axes in grid[:, column]:
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, panel.flaw, ha="center", va="center", transform=axes.transAxes, wrap=True)
            continue
        pca, variance, tsne = drawn[panel.arm]
        for axes, layout in zip(grid[:, column], (pca, tsne), strict=True):
            handles = _scatter(axes, layout, panel.labels, colours, count)
        grid[0, column].set_xlabel(f"{variance:.0%} of variance", fontsize=8)
    for row, name in enumerate(("PCA", "t-SNE")):
        grid[row, 0].set_ylabel(name, fontsize=11)
    if not handles:
        return figure
    names = [str(c) for c in range(count)]
    legend = figure.legend(handles, names, loc="outside lower center", ncols=min(count, 10), frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([30])  # type: ignore[union-attr]  # scatter's handles are collections
    return figure


def _scatter(
    axes: Axes, points: Points, labels: npt.NDArray[np.int64], colours: Sequence[ColorType], count: int
) -> list[PathCollection]:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")
    size = float(np.clip(2500 / len(points), 3, 14))
    return [
        axes.scatter(
            points[labels == c, 0],
            points[labels == c, 1],
            s=size,
            color=colours[c % len(colours)],
            linewidths=0,
            rasterized=True,
        )
        for c in range(count)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures of a space; returns the exit code."""
    selection, ledger, folder = parse_command_line("Embedding figures of a space.", argv, subfolder="figures")
    trials = load(selection, ledger.trials(trial.key for trial in selection.trials))
    for cell, label in cell_labels(trials).items():
        part = trials[trials["cell"] == cell]
        seed = shown_seed(part)
        if seed is None:
            print(f"{label}: no seed that every arm has finished")
            continue
        for split, images in SPLITS.items():
            for path in save(draw(read(part, seed, split, ledger)), folder, f"embeddings-{split}-{cell}"):
                print(f"wrote {path}: {label}, {images}, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
