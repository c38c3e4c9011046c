"""The search spaces. A space is a function without arguments that returns a list of trial configs.

To add one, write the function here and name it in `SPACES`; the first line of its docstring is what
`python study/run.py --list-spaces` shows.
"""

import functools
import types
from collections.abc import Callable, Mapping

from search_spaces.design import Row, arms, powerset, product, trials
from search_spaces.evidence import evidence, evidence_tuning
from trainables.catalogue import TRANSFORMS
from trainables.trial import TrialConfig

Space = Callable[[], list[TrialConfig]]

GAMMAS = (0.0, 1e-4, 1e-3, 1e-2)
"""The control without the Barlow Twins term, then the thesis's values."""
SEEDS = range(5)
_PUBLISHED_ARMS = arms(GAMMAS, views="asymmetric")

TABLES: Mapping[str, Row] = types.MappingProxyType(
    {
        # 4.1 to 4.4 name no augmentation: read as all four.
        "4.1": {"dataset": "cifar10", "backbone": "vgg16", "augmentations": TRANSFORMS},
        "4.2": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": TRANSFORMS},
        "4.3": {"dataset": "stl10", "backbone": "vgg16", "augmentations": TRANSFORMS},
        "4.4": {"dataset": "stl10", "backbone": "resnet18", "augmentations": TRANSFORMS},
        "4.5": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("rrc",)},
        "4.6": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("hflip",)},
        "4.7": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("grayscale",)},
        "4.8": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("solarize",)},
        "4.9": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("rrc", "hflip")},
        "4.10": {"dataset": "cifar10", "backbone": "resnet18", "augmentations": ("grayscale", "solarize")},
    }
)
"""The thesis's tables of accuracies, by number, with the cell that each describes."""


RIVALS: Mapping[str, tuple[tuple[float, ...], Row]] = types.MappingProxyType(
    {
        # Weights a decade apart, around what makes the term about as large as a cross-entropy at the start;
        # heads as in the papers, or in their authors' code for CIFAR-10.
        "barlow_twins": ((1e-4, 1e-3, 1e-2), {"projector": "mlp_bn", "embedding_dim": 2048}),
        "mixed_barlow_twins": ((1e-4, 1e-3, 1e-2), {"projector": "mlp_bn", "embedding_dim": 1024}),
        "vicreg": ((1e-3, 1e-2, 1e-1), {"projector": "mlp_bn", "embedding_dim": 2048}),
        "wmse": ((1e-2, 1e-1, 1.0), {"projector": "mlp_bn", "hidden_dim": 1024, "embedding_dim": 64}),
        "ntxent": ((1e-2, 1e-1, 1.0), {}),
        "supcon": ((1e-2, 1e-1, 1.0), {}),
        "simsiam": ((1e-1, 1.0, 10.0), {"projector": "mlp_bn", "embedding_dim": 2048}),
        "byol": ((1e-2, 1e-1, 1.0), {"projector": "mlp_bn", "embedding_dim": 256, "predictor_dim": 4096}),
        "kl": ((1e-1, 1.0, 10.0), {}),
        "mse": ((1e-1, 1.0, 10.0), {}),
    }
)
"""Of each consistency term, the weights in the space `rivals` and the head that its source gives it."""
WITHOUT_ALL_LABELS: tuple[Row, ...] = (
    {"method": "unsupervised", "gamma": 1e-2, "term": "barlow_twins", **RIVALS["barlow_twins"][1]},
    {"method": "fixmatch", "gamma": 0.0},
    {"method": "fixmatch", "gamma": 1.0},
)
"""References: features without labels and a linear probe on them; and what confident predictions can do."""


def quickstart() -> list[TrialConfig]:
    """One cell on scikit-learn's digits: 4 arms x 3 seeds of a small network, minutes on two cores."""
    return trials(
        product(seed=range(3), arm=arms([0.0, 1e-3, 1e-2])),
        dataset="digits",
        # Enough to learn from, few enough that accuracy stays clear of its ceiling.
        train_size=200,
        val_fraction=0.1,
        backbone="convnet",
        feature_dim=512,
        hidden_dim=512,
        augmentations=("rrc", "solarize"),
        batch_size=50,
        epochs=60,
        lr=0.03,
        lr_schedule="cosine",
    )


def thesis() -> list[TrialConfig]:
    """The cells of the thesis's Tables 4.1 to 4.10: 10 cells x 5 arms x 5 seeds, as it describes them."""
    return trials(
        _as_published(arm) for arm in product(seed=SEEDS, cell=TABLES.values(), arm=_PUBLISHED_ARMS)
    )


def controls() -> list[TrialConfig]:
    """What else may explain the thesis's effect: cross-entropy with its budget and step, equal views."""
    twice_the_step = {"method": "ce", "lr": 0.02, "weight_decay": 5e-5}
    twice_the_epochs = {"method": "ce", "epochs": 2000}
    references = arms([0.0], views="asymmetric")  # shared with the space `thesis`
    equal_views = {"method": "siamese", "gamma": 0.0, "views": "symmetric"}
    kinds = [*references, twice_the_step, twice_the_epochs, equal_views]
    return trials(_as_published(arm) for arm in product(seed=SEEDS, cell=TABLES.values(), arm=kinds))


