"""Embeddings that trials kept: read, laid out in two dimensions, and scored by how they separate classes.

Shapes: N images, D dimensions of the features `h` or of the embedding `z`.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import orthogonal_procrustes

from analysis.plots.kept import kept_arrays
from analysis.trials import cells_of, finished
from study.ledger.ledger import Ledger
from trainables.arms import Arm

Points = npt.NDArray[np.float64]
PERPLEXITY = 30.0
SHOWN_ARMS = 6
"""Arms of a cell whose embeddings a report shows: each takes seconds, and room."""
NEIGHBOURS = 20
ROUNDING = 1e-12
"""Cosine distances below this are 0: errors of rounding in double precision are far smaller."""
SPLITS = {"train": "augmented training images", "test": "clean test images"}
"""The splits, with their names in captions."""
KINDS = {"h": "features h", "z": "embeddings z (kept where γ > 0)"}
"""The representations of an image, with their names in captions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """The embeddings that one trial, of the arm with that label, kept of one split.

    Attributes:
        values: (N, D) features or embeddings in half precision, as they are kept: a page of small multiples
            would take gigabytes otherwise.
        labels: (N,) classes.
        index: (N,) positions in the split, equal for all compared trials.
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
    """The lowest seed that every arm has finished, never one chosen by eye; None if there is none.

    The trials are of one cell, or of several on one page. Arms without any finished trial are ignored.
    """
    seeds = [set(arm["seed"]) for _, arm in finished(trials).groupby(["cell", "arm_label"])]
    common = set.intersection(*seeds) if seeds else set()
    return min(common, default=None)


def shown_arms(cell: pd.DataFrame, most: int = SHOWN_ARMS) -> list[str]:
    """Labels of the arms of a cell that a report shows one by one: at most so many.

    Where there are more: cross-entropy alone, γ = 0, and the others with the highest mean validation accuracy
    (without one: test accuracy), in the order of the space.
    """
    arms = list(dict.fromkeys(cell["arm_label"]))
    if len(arms) <= most:
        return arms
    metric = next(
        (name for name in ("val_acc", "test_acc") if name in cell and cell[name].notna().any()), None
    )
    best = cell.groupby("arm_label")[metric].mean().sort_values(ascending=False).index if metric else arms
    baselines = [arm for arm in arms if Arm.parse(arm).rank < 2]
    chosen = [*baselines, *(arm for arm in best if arm not in baselines)][:most]
    return [arm for arm in arms if arm in chosen]


def read(cell: pd.DataFrame, seed: int, split: str, ledger: Ledger, *, what: str = "h") -> list[Embedding]:
    """The embeddings of each arm of a cell for one seed: the baseline first, else in the order of the space.

    `split` is one of `SPLITS`, `what` one of `KINDS`; trials without z are left out for it.

    Raises:
        ValueError: `what` is not allowed, or the trials kept different images.
        OSError: the artifacts of a trial are gone or damaged.
    """
    if what not in KINDS:
        raise ValueError(f"what: got {what!r}; allowed: {', '.join(KINDS)}")
    panels = []
    for _, trial in finished(cell)[finished(cell)["seed"] == seed].iterrows():
        with kept_arrays(ledger, trial["run_id"], "embeddings.npz") as kept:
            if what == "h" or f"{split}_z" in kept:
                values, labels, index = (kept[f"{split}_{name}"] for name in (what, "labels", "index"))
                panels.append(Embedding(arm=trial["arm_label"], values=values, labels=labels, index=index))
    if any(not np.array_equal(panel.index, panels[0].index) for panel in panels):
        raise ValueError("embeddings: the trials of a cell kept different images")
    order = baseline_first([panel.arm for panel in panels])
    return sorted(panels, key=lambda panel: order.index(panel.arm))


def read_rows(
    trials: pd.DataFrame, seed: int, split: str, ledger: Ledger, *, what: str = "h"
) -> list[tuple[str, list[Embedding]]]:
    """The augmentations and the embeddings (`read`) of each cell."""
    cells = cells_of(trials).values()
    return [(cell["subset"].iloc[0], read(cell, seed, split, ledger, what=what)) for cell in cells]


def baseline_first(arms: Sequence[str]) -> list[str]:
    """Labels of arms, cross-entropy alone first; without it, γ = 0."""
    ranks = {label: Arm.parse(label).rank for label in arms}
    return sorted(arms, key=lambda label: ranks[label] != min(ranks.values()))


def silhouette(panel: Embedding) -> float | None:
    """Mean silhouette (Rousseeuw 1987) of the classes over all D dimensions, cosine distance.

    None for an embedding with a flaw, a single class, or no two images of one class.
    """
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_distances

    if panel.flaw or not 1 < len(np.unique(panel.labels)) < len(panel.labels):
        return None
    distance = cosine_distances(np.asarray(panel.values, np.float64))
    distance[distance < ROUNDING] = 0
    return float(silhouette_score(distance, panel.labels, metric="precomputed"))


def knn_accuracy(panel: Embedding) -> float | None:
    """Share of images whose nearest others among those shown vote for the right class; None with a flaw.

    The `NEIGHBOURS` nearest by cosine over all D dimensions (or all others, if fewer) have one vote each; of
    classes with equal votes the lowest wins. (The metric `knn_acc` has the training images as neighbours.)
    """
    from sklearn.metrics.pairwise import cosine_similarity

    if panel.flaw:
        return None
    cosines = cosine_similarity(np.asarray(panel.values, np.float64))
    np.fill_diagonal(cosines, -np.inf)
    k = min(NEIGHBOURS, len(cosines) - 1)
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    votes = np.eye(panel.labels.max() + 1)[panel.labels[nearest]].sum(1)
    return float((votes.argmax(1) == panel.labels).mean())  # the first of equal maxima: the lowest class


def pca_layouts(panels: Sequence[Embedding], onto: Points | None = None) -> list[tuple[Points, float]]:
    """Two principal components of each panel (N, 2), and the share of the variance that they explain.

    Panels, without flaws and of the same images, are rotated onto the first one, and that one onto `onto`.
    """
    layouts: list[tuple[Points, float]] = []
    for panel in panels:
        points, variance = _principal_components(panel.values)
        if onto is not None:
            # The signs and the order of the axes of a PCA mean nothing across panels.
            turn, _ = orthogonal_procrustes(points, onto)
            points = points @ turn
        layouts.append((points, variance))
        onto = layouts[0][0]
    return layouts


def _principal_components(values: npt.NDArray[np.floating]) -> tuple[Points, float]:
    """The first two, (N, 2), and the share of the variance that they explain."""
    from sklearn.decomposition import PCA

    # All components of 2,000 x 2,048 features take half a minute. Of more than two, ARPACK finds two to the
    # same digits in less than a second.
    solver = "arpack" if min(values.shape) > 2 else "full"
    pca = PCA(n_components=2, svd_solver=solver, random_state=0)
    points: Points = pca.fit_transform(values.astype(np.float64))
    return points, float(pca.explained_variance_ratio_.sum())


def tsne_layouts(panels: Sequence[Embedding]) -> list[Points]:
    """t-SNE of each panel, (N, 2): one perplexity and seed; the others start from the first one's layout."""
    if not panels:
        return []
    first, *others = panels
    start = _tsne(first.values, _principal_components(first.values)[0])
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [start, *threads.map(lambda panel: _tsne(panel.values, start), others)]


def _tsne(values: npt.NDArray[np.floating], start: Points) -> Points:
    """Layout (N, 2) of values (N, D), started from a layout (N, 2) of any scale."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    tsne = TSNE(perplexity=perplexity_for(len(values)), init=start / start.std() * 1e-4, random_state=0)
    # One thread per panel: OpenMP's threads wait for each other at every step, which makes a layout twenty
    # times slower when anything else is running.
    with threadpool_limits(1):
        layout: Points = tsne.fit_transform(values.astype(np.float64)).astype(np.float64)
    return layout


def perplexity_for(images: int) -> float:
    """`PERPLEXITY`, or what fewer images allow."""
    return min(PERPLEXITY, (images - 1) / 3)
