"""Plain invariance: the squared distance of two embeddings.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig


def mse_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared difference over all entries, mean_bi (z1_bi - z2_bi)^2: the first part of VICReg alone.

    Nothing but the cross-entropy beside it keeps embeddings from becoming equal for all images.

    Computed in at least fp32, whatever the autocast.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2. Gradients flow into both.

    Returns:
        Scalar, >= 0.

    Raises:
        ValueError: other shapes, or no image.
    """
    check_shapes("embeddings", z1, z2)
    with torch.autocast(z1.device.type, enabled=False):
        return F.mse_loss(at_least_fp32(z1), at_least_fp32(z2))


def _term(branches: Branches, _: TrialConfig) -> Tensor:
    return mse_loss(*branches.need("z"))


TERM = Term(loss=_term, column="mse")
