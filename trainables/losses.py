"""The losses, as pure functions of tensors.

Shapes: B images a batch, M dimensions of the embedding, K classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.datasets.splits import UNLABELLED

HALF = (torch.bfloat16, torch.float16)
"""Types in which sums lose their small terms: losses are computed in at least fp32."""

EPS = 1e-5
"""Added to the variance, as batch norm does."""


class SiameseLoss(NamedTuple):
    """The loss and its terms, scalars. `bt` is None where it was not asked for."""

    total: Tensor
    ce: Tensor
    bt: Tensor | None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled images of the batch; 0, not NaN, where there are none.

    Args:
        logits: (B, K).
        targets: (B,) int64, -1 where there is no label.
    """
    if logits.dtype in HALF:
        logits = logits.float()
    total = F.cross_entropy(logits, targets, ignore_index=UNLABELLED, reduction="sum")
    return total / (targets != UNLABELLED).sum().clamp_min(1)


def cross_correlation(z1: Tensor, z2: Tensor, *, center: bool = True) -> Tensor:
    """Cross-correlation C of two embeddings along the batch, Eq. 3.4 of the thesis.

    Computed in at least fp32, whatever the autocast: sums over the batch lose their small terms in bf16.

    Args:
        z1: (B, M) embeddings of view 1.
        z2: (B, M) embeddings of view 2.
        center: take the mean over the batch away first (what batch norm without affine parameters does,
            as in Zbontar et al. 2021); False: the equation as printed.

    Returns:
        (M, M), entries between -1 and 1.

    Raises:
        ValueError: other shapes, or fewer than two images.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(
            f"embeddings: got shapes {tuple(z1.shape)} and {tuple(z2.shape)}; allowed: (B, M) twice"
        )
    batch = z1.shape[0]
    if batch < 2:
        raise ValueError(f"embeddings: got a batch of {batch}; allowed: at least 2 images")
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = (z.float() if z.dtype in HALF else z for z in (z1, z2))
        if center:
            z1, z2 = ((z - z.mean(0)) / (z.var(0, correction=0) + EPS).sqrt() for z in (z1, z2))
            return z1.T @ z2 / batch
        return F.normalize(z1, dim=0).T @ F.normalize(z2, dim=0)


def barlow_twins_loss(z1: Tensor, z2: Tensor, *, lambd: float = 0.0051, center: bool = True) -> Tensor:
    """Barlow Twins loss, Eq. 3.3: sum_i (1 - C_ii)^2 + lambd * sum_i sum_{j != i} C_ij^2.

    Args:
        z1: (B, M) embeddings of view 1.
        z2: (B, M) embeddings of view 2.
        lambd: weight of the off-diagonal part; the default is that of Zbontar et al. 2021.
        center: see `cross_correlation`.

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: see `cross_correlation`.
    """
    c = cross_correlation(z1, z2, center=center)
    on_diag = (1 - c.diagonal()).square().sum()
    return on_diag + lambd * _off_diagonal(c).square().sum()


def _off_diagonal(c: Tensor) -> Tensor:
    """The entries of the square matrix `c` outside its diagonal, (M * (M - 1),)."""
    m = c.shape[0]
    # Without the last entry and in rows of M + 1, the diagonal is the first column.
    return c.flatten()[:-1].view(m - 1, m + 1)[:, 1:].flatten()


def siamese_loss(
    logits1: Tensor,
    logits2: Tensor,
    targets: Tensor,
    z1: Tensor | None = None,
    z2: Tensor | None = None,
    *,
    gamma: float,
    lambd: float = 0.0051,
    center: bool = True,
) -> SiameseLoss:
    """CE(view 1) + CE(view 2) + gamma * BT(z1, z2), Eq. 3.5 of the thesis.

    With gamma 0 the embeddings are not needed and the Barlow Twins term is not computed.

    Args:
        logits1: (B, K) of view 1.
        logits2: (B, K) of view 2.
        targets: (B,) int64, -1 where there is no label.
        z1: (B, M) embeddings of view 1.
        z2: (B, M) embeddings of view 2.
        gamma: weight of the Barlow Twins term.
        lambd: see `barlow_twins_loss`.
        center: see `cross_correlation`.

    Raises:
        ValueError: gamma is not 0 and an embedding is missing, or see `cross_correlation`.
    """
    ce = cross_entropy(logits1, targets) + cross_entropy(logits2, targets)
    if gamma == 0:
        return SiameseLoss(ce, ce, None)
    if z1 is None or z2 is None:
        raise ValueError(f"embeddings: got none; required where gamma is {gamma}")
    bt = barlow_twins_loss(z1, z2, lambd=lambd, center=center)
    return SiameseLoss(ce + gamma * bt, ce, bt)
