"""What trials will take, from what others took."""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_spaces import select
from study.cli.options import parse_duration
from study.cluster.mps import PIPES
from study.ledger.records import TrialRecord
from study.planning import forecast
from study.planning import probe as probing
from study.planning.forecast import (
    Forecast,
    compare,
    count_fitting,
    describe,
    format_duration,
    kept_for_finalists,
    wall_seconds,
)
from study.planning.probe import gpu_of, probe
from trainables import data
from trainables.allocation import Allocation
from trainables.data import Sizes
from trainables.metrics import TEST_PASSES, TRAIN_PASSES
from trainables.trial import TrialConfig

CPU = Allocation(device="cpu Model", threads=1, gpus=0, slots=2)
QUARTER = Allocation(device=None, threads=1, gpus=0.25, slots=4)
ON_A_GPU = {
    "device": "Big GPU",
    "gpus": "0.25",
    "gpus.step": "CUDA graph",
    "gpus.kernels": "tf32",
    "gpus.mps": "yes",
}
FELL_BACK = {**ON_A_GPU, "gpus.step": "eager: it cannot be captured"}
SIZES = Sizes(epoch=100, train=100, validation=0, test=60)


def trial(**changes: object) -> TrialConfig:
    fields = {"dataset": "digits", "backbone": "convnet", "augmentations": (), "method": "ce", "epochs": 10}
    return TrialConfig(**{**fields, "batch_size": 50, "seed": 0, **changes})  # type: ignore[arg-type]


def record(config: TrialConfig, train: float, evaluate: float, **tags: str) -> TrialRecord:
    return TrialRecord(
        key=config.key,
        run_id=config.key,
        status="FINISHED",
        params=config.to_params(),
        tags={"device": "cpu Model", "threads": "1", **tags},
        metrics={"train_seconds": train, "evaluate_seconds": evaluate},
        changed=0,
    )


def test_nothing_is_known_at_first() -> None:
    known = Forecast({trial(): SIZES})
    assert known.seconds(trial()) is None
    assert known.unknown([trial()]) == [trial()]
    (line,) = describe(known, [(trial(), 0)], CPU)
    assert line.startswith("no forecast for 1 of them: none of digits/convnet/fp32 is measured yet; --plan")


def test_another_seed_takes_as_long_and_more_epochs_longer() -> None:
    more = trial(epochs=40)
    known = Forecast({trial(seed=1): SIZES, more: SIZES})
    known.learn(trial(), SIZES, 20.0, 3.0)
    assert known.seconds(trial(seed=1)) == pytest.approx(23)
    assert known.seconds(more) == pytest.approx(83)
    assert known.seconds(more, epochs_done=30) == pytest.approx(23)


def test_two_views_take_twice_as_long_until_one_is_measured() -> None:
    siamese, other = trial(method="siamese", gamma=0.01), trial(method="siamese", gamma=0.1)
    known = Forecast({siamese: SIZES, other: SIZES})
    known.learn(trial(), SIZES, 20.0, 3.0)
    assert known.seconds(siamese) == pytest.approx(43)
    known.learn(other, SIZES, 60.0, 5.0)
    assert known.seconds(siamese) == pytest.approx(65)  # the like one alone counts


def test_sizes_count() -> None:
    known = Forecast({trial(train_size=50): Sizes(epoch=50, train=50, validation=0, test=60)})
    known.learn(trial(), SIZES, 20.0, 6.0)
    passes = TRAIN_PASSES * 50 + TEST_PASSES * 60
    assert known.seconds(trial(train_size=50)) == pytest.approx(
        10 + 6 * passes / (passes + TRAIN_PASSES * 50)
    )


