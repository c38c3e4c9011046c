"""One driver per experiment at a time, on one machine and through a remote store."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from study.ledger.ledger import Ledger
from study.ledger.tracking_uri import LedgerError
from trainables.redact import plain

HEARTBEAT = 5.0
"""Seconds between two heartbeats of a lease."""
DEAD_AFTER = 45.0
"""Seconds without a heartbeat after which the holder of a lease counts as dead."""
SLOW = 3.0
"""Seconds after which the store counts as slow: heartbeats may be delayed, too."""
SETTLE = 1.0
"""Seconds after which two drivers that ask at the same moment see each other."""


class LockHeld(ValueError):
    """Another driver uses the same output folder, storage or experiment."""


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
        return self.tags.get("lock.state") == "held"


@contextlib.contextmanager
def driver_locks(
    ledger: Ledger,
    output: Path,
    storage: str,
    *,
    wait: Callable[[str], None] | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Be the only driver of an output folder, a ledger and a storage; folders are created where missing.

    A local database is locked with a file beside it, another store with a lease in the experiment, which is
    created where missing. A storage URI cannot be locked.

    `output` is an absolute folder, `storage` one or a URI. `wait` is called with a line that says what
    another driver uses, before waiting for it; None: fail. `on_lost` is called, from another thread, when
    another driver has taken over the lease. LockHeld says which of them another driver uses; LedgerError: the
    ledger does not answer.
    """
    database = ledger.store.sqlite_file
    with contextlib.ExitStack() as stack:
        stack.enter_context(file_lock(output / ".driver.lock", f"--output: {output}", wait=wait))
        if database is None:
            stack.enter_context(lease(ledger, wait=wait, on_lost=on_lost))
        else:
            beside = database.resolve().with_name(f".{database.name}.driver.lock")
            stack.enter_context(file_lock(beside, f"--tracking-uri: {database}", wait=wait))
        if "://" not in storage and Path(storage) != output:
            stack.enter_context(file_lock(Path(storage, ".driver.lock"), f"--storage: {storage}", wait=wait))
        yield


@contextlib.contextmanager
def file_lock(path: Path, resource: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock on this machine (or in a shared folder), which ends with the process at the latest.

    `resource` is what is locked, for messages: an option, a colon, and its value. `wait` and errors as in
    `driver_locks`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    holder = path.with_suffix(".json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            known = holder.read_text()
        except OSError:  # it has not written it yet
            known = "{}"
        in_use = f"{resource} is in use by {describe_holder(known)}"
        if wait is None:
            raise LockHeld(f"{in_use}; wait for it with --wait, or take another") from None
        wait(f"{in_use}: waiting")
        lock.acquire()
    try:
        draft = holder.with_name(f"{holder.name}.{secrets.token_hex(4)}")
        with draft.open("x") as text:
            text.write(json.dumps(_this_process()))
        os.replace(draft, holder)  # never writes into an existing file or through a link
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lease(
    ledger: Ledger, *, wait: Callable[[str], None] | None = None, on_lost: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold the lease of an experiment; arguments and errors as in `driver_locks`.

    A driver that wants it creates a run, waits, and reads all leases: a holder keeps it, otherwise the oldest
    wins. Heartbeats tell whether a rival is alive, not clocks, which differ between machines.
    """
    ledger.open()
    by = json.dumps(_this_process())
    mine = create_lease(ledger, {"lock.state": "asking", "lock.beat": "0", "lock.by": by})
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(ledger, mine, stop, on_lost), name="lease", daemon=True)
    heart.start()
    try:
        _acquire(ledger, mine, wait)
        yield
    finally:
        stop.set()
        heart.join(HEARTBEAT)  # a thread that the store blocks for longer ends with the process
        with contextlib.suppress(Exception):  # a store that does not answer: the lease expires
            ledger.delete_runs([mine])


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


def update_lease(ledger: Ledger, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a lease, unless it was deleted. LedgerError where the store does not answer."""
    with ledger.store.asking():
        if ledger.client.get_run(run_id).info.lifecycle_stage == "active":
            for name, value in tags.items():
                ledger.client.set_tag(run_id, name, value)


def _beat(ledger: Ledger, mine: str, stop: threading.Event, on_lost: Callable[[], None]) -> None:
    """Send heartbeats until stopped; the store may be away for a while."""
    count = 0
    while not stop.wait(HEARTBEAT):
        count += 1
        try:
            leases = read_leases(ledger)
            ours = leases.get(mine)
            held = [lease for lease in leases.values() if lease.held]
            lost = ours is None or (ours.held and min(held) < ours)
            if not lost:
                update_lease(ledger, mine, {"lock.beat": str(count)})
        except LedgerError:
            continue
        if lost and not stop.is_set():
            on_lost()
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
    others = leases.values()
    rivals = [lease for lease in others if lease.held] or [lease for lease in others if lease < ours]
    if rivals:
        return min(rivals)
    update_lease(ledger, mine, {"lock.state": "held"})
    time.sleep(SETTLE)
    holders = [lease for lease in read_leases(ledger).values() if lease.held and lease.run_id != mine]
    if not holders:
        return None
    update_lease(ledger, mine, {"lock.state": "asking"})
    return min(holders)


def _is_alive(ledger: Ledger, rival: Lease) -> bool | None:
    """Whether a rival sends a heartbeat before it counts as dead; None where its lease is gone.

    While the store itself is slow, a missing heartbeat proves nothing.
    """
    process = _parse(rival.tags.get("lock.by", "{}"))
    on_this_machine = process.get("namespace") and process["namespace"] == _this_process()["namespace"]
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


def _this_process() -> dict[str, object]:
    """This driver, for other drivers; process ids are comparable within one `namespace`."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        namespace = None
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "namespace": namespace}


def describe_holder(text: str) -> str:
    """Who holds a lock, for messages, from what it wrote: `process 7 on host since 2026-01-01 12:00:00`."""
    known = _parse(text)
    pid, host, since = (known.get(name, "?") for name in ("pid", "host", "since"))
    return plain(f"process {pid} on {host} since {since}")


def _parse(text: str) -> dict[str, object]:
    """What a driver wrote of itself; empty where it is damaged."""
    try:
        known = json.loads(text)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
