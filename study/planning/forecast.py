"""How long trials will take, from trials that were measured.

A trial is expected to take as long as the most similar measured ones, in proportion to the images: each image
of each view in training, and each image of each pass in evaluation. Only trials with the same dataset,
backbone and precision count, and only those with a matching `Allocation`.
"""

import contextlib
import heapq
import statistics
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.ledger.records import TrialRecord
from trainables import data
from trainables.allocation import Allocation
from trainables.catalogue import TERMS
from trainables.data import Sizes
from trainables.datasets.sources import DataError
from trainables.metrics import TEST_PASSES, TRAIN_PASSES
from trainables.trial import FIELDS, TrialConfig, two_views

STARTUP = 12.0
"""Seconds until Ray has started and its workers have imported PyTorch (two cores of an AMD EPYC)."""
BETWEEN = 0.3
"""Seconds between two trials of a worker (likewise)."""
COMPARABLE = ("dataset", "backbone", "precision")
"""Fields in which a trial must equal the measured ones."""
Group = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Measurement:
    """Seconds for an image of a view in training, and for an image of a pass in evaluation."""

    config: TrialConfig
    train: float
    evaluate: float


class Forecast:
    """Seconds that trials will take. Threads may learn and ask at the same time."""

    def __init__(self, sizes: Mapping[TrialConfig, Sizes]) -> None:
        """Nothing is measured yet; `sizes` has those of trials that will be asked for."""
        self._sizes = dict(sizes)
        self._lock = threading.Lock()
        self._measured: dict[Group, list[_Measurement]] = {}
        self._rates: dict[Group, tuple[float, float]] = {}  # of trials that differ only in the seed

    def add_sizes(self, trial: TrialConfig, data_dir: Path) -> None:
        """Look up the sizes of a trial where they are not known yet."""
        if trial not in self._sizes:
            self._sizes.update(data.check([trial], data_dir))

    def learn(self, config: TrialConfig, sizes: Sizes, train_seconds: float, evaluate_seconds: float) -> None:
        """Take in a measurement: `epochs` epochs of training (validation included), and the evaluation."""
        images = passes(config) * sizes.epoch * config.epochs
        measured = _Measurement(config, train_seconds / images, evaluate_seconds / evaluated_images(sizes))
        with self._lock:
            self._measured.setdefault(group_of(config), []).append(measured)
            self._rates.clear()

    def learn_finished(self, config: TrialConfig, metrics: Mapping[str, float]) -> None:
        """Take in a finished trial, if its sizes are known."""
        if config in self._sizes:
            seconds = (metrics.get(f"{part}_seconds", 0.0) for part in ("train", "evaluate"))
            self.learn(config, self._sizes[config], *seconds)

    def count(self, trials: Iterable[TrialConfig]) -> int:
        """How many measured trials are comparable with any of these."""
        return sum(len(self._measured.get(group, ())) for group in {group_of(trial) for trial in trials})

    def unknown(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        """The trials for which nothing comparable was measured."""
        return [trial for trial in trials if group_of(trial) not in self._measured]

    def unknown_kinds(self, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
        """The trials of whose kind (`kind_of`) none was measured: other kinds may stand in for them."""
        known = {
            (group, kind_of(each.config)) for group, members in self._measured.items() for each in members
        }
        return [trial for trial in trials if (group_of(trial), kind_of(trial)) not in known]

    def seconds(self, trial: TrialConfig, epochs_done: int = 0) -> float | None:
        """How long a trial will take from epoch `epochs_done` on; None: not known."""
        if group_of(trial) not in self._measured:
            return None
        cell = tuple(getattr(trial, name) for name in FIELDS if name != "seed")
        with self._lock:
            if cell not in self._rates:
                measured = self._measured[group_of(trial)]
                scores = [_similarity(trial, other.config) for other in measured]
                best = max(scores)
                similar = [other for other, score in zip(measured, scores, strict=True) if score == best]
                train = statistics.median(other.train for other in similar)
                self._rates[cell] = train, statistics.median(other.evaluate for other in similar)
            train, evaluate = self._rates[cell]
        sizes = self._sizes[trial]
        images = passes(trial) * sizes.epoch * (trial.epochs - epochs_done)
        return train * images + evaluate * evaluated_images(sizes)


def from_records(
    sizes: Mapping[TrialConfig, Sizes], records: Iterable[TrialRecord], allocation: Allocation, data_dir: Path
) -> Forecast:
    """A forecast for trials of these sizes, from the ledger's finished trials with such an allocation."""
    groups = {tuple(str(value) for value in group_of(trial)) for trial in sizes}
    measured = {}
    for record in records:
        group = tuple(record.params.get(name, "") for name in COMPARABLE)
        if record.status == "FINISHED" and group in groups and allocation.matches(record.tags):
            with contextlib.suppress(ValueError):  # trained by another version
                measured[TrialConfig.from_params(record.params)] = record.metrics
    others = [config for config in measured if config not in sizes]
    forecast = Forecast({**sizes, **_known_sizes(others, data_dir)})
    for config, metrics in measured.items():
        forecast.learn_finished(config, metrics)
    return forecast


def _known_sizes(trials: Sequence[TrialConfig], data_dir: Path) -> dict[TrialConfig, Sizes]:
    """Sizes of those trials that still fit their data, which may have changed since."""
    with contextlib.suppress(ValueError, DataError):
        return data.check(trials, data_dir)
    sizes: dict[TrialConfig, Sizes] = {}
    for trial in {tuple(getattr(t, name) for name in data.SIZE_FIELDS): t for t in trials}.values():
        with contextlib.suppress(ValueError, DataError):
            sizes |= data.check([trial], data_dir)
    return sizes


def describe(
    forecast: Forecast,
    trials: Sequence[tuple[TrialConfig, int]],
    allocation: Allocation,
    budget: float | None = None,
    finalists: Sequence[TrialConfig] = (),
) -> list[str]:
    """The forecast in lines for people, for trials in the order of running, each with its trained epochs.

    `finalists` are trained after a search, from the same budget.
    """
    if not trials:
        return []
    expected = [forecast.seconds(trial, done) for trial, done in trials]
    known = [seconds for seconds in expected if seconds is not None]
    lines = []
    if known:
        wall = ""
        if slots := allocation.slots:
            side_by_side = f"{slots} trials at once" if slots > 1 else "one trial at a time"
            wall = f"{format_duration(wall_seconds(known, slots))}, {side_by_side}; "
        device = "GPU" if allocation.gpus else "CPU"
        device_time = format_duration((allocation.gpus or allocation.threads) * sum(known))
        measured = forecast.count(trial for trial, _ in trials)
        lines.append(f"forecast: {wall}{device_time} of {device} time (from {measured} that were measured)")
    if unknown := forecast.unknown(trial for trial, _ in trials):
        groups = ", ".join(dict.fromkeys("/".join(map(str, group_of(trial))) for trial in unknown))
        lines.append(
            f"no forecast for {len(unknown)} of them: none of {groups} is measured yet;"
            " --plan --probe measures it"
        )
    if budget and known and allocation.slots:
        kept = kept_for_finalists(forecast, finalists, allocation.slots, budget)
        count = count_fitting(known, allocation.slots, budget - kept)
        lines.append(
            f"a budget of {format_duration(budget)} buys about {count} of {len(known)} trials"
            f"{f' and {format_duration(kept)} for the finalists' if kept else ''}"
            " (a run goes by the times that it measures)"
        )
    return lines


def describe_time(forecast: Forecast, trials: Sequence[TrialConfig], *, slots: int | None) -> str:
    """`1 h 02 min, 2 trials at once`; empty where something is not known."""
    expected = [forecast.seconds(trial) for trial in trials]
    known = [seconds for seconds in expected if seconds is not None]
    if not slots or len(known) < len(expected):
        return ""
    side_by_side = f"{slots} trials at once" if slots > 1 else "one trial at a time"
    return f"{format_duration(wall_seconds(known, slots))}, {side_by_side}"


def kept_for_finalists(
    forecast: Forecast, finalists: Sequence[TrialConfig], slots: int | None, budget: float
) -> float:
    """Seconds of a search's budget that are kept for its finalists.

    0 where their time is not known, and where it is more than half of the budget: then the search takes
    several calls with a budget each, and the finalists are for the last of them.
    """
    expected = [forecast.seconds(trial) for trial in finalists]
    known = [seconds for seconds in expected if seconds is not None]
    if not slots or not known or len(known) < len(expected):
        return 0.0
    seconds = wall_seconds(known, slots)
    return seconds if seconds <= budget / 2 else 0.0


def wall_seconds(seconds: Iterable[float], slots: int) -> float:
    """How long trials take together: each begins, in this order, as soon as a slot is free."""
    free = [0.0] * slots
    end = 0.0
    for needed in seconds:
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + needed + BETWEEN)
        end = max(end, begin + needed)
    return STARTUP + end


def count_fitting(seconds: Iterable[float], slots: int, budget: float) -> int:
    """How many of the trials would end within `budget` seconds; one that would not is skipped."""
    free, count = [STARTUP] * slots, 0
    for needed in seconds:
        if free[0] + needed <= budget:
            heapq.heapreplace(free, free[0] + needed + BETWEEN)
            count += 1
    return count


def format_duration(seconds: float) -> str:
    """`8.3 s`, `4 min 10 s`, `5 h 02 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def compare(expected: float, actual: float) -> str:
    """A line for people that compares a forecast with the actual time."""
    difference = f"{(actual - expected) / expected:+.0%}"
    return f"forecast: {format_duration(expected)}, took {format_duration(actual)} ({difference})"


def group_of(trial: TrialConfig) -> Group:
    """What a trial and the measured ones must have in common."""
    return tuple(getattr(trial, name) for name in COMPARABLE)


def kind_of(trial: TrialConfig) -> str:
    """What distinguishes trials that take different time per image."""
    return f"{trial.method} with {trial.term}" if trial.uses("term") else trial.method


def passes(trial: TrialConfig) -> float:
    """How often an epoch takes each image through the network, forwards and back."""
    if not two_views(trial):
        return 1.0
    needs = TERMS[trial.term].needs if trial.uses("term") else ()
    # Mixed images are a third view. A target network sees both views forwards, a third of the work.
    return 2.0 + ("mixed" in needs) + 2 / 3 * ("target_z" in needs)


def evaluated_images(sizes: Sizes) -> int:
    """Images that pass through the network for the final metrics."""
    return TRAIN_PASSES * sizes.train + TEST_PASSES * sizes.test


def _similarity(trial: TrialConfig, other: TrialConfig) -> tuple[bool, int]:
    equal = sum(getattr(trial, name) == getattr(other, name) for name in FIELDS if name != "seed")
    return kind_of(trial) == kind_of(other), equal
