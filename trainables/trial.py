"""What one trial is: a frozen description, its identity (`key`) and what training it returns.

This module is the only place with defaults for what is trained. It imports nothing but the standard
library, so that command lines, search spaces and analysis can use it without PyTorch.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

PROTOCOL = 2
"""Version of the meaning of training and evaluation. Raised by hand when either changes: it is part of
every key, so that results of before and after are never taken for each other."""

TRANSFORMS = ("rrc", "hflip", "grayscale", "solarize")
"""Names of the augmentations, in the order in which they are applied."""

BACKBONES = ("convnet", "resnet18", "resnet18_cifar", "vgg16", "vgg16_bn")
"""Names of the built-in backbones; any other name is one of torchvision's classification models."""
OTHER_BACKBONE = re.compile(r"[a-z][a-z0-9_]*")
"""What names of torchvision's models look like; whether there is such a model is asked at plan time."""

DATASETS = ("cifar10", "stl10", "digits")
FOLDER = re.compile(r"folder:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<size>[1-9][0-9]*))?")
"""A dataset of one's own: a folder of images, and to which size they are brought."""
HAVING_UNLABELLED = ("stl10",)
"""Datasets with unlabelled images, beside folders, which may have some."""
METHODS = ("ce", "siamese")
VIEWS = ("symmetric", "asymmetric")
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("fp32", "bf16")

OBJECTIVES: Mapping[str, str] = types.MappingProxyType(
    {"val_acc": "maximize", "val_ece": "minimize", "train_seconds": "minimize"}
)
"""Final metrics that a search may look at, and which way: no test image has a part in them."""

ARM_FIELDS = ("method", "gamma", "lambd", "center", "views", "unlabeled_size", "hidden_dim", "embedding_dim")
"""Fields that make the arm of a trial. All the others, except the seed, make its cell."""

LATER_FIELDS: Mapping[str, object] = types.MappingProxyType({})
"""Fields added after the first release, with the value that means the behaviour before they existed.
At that value they are left out of the key, so that a new field makes no finished trial unknown."""

