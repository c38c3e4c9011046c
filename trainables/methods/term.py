"""What a consistency term is: a loss of two views, and what it needs of the network.

Shapes: B images a batch, D features, M dimensions of the embedding, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainables.trial import TrialConfig

Pair = tuple[Tensor, Tensor]
"""One tensor for each of the two views."""
HALF = (torch.bfloat16, torch.float16)
"""Types in which sums lose their small terms: losses are computed in at least fp32."""


class Mixed(NamedTuple):
    """Images mixed from both views, `alpha` of view 1 and the rest of view 2 in another order.

    Attributes:
        z: (B, M) their embeddings.
        alpha: between 0 and 1.
        order: (B,) int64, which image of view 2 each is mixed with.
    """

    z: Tensor
    alpha: float | Tensor
    order: Tensor


class Branches(NamedTuple):
    """What a term may look at in a batch: what it does not need (`TermInfo.needs`) may be None.

    Attributes:
        targets: (B,) int64 classes, -1 where there is no label.
        logits: (B, K) each.
        h: (B, D) each, features by the backbone.
        z: (B, M) each, embeddings by the projector.
        predictions: (B, M) each, of `z` by the predictor.
        target_z: (B, M) each, embeddings by the target network, without gradient.
        mixed: embeddings of mixed images.
    """

    targets: Tensor
    logits: Pair
    h: Pair
    z: Pair | None = None
    predictions: Pair | None = None
    target_z: Pair | None = None
    mixed: Mixed | None = None

    def need(self, name: str) -> Any:
        """One of them; ValueError where it is missing."""
        found = getattr(self, name)
        if found is None:
            raise ValueError(f"{name}: got none; required by this term")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """A consistency term as it is trained.

    Attributes:
        loss: the scalar that gamma weighs.
        column: of the history, after `train/`.
        target_momentum: for a term with a target network, the share that the target keeps of itself when it
            follows the network, from the config and the share of the training that is done (0 to 1).
    """

    loss: Callable[[Branches, TrialConfig], Tensor]
    column: str
    target_momentum: Callable[[TrialConfig, float], float] | None = None


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
