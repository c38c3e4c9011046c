"""Interrupted training resumes bit for bit."""

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import data
from trainables.fast.optimizer import SGD
from trainables.models import build
from trainables.storage import state as state_module
from trainables.storage.bundles import TrialResult, from_parquet
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.filesystem import Storage
from trainables.storage.state import DamagedState, Saver, State, pack, unpack
from trainables.train import train
from trainables.trial import TrialConfig
from trainables.usage import Meter

Tiny = Callable[..., TrialConfig]
Trained = Callable[..., TrialResult]

HERE = {"data": "digest", "where": "cpu, 1 threads"}
LONG: dict[str, Any] = {"epochs": 5}
CLOCK = ("timestamp", "images_per_second")


class Killed(BaseException):
    """What ends a trial."""


def untimed(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if "seconds" not in name and name not in CLOCK}


def interrupted_after(
    epochs: int, config: TrialConfig, data_dir: Path, storage: Storage
) -> list[Mapping[str, float]]:
    """Train until an epoch is reported, then end; returns the rows that were reported."""
    rows: list[Mapping[str, float]] = []

    def report(row: Mapping[str, float]) -> None:
        rows.append(row)
        if row["epoch"] == epochs:
            raise Killed

    with pytest.raises(Killed):
        train(config, data_dir, checkpoints=Checkpoints(storage, config.key), on_epoch=report)
    return rows


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "ce"},
        {"gamma": 0},
        {"lr_schedule": "cosine"},
        {"precision": "bf16"},
        {"backbone": "resnet18", "feature_dim": 32, "views": "asymmetric", "epochs": 3},
    ],
    ids=["ce", "siamese-0", "cosine", "bf16", "resnet18"],
)
def test_an_interrupted_trial_ends_with_the_same_bits(
    changes: dict[str, Any], tiny: Tiny, trained: Trained, data_dir: Path, tmp_path: Path
) -> None:
    changes = {**LONG, **changes}
    config, storage, expected = tiny(**changes), Storage(tmp_path), trained(**changes)
    before: list[Mapping[str, float]] = []
    for epoch in range(1, config.epochs + 1):
        before += interrupted_after(epoch, config, data_dir, storage)
    assert [row["epoch"] for row in before] == [*range(1, config.epochs + 1)]  # none trained twice
    resumed: list[Mapping[str, float]] = []
    result = train(config, data_dir, checkpoints=Checkpoints(storage, config.key), on_resume=resumed.extend)
    assert resumed == before == [*result.history] == from_parquet(result.artifacts["history.parquet"])
    assert [*map(untimed, result.history)] == [*map(untimed, expected.history)]
    assert untimed(result.metrics) == untimed(expected.metrics)
    for name in ("predictions.npz", "embeddings.npz", "views.npz"):
        ours, theirs = (np.load(io.BytesIO(r.artifacts[name])) for r in (result, expected))
        for array in theirs.files:
            np.testing.assert_array_equal(ours[array], theirs[array])


def test_where_a_trial_may_be_stopped_its_state_is_saved_before_that_is_told(
    tiny: Tiny, data_dir: Path, tmp_path: Path
) -> None:
    config = tiny(**LONG)
    saved: list[list[int]] = []

    def look(row: Mapping[str, float]) -> None:
        saved.append(sorted(int(path.name.split("-")[0]) for path in tmp_path.glob("checkpoints/*/*")))

    checkpoints = Checkpoints(Storage(tmp_path), config.key)
    train(config, data_dir, checkpoints=checkpoints, on_epoch=look, save_at=[2, 4])
    assert saved == [[], [2], [2], [2, 4], [2, 4]]


