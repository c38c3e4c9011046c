"""What one trial is: a frozen description, its identity (`key`) and what training it returns.

All defaults of what can be varied stand here, and each field says everything about itself:
default, range, part of the identity, when it matters. Like all that it imports it needs the standard library
alone: command lines, search spaces and analysis use it without PyTorch.
"""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.arms import Arm
from trainables.catalogue import (
    BACKBONES,
    CODE_PATTERN,
    DATASETS,
    FIRST_TERM,
    FOLD_CHOICES,
    FOLDER,
    METHODS,
    OTHER_BACKBONE,
    SECOND_VIEWS,
    TERMS,
    code_of,
    has_folds,
    has_unlabelled,
)
from trainables.relevance import (
    WITH_A_CHOICE,
    WITH_AUGMENTATION,
    WITH_DIFFERING_VIEWS,
    WITH_FIXMATCH,
    WITH_FLIPS,
    WITH_OWN_PARTS,
    WITH_OWN_TERM,
    WITH_PREDICTOR,
    WITH_PROJECTOR,
    WITH_TWO_VIEWS,
    check_term,
    own_parts,
    two_views,
    with_need,
    with_term,
)
from trainables.setting import Setting, nearest, setting
from trainables.values import FieldValue, format_value, in_type, parse

TUNABLE = ("batch_size", "lr", "momentum", "weight_decay", "lr_schedule")
"""Fields that may be tuned for each arm: those of the optimiser."""
PROTOCOL = 2
"""Version of the meaning of training and evaluation. Raised by hand when either changes: it is part of
every key, so that results from before and after are never mixed up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Everything that determines one training run.

    Fields that do not matter in a trial (`uses`) are set to their defaults (`gamma` to None under `ce`), so
    that equal trials compare equal and have the same `key`.

    Raises:
        ValueError: a field has a value of the wrong type or out of range.
    """

    dataset: str = setting(choices=tuple(DATASETS), pattern=FOLDER, hint=", folder:NAME or folder:NAME@SIZE")
    """One of `DATASETS`; `folder:NAME`: the images in `<data-dir>/NAME`, square and of one size;
    `folder:NAME@64`: the same, resized and cropped to 64 x 64 pixels."""
    train_size: int | None = setting(None, low=2)
    """Labelled training images, class-balanced, chosen after the validation split; None: all."""
    val_fraction: float = setting(0.0, low=0.0, below=1.0)
    """Share of the full training split held out for validation, stratified."""
    data_seed: int | None = setting(None, low=0, used_by=WITH_A_CHOICE, as_before=None)
    """None: these choices, and that of unlabelled images, are fixed. A number: drawn from it and `seed`."""
    fold: str = setting("none", choices=FOLD_CHOICES, as_before="none")
    """The predefined fold that labelled images are taken from; `seed`: fold number `seed` mod 10."""

    backbone: str = setting(
        choices=BACKBONES, pattern=OTHER_BACKBONE, hint=" or a classification model of torchvision"
    )
    """One of `BACKBONES`, or another classification model of torchvision by its name there."""
    feature_dim: int = setting(2048, low=1)
    """Width of the features `h` that the backbone gives to both heads."""

    augmentations: tuple[str, ...] = setting()
    """Subset of `AUGMENTATIONS`; as text `rrc+hflip`, or `none`."""
    code: str | None = setting(
        None, pattern=CODE_PATTERN, hint="name@digest, joined by +", used_by=WITH_OWN_PARTS, as_before=None
    )
    """Of a backbone and augmentations in a file of your own: `name@digest` of the code of each, joined by +.
    Found by itself."""
    crop_scale_min: float = setting(0.2, above=0.0, high=1.0)
    """Smallest share of the image's area that a random resized crop keeps."""
    hflip_p: float = setting(0.5, low=0.0, high=1.0, used_by=WITH_FLIPS, as_before=0.5)
    grayscale_p: float = setting(0.2, low=0.0, high=1.0)
    solarize_p: float = setting(0.2, low=0.0, high=1.0)

    method: str = setting(choices=METHODS, part="arm")
    """`ce`: one view, one cross-entropy. `siamese`: two views, shared weights, Eq. 3.5 of the thesis: two
    cross-entropies and a consistency term. `unsupervised`: the consistency term alone; a linear classifier
    is fitted to the frozen features afterwards. `fixmatch`: Sohn et al. (2020), cross-entropy on a weakly
    augmented view, whose confident predictions are the labels of a strongly augmented one."""
    gamma: float | None = setting(None, low=0.0, part="arm", used_by=WITH_TWO_VIEWS)
    """Weight of the consistency term, or of FixMatch's; required with two views, None under `ce`."""
    term: str = setting(FIRST_TERM, choices=TERMS, part="arm", used_by=with_term(), as_before=FIRST_TERM)
    """The consistency term that `gamma` weighs, one of `TERMS`."""
    term_code: str | None = setting(
        None, pattern=CODE_PATTERN, hint="name@digest", part="arm", used_by=WITH_OWN_TERM, as_before=None
    )
    """Of a term in a file of your own: `name@digest` of its code. Found by itself."""
    lambd: float = setting(
        0.0051, low=0.0, part="arm", used_by=with_term("barlow_twins", "mixed_barlow_twins")
    )
    """Weight of the off-diagonal part of the Barlow Twins term."""
    center: bool = setting(True, part="arm", used_by=with_term("barlow_twins", "mixed_barlow_twins"))
    """Standardise embeddings along the batch; False: Eq. 3.4 to the letter (no mean taken away)."""
    mix_weight: float = setting(
        4.0, low=0.0, part="arm", used_by=with_term("mixed_barlow_twins"), as_before=4.0
    )
    """Weight of the part of Mixed Barlow Twins that looks at mixed images, times `lambd`."""
    vicreg_invariance: float = setting(25.0, low=0.0, part="arm", used_by=with_term("vicreg"), as_before=25.0)
    vicreg_variance: float = setting(25.0, low=0.0, part="arm", used_by=with_term("vicreg"), as_before=25.0)
    vicreg_covariance: float = setting(1.0, low=0.0, part="arm", used_by=with_term("vicreg"), as_before=1.0)
    whitening_size: int | None = setting(None, low=2, part="arm", used_by=with_term("wmse"), as_before=None)
    """Images that W-MSE whitens together; None: the batch."""
    ntxent_temperature: float = setting(
        0.5, above=0.0, part="arm", used_by=with_term("ntxent"), as_before=0.5
    )
    supcon_temperature: float = setting(
        0.1, above=0.0, part="arm", used_by=with_term("supcon"), as_before=0.1
    )
    target_momentum: float = setting(
        0.99, low=0.0, high=1.0, part="arm", used_by=with_need("target_z", "target network"), as_before=0.99
    )
    """Share of itself that the target network keeps after the first step; it rises to 1 along a cosine."""
    fixmatch_threshold: float = setting(
        0.95, low=0.0, high=1.0, part="arm", used_by=WITH_FIXMATCH, as_before=0.95
    )
    """Probability from which on a prediction counts as a label."""
    views: str = setting(
        "symmetric", choices=("symmetric", "asymmetric"), part="arm", used_by=WITH_DIFFERING_VIEWS
    )
    """`symmetric`: both views by the probabilities above. `asymmetric`: view 1 always applies those of
    `TARGETED` that the subset has, view 2 by the probabilities above."""
    second_view: str = setting(
        SECOND_VIEWS[0],
        choices=SECOND_VIEWS,
        part="arm",
        used_by=WITH_AUGMENTATION,
        as_before=SECOND_VIEWS[0],
    )
    """`clean`: view 2 is the image itself, without any augmentation; view 1 is as without it."""
    unlabeled_size: int = setting(0, low=0, part="arm", used_by=WITH_TWO_VIEWS)
    """Unlabelled images mixed into training; they count in the consistency term only."""
    projector: str = setting(
        "mlp", choices=("mlp", "mlp_bn"), part="arm", used_by=WITH_PROJECTOR, as_before="mlp"
    )
    """From features to embeddings. `mlp`: linear, ReLU, linear. `mlp_bn`: three linear layers, with batch
    norm and ReLU after the first two."""
    hidden_dim: int = setting(2048, low=1, part="arm", used_by=WITH_PROJECTOR)
    """Width of the projector's hidden layers."""
    embedding_dim: int = setting(128, low=1, part="arm", used_by=WITH_PROJECTOR)
    """Width of the embedding `z`."""
    predictor_dim: int = setting(512, low=1, part="arm", used_by=WITH_PREDICTOR, as_before=512)
    """Width of the hidden layer of the predictor: linear, batch norm, ReLU, linear."""

    epochs: int = setting(1000, low=1)
    batch_size: int = setting(128, low=2)
    lr: float = setting(0.01, above=0.0)
    momentum: float = setting(0.9, low=0.0, below=1.0)
    weight_decay: float = setting(1e-4, low=0.0)
    lr_schedule: str = setting("constant", choices=("constant", "cosine"))
    """`constant`, or `cosine` to 0, step by step, without warm-up."""
    precision: str = setting("fp32", choices=("fp32", "bf16"))
    """`fp32`, or `bf16` autocast in training; evaluation is always fp32."""
    seed: int = setting(low=0, part="seed")
    """The replicate: initial weights, order of images, augmentation, dropout."""

    tuned: tuple[str, ...] = field(default=(), compare=False)
    """Fields, some of `TUNABLE`, that a space has tuned for each arm: they tell arms apart, not cells.
    Training does not depend on it, so it is part of neither the key nor equality."""

    _given: tuple[FieldValue, ...] = field(init=False, repr=False, compare=False)
    """The fields before normalising, for `replace`."""

    def __post_init__(self) -> None:
        """Bring the fields into their canonical form, or raise."""
        for name in FIELDS:
            object.__setattr__(self, name, coerce(name, getattr(self, name)))
        self._validate()
        object.__setattr__(self, "_given", tuple(getattr(self, name) for name in FIELDS))
        # First all rules, then all changes: a rule may look at a field that does not matter itself.
        for name in [name for name in FIELDS if not self.uses(name)]:
            object.__setattr__(self, name, DEFAULTS[name])
        if self.whitening_size == self.batch_size:  # said in two ways
            object.__setattr__(self, "whitening_size", None)
        self._find_code("term_code", [("term", self.term)])
        self._find_code("code", own_parts(self))

    def _validate(self) -> None:
        for name, about in SETTINGS.items():
            about.check(name, getattr(self, name))
        if two_views(self) and self.gamma is None:
            raise ValueError(f"gamma: required by method {self.method!r}; allowed: a number >= 0")
        check_term(self)
        for name in self.tuned:
            if name not in TUNABLE:
                raise ValueError(
                    f"tuned: got {name!r}{nearest(name, TUNABLE)}; allowed: {', '.join(TUNABLE)}"
                )
        if self.unlabeled_size and not has_unlabelled(self.dataset):
            raise ValueError(f"unlabeled_size: got {self.unlabeled_size}; allowed: 0 for {self.dataset}")
        if self.fold != "none" and not has_folds(self.dataset):
            raise ValueError(f"fold: got {self.fold!r}; allowed: none for {self.dataset}, which has no folds")

    def _find_code(self, name: str, parts: list[tuple[str, str]]) -> None:
        """Set a field to the code of these parts as it is now, unless it tells of their code already."""
        given = [item.partition("@")[0] for item in (getattr(self, name) or "").split("+")]
        if self.uses(name) and given != [part for _, part in parts]:
            code = "+".join(f"{part}@{code_of(kind, part)}" for kind, part in parts)
            object.__setattr__(self, name, code)

    def uses(self, name: str) -> bool:
        """Whether a field matters in this trial: the only definition of relevance."""
        return SETTINGS[name].used_by.holds(self)

    @property
    def key(self) -> str:
        """Identity of the trial: 16 hex digits of SHA-256 over its fields and `PROTOCOL`."""
        values = {name: getattr(self, name) for name in FIELDS}
        fields = {name: value for name, value in values.items() if value != SETTINGS[name].as_before}
        text = json.dumps({**fields, "PROTOCOL": PROTOCOL}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def arm(self) -> str:
        """What is compared within a cell: `ce`, `siamese-0`, `siamese-0.001`, … (`trainables.arms`)."""
        return str(Arm(self.gamma, self.term, method=self.method))

    @property
    def cell(self) -> tuple[FieldValue, ...]:
        """The values of all fields that make neither the arm nor the replicate; None for tuned ones."""
        return tuple(None if name in self.tuned else getattr(self, name) for name in CELL_FIELDS)

    @property
    def name(self) -> str:
        """`dataset/backbone/augmentations/arm/s<seed>`, the arm with what was tuned for it; for people."""
        augmentations = format_value(self.augmentations)
        arm = " ".join([self.arm, *(f"{name}={format_value(getattr(self, name))}" for name in self.tuned)])
        return f"{self.dataset}/{self.backbone}/{augmentations}/{arm}/s{self.seed}"

    def replace(self, **changes: typing.Any) -> "TrialConfig":
        """This config with some fields changed.

        Starts from the values that this config was made from: where a change gives meaning to a field
        that did not matter before, the field has the value that it was given, not its default.
        (`dataclasses.replace` would start from the normalised ones.) A changed field is no longer tuned.
        """
        if self.tuned and "tuned" not in changes:
            changes["tuned"] = tuple(name for name in self.tuned if name not in changes)
        return TrialConfig(**{**dict(zip(FIELDS, self._given, strict=True)), **changes})

    def to_params(self) -> dict[str, str]:
        """The fields as text that `from_params` reads back to an equal config."""
        return {name: format_value(getattr(self, name)) for name in FIELDS}

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> "TrialConfig":
        """The config that `to_params` wrote; other entries of `params` are ignored."""
        return cls(**{name: parse_value(name, params[name]) for name in FIELDS if name in params})


SETTINGS: Mapping[str, Setting] = types.MappingProxyType(
    {f.name: f.metadata["setting"] for f in dataclasses.fields(TrialConfig) if "setting" in f.metadata}
)
"""What is known of each field, by name."""
FIELDS: tuple[str, ...] = tuple(SETTINGS)
ARM_FIELDS: tuple[str, ...] = tuple(name for name in FIELDS if SETTINGS[name].part == "arm")
CELL_FIELDS: tuple[str, ...] = tuple(name for name in FIELDS if SETTINGS[name].part == "cell")
DEFAULTS: Mapping[str, typing.Any] = types.MappingProxyType(
    {
        f.name: f.default
        for f in dataclasses.fields(TrialConfig)
        if "setting" in f.metadata and f.default is not dataclasses.MISSING
    }
)


def parse_value(name: str, text: str) -> typing.Any:
    """The value that `text` stands for in field `name`; the inverse of `format_value`.

    Raises:
        ValueError: there is no such field, or the text does not fit its type.
    """
    if name not in FIELDS:
        raise ValueError(f"unknown field {name!r}{nearest(name, FIELDS)}; allowed: {', '.join(FIELDS)}")
    return parse(name, text, *field_type(name))


@functools.cache
def field_type(name: str) -> tuple[type, bool]:
    """The plain type of a field, and whether it may be None."""
    hint = typing.get_type_hints(TrialConfig)[name]
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = next(option for option in options if option is not type(None))
    return typing.get_origin(plain) or plain, type(None) in options


def coerce(name: str, value: object) -> FieldValue:
    """`value` in the field's own type, so that 1 and 1.0 give one key."""
    return in_type(name, value, *field_type(name))
