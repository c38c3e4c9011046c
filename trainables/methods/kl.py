"""Symmetric Kullback-Leibler divergence of two outputs, as in R-Drop (Liang et al. 2021).

Shapes: B images a batch, K classes.
"""

import torch
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.trial import TrialConfig


def kl_loss(logits1: Tensor, logits2: Tensor) -> Tensor:
    """The regulariser of R-Drop, Liang et al. 2021: mean_b (KL(p1_b || p2_b) + KL(p2_b || p1_b)) / 2.

    p is the softmax of the logits. Here the two outputs are of two views; in R-Drop they are of one input
    under two draws of dropout. Images without a label count like all others.

    Computed in at least fp32, whatever the autocast.

    Args:
        logits1: (B, K) of view 1; `logits2` of view 2. Gradients flow into both.

    Returns:
        Scalar, >= 0, in nats.

    Raises:
        ValueError: other shapes, or no image.
    """
    check_shapes("logits", logits1, logits2, shape="(B, K)")
    with torch.autocast(logits1.device.type, enabled=False):
        log_p1, log_p2 = (at_least_fp32(logits).log_softmax(1) for logits in (logits1, logits2))
        # The sum of both directions: p1 (log p1 - log p2) + p2 (log p2 - log p1).
        return ((log_p1.exp() - log_p2.exp()) * (log_p1 - log_p2)).sum(1).mean() / 2


def _term(branches: Branches, _: TrialConfig) -> Tensor:
    return kl_loss(*branches.logits)


TERM = Term(loss=_term, column="kl")
