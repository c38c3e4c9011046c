"""One thread writes what workers report into the ledger; nobody waits for it.

Ray Tune's callbacks put events into a queue and return. While the store does not answer, the thread retries;
the results are safe in their bundles meanwhile.
"""

import contextlib
import itertools
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from study.ledger.ledger import Ledger
from study.ledger.records import DATA_TAG
from study.recording import events
from study.recording.events import Event
from trainables.redact import first_line
from trainables.storage.bundles import (
    Bundle,
    CodeNotLoaded,
    bundle_keys,
    delete_bundle,
    delete_half_written,
    read_bundle,
)
from trainables.storage.checkpoints import checkpoint_keys, delete_checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import PROTOCOL, TrialConfig

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts to reach a silent store; each pause is twice the one before."""


@dataclass(kw_only=True)
class LedgerWriter:
    """The only writer of a ledger; it works, and calls its callbacks, in a separate thread.

    The ledger is opened (and created, where missing) at the first event. Once `may_write` returns False, all
    remaining events are dropped; `lost` counts those dropped because the store did not answer until the end.

    Attributes:
        on_opened: called when the ledger is open, before anything is written; what it raises is the store's.
        on_finished: called when the ledger has all of a trial.
        on_lost: called with a trial whose bundle cannot be read, and the reason.
        on_trouble: called with a line for people each time the store stops answering.
        on_written: called whenever the ledger has taken something.
    """

    ledger: Ledger
    storage: Storage
    on_opened: Callable[[], None] = lambda: None
    on_finished: Callable[[Bundle], None] = lambda bundle: None
    on_lost: Callable[[TrialConfig, str], None] = lambda config, reason: None
    on_trouble: Callable[[str], None] = lambda line: None
    on_written: Callable[[], None] = lambda: None
    may_write: Callable[[], bool] = lambda: True
    lost: int = field(default=0, init=False)
    _queue: queue.SimpleQueue[Event | None] = field(default_factory=queue.SimpleQueue, init=False)
    _run_ids: dict[str, str] = field(default_factory=dict, init=False)
    _logged: dict[str, int] = field(default_factory=dict, init=False)
    _deadline: float = field(default=math.inf, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _opened: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Add an event to the queue; returns at once."""
        self._queue.put(event)

    def close(self, patience: float = 60.0) -> None:
        """Write the remaining events, then end; give up on a silent store after about `patience` seconds."""
        self._deadline = time.monotonic() + patience
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        ended = False
        while not ended:
            received = [self._queue.get()]
            while not self._queue.empty():
                received.append(self._queue.get())
            ended = None in received
            for batch in _batches([event for event in received if event is not None]):
                self._persist(batch)
        if self._run_ids:
            self._persist([])

    def _persist(self, batch: list[Event]) -> None:
        """Write events of one trial, retrying until it works or the deadline has passed; see `_write`."""
        pause = FIRST_PAUSE
        while not self.lost and self.may_write():  # after the first loss, the rest is dropped, too
            try:
                if not self._opened:
                    self.ledger.open()
                    self.ledger.kill_orphans()
                    self.on_opened()
                    self._opened = True
                self._write(batch)
            except Exception as error:  # whatever the store raises, training continues
                if pause == FIRST_PAUSE and self.may_write():
                    line = f"the ledger does not take results, trying again: {first_line(error)}"
                    _notify(self.on_trouble, line)
                if time.monotonic() + FIRST_PAUSE > self._deadline:
                    break
                # Pauses are short once `close` is waiting.
                if self._closing.wait(pause):
                    time.sleep(FIRST_PAUSE)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                _notify(self.on_written)
                return
        self.lost += len(batch)

    def _write(self, batch: list[Event]) -> None:
        """Write events of one trial; none at all: what is left at the end.

        All trials have ended then. A run that is not marked so was made by a request that arrived when it
        had long been repeated.
        """
        if not batch:
            self.ledger.kill_orphans()
            return
        match batch[0]:
            case events.Started(config, tags, timestamp):
                self._remember(config, self.ledger.begin(config, tags, timestamp))
            case events.Resumed(config, rows):
                self._log_rows(config, list(rows))
            case events.Noted(config, _, tags):
                self.ledger.tag(self._run_id(config), tags)
            case events.EpochDone(config):
                self._log_rows(config, [event.row for event in batch if isinstance(event, events.EpochDone)])
            case events.Succeeded(config):
                self._finish(config)
            case events.Failed(config, reason, traceback):
                self.ledger.fail(self._run_id(config), reason, traceback)
            case events.Pruned(config, row):
                self.ledger.prune(self._run_id(config), int(row["epoch"]))
            case events.CacheHit(_, run_id, tags):
                self.ledger.tag(run_id, tags)
            case events.Interrupted(config):
                if config.key in self._run_ids:
                    self.ledger.kill(self._run_ids[config.key])
            case events.Retrying():
                pass  # the next attempt begins in a moment, under the same run

    def _remember(self, config: TrialConfig, run_id: str) -> str:
        self._logged[run_id] = self.ledger.logged_epochs(run_id)
        self._run_ids[config.key] = run_id
        return run_id

    def _run_id(self, config: TrialConfig, tags: Mapping[str, str] | None = None) -> str:
        known = self._run_ids.get(config.key)
        return known or self._remember(config, self.ledger.ensure_run(config, tags or {}))

    def _log_rows(self, config: TrialConfig, rows: list[Mapping[str, float]]) -> None:
        """Log the rows of epochs that the run does not have yet."""
        run_id = self._run_id(config)
        new = [row for row in rows if row["epoch"] > self._logged[run_id]]
        if new:
            self.ledger.log_epochs(run_id, new)
            self._logged[run_id] = int(new[-1]["epoch"])

    def _finish(self, config: TrialConfig) -> None:
        """Log a bundle's contents, mark its run FINISHED, then delete the bundle."""
        try:
            bundle = read_bundle(self.storage, config.key)
        except (FileNotFoundError, ValueError) as error:
            self._report_lost(config, error)
            return
        run_id = self._run_id(config, bundle.tags)
        self._log_rows(config, list(bundle.result.history))
        timestamp = int(bundle.result.history[-1]["timestamp"])
        identity = {"key": config.key, "protocol": PROTOCOL, **config.to_params()}
        artifacts = {"config.json": json.dumps(identity, indent=2).encode(), **bundle.result.artifacts}
        self.ledger.finish(run_id, bundle.result.metrics, artifacts, timestamp)
        delete_checkpoints(self.storage, config.key)
        delete_bundle(self.storage, config.key)
        _notify(self.on_finished, bundle)

    def _report_lost(self, config: TrialConfig, error: Exception) -> None:
        """Handle a bundle that cannot be read: the next invocation will train its trial again."""
        run_id = self._run_id(config)
        if self.ledger.is_finished(run_id):
            return  # written by an earlier try whose last answer was lost
        self.ledger.kill(run_id)
        if isinstance(error, ValueError):
            delete_bundle(self.storage, config.key)
            reason = str(error)
        else:
            reason = f"results/{config.key}.zip is not there: all nodes must see --storage as the same folder"
        _notify(self.on_lost, config, reason)


