"""The loss of a trial, as pure functions of tensors; its consistency terms are in `trainables.methods`.

Shapes: B images a batch, K classes.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from trainables.datasets.splits import UNLABELLED
from trainables.methods.barlow_twins import barlow_twins_loss
from trainables.methods.term import at_least_fp32

__all__ = ["Loss", "barlow_twins_loss", "cross_entropy", "siamese_loss", "with_term"]


class Loss(NamedTuple):
    """The loss and its parts, scalars. `term` is None where none is trained."""

    total: Tensor
    ce: Tensor
    term: Tensor | None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled images of the batch; 0, not NaN, where there are none.

    `logits` are (B, K), `targets` (B,) int64, -1 where there is no label.
    """
    total = F.cross_entropy(at_least_fp32(logits), targets, ignore_index=UNLABELLED, reduction="sum")
    return total / (targets != UNLABELLED).sum().clamp_min(1)


def siamese_loss(
    logits1: Tensor, logits2: Tensor, targets: Tensor, term: Tensor | None = None, *, gamma: float
) -> Loss:
    """CE(view 1) + CE(view 2) + gamma * term, Eq. 3.5 of the thesis, whose term is Barlow Twins.

    Args:
        logits1: (B, K) of view 1; `logits2` of view 2.
        targets: (B,) int64, -1 where there is no label.
        term: scalar, such as `barlow_twins_loss(z1, z2)`; ValueError if it is missing and gamma is not 0.
        gamma: weight of the term.
    """
    return with_term(cross_entropy(logits1, targets) + cross_entropy(logits2, targets), term, gamma=gamma)


def with_term(ce: Tensor, term: Tensor | None, *, gamma: float) -> Loss:
    """Cross-entropy + gamma * term, scalars; ValueError where the term is missing and gamma is not 0."""
    if gamma == 0:
        return Loss(ce, ce, None)
    if term is None:
        raise ValueError(f"term: got none; required where gamma is {gamma}")
    return Loss(ce + gamma * term, ce, term)
