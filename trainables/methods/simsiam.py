"""SimSiam (Chen & He 2021): each view's prediction is to be near the other view's embedding.

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """SimSiam, Eq. 4 of Chen & He 2021: -mean_b (cos(p1_b, z2_b) + cos(p2_b, z1_b)) / 2.

    No gradient flows into the embeddings `z1` and `z2`: the stop-gradient of the paper, without which the
    network collapses to one output for all images.

    Computed in at least fp32, whatever the autocast.

    Args:
        p1: (B, M) predictions from view 1; `p2` from view 2.
        z1: (B, M) embeddings of view 1; `z2` of view 2.

    Returns:
        Scalar between -1 and 1.

    Raises:
        ValueError: other shapes, or no image.
    """
    check_shapes("predictions and embeddings", p1, p2, z1, z2)
    return -(mean_cosine(p1, z2) + mean_cosine(p2, z1)) / 2


def mean_cosine(p: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of the cosine of (B, M) and (B, M); no gradient flows into `target`."""
    with torch.autocast(p.device.type, enabled=False):
        return F.cosine_similarity(at_least_fp32(p), at_least_fp32(target.detach()), dim=1).mean()


def _term(branches: Branches, _: TrialConfig) -> Tensor:
    return simsiam_loss(*branches.need("predictions"), *branches.need("z"))


TERM = Term(loss=_term, column="simsiam")