def log_waiting_bundles(ledger: Ledger, storage: Storage, say: Callable[[str], None]) -> None:
    """Log bundles that an earlier driver left, because it died or the ledger did not answer.

    Only for the driver that holds the lock, before it plans. `say` gets a line for people for each bundle.
    """
    delete_half_written(storage)
    waiting, saved = bundle_keys(storage), checkpoint_keys(storage)
    if not (waiting or saved):
        return
    records = ledger.trials()
    for key in saved:
        if key in records and records[key].status == "FINISHED":
            delete_checkpoints(storage, key)  # a worker outlived its driver
    if not waiting:
        return
    writer = LedgerWriter(
        ledger=ledger,
        storage=storage,
        on_finished=lambda bundle: say(f"logged what was waiting: {bundle.config.name}"),
        on_trouble=say,
    )
    for key in waiting:
        try:
            bundle = read_bundle(storage, key)
        except CodeNotLoaded as error:
            say(f"{error}: it waits")
            continue
        except ValueError as error:
            say(f"{error}; it will be trained again")
            delete_bundle(storage, key)
            continue
        record = records.get(key)
        same_data = record is not None and record.tags.get(DATA_TAG) == bundle.tags.get(DATA_TAG)
        if record is not None and record.status == "FINISHED" and same_data:
            delete_bundle(storage, key)  # its driver died just before deleting it
        else:
            writer.put(events.Succeeded(bundle.config))
    writer.close()


def _notify(listener: Callable[..., None], *what: object) -> None:
    # A closed console must not stop the ledger; rich raises SystemExit for a closed pipe.
    with contextlib.suppress(Exception, SystemExit):
        listener(*what)


def _batches(received: list[Event]) -> Iterator[list[Event]]:
    """Events trial by trial, in order within a trial; consecutive epochs form one batch."""
    by_trial: dict[str, list[Event]] = {}
    for event in received:
        by_trial.setdefault(event.config.key, []).append(event)
    for trial in by_trial.values():
        for kind, group in itertools.groupby(trial, key=type):
            batch = list(group)
            yield from [batch] if kind is events.EpochDone else ([event] for event in batch)
