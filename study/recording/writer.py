"""From what workers report to the ledger: one thread writes, nobody waits for it.

Ray Tune's callbacks put events into a queue and return; this thread takes them out, batch by batch. While
the store does not answer, it tries again; results are safe in their bundles meanwhile.
"""

import contextlib
import itertools
import json
import queue
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping

from study.ledger.ledger import Ledger
from study.ledger.records import DATA
from study.recording.events import (
    EpochDone,
    Event,
    Failed,
    Found,
    Interrupted,
    Pruned,
    Repeated,
    Resumed,
    Started,
    Succeeded,
)
from trainables.redact import first_line
from trainables.storage.bundles import Bundle, bundle_keys, delete_bundle, read_bundle
from trainables.storage.checkpoints import checkpoint_keys, delete_checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import PROTOCOL, TrialConfig

NO_TAGS: Mapping[str, str] = types.MappingProxyType({})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two attempts to reach a silent store: doubled from the first to the longest."""


class LedgerWriter:
    """The one writer of a ledger, in a thread of its own.

    Args:
        ledger: opened (and created, where missing) by the thread at its first event.
        storage: where the bundles are.
        on_finished: called from the thread when the ledger has all of a trial.
        on_lost: called from the thread with a trial whose bundle cannot be read, and why.
        on_trouble: called from the thread with a line for people, once each time the store stops answering.
        may_write: asked from the thread before it writes; where it says no, all the rest is given up.
    """

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        *,
        on_finished: Callable[[Bundle], None] = lambda bundle: None,
        on_lost: Callable[[TrialConfig, str], None] = lambda config, reason: None,
        on_trouble: Callable[[str], None] = lambda line: None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """Start the thread."""
        self._ledger = ledger
        self._storage = storage
        self._on_finished = on_finished
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self._may_write = may_write
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._runs: dict[str, str] = {}
        self._logged: dict[str, int] = {}
        self._deadline = float("inf")
        self._closing = threading.Event()
        self._opened = False
        self.lost = 0
        """Events given up at the end because the store did not answer."""
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Hand over an event; returns at once."""
        self._queue.put(event)

    def close(self, patience: float = 60.0) -> None:
        """Write what is left, then end; give up on a silent store after about `patience` seconds."""
        self._deadline = time.monotonic() + patience
        self._closing.set()
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
        while not self.lost and self._may_write():  # given up once is given up
            try:
                if not self._opened:
                    self._ledger.open()
                    self._ledger.kill_orphans()
                    self._opened = True
                self._write(batch)
            except Exception as error:  # whatever the store raises, training goes on
                if pause == FIRST_PAUSE:
                    line = f"the ledger does not take results, trying again: {first_line(error)}"
                    _tell(self._on_trouble, line)
                if time.monotonic() + FIRST_PAUSE > self._deadline:
                    break
                # Once closing, the pauses are short: somebody waits.
                if self._closing.wait(pause):
                    time.sleep(FIRST_PAUSE)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                return
        self.lost += len(batch)

    def _write(self, batch: list[Event]) -> None:
        match batch[0]:
            case Started(config, tags, timestamp):
                self._know(config, self._ledger.begin(config, tags, timestamp))
            case Resumed(config, rows):
                self._log_rows(config, list(rows))
            case EpochDone(config):
                self._log_rows(config, [event.row for event in batch if isinstance(event, EpochDone)])
            case Succeeded(config):
                self._finish(config)
            case Failed(config, reason, traceback):
                self._ledger.fail(self._run_id(config), reason, traceback)
            case Pruned(config, row):
                self._ledger.prune(self._run_id(config), int(row["epoch"]))
            case Found(_, run_id, tags):
                self._ledger.tag(run_id, tags)
            case Interrupted(config):
                if config.key in self._runs:
                    self._ledger.kill(self._runs[config.key])
            case Repeated():
                pass  # its run stays as it is: the next attempt begins in a moment

    def _know(self, config: TrialConfig, run_id: str) -> str:
        self._logged[run_id] = self._ledger.logged_epochs(run_id)
        self._runs[config.key] = run_id
        return run_id

    def _run_id(self, config: TrialConfig, tags: Mapping[str, str] = NO_TAGS) -> str:
        return self._runs.get(config.key) or self._know(config, self._ledger.run_of(config, tags))

    def _log_rows(self, config: TrialConfig, rows: list[Mapping[str, float]]) -> None:
        """Log the rows of epochs that the run does not have yet: each epoch is one point."""
        run_id = self._run_id(config)
        new = [row for row in rows if row["epoch"] > self._logged[run_id]]
        if new:
            self._ledger.log_epochs(run_id, new)
            self._logged[run_id] = int(new[-1]["epoch"])

    def _finish(self, config: TrialConfig) -> None:
        """Log all of a bundle, mark its run FINISHED, delete it."""
        try:
            bundle = read_bundle(self._storage, config.key)
        except (FileNotFoundError, ValueError) as error:
            self._give_up(config, error)
            return
        run_id = self._run_id(config, bundle.tags)
        self._log_rows(config, list(bundle.result.history))
        timestamp = int(bundle.result.history[-1]["timestamp"])
        about = {"key": config.key, "protocol": PROTOCOL, **config.to_params()}
        artifacts = {"config.json": json.dumps(about, indent=2).encode(), **bundle.result.artifacts}
        self._ledger.finish(run_id, bundle.result.metrics, artifacts, timestamp)
        delete_checkpoints(self._storage, config.key)
        delete_bundle(self._storage, config.key)
        _tell(self._on_finished, bundle)

    def _give_up(self, config: TrialConfig, error: Exception) -> None:
        """A bundle that cannot be read: the same command will train its trial again."""
        run_id = self._run_id(config)
        if self._ledger.is_finished(run_id):
            return  # written before, by an attempt whose last answer was lost
        self._ledger.kill(run_id)
        if isinstance(error, ValueError):
            delete_bundle(self._storage, config.key)
            reason = str(error)
        else:
            reason = f"results/{config.key}.zip is not there: all nodes must see --storage as the same folder"
        _tell(self._on_lost, config, reason)


