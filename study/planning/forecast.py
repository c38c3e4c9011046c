"""How long trials will take, from trials that were measured.

A trial is expected to take as long as the most similar measured ones, by the images that it works on: each
image of each view that it trains on, and each pass over images that it evaluates. Only trials with the same
dataset, backbone and precision count, and only those made under a like `Grant`.
"""

import contextlib
import heapq
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster.connection import Grant
from study.ledger.records import TrialRecord
from trainables import data
from trainables.data import Sizes
from trainables.datasets.sources import DataError
from trainables.metrics import TEST_PASSES, TRAIN_PASSES
from trainables.trial import FIELDS, TrialConfig, two_views

SAME = ("dataset", "backbone", "precision")
"""Fields in which a trial must equal the one that it is compared with."""
STARTUP = 12.0
"""Seconds until Ray has started and its workers have imported PyTorch (two cores of an AMD EPYC)."""
BETWEEN = 0.3
"""Seconds between two trials of a worker (likewise)."""


ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class _Measurement:
    """Seconds for an image of a view in training, and for an image in a pass of evaluation."""

    config: TrialConfig
    train: float
    evaluate: float


class Forecast:
    """Seconds that trials will take; learns from every trial that it is told of."""

    def __init__(self, sizes: Mapping[TrialConfig, Sizes]) -> None:
        """Know nothing yet.

        Args:
            sizes: of all trials that it will be asked for.
        """
        self._sizes = dict(sizes)
        self._lock = threading.Lock()
        self._measured: dict[tuple[object, ...], list[_Measurement]] = {}
        self._rates: dict[tuple[object, ...], tuple[float, float]] = {}  # of trials that differ in seed alone

    def learn(self, config: TrialConfig, sizes: Sizes, train_seconds: float, evaluate_seconds: float) -> None:
        """Take in a trial that has ended, or a part of one.

        Args:
            config: what was trained; its `epochs` are those that took the time.
            sizes: the images that it worked on.
            train_seconds: wall-clock time, validation included.
            evaluate_seconds: for the final metrics.
        """
        images = _views(config) * sizes.epoch * config.epochs
        measured = _Measurement(config, train_seconds / images, evaluate_seconds / _evaluated(sizes))
        with self._lock:
            self._measured.setdefault(_group(config), []).append(measured)
            self._rates.clear()

    def take(self, sizes: Mapping[TrialConfig, Sizes]) -> None:
        """Know the sizes of more trials that it will be asked for."""
        self._sizes.update(sizes)

    def count(self, trials: Iterable[TrialConfig]) -> int:
        """How many measured trials speak for these."""
        return sum(len(self._measured.get(group, ())) for group in {_group(trial) for trial in trials})

    def unknown(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        """The trials of which nothing comparable was measured."""
        return [trial for trial in trials if _group(trial) not in self._measured]

    def seconds(self, trial: TrialConfig, epochs_done: int = 0) -> float | None:
        """How long a trial will take, with the epochs that are trained already left out; None: not known."""
        if _group(trial) not in self._measured:
            return None
        cell = tuple(getattr(trial, name) for name in FIELDS if name != "seed")
        with self._lock:
            if cell not in self._rates:
                self._rates[cell] = self._rate(trial)
            train, evaluate = self._rates[cell]
        sizes = self._sizes[trial]
        images = _views(trial) * sizes.epoch * (trial.epochs - epochs_done)
        return train * images + evaluate * _evaluated(sizes)

    def _rate(self, trial: TrialConfig) -> tuple[float, float]:
        """What an image takes in training and in evaluation, of the trials that are most like this one."""
        measured = self._measured[_group(trial)]
        scores = [_similarity(trial, other.config) for other in measured]
        best = max(scores)
        alike = [other for other, score in zip(measured, scores, strict=True) if score == best]
        train = statistics.median(other.train for other in alike)
        return train, statistics.median(other.evaluate for other in alike)


def from_records(
    sizes: Mapping[TrialConfig, Sizes], records: Iterable[TrialRecord], grant: Grant, data_dir: Path
) -> Forecast:
    """A forecast for trials of these sizes from all that the ledger has finished under such a grant."""
    forecast = Forecast(sizes)
    wanted = {tuple(str(value) for value in _group(trial)) for trial in sizes}
    measured = {}
    for record in records:
        of = tuple(record.params.get(name, "") for name in SAME)
        if record.status == "FINISHED" and of in wanted and grant.made(record.tags):
            with contextlib.suppress(ValueError):  # what another version has trained
                measured[TrialConfig.from_params(record.params)] = record
    known = {**sizes, **_sizes([config for config in measured if config not in sizes], data_dir)}
    for config, record in measured.items():
        if config in known:
            seconds = (record.metrics.get(f"{part}_seconds", 0.0) for part in ("train", "evaluate"))
            forecast.learn(config, known[config], *seconds)
    return forecast


def _sizes(trials: Sequence[TrialConfig], data_dir: Path) -> dict[TrialConfig, Sizes]:
    """Sizes of those trials that fit their data, which may have changed since they were trained."""
    with contextlib.suppress(ValueError, DataError):
        return data.check(trials, data_dir)
    found: dict[TrialConfig, Sizes] = {}
    for trial in {tuple(getattr(t, name) for name in data.SIZE_FIELDS): t for t in trials}.values():
        with contextlib.suppress(ValueError, DataError):
            found |= data.check([trial], data_dir)
    return found


def probe(forecast: Forecast, trials: Sequence[TrialConfig], grant: Grant, data_dir: Path) -> list[str]:
    """Measure for some seconds each kind of trial of which nothing is known; returns lines for people.

    As many processes measure at once as trials will run at once: neighbours share the machine.

    Args:
        forecast: learns what is measured.
        trials: of the study.
        grant: what each gets.
        data_dir: absolute folder of datasets; those that are not prepared are left out.
    """
    lines: list[str] = []
    kinds: dict[tuple[object, ...], TrialConfig] = {}
    for trial in forecast.unknown(trials):
        if trial.dataset in data.EMBEDDED or data.fingerprint(trial.dataset, data_dir) is not None:
            kinds.setdefault((*_group(trial), _kind(trial)), trial)
        else:
            line = f"not probed: {trial.dataset} is not prepared; python -m trainables.data {trial.dataset}"
            lines += [line] if line not in lines else []
    with tempfile.TemporaryDirectory() as scratch:

        def folder(name: str) -> str:  # embedded ones are prepared, but a plan leaves nothing behind
            return str(data_dir if data.fingerprint(name, data_dir) is not None else scratch)

        asked = {
            "threads": grant.threads,
            "gpu": bool(grant.gpus),
            "trials": [{"params": t.to_params(), "data_dir": folder(t.dataset)} for t in kinds.values()],
        }
        answers = _measure(asked, grant) if kinds else []
    for trial, answer in zip(kinds.values(), answers, strict=False):
        name = f"{trial.dataset}/{trial.backbone}/{trial.precision} {trial.arm}"
        if "error" in answer:
            lines.append(f"not probed: {name}: {answer['error']}")
            continue
        sizes = data.check([trial], data_dir)[trial]
        evaluated = TRAIN_PASSES * answer["labelled"] + TEST_PASSES * answer["test"]
        validation = sizes.validation * answer["evaluate_seconds"] / evaluated
        epoch = sizes.epoch / answer["images_per_second"] + validation
        evaluate_seconds = answer["evaluate_seconds"] * _evaluated(sizes) / evaluated
        forecast.learn(trial, sizes, epoch * trial.epochs, evaluate_seconds)
        speed = answer["images_per_second"]
        lines.append(f"probed: {name}: {speed:.{0 if speed >= 100 else 1}f} images/s")
    return lines


def wall_seconds(seconds: Iterable[float], slots: int) -> float:
    """How long trials take together: each is begun, in this order, as soon as a place is free."""
    free = [0.0] * slots
    end = 0.0
    for needed in seconds:
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + needed + BETWEEN)
        end = max(end, begin + needed)
    return STARTUP + end


