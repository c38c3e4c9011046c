"""Steps that are captured once and replayed, on a stand-in for a GPU's graphs: same function, same memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables import train as train_module
from trainables.graph import WARM_UP
from trainables.models import SiameseNet, build
from trainables.train import train
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., tuple[list[dict[str, float]], dict[str, Tensor]]]
STEPS = {"train_size": 250, "batch_size": 25, "epochs": 2, "val_fraction": 0, "lr_schedule": "cosine"}
"""Two epochs of ten steps, at a learning rate that each step changes."""
ALL = {"augmentations": ("rrc", "hflip", "grayscale", "solarize"), "lr": 0.03}


class StandIn:
    """As a graph: records nothing but what to repeat, and runs nothing while it does."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            self.replays += 1
            run()

        return replay


@pytest.fixture
def trained(tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The history of a trial, but for its times, and the state of its network; nothing is evaluated."""
    nets: list[SiameseNet] = []

    def remembering(*arguments: Any) -> SiameseNet:
        nets.append(build(*arguments))
        return nets[-1]

    monkeypatch.setattr(train_module, "build", remembering)
    monkeypatch.setattr(train_module, "evaluate", lambda *arguments: ({}, {}))

    def run(changes: dict[str, Any], **options: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        result = train(tiny(**STEPS, **ALL, **changes), data_dir, **options)
        names = ("epoch", "lr", "train/loss", "train/ce", "train/acc")
        rows = [{name: row[name] for name in names if name in row} for row in result.history]
        return rows, {name: value.cpu() for name, value in nets[-1].state_dict().items()}

    return run


KINDS: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "siamese": {},
    "target network": {"term": "byol", "target_momentum": 0.9},
    "mixed images": {"term": "mixed_barlow_twins"},
    "fixmatch": {"method": "fixmatch", "gamma": 1.0},
    "bf16": {"precision": "bf16", "views": "asymmetric"},
    "without momentum": {"momentum": 0.0},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_replayed_steps_give_the_same_bits(changes: dict[str, Any], trained: Trained) -> None:
    """Twenty steps: augmentation, schedule and the boundary of two epochs included."""
    stand_in, told = StandIn(), []
    rows, state = trained(changes)
    replayed_rows, replayed_state = trained(changes, capture=stand_in, on_note=told.append)
    assert told == []
    assert stand_in.replays == 20 - WARM_UP
    assert replayed_rows == rows
    assert replayed_state.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(replayed_state[name], value), name
    assert rows[0]["lr"] != rows[1]["lr"]
