"""What a trial can be made of, by name: augmentations, backbones, datasets, terms. Standard library only."""

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRANSFORMS = ("rrc", "hflip", "grayscale", "solarize")
"""The thesis's four augmentations. This constant never grows: spaces, reference views and the common random
stream of these four depend on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationInfo:
    """An augmentation.

    Attributes:
        p: how often it happens; None: what the field `<name>_p` of a trial says.
        numbers: uniform random numbers that it takes for an image.
    """

    p: float | None = None
    numbers: int = 0


_augmentations = {name: AugmentationInfo() for name in TRANSFORMS}
AUGMENTATIONS: Mapping[str, AugmentationInfo] = types.MappingProxyType(_augmentations)
"""All augmentations, in the order in which they are applied."""
TARGETED = ("grayscale", "solarize")
"""Augmentations that asymmetric views always apply to view 1."""
SECOND_VIEWS = ("augmented", "clean")
"""What the second view is: augmented like the first, or the image itself."""

KERNELS = ("deterministic", "fastest", "tf32")
"""How a GPU computes: with cuDNN's deterministic kernels; with the fastest ones by its timing; with those,
and fp32 convolutions and products in TF32, whose factors have 11 significant bits."""

_backbones = dict.fromkeys(("convnet", "resnet18", "resnet18_cifar", "vgg16", "vgg16_bn"))
BACKBONES: Mapping[str, None] = types.MappingProxyType(_backbones)
"""Names of the known backbones; any other name is one of torchvision's classification models."""
OTHER_BACKBONE = re.compile(r"[a-z][a-z0-9_]*")
"""What names of torchvision's models look like; whether there is such a model is asked at plan time."""

FOLDER = re.compile(r"folder:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<size>[1-9][0-9]*))?")
"""A dataset of your own: a folder of images, and the size that they are resized to."""

METHODS = ("ce", "siamese", "unsupervised", "fixmatch")

NEEDS = ("targets", "logits", "h", "z", "predictions", "target_z", "mixed")
"""What a consistency term may look at: labels, scores of the classes, features, embeddings by the projector,
predictions of these by the predictor, embeddings by a target network, embeddings of mixed images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermInfo:
    """A consistency term.

    Attributes:
        title: what people read.
        needs: what it looks at, of `NEEDS`.
    """

    title: str
    needs: tuple[str, ...] = ("z",)


_terms = {
    "barlow_twins": TermInfo(title="Barlow Twins"),
    "mixed_barlow_twins": TermInfo(title="Mixed Barlow Twins", needs=("z", "mixed")),
    "vicreg": TermInfo(title="VICReg"),
    "wmse": TermInfo(title="W-MSE"),
    "ntxent": TermInfo(title="NT-Xent"),
    "supcon": TermInfo(title="SupCon", needs=("z", "targets")),
    "simsiam": TermInfo(title="SimSiam", needs=("z", "predictions")),
    "byol": TermInfo(title="BYOL", needs=("z", "predictions", "target_z")),
    "kl": TermInfo(title="Symmetric KL", needs=("logits",)),
    "mse": TermInfo(title="MSE"),
}
TERMS: Mapping[str, TermInfo] = types.MappingProxyType(_terms)
"""The consistency terms; each built-in one is a module of this name in `trainables.methods`."""
FIRST_TERM = "barlow_twins"
"""The term of the thesis: its arms are called `siamese-…`, those of another term by the term's own name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """A built-in dataset.

    Attributes:
        unlabelled: whether it has unlabelled training images.
        folds: how many predefined folds of labelled training images it has.
        embedded: whether it comes with an installed package, without a download.
    """

    unlabelled: bool = False
    folds: int = 0
    embedded: bool = False


DATASETS: Mapping[str, DatasetInfo] = types.MappingProxyType(
    {
        "cifar10": DatasetInfo(),
        "stl10": DatasetInfo(unlabelled=True, folds=10),
        "digits": DatasetInfo(embedded=True),
    }
)
"""By name in `TrialConfig.dataset`; `trainables.datasets.sources` has a function of this name."""


FOLD_CHOICES = ("none", "seed", *(str(fold) for fold in range(max(i.folds for i in DATASETS.values()))))
"""Values of the field `fold`: all labelled images, the seed's fold, or one of the predefined folds."""


def has_folds(dataset: str) -> bool:
    """Whether a dataset has predefined folds; no folder has."""
    return dataset in DATASETS and DATASETS[dataset].folds > 0


def has_unlabelled(dataset: str) -> bool:
    """Whether a dataset may have unlabelled training images; any folder may."""
    about = DATASETS.get(dataset)
    return about is None or about.unlabelled


CODE_PATTERN = re.compile(r"[a-z]\w*@[0-9a-f]+(\+[a-z]\w*@[0-9a-f]+)*")
"""How a trial tells the code of its own parts."""
_codes: dict[tuple[str, str], str] = {}


def code_of(kind: str, name: str) -> str:
    """Digest of the code of a term, augmentation or backbone that a file of your own defines; else empty."""
    return _codes.get((kind, name), "")


def add_own(kind: str, name: str, about: TermInfo | AugmentationInfo | None, code: str) -> None:
    """Add what a file of your own defines."""
    _all_of(kind)[name] = about
    _codes[kind, name] = code


def remove_own(kind: str, name: str) -> None:
    """Forget it again."""
    del _all_of(kind)[name], _codes[kind, name]


def _all_of(kind: str) -> dict[str, Any]:
    every: dict[str, dict[str, Any]] = {
        "term": _terms,
        "augmentation": _augmentations,
        "backbone": _backbones,
    }
    return every[kind]
