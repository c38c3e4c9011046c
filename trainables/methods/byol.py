"""BYOL (Grill et al. 2020): each view's prediction is to be near the target network's embedding of the other.

Shapes: B images a batch, M dimensions of the embedding.
"""

import math

from torch import Tensor

from trainables.methods.simsiam import mean_cosine
from trainables.methods.term import Branches, Term, check_shapes
from trainables.setting import Setting
from trainables.trial import TrialConfig


def byol_loss(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """BYOL, Eq. 2 of Grill et al. 2020, both ways: mean_b (2 - 2 cos(p1_b, t2_b)) + (2 - 2 cos(p2_b, t1_b)).

    2 - 2 cos is the squared distance between vectors of length 1. No gradient flows into `t1` and `t2`.

    Computed in at least fp32, whatever the autocast.

    Args:
        p1: (B, M) predictions from view 1; `p2` from view 2.
        t1: (B, M) the target network's embeddings of view 1; `t2` of view 2.

    Returns:
        Scalar between 0 and 8.

    Raises:
        ValueError: other shapes, or no image.
    """
    check_shapes("predictions and targets", p1, p2, t1, t2)
    return 4 - 2 * (mean_cosine(p1, t2) + mean_cosine(p2, t1))


def ema_momentum(base: float, done: float) -> float:
    """The share that the target keeps of itself: from `base` to 1 along half a cosine.

    1 - (1 - base) * (cos(pi * done) + 1) / 2, the schedule of Grill et al. 2020
    ("Implementation details"), whose base for 1000 epochs of ImageNet is 0.996.

    Args:
        base: the share at the start, 0 to 1.
        done: the share of the training that is done, 0 to 1.

    Raises:
        ValueError: either is out of range.
    """
    for name, value in {"base": base, "done": done}.items():
        Setting(low=0.0, high=1.0).check(name, value)
    return 1 - (1 - base) * (math.cos(math.pi * done) + 1) / 2


def _term(branches: Branches, _: TrialConfig) -> Tensor:
    return byol_loss(*branches.need("predictions"), *branches.need("target_z"))


TERM = Term(
    loss=_term, column="byol", target_momentum=lambda config, done: ema_momentum(config.target_momentum, done)
)