def readings() -> list[TrialConfig]:
    """What if the thesis meant something else? Its ResNet-18 under other readings: 23 arms in 3 cells."""
    literal = {"views": "asymmetric", "second_view": "clean"}
    others = (arms(GAMMAS, views="symmetric"), arms(GAMMAS, **literal))
    kinds = [*_PUBLISHED_ARMS, *(arm for kind in others for arm in kind)]
    readings = [
        *product(seed=SEEDS, cell=[TABLES["4.2"]], arm=kinds),
        *product(seed=SEEDS, cell=[TABLES["4.2"]], hflip_p=[1.0], arm=_PUBLISHED_ARMS),
        *product(seed=range(10), cell=[TABLES["4.4"]], fold=["seed"], arm=_PUBLISHED_ARMS),
    ]
    return trials(_as_published(reading) for reading in readings)


def ablations() -> list[TrialConfig]:
    """Which augmentations, which weight? 2 backbones x 2 datasets x 16 subsets x 5 arms x 5 seeds."""
    rows = product(
        seed=SEEDS,
        dataset=("cifar10", "stl10"),
        backbone=("resnet18", "vgg16"),
        augmentations=powerset(TRANSFORMS),
        arm=arms(GAMMAS),
    )
    return trials((_as_published(row) for row in rows), val_fraction=0.1)


def unlabelled() -> list[TrialConfig]:
    """What do unlabelled images do? STL-10 with 5,000 and without, 2 backbones x 9 arms x 5 seeds."""
    rows = product(
        seed=SEEDS,
        dataset=("stl10",),
        backbone=("resnet18", "vgg16"),
        unlabeled_size=(0, 5000),
        arm=arms(GAMMAS),
    )
    return trials((_as_published(row) for row in rows), augmentations=TRANSFORMS, val_fraction=0.1)


def rivals() -> list[TrialConfig]:
    """Does any consistency term help? 2 datasets x ten terms at three weights, and references, x 5 seeds."""
    rows = product(
        seed=SEEDS,
        dataset=("cifar10", "stl10"),
        backbone=("resnet18",),
        arm=[*arms(GAMMAS), *(row for term in RIVALS for row in rival_arms(term)), *WITHOUT_ALL_LABELS],
    )
    # FixMatch is for images without labels, which CIFAR-10 has not.
    rows = [row for row in rows if (row["dataset"], row["method"]) != ("cifar10", "fixmatch")]
    return trials((_as_published(row) for row in rows), augmentations=TRANSFORMS, val_fraction=0.1)


def rival_arms(term: str) -> list[Row]:
    """A term with the head of its source, at each of its weights."""
    gammas, head = RIVALS[term]
    return [{"method": "siamese", "gamma": gamma, "term": term, **head} for gamma in gammas]


def thesis_batch_size(backbone: str) -> int:
    """Images per step in the thesis: 512 for VGG-16, 128 for ResNet-18; 128 also for other backbones."""
    return 512 if backbone.startswith("vgg") else 128


def _as_published(row: Row) -> Row:
    """The row, completed by what the thesis says about all its trials."""
    return {
        "batch_size": thesis_batch_size(row["backbone"]),
        "epochs": 1000,
        "precision": "bf16",
        # Beside the labelled images, in the arms that can use them.
        "unlabeled_size": 5000 if row["dataset"] == "stl10" else 0,
        **row,
    }


def tags(space: str, trial: TrialConfig) -> dict[str, str]:
    """The tags of a trial's run that say what it was trained for.

    `space`, and for trials of the space `thesis` (of any seed, whichever space requested them first, or with
    other fields by `--set`) `thesis.table`: the number of the table that it feeds.
    """
    cells = {tuple(cell.values()): number for number, cell in TABLES.items()}
    number = cells.get((trial.dataset, trial.backbone, trial.augmentations))
    feeds = number and (space == "thesis" or trial.replace(seed=0) in _thesis_of_seed_0())
    return {"space": space, **({"thesis.table": number} if feeds and number else {})}


@functools.cache
def _thesis_of_seed_0() -> frozenset[TrialConfig]:
    return frozenset(trial for trial in thesis() if trial.seed == 0)


_spaces: dict[str, Space] = {
    space.__name__: space
    for space in (
        *(quickstart, thesis, controls, readings, ablations, unlabelled, rivals),
        *(evidence, evidence_tuning),
    )
}
SPACES: Mapping[str, Space] = types.MappingProxyType(_spaces)


def add_space(name: str, space: Space) -> None:
    """Add a space of a file of your own, in place of an older version."""
    _spaces[name] = space


def remove_space(name: str) -> None:
    """Forget it again, if it is there."""
    _spaces.pop(name, None)
