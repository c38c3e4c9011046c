"""A file of your own: what it adds to a study besides spaces, and how its functions are marked.

A plain function becomes a term, an augmentation, a backbone or a metric by one of these decorators, or by a
list of such functions called `TERMS`, `AUGMENTATIONS`, `BACKBONES` or `METRICS`. The names of its parameters
say what it is called with. Standard library only: PyTorch is imported by the file itself.
"""

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
INPUTS: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
    {
        "term": tuple(TERM_INPUTS),
        "augmentation": ("images", "u"),
        "backbone": ("feature_dim",),
        "metric": METRIC_INPUTS,
    }
)
"""Names of the parameters that a function of each kind may have."""
LISTS = types.MappingProxyType(
    {"term": "TERMS", "augmentation": "AUGMENTATIONS", "backbone": "BACKBONES", "metric": "METRICS"}
)
"""What a list of functions of each kind is called in a file."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What a decorator says of a function.

    Attributes:
        kind: one of `LISTS`.
        title: what people read; empty: the function's name.
        unit: of a metric, `%` for a fraction that is shown in per cent; else empty.
        better: of a metric, `higher`, `lower` or empty.
        p: of an augmentation, how often it happens.
        numbers: of an augmentation, how many random numbers it takes for an image.

    Raises:
        ValueError: one of them is not allowed.
    """

    kind: str
    title: str = ""
    unit: str = ""
    better: str = "higher"
    p: float = 0.5
    numbers: int = 1

    def __post_init__(self) -> None:
        """Check what a user has written."""
        if not isinstance(self.title, str):
            raise ValueError(f"title: got {self.title!r}; allowed: a text")
        for name, allowed in {"unit": ("%", ""), "better": ("higher", "lower", "")}.items():
            if getattr(self, name) not in allowed:
                known = ", ".join(map(repr, allowed))
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed: {known}")
        if not (isinstance(self.p, int | float) and 0 <= self.p <= 1):
            raise ValueError(f"p: got {self.p!r}; allowed: a number from 0 to 1")
        if not (isinstance(self.numbers, int) and self.numbers >= 1):
            raise ValueError(f"numbers: got {self.numbers!r}; allowed: an integer >= 1")


functions: dict[tuple[str, str], Function] = {}
"""The functions of loaded files, by kind and name."""


def term(function: Function | None = None, *, title: str = "") -> Any:
    """A consistency term: `def cosine(z1, z2)` returns the scalar that gamma weighs.

    Parameters are named as in `TERM_INPUTS`; others need defaults.
    """
    return _marking(Mark("term", title=title), function)


def augmentation(function: Function | None = None, *, p: float = 0.5, numbers: int = 1) -> Any:
    """An augmentation, applied after the built-in ones with probability `p`.

    `def invert(images)` maps images (B, 3, S, S), fp32 in 0–1, to images of that shape; `def fade(images, u)`
    gets uniform random numbers (B, `numbers`) in [0, 1), too, and draws none itself.
    """
    return _marking(Mark("augmentation", p=p, numbers=numbers), function)


def backbone(function: Function | None = None) -> Any:
    """A backbone: `def wide(feature_dim)` returns a module from images (B, 3, S, S) to (B, feature_dim)."""
    return _marking(Mark("backbone"), function)


def metric(
    function: Function | None = None, *, title: str = "", unit: str = "", better: str = "higher"
) -> Any:
    """A final metric of each trial: `def confidence(logits, labels)` returns a number.

    Parameters are named as in `METRIC_INPUTS`, all options as in `Mark`.
    """
    return _marking(Mark("metric", title=title, unit=unit, better=better), function)


def _marking(mark: Mark, function: Function | None) -> Any:
    """The function with a mark, or a decorator that marks one."""

    def marked(function: Function) -> Function:
        if isinstance(function, type) or not callable(function) or not hasattr(function, "__name__"):
            what = f"the class {function.__name__}" if isinstance(function, type) else repr(function)
            raise ValueError(
                f"@{mark.kind}: got {what}; allowed: a function, and options by name, such as title=…"
            )
        function.__dict__["study_mark"] = mark
        return function

    return marked if function is None else marked(function)
