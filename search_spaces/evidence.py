"""The study of `docs/evidence/`: its cells, its arms, and how each arm's learning rate was chosen."""

import types
from collections.abc import Mapping

from search_spaces.design import Row, trials
from trainables.catalogue import TRANSFORMS
from trainables.trial import TrialConfig

LABELS_5000: Row = {"train_size": 5000, "epochs": 20}
LABELS_1000: Row = {"train_size": 1000, "epochs": 60}
"""Fewer images, seen more often: 420 steps; with 5,000 images there are 780."""
CELLS: tuple[Row, ...] = (
    {**LABELS_5000, "augmentations": ("rrc", "hflip")},
    {**LABELS_5000, "augmentations": TRANSFORMS},
    {**LABELS_5000, "augmentations": ()},
    {**LABELS_1000, "augmentations": ("rrc", "hflip")},
)
TUNED_IN: Row = CELLS[0]
"""The cell in which learning rates and weights are chosen, for all cells."""
TUNING_SEED = 1000
"""None of the seeds of the study: what is chosen by it cannot favour one of them."""
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
"""Learning rates that an arm with a given weight tries; of arms with two weights, those in the middle."""
REPEATED_SEED = 1001
"""Of the second run of the two best tries of each arm."""

_TWICE_THE_EPOCHS = "ce-twice"
_GIVEN: Mapping[str, Row] = types.MappingProxyType(
    {
        "ce": {"method": "ce"},
        _TWICE_THE_EPOCHS: {"method": "ce"},
        "control": {"method": "siamese", "gamma": 0.0},
        "barlow_twins 0.001": {"method": "siamese", "gamma": 1e-3},
        "barlow_twins 0.01": {"method": "siamese", "gamma": 1e-2},
    }
)
"""Arms whose weight is a question of the study: the thesis's own values, and 0."""
_RIVALS: Mapping[str, tuple[float, float]] = types.MappingProxyType(
    {"vicreg": (1e-2, 1e-1), "ntxent": (1e-1, 1.0), "supcon": (1e-1, 1.0), "kl": (1.0, 10.0)}
)
"""Other terms, and the weights that each tries. All have the thesis's projector: only the term differs."""


REPEATED: Mapping[str, tuple[Row, Row]] = types.MappingProxyType(
    {
        "ce": ({"lr": 0.03}, {"lr": 0.01}),
        _TWICE_THE_EPOCHS: ({"lr": 0.03}, {"lr": 0.01}),
        "control": ({"lr": 0.01}, {"lr": 0.03}),
        "barlow_twins 0.001": ({"lr": 0.01}, {"lr": 0.03}),
        "barlow_twins 0.01": ({"lr": 0.01}, {"lr": 0.03}),
        "vicreg": ({"gamma": 0.1, "lr": 0.01}, {"gamma": 0.01, "lr": 0.01}),
        "ntxent": ({"gamma": 0.1, "lr": 0.01}, {"gamma": 1.0, "lr": 0.01}),
        "supcon": ({"gamma": 1.0, "lr": 0.01}, {"gamma": 0.1, "lr": 0.01}),
        "kl": ({"gamma": 1.0, "lr": 0.01}, {"gamma": 1.0, "lr": 0.03}),
    }
)
"""The two tries of each arm with the highest validation accuracy, the best first."""
CHOSEN: Mapping[str, Row] = types.MappingProxyType(
    {
        "ce": {"lr": 0.03},
        _TWICE_THE_EPOCHS: {"lr": 0.03},
        "control": {"lr": 0.01},
        "barlow_twins 0.001": {"lr": 0.01},
        "barlow_twins 0.01": {"lr": 0.01},
        "vicreg": {"gamma": 0.01, "lr": 0.01},
        "ntxent": {"gamma": 0.1, "lr": 0.01},
        "supcon": {"gamma": 1.0, "lr": 0.01},
        "kl": {"gamma": 1.0, "lr": 0.01},
    }
)
"""By the mean validation accuracy of two seeds in `evidence_tuning`; docs/evidence has all tries."""


def evidence_tuning() -> list[TrialConfig]:
    """Which learning rate and weight suit each arm of docs/evidence? Judged on validation images."""
    rows = [_row(arm, TUNED_IN, lr=lr) for lr in LEARNING_RATES for arm in _GIVEN]
    rows += [
        _row(term, TUNED_IN, **_rival(term), gamma=gamma, lr=lr)
        for term, gammas in _RIVALS.items()
        for gamma in gammas
        for lr in LEARNING_RATES[1:3]
    ]
    again = [
        _row(arm, TUNED_IN, **_rival(arm), **row, seed=REPEATED_SEED)
        for arm, best in REPEATED.items()
        for row in best
    ]
    return trials([*rows, *again], **{"seed": TUNING_SEED, **_shared()})


def evidence() -> list[TrialConfig]:
    """Does a second view help, does any term? Photographs: 9 arms in 4 cells, as the protocol has it."""
    rows = [
        _row(arm, cell, seed=seed, **_rival(arm), **chosen)
        for seed in range(3)
        for cell in CELLS
        for arm, chosen in CHOSEN.items()
        # Where views are equal, KL is 0: that would be the control again.
        if cell["augmentations"] or arm != "kl"
    ]
    # Nothing is chosen in it, so that fewer validation images do.
    return trials(rows, **{**_shared(), "val_fraction": 0.02})


def _rival(arm: str) -> Row:
    """What makes a rival of an arm's fields; nothing for the other arms."""
    return {"method": "siamese", "term": arm} if arm in _RIVALS else {}


def _row(arm: str, cell: Row, **fields: object) -> Row:
    """An arm in a cell; `ce-twice` sees as many images as two views are."""
    row: Row = {**cell, **_GIVEN.get(arm, {}), **fields}
    return {**row, "epochs": 2 * cell["epochs"]} if arm == _TWICE_THE_EPOCHS else row


def _shared() -> Row:
    """What all trials have in common."""
    return {
        "dataset": "folder:cifar10-jpeg",
        "val_fraction": 0.1,
        # Each seed draws the images that it trains and is validated on: verdicts are not about one choice.
        "data_seed": 0,
        "backbone": "resnet18",
        "batch_size": 128,
        "lr_schedule": "cosine",
        "tuned": ("lr",),
    }