@pytest.mark.parametrize(
    ("tags", "grant", "counts"),
    [
        ({}, CPU, True),
        ({"threads": "2"}, CPU, False),
        ({"device": "cpu Other"}, CPU, False),
        ({"device": "Big GPU", "gpus": "0.25"}, CPU, False),
        ({"device": "Big GPU", "gpus": "0.25"}, Allocation(device=None, threads=1, gpus=0.25, slots=4), True),
        ({"device": "Big GPU", "gpus": "0.25"}, Allocation(device=None, threads=1, gpus=1, slots=1), False),
        ({}, Allocation(device=None, threads=1, gpus=0.25, slots=4), False),
        (
            {"device": "Big GPU", "gpus": "0.25"},
            Allocation(device=None, threads=1, gpus=None, slots=None),
            True,
        ),
        ({}, Allocation(device=None, threads=1, gpus=None, slots=None), True),
        (ON_A_GPU, replace(QUARTER, cuda_graphs=True, kernels="tf32", mps=True), True),
        (ON_A_GPU, replace(QUARTER, cuda_graphs=True, kernels="tf32", mps=None), True),
        (ON_A_GPU, replace(QUARTER, kernels="tf32", mps=True), False),
        (ON_A_GPU, replace(QUARTER, cuda_graphs=True, mps=True), False),
        (ON_A_GPU, replace(QUARTER, cuda_graphs=True, kernels="tf32"), False),
        # It would fail again.
        (FELL_BACK, replace(QUARTER, cuda_graphs=True, kernels="tf32", mps=True), True),
    ],
)
def test_only_trials_under_a_like_grant_count(
    tags: dict[str, str], grant: Allocation, counts: bool, tmp_path: Path
) -> None:
    sizes = data.check([trial(seed=1)], tmp_path)
    others = [record(trial(), 20.0, 3.0, **tags), record(trial(backbone="resnet18"), 1.0, 1.0)]
    known = forecast.from_records(sizes, others, grant, tmp_path)
    assert known.seconds(trial(seed=1)) == (pytest.approx(23) if counts else None)


def test_trials_side_by_side() -> None:
    start, between = forecast.STARTUP, forecast.BETWEEN
    assert wall_seconds([10], 1) == start + 10
    assert wall_seconds([10, 10, 10], 2) == pytest.approx(start + 20 + between)
    assert wall_seconds([30, 10, 10], 2) == pytest.approx(start + 30)
    assert count_fitting([10, 10, 10], 1, start + 21) == 2
    assert count_fitting([100, 10, 10], 1, start + 21) == 2  # one that does not fit is passed over
    assert count_fitting([10], 1, start + 9) == 0


def test_finalists_get_what_they_take_unless_it_is_most_of_the_budget() -> None:
    known = Forecast({trial(seed=seed): SIZES for seed in range(4)})
    trials = [trial(seed=seed) for seed in range(4)]
    assert kept_for_finalists(known, trials, 2, 1e9) == 0  # not measured
    known.learn(trial(seed=9), SIZES, 3600.0, 0.0)
    needed = wall_seconds([3600] * 4, 2)
    assert kept_for_finalists(known, trials, 2, 2 * needed) == pytest.approx(needed)
    assert kept_for_finalists(known, trials, 2, 2 * needed - 1) == 0
    assert kept_for_finalists(known, trials, None, 1e9) == 0  # nobody knows how many run at once
    assert kept_for_finalists(known, [], 2, 1e9) == 0


def test_for_people() -> None:
    known = Forecast({trial(seed=seed): SIZES for seed in range(4)})
    known.learn(trial(seed=9), SIZES, 3600.0, 0.0)
    trials = {trial(seed=seed): 0 for seed in range(4)}
    assert describe(known, list(trials.items()), CPU, budget=4000) == [
        "forecast: 2 h 00 min, 2 trials at once; 4 h 00 min of CPU time (from 1 that were measured)",
        "a budget of 1 h 06 min buys about 2 of 4 trials (a run goes by the times that it measures)",
    ]
    finalists = [trial(seed=0)]
    assert describe(known, list(trials.items()), CPU, budget=8000, finalists=finalists)[1] == (
        "a budget of 2 h 13 min buys about 2 of 4 trials and 1 h 00 min for the finalists"
        " (a run goes by the times that it measures)"
    )
    on_a_cluster = Allocation(device=None, threads=1, gpus=0.5, slots=None)
    assert describe(known, list(trials.items()), on_a_cluster) == [
        "forecast: 2 h 00 min of GPU time (from 1 that were measured)"
    ]
    assert describe(known, [], CPU) == []
    assert compare(100, 110) == "forecast: 1 min 40 s, took 1 min 50 s (+10%)"
    assert [format_duration(s) for s in (8.34, 250, 18120, 273600)] == [
        "8.3 s",
        "4 min 10 s",
        "5 h 02 min",
        "3 d 4 h",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86400), ("0.5h", 1800)],
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "2h x", "-1h", "0h"])
def test_a_budget_is_nothing_else(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="allowed: a time such as 90s, 30m, 2h"):
        parse_duration(text)


