"""From what workers report to the ledger: one thread writes, nobody waits for it.

Ray Tune's callbacks put events into a queue and return; this thread takes them out, batch by batch. While
the store does not answer, it tries again; results are safe in their bundles meanwhile.
"""

import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from study.ledger import Ledger
from trainables.checkpoint import Bundle, Storage, delete_bundle, read_bundle
from trainables.trial import PROTOCOL, TrialConfig

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two attempts to reach a silent store: doubled from the first to the longest."""


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun with the trial."""

    config: TrialConfig
    tags: Mapping[str, str]
    timestamp: int
    """ms since 1970."""


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch's row of the history."""

    config: TrialConfig
    row: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The trial's result bundle lies on storage."""

    config: TrialConfig


@dataclass(frozen=True, slots=True)
class Failed:
    """The trial has failed for good."""

    config: TrialConfig
    reason: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Nobody runs the trial any more; it can be gone on with."""

    config: TrialConfig


Event = Started | EpochDone | Succeeded | Failed | Interrupted


class LedgerWriter:
    """The one writer of a ledger, in a thread of its own.

    Args:
        ledger: opened (and created, where missing) by the thread at its first event.
        storage: where the bundles are.
        tags: given to every run.
        on_finished: called from the thread when the ledger has all of a trial.
        on_trouble: called from the thread with a line for people, once each time the store stops answering.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        tags: Mapping[str, str],
        *,
        on_finished: Callable[[Bundle], None] = lambda bundle: None,
        on_trouble: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start the thread."""
        self._ledger = ledger
        self._storage = storage
        self._tags = tags
        self._on_finished = on_finished
        self._on_trouble = on_trouble
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._runs: dict[str, str] = {}
        self._logged: dict[str, int] = {}
        self._deadline = float("inf")
        self._opened = False
        self.lost = 0
        """Events given up at the end because the store did not answer."""
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand over an event; returns at once."""
        self._queue.put(event)

    def close(self, patience: float = 60.0) -> None:
        """Write what is left, then end; give up on a silent store after `patience` seconds."""
        self._deadline = time.monotonic() + patience
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            events = [self._queue.get()]
            while not self._queue.empty():
                events.append(self._queue.get())
            ended = None in events
            for batch in _batches([event for event in events if event is not None]):
                self._persist(batch)

    def _persist(self, batch: list[Event]) -> None:
        """Write events of one trial, trying again until it works or the deadline is over."""
        pause = FIRST_PAUSE
        while True:
            try:
                if not self._opened:
                    self._ledger.open()
                    self._ledger.kill_orphans()
                    self._opened = True
                finished = self._write(batch)
            except Exception as error:  # whatever the store raises, training goes on
                if pause == FIRST_PAUSE:
                    line = (str(error).splitlines() or [type(error).__name__])[0]
                    self._on_trouble(f"the ledger does not take results, trying again: {line}")
                if time.monotonic() + pause > self._deadline:
                    self.lost += len(batch)
                    return
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                if finished is not None:
                    self._on_finished(finished)
                return

    def _write(self, batch: list[Event]) -> Bundle | None:
        """Write a batch; returns the bundle of a trial that is now finished."""
        match batch[0]:
            case Started(config, tags, timestamp):
                self._begin(config, tags, timestamp)
            case EpochDone(config):
                self._log_rows(config, [event.row for event in batch if isinstance(event, EpochDone)])
            case Succeeded(config):
                return self._finish(config)
            case Failed(config, reason, traceback):
                self._ledger.fail(self._run_id(config), reason, traceback)
            case Interrupted(config):
                if config.key in self._runs:
                    self._ledger.kill(self._runs[config.key])
        return None

    def _begin(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        run_id = self._ledger.begin(config, {**self._tags, **tags}, started)
        self._runs[config.key] = run_id
        self._logged[run_id] = self._ledger.logged_epochs(run_id)
        return run_id

    def _run_id(self, config: TrialConfig) -> str:
        return self._runs.get(config.key) or self._begin(config, {})

    def _log_rows(self, config: TrialConfig, rows: list[Mapping[str, float]]) -> None:
        """Log the rows of epochs that the run does not have yet: each epoch is one point."""
        run_id = self._run_id(config)
        new = [row for row in rows if row["epoch"] > self._logged[run_id]]
        if new:
            self._ledger.log_epochs(run_id, new)
            self._logged[run_id] = int(new[-1]["epoch"])

    def _finish(self, config: TrialConfig) -> Bundle | None:
        try:
            bundle = read_bundle(self._storage, config.key)
        except (FileNotFoundError, ValueError) as error:
            self._ledger.fail(self._run_id(config), str(error), "")
            delete_bundle(self._storage, config.key)
            return None
        if config.key not in self._runs:
            self._begin(config, bundle.tags)
        self._log_rows(config, list(bundle.result.history))
        timestamp = int(bundle.result.history[-1]["timestamp"])
        about = {"key": config.key, "protocol": PROTOCOL, **config.to_params()}
        artifacts = {"config.json": json.dumps(about, indent=2).encode(), **bundle.result.artifacts}
        self._ledger.finish(self._runs[config.key], bundle.result.metrics, artifacts, timestamp)
        delete_bundle(self._storage, config.key)
        return bundle


def _batches(events: list[Event]) -> Iterator[list[Event]]:
    """Events trial by trial, in order within a trial; epochs in a row together, the others alone."""
    by_trial: dict[str, list[Event]] = {}
    for event in events:
        by_trial.setdefault(event.config.key, []).append(event)
    for trial in by_trial.values():
        for together, group in itertools.groupby(trial, key=lambda event: isinstance(event, EpochDone)):
            if together:
                yield list(group)
            else:
                yield from ([event] for event in group)
