"""What is measured on the outputs of a trained network: each final metric's formula, as a pure function.

Shapes: N images, D dimensions of features, K classes. All results are plain numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 20
BINS = 15
CHUNK = 500
"""Images whose neighbours are searched at once."""


def share_equal(predicted: Tensor, other: Tensor) -> float:
    """Share of images whose two classes, (N,) each, are the same."""
    return (predicted == other).double().mean().item()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose class is predicted right; logits (N, K), labels (N,) int64."""
    return share_equal(logits.argmax(1), labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the right class, in nats; arguments as of `accuracy`."""
    return F.cross_entropy(logits.double(), labels).item()


def calibration_error(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017), equal-width bins.

    The mean over images of |accuracy - mean confidence| of the image's bin; a bin holds its upper edge.
    Arguments as of `accuracy`.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    surplus = torch.zeros(bins, dtype=torch.float64)
    surplus.index_add_(0, bin_of, confidence - (predicted == labels).double())
    return (surplus.abs().sum() / len(labels)).item()


def knn_accuracy(
    h: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, *, k: int = NEIGHBOURS
) -> float:
    """Share of images whose k nearest neighbours in the bank, by cosine, vote for the right class.

    Every neighbour has one vote; of classes with equal votes the lowest wins.

    Args:
        h: (N, D) features; `labels` (N,) int64.
        bank: (M, D) features of training images, `bank_labels` (M,); where M < k, all of them vote.
        k: number of neighbours.
    """
    bank = F.normalize(bank, dim=1)
    right = 0
    for features, truth in zip(h.split(CHUNK), labels.split(CHUNK), strict=True):
        similarity = F.normalize(features.to(bank.device), dim=1) @ bank.T
        nearest = similarity.topk(min(k, len(bank)), dim=1).indices.cpu()
        votes = F.one_hot(bank_labels[nearest]).sum(1)
        right += int((votes.argmax(1) == truth).sum())  # the first of equal maxima: the lowest class
    return right / len(labels)


def view_agreement(logits1: Tensor, logits2: Tensor) -> float:
    """Share of images that are predicted alike in two views, (N, K) each."""
    return share_equal(logits1.argmax(1), logits2.argmax(1))


def view_cosine(h1: Tensor, h2: Tensor) -> float:
    """Mean cosine between the features of two views, (N, D) each, less the mean over all of them."""
    h1, h2 = h1.double(), h2.double()
    mean = torch.cat([h1, h2]).mean(0)
    return F.cosine_similarity(h1 - mean, h2 - mean, dim=1).mean().item()


def effective_rank(h: Tensor) -> float:
    """Effective rank (Roy & Vetterli 2007) of centred features (N, D): how many dimensions they fill.

    The exponential of the entropy of the singular values, normalised to sum 1. Between 1 and
    min(N - 1, D); 0 for features that are all alike.
    """
    h = h.double()
    singular = torch.linalg.svdvals(h - h.mean(0))
    # What is smaller than rounding makes of equal features is no dimension.
    rounding = max(h.shape) * torch.finfo(h.dtype).eps * torch.linalg.matrix_norm(h)
    singular = singular[singular > rounding]
    if not len(singular):
        return 0.0
    share = singular / singular.sum()
    return (-(share * share.log()).sum()).exp().item()


def silhouette(h: Tensor, labels: Tensor) -> float:
    """Mean silhouette (Rousseeuw 1987) of the classes (N,) among features (N, D), cosine distance.

    For an image with mean distance a to its own class and b to the nearest other one, (b - a) / max(a, b);
    0 for an image that is alone in its class, and where there is one class only.
    """
    if len(labels.unique()) < 2:
        return 0.0
    directions = F.normalize(h.double(), dim=1)
    distance = (1 - directions @ directions.T).clamp_min(0).fill_diagonal_(0)
    members = F.one_hot(labels).double()
    members = members[:, members.sum(0) > 0]
    counts = members.sum(0)
    sums = distance @ members
    own = members.bool()
    size = counts.expand_as(sums)[own]
    a = sums[own] / (size - 1).clamp_min(1)
    b = (sums / counts).masked_fill(own, torch.inf).min(1).values
    scores = (b - a) / torch.maximum(a, b).clamp_min(torch.finfo(a.dtype).tiny)
    return scores.masked_fill(size == 1, 0).mean().item()
