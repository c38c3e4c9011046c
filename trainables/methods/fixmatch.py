"""FixMatch (Sohn et al. 2020): confident predictions on one view are the labels of the other.

Shapes: B images a batch, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.methods.term import Branches, Term, at_least_fp32, check_shapes
from trainables.setting import Setting
from trainables.trial import TrialConfig


def fixmatch_loss(weak: Tensor, strong: Tensor, *, threshold: float = 0.95) -> Tensor:
    """The unlabelled part of FixMatch, Eq. 4 of Sohn et al. 2020.

    mean_b 1[max_k p_bk >= threshold] * CE(strong_b, argmax_k p_bk), p = softmax(weak). No gradient flows into
    `weak`. The mean is over all B images given: those without a confident prediction count with 0. Whether
    images with a label are among them is the caller's choice.

    Computed in at least fp32, whatever the autocast.

    Args:
        weak: (B, K) logits of the weakly augmented view, which give the pseudo-labels.
        strong: (B, K) logits of the strongly augmented view, which are trained.
        threshold: smallest probability of the predicted class that counts as confident, 0 to 1.

    Returns:
        Scalar, >= 0; 0 where no image is confident.

    Raises:
        ValueError: other shapes, no image, or a threshold out of range.
    """
    check_shapes("logits", weak, strong, shape="(B, K)")
    Setting(low=0.0, high=1.0).check("threshold", threshold)
    with torch.autocast(weak.device.type, enabled=False):
        confidence, pseudo_labels = at_least_fp32(weak.detach()).softmax(1).max(1)
        ce = F.cross_entropy(at_least_fp32(strong), pseudo_labels, reduction="none")
        return torch.where(confidence >= threshold, ce, 0).mean()


def _term(branches: Branches, config: TrialConfig) -> Tensor:
    return fixmatch_loss(*branches.logits, threshold=config.fixmatch_threshold)


TERM = Term(loss=_term, column="fixmatch")
