"""Whether a function can be what it is marked as: its name, and what it is called with."""

import inspect
import re
from collections.abc import Iterable

from trainables.catalogue import AUGMENTATIONS, BACKBONES, TERMS, code_of
from trainables.extensions import METRIC_INPUTS, TERM_INPUTS, Function
from trainables.metrics import METRICS
from trainables.setting import nearest

NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("ce", "siamese", "unsupervised", "fixmatch", "none")
"""Names that arms and subsets have already."""
INPUTS = {"term": tuple(TERM_INPUTS), "metric": METRIC_INPUTS}


def required(function: Function) -> list[str]:
    """Names of the parameters without a default."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def inputs_of(function: Function, allowed: Iterable[str]) -> list[str]:
    """The parameters of a function that something is passed for."""
    allowed = set(allowed)
    return [name for name in inspect.signature(function).parameters if name in allowed]


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
    needed = required(function)
    if kind in INPUTS:
        allowed = INPUTS[kind]
        for name in needed:
            if name not in allowed:
                return f"takes {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
        return None if inputs_of(function, allowed) else f"takes nothing; allowed: {', '.join(allowed)}"
    counts = (1,) if kind == "backbone" else (1, 2)
    if len(needed) in counts:
        return None
    takes = "feature_dim" if kind == "backbone" else "images, or images and u"
    return f"takes {', '.join(needed) or 'nothing'}; allowed: {takes}"
