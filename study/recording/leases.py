"""The lease of an experiment behind a server: who may write to it, and until when."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from study.ledger.ledger import Ledger
from study.ledger.records import LEASE_TAG, RELEASED
from study.ledger.tracking_uri import LedgerError
from study.recording.fence import Fence, now
from study.recording.holders import LockHeld, describe_holder, parse, this_process

HEARTBEAT = 5.0
"""Seconds between two heartbeats of a lease."""
DEAD_AFTER = 45.0
"""Seconds without a heartbeat after which the holder of a lease counts as dead."""
SLOW = 3.0
"""Seconds after which the store counts as slow: heartbeats may be delayed, too."""
SETTLE = 1.0
"""Seconds after which two drivers that ask at the same moment see each other."""


@dataclass(frozen=True, order=True, slots=True)
class Lease:
    """A run of `kind=lock`: a driver that works on the experiment, or waits to; older ones are smaller."""

    started: int
    """By the driver's own clock, ms since 1970."""
    run_id: str
    tags: Mapping[str, str] = field(compare=False)

    @property
    def held(self) -> bool:
        """Whether its driver works on the experiment."""
        return self.tags.get(LEASE_TAG) == "held"


@contextlib.contextmanager
def lease(
    ledger: Ledger, *, wait: Callable[[str], None] | None = None, on_lost: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lease of an experiment; arguments and errors as in `driver_locks`.

    A driver that wants it creates a run, waits, and reads all leases: a holder keeps it, otherwise the oldest
    wins. Heartbeats tell whether a rival is alive, not clocks, which differ between machines.
    """
    ledger.open()
    own = Ledger(uri=ledger.uri, experiment=ledger.experiment, artifact_root=ledger.artifact_root)
    by = json.dumps(this_process())
    mine = create_lease(own, {LEASE_TAG: "asking", "lock.beat": "0", "lock.by": by})
    fence, stop = Fence(), threading.Event()
    heart = threading.Thread(target=_beat, args=(own, mine, fence, stop, on_lost), name="lease", daemon=True)
    heart.start()
    try:
        _acquire(own, mine, wait)
        with own.store.asking():
            own.kill_orphans()  # before anybody reads what late requests have left
        ledger.driver, ledger.store.guard = mine, fence.check
        yield
    finally:
        ledger.driver = ledger.store.guard = None
        stop.set()
        fence.wanted.set()
        heart.join(HEARTBEAT)  # a thread that the store blocks for longer ends with the process
        with contextlib.suppress(Exception):  # a store that does not answer: the lease expires
            if fence.lost or update_lease(own, mine, {LEASE_TAG: RELEASED}):
                own.delete_runs([mine])


def create_lease(ledger: Ledger, tags: Mapping[str, str]) -> str:
    """Create a lease with these tags; returns its run's id."""
    with ledger.store.asking():
        tags = {"kind": "lock", **tags}
        run = ledger.client.create_run(ledger.experiment_id, tags=tags, run_name="driver at work")
    return str(run.info.run_id)


def read_leases(ledger: Ledger) -> dict[str, Lease]:
    """All leases of the experiment, by the id of their run."""
    runs = ledger.store.search("tags.kind = 'lock'")
    return {run.info.run_id: Lease(int(run.info.start_time), run.info.run_id, run.data.tags) for run in runs}


def update_lease(ledger: Ledger, run_id: str, tags: Mapping[str, str]) -> bool:
    """Set tags of a lease; False if it was deleted. LedgerError where the store does not answer."""
    with ledger.store.asking():
        if ledger.client.get_run(run_id).info.lifecycle_stage != "active":
            return False
        for name, value in tags.items():
            ledger.client.set_tag(run_id, name, value)  # an error if it was deleted meanwhile
    return True


def _beat(
    ledger: Ledger, mine: str, fence: Fence, stop: threading.Event, on_lost: Callable[[], None]
) -> None:
    """Send heartbeats until stopped; the store may be away for a while."""
    count = 0
    while True:
        fence.wanted.wait(HEARTBEAT)
        fence.wanted.clear()
        if stop.is_set():
            return
        count += 1
        try:
            leases = read_leases(ledger)
            ours = leases.get(mine)
            held = [lease for lease in leases.values() if lease.held]
            lost = ours is None or (ours.held and min(held) < ours)
            if not lost:
                asked = now()
                lost = not update_lease(ledger, mine, {"lock.beat": str(count)})
        except LedgerError:
            stop.wait(SETTLE)  # who waits at the fence would have it tried again at once
            continue
        if not lost:
            fence.prove(asked)
        elif not stop.is_set():
            try:
                on_lost()
            finally:
                fence.lose()
            return


def _acquire(ledger: Ledger, mine: str, wait: Callable[[str], None] | None) -> None:
    """Return once the lease is ours; leases of dead drivers are deleted on the way."""
    announced = False
    while True:
        try:
            rival = _find_rival(ledger, mine)
            if rival is None:
                return
            alive = _is_alive(ledger, rival)
            if alive is False:
                ledger.delete_runs([rival.run_id])
            if not alive:
                continue
        except LedgerError:
            if wait is None:
                raise
            continue  # waiting includes waiting for the store
        holder = describe_holder(rival.tags.get("lock.by", "{}"))
        in_use = f"--experiment: {ledger.experiment} is in use by {holder}"
        if wait is None:
            raise LockHeld(f"{in_use}; wait for it with --wait, or take another")
        if not announced:
            wait(f"{in_use}: waiting")
            announced = True


def _find_rival(ledger: Ledger, mine: str) -> Lease | None:
    """The lease that takes precedence over ours; None where ours has become the held one.

    Runs may become visible late, and requests may take long. So a holder checks again, and two that both see
    themselves as holders go back to asking, where the older one wins.
    """
    time.sleep(SETTLE)
    leases = read_leases(ledger)
    ours = leases.pop(mine, None)
    if ours is None:
        raise LockHeld("--experiment: another driver took this one for dead and works on it now")
    others = [lease for lease in leases.values() if lease.tags.get(LEASE_TAG) != RELEASED]
    rivals = [lease for lease in others if lease.held] or [lease for lease in others if lease < ours]
    if rivals:
        return min(rivals)
    update_lease(ledger, mine, {LEASE_TAG: "held"})
    time.sleep(SETTLE)
    holders = [lease for lease in read_leases(ledger).values() if lease.held and lease.run_id != mine]
    if not holders:
        return None
    update_lease(ledger, mine, {LEASE_TAG: "asking"})
    return min(holders)


def _is_alive(ledger: Ledger, rival: Lease) -> bool | None:
    """Whether a rival sends a heartbeat before it counts as dead; None where its lease is gone.

    While the store itself is slow, a missing heartbeat proves nothing.
    """
    process = parse(rival.tags.get("lock.by", "{}"))
    on_this_machine = process.get("namespace") and process["namespace"] == this_process()["namespace"]
    if on_this_machine and not Path(f"/proc/{process.get('pid')}").exists():
        return False
    deadline = time.monotonic() + DEAD_AFTER
    while time.monotonic() < deadline:
        time.sleep(SETTLE)
        asked = time.monotonic()
        current = read_leases(ledger).get(rival.run_id)
        if time.monotonic() - asked > SLOW:
            deadline = time.monotonic() + DEAD_AFTER
        if current is None:
            return None
        if current.tags.get("lock.beat") != rival.tags.get("lock.beat"):
            return True
    return False
