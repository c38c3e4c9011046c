"""Supervised contrastive learning, SupCon (Khosla et al. 2020).

Shapes: B images a batch, M dimensions of the embedding.
"""

import torch
from torch import Tensor

from trainables.datasets.splits import UNLABELLED
from trainables.methods.ntxent import log_softmax_of_views
from trainables.methods.term import Branches, Term
from trainables.trial import TrialConfig


def supcon_loss(z1: Tensor, z2: Tensor, targets: Tensor, *, temperature: float = 0.1) -> Tensor:
    """SupCon, L_out of Khosla et al. 2020 (Eq. 2), as the mean over views.

    mean_v -1/|P(v)| sum_{p in P(v)} log( exp(cos(v, p) / temperature) / sum_{a != v} exp(cos(v, a) /
    temperature) ) over the 2B views v of the batch, where P(v) are all other views of images of v's class.
    The equation is a sum over views and has no further factor. The authors' code has the mean, and
    multiplies by temperature / 0.07: with the temperature of their experiments, 1.43 times this loss.

    An image without a label is a class of its own: its other view is its only positive, as in NT-Xent, and
    it is a negative of all other images, whatever it shows. Without any label this is NT-Xent.

    Computed in at least fp32, whatever the autocast.

    Args:
        z1: (B, M) embeddings of view 1; `z2` of view 2.
        targets: (B,) int64 classes, -1 where there is no label.
        temperature: divides the cosines; the default is that of the paper's experiments.

    Returns:
        Scalar, > 0.

    Raises:
        ValueError: other shapes, fewer than two images, or a temperature that is not positive.
    """
    log_p = log_softmax_of_views(z1, z2, temperature=temperature)
    batch = z1.shape[0]
    if targets.shape != (batch,):
        raise ValueError(f"targets: got shape {tuple(targets.shape)}; allowed: ({batch},)")
    # Numbers below -1 are no classes: one for each image without a label.
    own = UNLABELLED - 1 - torch.arange(batch, device=targets.device)
    classes = torch.where(targets == UNLABELLED, own, targets).repeat(2)
    positives = (classes[:, None] == classes).fill_diagonal_(False)
    # The diagonal is -inf: filled, not multiplied by 0, which would be NaN.
    return -(log_p.masked_fill(~positives, 0).sum(1) / positives.sum(1)).mean()


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    z1, z2 = branches.need("z")
    return supcon_loss(z1, z2, branches.targets, temperature=config.supcon_temperature)


TERM = Term(loss=_term, column="supcon")