def fitting(seconds: Iterable[float], slots: int, budget: float) -> int:
    """How many of the trials would end within `budget` seconds; one that would not is not begun."""
    free, count = [STARTUP] * slots, 0
    for needed in seconds:
        if free[0] + needed <= budget:
            heapq.heapreplace(free, free[0] + needed + BETWEEN)
            count += 1
    return count


def describe(
    forecast: Forecast,
    trials: Sequence[tuple[TrialConfig, int]],
    grant: Grant,
    budget: float | None = None,
) -> list[str]:
    """What is expected of the trials that would run, in lines for people.

    Args:
        forecast: of them.
        trials: in the order of running, each with the epochs that are trained already.
        grant: what each gets.
        budget: seconds; None: no limit.
    """
    if not trials:
        return []
    expected = [forecast.seconds(trial, done) for trial, done in trials]
    known = [seconds for seconds in expected if seconds is not None]
    lines = []
    if known:
        device = "GPU" if grant.gpus else "CPU"
        share = grant.gpus or grant.threads
        wall = ""
        if grant.slots:
            together = f"{grant.slots} trials at once" if grant.slots > 1 else "one trial at a time"
            wall = f"{shown(wall_seconds(known, grant.slots))}, {together}; "
        of_device = f"{shown(share * sum(known))} of {device} time"
        measured = forecast.count(trial for trial, _ in trials)
        lines.append(f"forecast: {wall}{of_device} (from {measured} that were measured)")
    if unknown := forecast.unknown(trial for trial, _ in trials):
        kinds = ", ".join(dict.fromkeys("/".join(map(str, _group(trial))) for trial in unknown))
        lines.append(
            f"no forecast for {len(unknown)} of them: none of {kinds} has been measured on such a machine;"
            " --plan --probe does it"
        )
    if budget and known and grant.slots:
        count = fitting(known, grant.slots, budget)
        lines.append(f"a budget of {shown(budget)} buys {count} of {len(known)} trials")
    return lines


