"""A term that a file of your own defines, called with what its parameters ask for."""

import torch
from torch import Tensor

from trainables.extensions import TERM_INPUTS, functions
from trainables.extensions.signatures import inputs_of
from trainables.methods.byol import ema_momentum
from trainables.methods.term import Branches, Term, at_least_fp32


def own_term(name: str) -> Term:
    """The term of a function in a loaded file. A target network follows as BYOL's does."""
    follows = {"t1", "t2"}.intersection(inputs_of("term", functions["term", name]))
    momentum = (lambda config, done: ema_momentum(config.target_momentum, done)) if follows else None
    return Term(loss=lambda branches, _: own_loss(name, branches), column=name, target_momentum=momentum)


def own_loss(name: str, branches: Branches) -> Tensor:
    """The scalar that it returns, in at least fp32 whatever the autocast; ValueError where it is none."""
    function = functions["term", name]
    with torch.autocast(branches.targets.device.type, enabled=False):
        value = function(**{given: _input(branches, given) for given in inputs_of("term", function)})
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        if got == "shape ()":
            got = str(value.dtype)
        raise ValueError(f"term {name!r} returned {got}; allowed: one number, a tensor of shape ()")
    return value


def _input(branches: Branches, name: str) -> Tensor:
    """What a parameter of that name stands for: `z1` is the embedding of view 1."""
    found = branches.need(TERM_INPUTS[name])
    return at_least_fp32(found[int(name[-1]) - 1] if name[-1].isdigit() else found)
