"""Whether a function can be what it is marked as: its name, and what it is called with."""

import inspect
import re

from trainables.catalogue import AUGMENTATIONS, BACKBONES, TERMS, code_of
from trainables.extensions import INPUTS, Function
from trainables.metrics import METRICS
from trainables.setting import nearest

NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("ce", "siamese", "unsupervised", "fixmatch", "none", "bt", "loss", "acc")
"""Names that arms, subsets and columns of the history have already."""
NEEDED = {"augmentation": "images", "backbone": "feature_dim"}
"""What a function of that kind cannot do without."""


def required(function: Function) -> list[str]:
    """Names of the parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def inputs_of(kind: str, function: Function) -> list[str]:
    """The parameters of a function that something is passed for."""
    return [name for name in inspect.signature(function).parameters if name in INPUTS[kind]]


def why_no_name(kind: str, name: str, elsewhere: str | None) -> str | None:
    """What is wrong with a name, which another loaded file may have (`elsewhere`); None: nothing."""
    known = {"term": TERMS, "augmentation": AUGMENTATIONS, "backbone": BACKBONES, "metric": METRICS}[kind]
    built_in = name in known and not code_of(kind, name)
    if elsewhere or built_in or name in RESERVED:
        return f"exists already{f' in {elsewhere}' if elsewhere else ''}; allowed: another name"
    if not NAME.fullmatch(name):
        return "is no name here; allowed: lower-case letters, digits and _, a letter first"
    return None


def why_not_callable(kind: str, function: Function) -> str | None:
    """Why a function cannot be called as its kind is; None if it can."""
    allowed = INPUTS[kind]
    for name in required(function):
        if name not in allowed:
            return f"takes {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    taken = inputs_of(kind, function)
    if not taken or NEEDED.get(kind, taken[0]) not in taken:
        needed = NEEDED.get(kind, "one of them at least")
        return f"takes {', '.join(taken) or 'nothing'}; allowed: {', '.join(allowed)}; required: {needed}"
    return None
