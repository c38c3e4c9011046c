"""Mixed Barlow Twins (Bandara et al. 2023): mixed images are to have mixed embeddings.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
from torch import Tensor

from trainables.methods.barlow_twins import cross_correlation, distance_from_identity
from trainables.methods.term import Branches, Mixed, Term, at_least_fp32, check_shapes
from trainables.setting import Setting
from trainables.trial import TrialConfig


def mixed_barlow_twins_loss(
    z1: Tensor,
    z2: Tensor,
    mixed: Tensor,
    alpha: float | Tensor,
    order: Tensor,
    *,
    lambd: float = 0.0078125,
    weight: float = 4.0,
    center: bool = True,
) -> Tensor:
    """Barlow Twins and the regularisation of Bandara et al. 2023 (arXiv 2312.02151).

    BT(z1, z2) + weight * lambd * (||C(m, z1) - C1||^2 + ||C(m, z2) - C2||^2), where m are the embeddings of
    mixed images, C1 = alpha * C(z1, z1) + (1 - alpha) * C(z2[order], z1) and
    C2 = alpha * C(z1, z2) + (1 - alpha) * C(z2[order], z2). C is `cross_correlation`, the norm is over all
    entries, and gradients flow through C1 and C2, too. Factors and defaults are those that the authors' code
    has for CIFAR-10; it standardises by the deviation with B - 1, `cross_correlation` by the one with B.

    Computed in at least fp32, whatever the autocast.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        mixed: (B, M) embeddings of the images alpha * view 1 + (1 - alpha) * view 2[order].
        alpha: share of view 1 in the mixed images of this batch, 0 to 1; the authors draw it uniformly.
        order: (B,) int64, a permutation of the batch.
        lambd: weight of the off-diagonal part of Barlow Twins, and a factor of the regularisation.
        weight: of the regularisation; the authors use 4 for CIFAR-10 and 2 for STL-10.
        center: as in `cross_correlation`.

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: other shapes, fewer than two images, or alpha out of range.
    """
    check_shapes("embeddings", z1, z2, mixed, images=2)
    if not isinstance(alpha, Tensor):  # reading one would wait for a GPU
        Setting(low=0.0, high=1.0).check("alpha", alpha)
    if order.shape != z1.shape[:1]:
        raise ValueError(f"order: got shape {tuple(order.shape)}; allowed: ({len(z1)},)")
    # Once, not in each correlation: gradients of half precision would be added up in it.
    z1, z2, mixed = at_least_fp32(z1), at_least_fp32(z2), at_least_fp32(mixed)
    c = cross_correlation(z1, z2, center=center)
    shuffled = z2[order]
    distance = torch.zeros_like(c[0, 0])
    for z, first in ((z1, cross_correlation(z1, z1, center=center)), (z2, c)):
        expected = alpha * first + (1 - alpha) * cross_correlation(shuffled, z, center=center)
        distance = distance + (cross_correlation(mixed, z, center=center) - expected).square().sum()
    return distance_from_identity(c, lambd=lambd) + weight * lambd * distance


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    z1, z2 = branches.need("z")
    mixed: Mixed = branches.need("mixed")
    return mixed_barlow_twins_loss(
        z1,
        z2,
        mixed.z,
        mixed.alpha,
        mixed.order,
        lambd=config.lambd,
        weight=config.mix_weight,
        center=config.center,
    )


TERM = Term(loss=_term, column="mixed_barlow_twins")
