"""VICReg (Bardes, Ponce & LeCun 2022): invariance, variance and covariance.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.barlow_twins import off_diagonal
from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig

EPS = 1e-4
"""Added to the variance before its root, Eq. 2 of the paper."""


def vicreg_loss(
    z1: Tensor, z2: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    """VICReg, Eq. 6 of Bardes et al. 2022, with the factors of the authors' code.

    invariance * mean_bi (z1_bi - z2_bi)^2 + variance * (V(z1) + V(z2)) / 2 + covariance * (C(z1) + C(z2)),
    V(z) = mean_i max(0, 1 - sqrt(var_i(z) + 1e-4)), C(z) = sum_i sum_{j != i} cov_ij(z)^2 / M. The paper has
    the sum of V where the code has the mean, and a sum over dimensions in the first part; its defaults belong
    to the code.

    Computed in at least fp32, whatever the autocast.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        invariance: weight of the distance between the views.
        variance: weight of the part that keeps the deviation of each dimension above 1.
        covariance: weight of the part that makes dimensions uncorrelated.

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: other shapes, or fewer than two images.
    """
    check_shapes("embeddings", z1, z2, images=2)
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = at_least_fp32(z1), at_least_fp32(z2)
        distance = F.mse_loss(z1, z2)
        spread = (_variance_loss(z1) + _variance_loss(z2)) / 2
        redundancy = _covariance_loss(z1) + _covariance_loss(z2)
        return invariance * distance + variance * spread + covariance * redundancy


def _variance_loss(z: Tensor) -> Tensor:
    return F.relu(1 - (z.var(0) + EPS).sqrt()).mean()


def _covariance_loss(z: Tensor) -> Tensor:
    batch, m = z.shape
    z = z - z.mean(0)
    return off_diagonal(z.T @ z / (batch - 1)).square().sum() / m


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    return vicreg_loss(
        *branches.need("z"),
        invariance=config.vicreg_invariance,
        variance=config.vicreg_variance,
        covariance=config.vicreg_covariance,
    )


TERM = Term(loss=_term, column="vicreg")