def compare(expected: float, actual: float) -> str:
    """Forecast against what it was, in a line for people."""
    return f"forecast: {shown(expected)}, took {shown(actual)} ({(actual - expected) / expected:+.0%})"


def shown(seconds: float) -> str:
    """`8.3 s`, `4 min 10 s`, `5 h 02 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _measure(asked: Mapping[str, object], grant: Grant) -> list[dict[str, Any]]:
    """What `trainables.probe` answers, on average over processes that work side by side."""
    command = [sys.executable, "-m", "trainables.probe"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = grant.slots or 1

    def ask(number: int) -> list[dict[str, Any]]:
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(grant.threads)}
        if grant.gpus and "CUDA_VISIBLE_DEVICES" not in environment:
            environment["CUDA_VISIBLE_DEVICES"] = str(int(number * grant.gpus))  # as Ray packs them
        question = json.dumps(asked)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, input=question, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(processes) as threads:
        answers = list(threads.map(ask, range(processes)))
    return [_mean(of_trial) for of_trial in zip(*answers, strict=False)]


def _mean(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of several processes' answers about one trial, or the first error."""
    for answer in answers:
        if "error" in answer:
            return answer
    return {
        name: statistics.mean(answer[name] for answer in answers)
        for name, value in answers[0].items()
        if not isinstance(value, str)
    }


def _group(trial: TrialConfig) -> tuple[object, ...]:
    return tuple(getattr(trial, name) for name in SAME)


def _kind(trial: TrialConfig) -> str:
    """What sets apart trials that take different time an image."""
    return f"siamese with {trial.term}" if trial.uses("term") else trial.method


def _views(trial: TrialConfig) -> int:
    return 2 if two_views(trial) else 1


def _evaluated(sizes: Sizes) -> int:
    return TRAIN_PASSES * sizes.train + TEST_PASSES * sizes.test


def _similarity(trial: TrialConfig, other: TrialConfig) -> tuple[bool, int]:
    equal = sum(getattr(trial, name) == getattr(other, name) for name in FIELDS if name != "seed")
    return _kind(trial) == _kind(other), equal