FieldValue = str | int | float | bool | tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Everything that determines one training run.

    Fields that cannot matter for the given method are set to their defaults (`gamma` to None under
    `ce`), so that equal trials compare equal and have the same `key`.

    Raises:
        ValueError: a field has a value of the wrong type or out of range.
    """

    dataset: str
    """One of `DATASETS`; `folder:NAME`: the images in `<data-dir>/NAME`, square and of one size;
    `folder:NAME@64`: the same, resized and cropped to 64 x 64 pixels."""
    train_size: int | None = None
    """Labelled training images, class-balanced, a fixed choice after the validation split; None: all."""
    unlabeled_size: int = 0
    """Unlabelled images mixed into training, a fixed choice; they count in the Barlow Twins term only."""
    val_fraction: float = 0.0
    """Share of the full training split held out for validation, stratified and fixed."""

    backbone: str
    """One of `BACKBONES`, or another classification model of torchvision by its name there."""
    feature_dim: int = 2048
    """Width of the features `h` that the backbone gives to both heads."""
    hidden_dim: int = 2048
    """Width of the projector's hidden layer."""
    embedding_dim: int = 128
    """Width of the embedding `z`."""

    augmentations: tuple[str, ...]
    """Subset of `TRANSFORMS`; as text `rrc+hflip`, or `none`."""
    crop_scale_min: float = 0.2
    """Smallest share of the image's area that a random resized crop keeps."""
    grayscale_p: float = 0.2
    solarize_p: float = 0.2
    views: str = "symmetric"
    """`symmetric`: both views by the probabilities above. `asymmetric`: view 1 always applies grayscale
    and solarize where the subset has them, view 2 by the probabilities above."""

    method: str
    """`ce`: one view, one cross-entropy. `siamese`: two views, shared weights, Eq. 3.5 of the thesis."""
    gamma: float | None = None
    """Weight of the Barlow Twins term; required by `siamese`, None under `ce`."""
    lambd: float = 0.0051
    """Weight of the off-diagonal part of the Barlow Twins term."""
    center: bool = True
    """Standardise embeddings along the batch; False: Eq. 3.4 to the letter (no mean taken away)."""

    epochs: int = 1000
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    lr_schedule: str = "constant"
    """`constant`, or `cosine` to 0, step by step, without warm-up."""
    precision: str = "fp32"
    """`fp32`, or `bf16` autocast in training; evaluation is always fp32."""
    seed: int
    """The replicate: initial weights, order of images, augmentation, dropout."""

    _given: tuple[FieldValue, ...] = field(init=False, repr=False, compare=False)
    """The fields before normalising, for `replace`."""

    def __post_init__(self) -> None:
        """Bring the fields into their canonical form, or raise."""
        for name in FIELDS:
            object.__setattr__(self, name, coerce(name, getattr(self, name)))
        self._validate()
        object.__setattr__(self, "_given", tuple(getattr(self, name) for name in FIELDS))
        self._normalise()

    def _normalise(self) -> None:
        irrelevant: tuple[str, ...] = ()
        if self.method == "ce":
            irrelevant = tuple(name for name in ARM_FIELDS if name != "method")
        elif self.gamma == 0:  # the projector is never run
            irrelevant = ("lambd", "center", "hidden_dim", "embedding_dim")
        if not {"grayscale", "solarize"} & set(self.augmentations):  # in these two alone the views differ
            irrelevant += ("views",)
        for name in irrelevant:
            object.__setattr__(self, name, DEFAULTS[name])

    def _validate(self) -> None:
        if not FOLDER.fullmatch(self.dataset):
            _one_of("dataset", self.dataset, DATASETS, hint=", folder:NAME or folder:NAME@SIZE")
        if not OTHER_BACKBONE.fullmatch(self.backbone):
            _one_of("backbone", self.backbone, BACKBONES, hint=" or a classification model of torchvision")
        _one_of("views", self.views, VIEWS)
        _one_of("method", self.method, METHODS)
        _one_of("lr_schedule", self.lr_schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        if self.method == "siamese" and self.gamma is None:
            raise ValueError("gamma: required by method 'siamese'; allowed: a number >= 0")
        for name in ("feature_dim", "hidden_dim", "embedding_dim", "epochs"):
            _in_range(name, getattr(self, name), 1)
        _in_range("batch_size", self.batch_size, 2)
        _in_range("train_size", self.train_size, 2)
        for name in ("seed", "unlabeled_size"):
            _in_range(name, getattr(self, name), 0)
        for name in ("gamma", "lambd", "weight_decay"):
            _in_range(name, getattr(self, name), 0.0)
        for name in ("grayscale_p", "solarize_p"):
            _in_range(name, getattr(self, name), 0.0, 1.0)
        _in_range("lr", self.lr, 0.0, above=True)
        _in_range("crop_scale_min", self.crop_scale_min, 0.0, 1.0, above=True)
        _in_range("momentum", self.momentum, 0.0, 1.0, below=True)
        _in_range("val_fraction", self.val_fraction, 0.0, 1.0, below=True)
        having = self.dataset in HAVING_UNLABELLED or FOLDER.fullmatch(self.dataset)
        if self.unlabeled_size and not having:
            raise ValueError(f"unlabeled_size: got {self.unlabeled_size}; allowed: 0 for {self.dataset}")

    @property
    def key(self) -> str:
        """Identity of the trial: 16 hex digits of SHA-256 over its fields and `PROTOCOL`."""
        values = {name: getattr(self, name) for name in FIELDS}
        fields = {n: v for n, v in values.items() if n not in LATER_FIELDS or v != LATER_FIELDS[n]}
        text = json.dumps({**fields, "PROTOCOL": PROTOCOL}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def arm(self) -> str:
        """What is compared within a cell: `ce`, `siamese-0`, `siamese-0.001`, …"""
        return "ce" if self.gamma is None else f"siamese-{repr(self.gamma).removesuffix('.0')}"

    @property
    def cell(self) -> tuple[FieldValue, ...]:
        """The values of all fields that make neither the arm nor the replicate."""
        return tuple(getattr(self, name) for name in CELL_FIELDS)

    @property
    def name(self) -> str:
        """`dataset/backbone/augmentations/arm/s<seed>`, for people."""
        augmentations = format_value(self.augmentations)
        return f"{self.dataset}/{self.backbone}/{augmentations}/{self.arm}/s{self.seed}"

    def replace(self, **changes: typing.Any) -> "TrialConfig":
        """This config with some fields changed.

        Starts from the values that this config was made from: where a change gives meaning to a field
        that did not matter before, the field has the value that it was given, not its default.
        (`dataclasses.replace` would start from the normalised ones.)
        """
        return TrialConfig(**{**dict(zip(FIELDS, self._given, strict=True)), **changes})

    def to_params(self) -> dict[str, str]:
        """The fields as text that `from_params` reads back to an equal config."""
        return {name: format_value(getattr(self, name)) for name in FIELDS}

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> "TrialConfig":
        """The config that `to_params` wrote; other entries of `params` are ignored."""
        return cls(**{name: parse_value(name, params[name]) for name in FIELDS if name in params})


FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(TrialConfig) if f.init)
CELL_FIELDS: tuple[str, ...] = tuple(n for n in FIELDS if n != "seed" and n not in ARM_FIELDS)
DEFAULTS: Mapping[str, typing.Any] = types.MappingProxyType(
    {
        f.name: f.default
        for f in dataclasses.fields(TrialConfig)
        if f.init and f.default is not dataclasses.MISSING
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What a finished trial leaves.

    Attributes:
        metrics: final metrics by name, without the `final/` prefix; fractions, or seconds where the
            name says so.
        history: one row an epoch: `epoch` (1 … epochs), `timestamp` (ms since 1970), and metrics.
        artifacts: file name -> content.
    """

    metrics: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    artifacts: Mapping[str, bytes]


def format_value(value: FieldValue) -> str:
    """Text of a field's value, as in parameters, tables and on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    return "none" if value is None else str(value)


def parse_value(name: str, text: str) -> typing.Any:
    """The value that `text` stands for in field `name`; the inverse of `format_value`.

    Raises:
        ValueError: there is no such field, or the text does not fit its type.
    """
    if name not in FIELDS:
        raise ValueError(f"unknown field {name!r}{nearest(name, FIELDS)}; allowed: {', '.join(FIELDS)}")
    kind, optional = _field_type(name)
    if optional and text == "none":
        return None
    if kind is tuple:
        return _canonical(text)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if kind is float:
        with contextlib.suppress(ValueError):  # told below, in the same words as for the other types
            return float(text)
    if kind is str:
        return text
    raise _type_error(name, text)


def nearest(given: str, allowed: typing.Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the entry of `allowed` nearest to `given`, or nothing."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


@functools.cache
def _field_type(name: str) -> tuple[type, bool]:
    """The plain type of a field, and whether it may be None."""
    hint = typing.get_type_hints(TrialConfig)[name]
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = next(option for option in options if option is not type(None))
    return typing.get_origin(plain) or plain, type(None) in options


def _type_error(name: str, value: object) -> ValueError:
    kind, optional = _field_type(name)
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", tuple: "names"}
    return ValueError(f"{name}: got {value!r}; allowed: {words[kind]}{' or none' if optional else ''}")


def coerce(name: str, value: object) -> FieldValue:
    """`value` in the field's own type, so that 1 and 1.0 give one key."""
    kind, optional = _field_type(name)
    if value is None and optional:
        return None
    if kind is tuple and (isinstance(value, str) or _are_texts(value)):
        return _canonical(value)  # type: ignore[arg-type]
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value) + 0.0  # -0.0 becomes 0.0
            if math.isfinite(number):
                return number
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    raise _type_error(name, value)


def _are_texts(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(item, str) for item in value)


def _canonical(augmentations: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """A subset of `TRANSFORMS` in canonical order, from names in any order or `a+b`."""
    names = augmentations
    if isinstance(names, str):
        names = [] if names in ("none", "") else names.split("+")
    for name in names:
        _one_of("augmentations", name, TRANSFORMS, hint=", joined by +, or none")
    if len(set(names)) < len(names):
        raise ValueError(f"augmentations: got {'+'.join(names)!r}; each name at most once")
    return tuple(name for name in TRANSFORMS if name in names)


def _one_of(name: str, value: str, allowed: tuple[str, ...], hint: str = "") -> None:
    if value not in allowed:
        raise ValueError(
            f"{name}: got {value!r}{nearest(value, allowed)}; allowed: {', '.join(allowed)}{hint}"
        )


def _in_range(
    name: str,
    value: float | None,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raise unless low <= value <= high (`above`, `below`: unless strictly so); None passes."""
    if value is None or (
        low <= value <= high and not (above and value == low) and not (below and value == high)
    ):
        return
    allowed = f"{'>' if above else '>='} {low}"
    if high < math.inf:
        allowed += f" and {'<' if below else '<='} {high}"
    raise ValueError(f"{name}: got {value}; allowed: {allowed}")
