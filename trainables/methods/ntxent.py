"""NT-Xent, the contrastive loss of SimCLR (Chen et al. 2020).

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.setting import Setting
from trainables.trial import TrialConfig


def ntxent_loss(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """NT-Xent, Eq. 1 of Chen et al. 2020: each view is to find the other view of its image among all views.

    mean_v -log( exp(cos(v, v') / temperature) / sum_{a != v} exp(cos(v, a) / temperature) ) over the 2B views
    v of the batch, where v' is the other view of the same image. Labels play no part: other images of the
    same class are negatives, too.

    Computed in at least fp32, whatever the autocast.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        temperature: divides the cosines.

    Returns:
        Scalar, > 0.

    Raises:
        ValueError: other shapes, fewer than two images, or a temperature that is not positive.
    """
    log_p = log_softmax_of_views(z1, z2, temperature=temperature)
    batch = z1.shape[0]
    return -(log_p.diagonal(batch).mean() + log_p.diagonal(-batch).mean()) / 2


def log_softmax_of_views(z1: Tensor, z2: Tensor, *, temperature: float) -> Tensor:
    """For each of the 2B views, the log of the softmax of its cosines with all the others.

    Args and errors: as `ntxent_loss`.

    Returns:
        (2B, 2B), -inf on the diagonal: views 1 come first, so that partners are B rows apart.
    """
    check_shapes("embeddings", z1, z2, images=2)
    Setting(above=0.0).check("temperature", temperature)
    with torch.autocast(z1.device.type, enabled=False):
        views = F.normalize(torch.cat([at_least_fp32(z1), at_least_fp32(z2)]), dim=1)
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        return (views @ views.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    return ntxent_loss(*branches.need("z"), temperature=config.ntxent_temperature)


TERM = Term(loss=_term, column="ntxent")
