"""Which images of a dataset a trial uses: a choice that is fixed, unless the trial has a `data_seed`."""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.catalogue import DATASETS
from trainables.trial import TrialConfig

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
Folds = npt.NDArray[np.int64]
"""(folds, n): indices of the labelled training images of each predefined fold. Folds may overlap."""

UNLABELLED = -1
"""Label of an image without one. In a training split such images come after all the others."""


class Choice(NamedTuple):
    """Which images of the training split a trial uses: sorted indices into it."""

    train: Indices
    validation: Indices
    unlabelled: Indices


def fold_number(config: TrialConfig) -> int | None:
    """Which predefined fold a trial's labelled images are taken from; None: from all labelled images."""
    if config.fold == "none":
        return None
    return config.seed % DATASETS[config.dataset].folds if config.fold == "seed" else int(config.fold)


def training_indices(config: TrialConfig, labels: Labels, folds: Folds | None = None) -> Choice:
    """Which images of the full training split are trained on, and which are held out for validation.

    Without a `data_seed` all choices depend on the data alone; with one they are drawn anew for each seed,
    alike for all arms. Those of labelled images are stratified by class. A smaller `train_size` or
    `unlabeled_size` is a subset of a larger one, of the same draw.

    Args:
        config: its `val_fraction` is taken first, its `train_size` from the rest, both within its `fold`.
        labels: (N,) of the full training split, unlabelled images last.
        folds: of the dataset; required by a config with a fold.

    Raises:
        ValueError: a class has too few images for `train_size`, there are too few unlabelled ones, or
            fewer than one batch in all.
    """
    labels, unlabelled = labels[labels != UNLABELLED], np.flatnonzero(labels == UNLABELLED)
    order = _order(config, len(labels))
    if (number := fold_number(config)) is not None:
        if folds is None:
            raise ValueError(f"fold: got {config.fold!r}; allowed: none, as the folds are not at hand")
        order = order[np.isin(order, folds[number])]
    by_class = [order[labels[order] == c] for c in np.unique(labels)]
    held_out = [round(config.val_fraction * len(indices)) for indices in by_class]
    rest = [indices[n:] for indices, n in zip(by_class, held_out, strict=True)]
    if config.val_fraction and not (all(held_out) and all(map(len, rest))):
        smallest = min(map(len, by_class))
        raise ValueError(
            f"val_fraction: got {config.val_fraction}; allowed: 0, or a share that leaves every class of"
            f" {config.dataset} an image to train on and one to validate on (the smallest has {smallest})"
        )
    if config.train_size is None:
        chosen = rest
    else:
        sizes = _balanced(config, [len(indices) for indices in rest])
        chosen = [indices[:size] for size, indices in zip(sizes, rest, strict=True)]
    if config.unlabeled_size > len(unlabelled):
        raise ValueError(
            f"unlabeled_size: got {config.unlabeled_size}; allowed: at most the {len(unlabelled)} unlabelled"
            f" images of {config.dataset}"
        )
    choice = Choice(
        train=np.sort(np.concatenate(chosen)),
        validation=np.sort(
            np.concatenate([indices[:n] for indices, n in zip(by_class, held_out, strict=True)])
        ),
        unlabelled=np.sort(unlabelled[_order(config, len(unlabelled))[: config.unlabeled_size]]),
    )
    total = len(choice.train) + len(choice.unlabelled)
    if total < config.batch_size:
        raise ValueError(f"batch_size: got {config.batch_size}; allowed: at most the {total} training images")
    return choice


def stratified_choice(labels: Labels, count: int) -> Indices:
    """`count` fixed indices into `labels`, classes in proportion (all where there are fewer), sorted.

    Taken round-robin by relative rank within the class: each prefix of the underlying order is
    stratified, so a smaller choice is a subset of a larger one.
    """
    order = fixed_order(len(labels))
    rank = np.empty(len(labels))
    for c in np.unique(labels):
        members = order[labels[order] == c]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(rank, kind="stable")[:count])


def _balanced(config: TrialConfig, available: list[int]) -> list[int]:
    """How many images of each class make `train_size`, all alike or one apart."""
    size = config.train_size or 0
    if size < len(available):
        raise ValueError(
            f"train_size: got {size}; allowed: at least one image of each of the"
            f" {len(available)} classes of {config.dataset}"
        )
    share, extra = divmod(size, len(available))
    sizes = [share + (c < extra) for c in range(len(available))]
    if any(wanted > having for wanted, having in zip(sizes, available, strict=True)):
        raise ValueError(
            f"train_size: got {size}; allowed: at most {min(available)} images a class of {config.dataset}"
            f" beside val_fraction={config.val_fraction}"
        )
    return sizes


def _order(config: TrialConfig, count: int) -> Indices:
    """0 … `count` - 1 in the order in which a trial takes images."""
    if config.data_seed is None:
        return fixed_order(count)
    # A digest, so that no two pairs give related streams; not the trial's own seed alone, so that another
    # data_seed gives other subsets with the same initial weights.
    digest = hashlib.sha256(f"{config.data_seed}/{config.seed}/choice of images".encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4")).permutation(count)


def fixed_order(count: int) -> Indices:
    """0 … `count` - 1 in an order that looks random and never changes."""
    # RandomState, not default_rng: NumPy promises its stream never changes, and these choices must not.
    return np.random.RandomState(0).permutation(count)
