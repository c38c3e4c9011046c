"""What is measured on the outputs of a trained network: each final metric's formula, as a pure function.

Shapes: N images, D dimensions of features, K classes. All results are plain numbers.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 20
"""Neighbours with one vote each."""
WEIGHTED_NEIGHBOURS, TEMPERATURE = 200, 0.07
"""Neighbours whose votes are weighted, at most, and how sharply (Wu et al. 2018)."""
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


def calibration_floor(confidence: Tensor, *, bins: int = BINS) -> float:
    """The calibration error that a perfectly calibrated network has by chance, on as many images as these.

    In a bin of finitely many images even that network's accuracy differs from its mean confidence (Roelofs
    et al. 2022). Where image n is right with probability pₙ, independently of the others, the number of
    right ones in a bin is Poisson-binomial, and the bin adds E|number - Σ pₙ| / N. The expectation is exact.

    Args:
        confidence: (N,) probabilities pₙ of the predicted classes.
        bins: as of `calibration_error`.
    """
    confidence = confidence.double()
    bin_of = (confidence * bins).ceil().long().clamp(1, bins)
    return sum(_mean_deviation(confidence[bin_of == b]) for b in bin_of.unique()) / len(confidence)


def _mean_deviation(p: Tensor) -> float:
    """E|S - E S| of S, the number of successes in independent trials with probabilities p (n,) float64.

    From the distribution of S modulo a period, by its characteristic function (Hong 2013). By Bernstein's
    inequality less than 1e-15 of it lies outside one period around the mean.
    """
    mean, variance = p.sum().item(), (p * (1 - p)).sum().item()
    reach = math.ceil(10 * math.sqrt(variance) + 30)
    period, lowest = 2 * reach + 1, round(mean) - reach
    angles = 2 * math.pi * torch.arange(reach + 1, dtype=torch.float64) / period
    # Angle by angle: all at once would take n x reach complex numbers.
    transform = torch.stack([(1 - p + p * torch.exp(1j * angle)).prod() for angle in angles])
    shifted = transform * torch.exp(-1j * lowest * angles)
    probability = torch.fft.irfft(shifted.conj(), n=period)
    deviation = (lowest + torch.arange(period, dtype=torch.float64) - mean).abs()
    return (probability * deviation).sum().item()


class Neighbours(NamedTuple):
    """The nearest images of a bank, the nearest first: cosines and labels, (N, k) each, on the CPU."""

    cosine: Tensor
    labels: Tensor


def nearest(h: Tensor, bank: Tensor, bank_labels: Tensor, k: int) -> Neighbours:
    """The k nearest neighbours in the bank of each image, by cosine.

    Args:
        h: (N, D) features.
        bank: (M, D) features of training images, searched on their device; `bank_labels` (M,) int64.
        k: where M < k, all M.
    """
    bank = F.normalize(bank, dim=1)
    found = [
        (F.normalize(features.to(bank.device), dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        for features in h.split(CHUNK)
    ]
    indices = torch.cat([some.indices.cpu() for some in found])
    return Neighbours(torch.cat([some.values.cpu() for some in found]), bank_labels[indices])


def knn_accuracy(near: Neighbours, labels: Tensor, *, k: int = NEIGHBOURS) -> float:
    """Share of images (N,) whose k nearest neighbours, or all that `near` has, vote for the right class.

    Every neighbour has one vote; of classes with equal votes the lowest wins.
    """
    return _vote(near.labels[:, :k], torch.ones_like(near.cosine[:, :k]), labels)


def weighted_knn_accuracy(
    near: Neighbours, labels: Tensor, *, k: int, temperature: float = TEMPERATURE
) -> float:
    """Share of images (N,) whose k nearest neighbours, or all that `near` has, vote for the right class.

    A neighbour's vote weighs exp(cosine / temperature) (Wu et al. 2018); k is `weighted_neighbours`' for
    the bank.
    """
    return _vote(near.labels[:, :k], (near.cosine[:, :k].double() / temperature).exp(), labels)


def weighted_neighbours(bank_labels: Tensor) -> int:
    """How many neighbours vote by weight: 200, or as many as the bank has images of its smallest class.

    With more, images of other classes would outvote the right one however well the classes are apart.
    """
    return min(WEIGHTED_NEIGHBOURS, int(bank_labels.unique(return_counts=True)[1].min()))


def _vote(voters: Tensor, weights: Tensor, labels: Tensor) -> float:
    """Share of images (N,) whose class gets most votes of neighbours with labels and weights (N, k)."""
    votes = weights.new_zeros(len(labels), int(voters.max()) + 1).scatter_add_(1, voters, weights)
    return (votes.argmax(1) == labels).double().mean().item()  # the first of equal maxima: the lowest class


def view_agreement(logits1: Tensor, logits2: Tensor) -> float:
    """Share of images that are predicted alike in two views, (N, K) each."""
    return share_equal(logits1.argmax(1), logits2.argmax(1))


def view_kappa(logits1: Tensor, logits2: Tensor) -> float:
    """Agreement of the classes predicted in two views, (N, K) each, beyond chance: Cohen's kappa (1960).

    (a - c) / (1 - c) of the agreement a and the agreement c of independent predictions with the same shares
    of classes: 1 for full agreement, 0 for what chance gives, and where one class is all that is predicted.
    """
    one, other = (F.one_hot(logits.argmax(1), logits.shape[1]).double() for logits in (logits1, logits2))
    agreement = (one * other).sum(1).mean().item()
    chance = (one.mean(0) @ other.mean(0)).item()
    return (agreement - chance) / (1 - chance) if chance < 1 else 0.0


def view_both_right(logits1: Tensor, logits2: Tensor, labels: Tensor) -> float:
    """Share of images whose class (N,) is predicted right in both of two views, (N, K) each."""
    return ((logits1.argmax(1) == labels) & (logits2.argmax(1) == labels)).double().mean().item()


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
