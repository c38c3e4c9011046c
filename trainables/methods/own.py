"""A term that a file of your own defines, called with what its parameters ask for."""

import torch
from torch import Tensor

from trainables.extensions import TERM_INPUTS, functions
from trainables.extensions.signatures import inputs_of
from trainables.methods.byol import ema_momentum
from trainables.methods.term import Branches, Term, at_least_fp32
from trainables.trial import TrialConfig


def own_term(name: str) -> Term:
    """The term of a function in a loaded file. A target network follows as BYOL's does."""
    function = functions["term", name]
    inputs = inputs_of(function, TERM_INPUTS)

    def loss(branches: Branches, _: TrialConfig) -> Tensor:
        # In at least fp32, whatever the precision of the rest, as all terms.
        with torch.autocast(branches.targets.device.type, enabled=False):
            value = function(**{given: at_least_fp32(_input(branches, given)) for given in inputs})
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"term {name!r} returned {got}; allowed: one number, a tensor of shape ()")
        return value

    follows = {"t1", "t2"}.intersection(inputs)
    momentum = (lambda config, done: ema_momentum(config.target_momentum, done)) if follows else None
    return Term(loss=loss, column=name, target_momentum=momentum)


def _input(branches: Branches, name: str) -> Tensor:
    """What a parameter of that name stands for: `z1` is the embedding of view 1."""
    found = branches.need(TERM_INPUTS[name])
    value: Tensor = found[int(name[-1]) - 1] if name[-1].isdigit() else found
    return value
