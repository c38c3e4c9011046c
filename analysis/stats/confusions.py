"""Which classes a network takes for which, from predicted classes.

Shapes: N images, K classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


def confusion_counts(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int
) -> Counts:
    """(K, K) images by true class (row) and predicted class (column).

    Args:
        labels: (N,) true classes; `predicted` (N,) likewise.
        classes: K.

    Raises:
        ValueError: the arrays have different lengths, or a class is not in 0 … K - 1.
    """
    if labels.shape != predicted.shape:
        raise ValueError(f"predicted: got {predicted.shape}; allowed: as many as labels, {labels.shape}")
    both = np.concatenate([labels, predicted])
    if len(both) and (both.min() < 0 or both.max() >= classes):
        raise ValueError(f"classes: got {both.min()} to {both.max()}; allowed: 0 to {classes - 1}")
    pairs = labels.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def row_shares(counts: Counts) -> Shares:
    """(K, K) shares of the images of each true class; NaN in the rows of classes without images."""
    totals = counts.sum(1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def most_confused(shares: Sequence[Shares], most: int) -> list[tuple[int, int]]:
    """Pairs (true, predicted) of different classes with the highest mean of several shares (K, K).

    At most `most`, the highest first, of equal ones those of lower classes; none that never happened.
    """
    mean = np.nan_to_num(np.mean(shares, axis=0))
    np.fill_diagonal(mean, 0)
    order = np.argsort(-mean, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, mean.shape)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if mean[i, j] > 0]
