"""Barlow Twins (Zbontar et al. 2021), the consistency term of the thesis.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig

EPS = 1e-5
"""Added to the variance, as batch norm does."""


def cross_correlation(z1: Tensor, z2: Tensor, *, center: bool = True) -> Tensor:
    """Cross-correlation C of two embeddings along the batch, Eq. 3.4 of the thesis.

    Computed in at least fp32, whatever the autocast: sums over the batch lose their small terms in bf16.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        center: take the mean over the batch away first (what batch norm without affine parameters does,
            as in Zbontar et al. 2021); False: the equation as printed.

    Returns:
        (M, M), entries between -1 and 1.

    Raises:
        ValueError: other shapes, or fewer than two images.
    """
    check_shapes("embeddings", z1, z2, images=2)
    batch = z1.shape[0]
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = at_least_fp32(z1), at_least_fp32(z2)
        if center:
            z1, z2 = ((z - z.mean(0)) / (z.var(0, correction=0) + EPS).sqrt() for z in (z1, z2))
            return z1.T @ z2 / batch
        return F.normalize(z1, dim=0).T @ F.normalize(z2, dim=0)


def barlow_twins_loss(z1: Tensor, z2: Tensor, *, lambd: float = 0.0051, center: bool = True) -> Tensor:
    """Barlow Twins loss, Eq. 3.3: sum_i (1 - C_ii)^2 + lambd * sum_i sum_{j != i} C_ij^2.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        lambd: weight of the off-diagonal part; the default is that of Zbontar et al. 2021.
        center: as in `cross_correlation`, which also says what is refused.

    Returns:
        Scalar, >= 0.
    """
    return distance_from_identity(cross_correlation(z1, z2, center=center), lambd=lambd)


def distance_from_identity(c: Tensor, *, lambd: float) -> Tensor:
    """Eq. 3.3 of a cross-correlation `c`, (M, M): a scalar, >= 0."""
    on_diag = (1 - c.diagonal()).square().sum()
    return on_diag + lambd * off_diagonal(c).square().sum()


def off_diagonal(c: Tensor) -> Tensor:
    """The entries of the square matrix `c` outside its diagonal, (M * (M - 1),)."""
    m = c.shape[0]
    # Without the last entry and in rows of M + 1, the diagonal is the first column.
    return c.flatten()[:-1].view(m - 1, m + 1)[:, 1:].flatten()


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    return barlow_twins_loss(*branches.need("z"), lambd=config.lambd, center=config.center)


TERM = Term(loss=_term, column="bt")