def log_waiting_bundles(ledger: Ledger, storage: Storage, say: Callable[[str], None]) -> None:
    """Log results that were trained but not logged, because a driver died or the ledger was away.

    For the driver that holds the lock, before it plans.

    Args:
        ledger: gets them.
        storage: where bundles are.
        say: gets a line for people for each.
    """
    waiting, saved = bundle_keys(storage), checkpoint_keys(storage)
    if not (waiting or saved):
        return
    records = ledger.trials({*waiting, *saved})
    for key in saved:
        if key in records and records[key].status == "FINISHED":
            delete_checkpoints(storage, key)  # saved by a worker that outlived its driver
    if not waiting:
        return
    writer = LedgerWriter(
        ledger,
        storage,
        on_finished=lambda bundle: say(f"logged what was waiting: {bundle.config.name}"),
        on_trouble=say,
    )
    for key in waiting:
        try:
            bundle = read_bundle(storage, key)
        except ValueError as error:
            say(f"{error}; it will be trained again")
            delete_bundle(storage, key)
            continue
        record = records.get(key)
        same_data = record is not None and record.tags.get(DATA) == bundle.tags.get(DATA)
        if record is not None and record.status == "FINISHED" and same_data:
            delete_bundle(storage, key)  # its driver died between the last two steps
        else:
            writer.put(Succeeded(bundle.config))
    writer.close()


def _tell(listener: Callable[..., None], *what: object) -> None:
    # A console that is gone (rich raises SystemExit for a closed pipe) must not stop the ledger.
    with contextlib.suppress(Exception, SystemExit):
        listener(*what)


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
