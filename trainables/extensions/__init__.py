"""A file of your own: what it adds to a study besides spaces, and how its functions are marked.

A plain function becomes a term, an augmentation, a backbone or a metric by one of these decorators, or by a
list of such functions called `TERMS`, `AUGMENTATIONS`, `BACKBONES` or `METRICS`. The names of its parameters
say what it is called with. Standard library only: PyTorch is imported by the file itself.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Function = Callable[..., Any]

TERM_INPUTS: Mapping[str, str] = types.MappingProxyType(
    {
        "z1": "z",
        "z2": "z",
        "p1": "predictions",
        "p2": "predictions",
        "t1": "target_z",
        "t2": "target_z",
        "h1": "h",
        "h2": "h",
        "logits1": "logits",
        "logits2": "logits",
        "targets": "targets",
    }
)
"""What a term may take, with what it then needs: of view 1 and 2, embeddings by the projector (B, M),
predictions of these (B, M), embeddings by a target network (B, M), features (B, D), logits (B, K); and the
classes (B,)."""
METRIC_INPUTS = ("logits", "labels", "h", "z", "logits1", "logits2", "h1", "h2", "view_labels")
"""What a metric may take: logits (N, K), classes (N,), features (N, D) and embeddings (N, M) of clean test
images; logits and features of two augmented views of n of them, and their classes (n,)."""
LISTS = types.MappingProxyType(
    {"term": "TERMS", "augmentation": "AUGMENTATIONS", "backbone": "BACKBONES", "metric": "METRICS"}
)
"""What a list of functions of each kind is called in a file."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator says of a function: its kind, one of `LISTS`, and options."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


functions: dict[tuple[str, str], Function] = {}
"""The functions of loaded files, by kind and name."""


def term(function: Function | None = None, *, title: str = "") -> Any:
    """A consistency term: `def cosine(z1, z2)` returns the scalar that gamma weighs.

    Parameters are named as in `TERM_INPUTS`; others need defaults. `title` is what people read.
    """
    return _marking("term", function, {"title": title})


def augmentation(function: Function | None = None, *, p: float = 0.5, numbers: int = 1) -> Any:
    """An augmentation, applied after the built-in ones with probability `p`.

    `def invert(images)` maps images (B, 3, S, S), fp32 in 0–1, to images of that shape; `def fade(images, u)`
    gets uniform random numbers (B, `numbers`) in [0, 1), too, and draws none itself.
    """
    return _marking("augmentation", function, {"p": p, "numbers": numbers})


def backbone(function: Function | None = None) -> Any:
    """A backbone: `def wide(feature_dim)` returns a module from images (B, 3, S, S) to (B, feature_dim)."""
    return _marking("backbone", function, {})


def metric(
    function: Function | None = None, *, title: str = "", unit: str = "", better: str = "higher"
) -> Any:
    """A final metric of each trial: `def confidence(logits, labels)` returns a number.

    Parameters are named as in `METRIC_INPUTS`. `unit` is `%` for a fraction that is shown in per cent, else
    empty; `better` is `higher`, `lower` or empty.
    """
    return _marking("metric", function, {"title": title, "unit": unit, "better": better})


def _marking(kind: str, function: Function | None, options: Mapping[str, Any]) -> Any:
    """The function with a mark, or a decorator that marks one."""

    def mark(marked: Function) -> Function:
        marked.__dict__["study_mark"] = Mark(kind, options)
        return marked

    return mark if function is None else mark(function)