def test_a_probe_measures_each_kind_and_leaves_nothing(tmp_path: Path) -> None:
    """Real training in two processes, for seconds."""
    chosen = select("quickstart", only=["arm=ce,siamese-0.01"], assign=["feature_dim=32", "train_size=100"])
    sizes = data.check(chosen.trials, tmp_path)
    known = Forecast(sizes)
    lines = probe(known, chosen.trials, CPU, tmp_path)
    assert [line.split(": ")[0:2] for line in lines] == [
        ["probed", "digits/convnet/fp32 ce"],
        ["probed", "digits/convnet/fp32 siamese-0.01"],
    ]
    once, twice = (known.seconds(t) for t in chosen.trials[:2])
    assert once is not None
    assert twice is not None
    assert 0.1 < once < twice < 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("visible", "share", "gpus"),
    [
        (None, 0.5, ["0", "0", "1", "1"]),
        ("2,3", 0.4, ["2", "2", "3", "3"]),
        ("GPU-a,GPU-b", 1, ["GPU-a", "GPU-b"]),
        (None, 2, ["0", "2"]),
    ],
)
def test_probes_are_packed_on_gpus_as_trials_are(
    visible: str | None, share: float, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu_of(number, share) for number in range(len(gpus))] == gpus


def test_a_probe_uses_gpus_as_trials_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its processes, here stand-ins for them, are told all of it."""
    asked: list[dict[str, Any]] = []

    def answer(*_: object, **given: Any) -> subprocess.CompletedProcess[str]:
        asked.append(json.loads(given["input"]) | given["env"])
        return subprocess.CompletedProcess([], 0, json.dumps({"error": "no GPU"}), "")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(probing.subprocess, "run", answer)
    chosen = select("quickstart", only=["arm=ce"], seeds=1)
    allocation = replace(QUARTER, cuda_graphs=True, kernels="fastest", slots=8)
    known = Forecast(data.check(chosen.trials, tmp_path))
    lines = probe(known, chosen.trials, allocation, tmp_path, {PIPES: "/pipes"})
    assert lines == ["not probed: digits/convnet/fp32 ce: no GPU"]
    assert sorted(each["CUDA_VISIBLE_DEVICES"] for each in asked) == ["0"] * 4 + ["1"] * 4
    told = {(each["gpu"], each["cuda_graphs"], each["kernels"], each[PIPES]) for each in asked}
    assert told == {(0.25, True, "fastest", "/pipes")}


def test_a_probe_of_what_is_not_prepared_says_so(tmp_path: Path) -> None:
    chosen = select("ablations", only=["dataset=cifar10", "backbone=vgg16"], seeds=1)
    known = Forecast(data.check(chosen.trials, tmp_path))
    lines = probe(known, chosen.trials, CPU, tmp_path)
    assert lines == ["not probed: cifar10 is not prepared; python -m trainables.data cifar10"]


def test_the_probe_is_told_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainables.probe"], input="{}", capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 1),
        ({"method": "siamese", "gamma": 0}, 2),
        ({"method": "siamese", "gamma": 1, "term": "vicreg"}, 2),
        ({"method": "siamese", "gamma": 1, "term": "mixed_barlow_twins"}, 3),
        ({"method": "siamese", "gamma": 1, "term": "byol"}, 2 + 2 / 3),
        ({"method": "fixmatch", "gamma": 1, "augmentations": ("solarize",)}, 2),
    ],
)
def test_what_an_epoch_takes_counts_views(fields: dict[str, object], expected: float) -> None:
    assert forecast.passes(trial(**fields)) == pytest.approx(expected)


def test_a_kind_that_was_not_measured_is_known_as_such() -> None:
    alone, byol = trial(), trial(method="siamese", gamma=1, term="byol")
    measured = Forecast({alone: SIZES, byol: SIZES})
    measured.learn(alone, SIZES, 10.0, 1.0)
    assert measured.unknown([alone, byol]) == []
    assert measured.unknown_kinds([alone, byol]) == [byol]
