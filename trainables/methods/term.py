"""What a consistency term is: a loss of two views, and what it needs of the network.

Shapes: B images a batch, M dimensions of the embedding, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.catalogue import TERMS
from trainables.trial import TrialConfig

Pair = tuple[Tensor, Tensor]
"""One tensor for each of the two views."""
HALF = (torch.bfloat16, torch.float16)
"""Types in which sums lose their small terms: losses are computed in at least fp32."""


class Branches(NamedTuple):
    """What a term may look at in a batch.

    Attributes:
        targets: (B,) int64 classes, -1 where there is no label.
        logits: (B, K) each.
        z: (B, M) each, embeddings by the projector; None unless the term needs one.
        predictions: (B, M) each, of `z` by the predictor; None unless the term needs one.
        target_z: (B, M) each, embeddings by the target network, without gradient; None unless there is one.
    """

    targets: Tensor
    logits: Pair
    z: Pair | None = None
    predictions: Pair | None = None
    target_z: Pair | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A consistency term.

    Attributes:
        name: as in `TERMS`.
        loss: the scalar that gamma weighs.
        column: of the history, after `train/`.
        projector: whether it looks at embeddings `z`.
        predictor: whether it looks at predictions of them.
        target_momentum: for a term with a target network, the share that the target keeps of itself when it
            follows the network, from the config and the share of the training that is done (0 to 1).
    """

    name: str
    loss: Callable[[Branches, TrialConfig], Tensor]
    column: str
    projector: bool = True
    predictor: bool = False
    target_momentum: Callable[[TrialConfig, float], float] | None = None

    @property
    def title(self) -> str:
        """What people read."""
        return TERMS[self.name]


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor in fp32 where it is in half precision, else itself."""
    return x.float() if x.dtype in HALF else x


def check_shapes(what: str, *tensors: Tensor, shape: str = "(B, M)", images: int = 1) -> None:
    """Refuse what no loss can be computed of.

    Args:
        what: the tensors are, for people.
        tensors: two or more that belong together.
        shape: what theirs is called: two letters, the batch first.
        images: how many a batch has at least.

    Raises:
        ValueError: they have not two dimensions and one shape, or there are fewer images.
    """
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2:
        *others, last = map(str, shapes)
        times = "twice" if len(shapes) == 2 else f"{len(shapes)} times"
        raise ValueError(f"{what}: got shapes {', '.join(others)} and {last}; allowed: {shape} {times}")
    batch = shapes[0][0]
    if batch < images:
        noun = "image" if images == 1 else "images"
        raise ValueError(f"{what}: got a batch of {batch}; allowed: at least {images} {noun}")