def test_time_of_all_attempts_is_counted(tiny: Tiny, data_dir: Path, tmp_path: Path) -> None:
    config, storage = tiny(), Storage(tmp_path)
    interrupted_after(2, config, data_dir, storage)
    checkpoints = Checkpoints(storage, config.key)
    (_, content) = next(checkpoints.newest_first())
    net = build(config, 10)
    saved = unpack(content, net, SGD(net.parameters(), momentum=0.9, weight_decay=0))
    assert saved.seconds > 0
    assert saved.usage == {}  # nobody measured it
    # As if those epochs had taken long: they count as training, not as evaluation.
    took = {"cpu_seconds": 900.0, "core_seconds": 1000.0, "memory_peak": 1e12}
    long = dataclasses.replace(saved, epoch=2, seconds=1000.0, usage=took)
    checkpoints.save(2, pack(long, net, SGD(net.parameters(), momentum=0.9, weight_decay=0)))
    for path in sorted((tmp_path / "checkpoints" / config.key).iterdir()):
        if not path.name.endswith(checkpoints._attempt):
            path.unlink()
    with Meter() as meter:
        metrics = train(config, data_dir, checkpoints=checkpoints, meter=meter).metrics
    assert 1000 < metrics["train_seconds"] < 1100
    assert 0 < metrics["evaluate_seconds"] < 100
    assert 900 < metrics["cpu_seconds"] < 1000
    assert 0.8 < metrics["cpu_utilization"] < 1
    assert metrics["memory_peak_mb"] == 1e6
    assert "memory_mean_mb" not in metrics  # as the earlier epochs did not say theirs


def test_a_state_of_before_usage_was_measured_is_read(tiny: Tiny) -> None:
    config = tiny()
    net = build(config, 10)
    optimizer = SGD(net.parameters(), momentum=0.9, weight_decay=0)
    state = State(epoch=0, history=(), seconds=1.0, usage={"cpu_seconds": 2.0}, **HERE)
    content = pack(state, net, optimizer)
    assert unpack(content, net, optimizer) == state
    old = torch.load(io.BytesIO(content), weights_only=True)
    del old["usage"]
    torch.save(old, buffer := io.BytesIO())
    assert unpack(buffer.getvalue(), net, optimizer) == dataclasses.replace(state, usage={})


def test_a_damaged_state_costs_the_epochs_since_the_one_before(
    tiny: Tiny, trained: Trained, data_dir: Path, tmp_path: Path
) -> None:
    config, storage = tiny(**LONG), Storage(tmp_path)
    for epoch in (2, 4):
        interrupted_after(epoch, config, data_dir, storage)
    newest = sorted((tmp_path / "checkpoints" / config.key).iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    checkpoints, resumed = Checkpoints(storage, config.key), []
    result = train(config, data_dir, checkpoints=checkpoints, on_resume=resumed.extend)
    assert [row["epoch"] for row in resumed] == [1, 2]
    assert len(checkpoints.notes) == 1
    assert untimed(result.metrics) == untimed(trained(**LONG).metrics)


def test_a_state_of_something_else_is_quarantined_and_the_trial_starts_again(
    tiny: Tiny, trained: Trained, data_dir: Path, tmp_path: Path
) -> None:
    """Whole files that are no state of this network: nothing of them is left in it."""
    config, storage = tiny(), Storage(tmp_path)
    foreign = build(tiny(embedding_dim=3, seed=9), 10)
    optimizer = SGD(foreign.parameters(), momentum=0.9, weight_decay=0)
    content = pack(State(epoch=1, history=({"epoch": 1},), seconds=1, **HERE), foreign, optimizer)
    attempt = Checkpoints(storage, config.key)
    attempt.save(1, content)
    attempt.save(2, b"no state at all")
    checkpoints, resumed = Checkpoints(storage, config.key), []
    result = train(config, data_dir, checkpoints=checkpoints, on_resume=resumed.extend)
    assert resumed == []
    assert len(checkpoints.notes) == 2
    assert untimed(result.metrics) == untimed(trained().metrics)


def test_no_code_is_run_from_a_state(tiny: Tiny) -> None:
    net = build(tiny(), 10)
    buffer = io.BytesIO()
    torch.save({"net": net.state_dict(), "evil": print}, buffer)
    with pytest.raises(DamagedState):
        unpack(buffer.getvalue(), net, SGD(net.parameters(), momentum=0.9, weight_decay=0))


def test_a_state_goes_through_bytes(tiny: Tiny) -> None:
    net, other = build(tiny(), 10), build(tiny(seed=1), 10)
    optimizers = [SGD(n.parameters(), momentum=0.9, weight_decay=0.1) for n in (net, other)]
    for parameter in net.backbone.parameters():  # the others have no gradient and no momentum
        parameter.grad = torch.ones_like(parameter)
    optimizers[0].step(0.1)
    state = State(
        epoch=2, history=({"epoch": 1, "lr": 0.1 + 0.2}, {"epoch": 2, "lr": 1 / 3}), seconds=1.5, **HERE
    )
    assert unpack(pack(state, net, optimizers[0]), other, optimizers[1]) == state
    for parameter, loaded in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(parameter, loaded)
    for buffer, loaded in zip(optimizers[0].momentum_buffers, optimizers[1].momentum_buffers, strict=True):
        assert (buffer is None and loaded is None) or torch.equal(buffer, loaded)


class Counting(Checkpoints):
    """Counts the saves."""

    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.epochs: list[int] = []
        self.seconds, self.clock = seconds, clock

    def save(self, epoch: int, content: bytes) -> None:
        self.epochs.append(epoch)
        self.clock[0] += self.seconds


@pytest.mark.parametrize(
    ("cost", "every"),
    [(0.001, 2), (0.02, 2), (0.1, 10), (0.5, 50)],
    ids=["free", "cheap", "dear", "very dear"],
)
def test_saving_takes_a_hundredth_of_the_time(
    cost: float, every: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of one second; the clock is ours."""
    clock = [0.0]
    monkeypatch.setattr(state_module.time, "monotonic", lambda: clock[0])
    net = build(tiny(), 10)
    counting = Counting(cost, clock)
    saver = Saver(counting, net, SGD(net.parameters(), momentum=0.9, weight_decay=0))
    for epoch in range(1, 201):
        clock[0] += 1
        saver.save_if_due(State(epoch=epoch, history=(), seconds=0, **HERE))
    assert counting.epochs[0] == 2  # what it costs is not known yet
    gaps = np.diff(counting.epochs)
    assert set(gaps) <= {every, every + 1}
    saver.save(State(epoch=200, history=(), seconds=0, **HERE))
    saver.save(State(epoch=200, history=(), seconds=0, **HERE))
    assert counting.epochs.count(200) == 1


def test_states_of_other_data_are_quarantined(
    tiny: Tiny, trained: Trained, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, storage = tiny(), Storage(tmp_path)
    load = data.load
    other = {"sha256": "before"}
    monkeypatch.setattr(data, "load", lambda *of, **how: dataclasses.replace(load(*of, **how), **other))
    interrupted_after(1, config, data_dir, storage)
    monkeypatch.undo()
    checkpoints, resumed = Checkpoints(storage, config.key), []
    result = train(config, data_dir, checkpoints=checkpoints, on_resume=resumed.extend)
    assert resumed == []
    assert [note.partition(" is ")[2] for note in checkpoints.notes] == [
        "quarantined: it was trained on data that have changed since"
    ]
    assert untimed(result.metrics) == untimed(trained().metrics)


def test_going_on_with_other_threads_is_said(tiny: Tiny, data_dir: Path, tmp_path: Path) -> None:
    config, storage = tiny(), Storage(tmp_path)
    interrupted_after(1, config, data_dir, storage)
    checkpoints = Checkpoints(storage, config.key)
    train(config, data_dir, threads=2, checkpoints=checkpoints)
    assert checkpoints.notes == [
        f"{config.name} resumes on cpu, 2 threads, started on cpu, 1 threads: not bit for bit"
    ]
