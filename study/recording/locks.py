"""One driver an experiment at a time, on one machine and through a remote store."""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from study.ledger.ledger import Ledger
from study.ledger.records import Lock
from study.ledger.tracking_uri import LedgerError, sqlite_file
from trainables.redact import plain

HEARTBEAT = 5.0
"""Seconds between two signs of life of who holds a lease."""
DEAD_AFTER = 45.0
"""Seconds without a sign of life after which a holder counts as dead."""
SLOW = 3.0
"""Seconds after which an answer of the store is late: signs of life may be held up with it."""
SETTLE = 1.0
"""Seconds after which two drivers that ask at the same moment see each other."""


class LockHeld(ValueError):
    """Another driver works on the same output folder or experiment."""


@contextlib.contextmanager
def driver_locks(
    ledger: Ledger,
    output: Path,
    storage: str,
    *,
    wait: Callable[[str], None] | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Be the only driver of an output folder, of a ledger and of a storage.

    Args:
        ledger: a local database is locked with a file beside it, anything else with a lease in the
            experiment, which is made where it is missing.
        output: absolute; made where missing.
        storage: absolute folder, made where missing, or a URI, which cannot be locked.
        wait: where another driver has one of them, gets a line that says which, and then it is waited for;
            None: not waited for.
        on_lost: called, from another thread, where the lease is lost: another driver took this one for dead.

    Raises:
        LockHeld: another driver has one of them; the message says which.
        LedgerError: the ledger does not answer.
    """
    database = sqlite_file(ledger.uri)
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
def file_lock(path: Path, what: str, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock on this machine (or a shared folder); it goes with the process, however that ends.

    Args:
        path: of the lock's file; its folder is made where missing.
        what: is locked, for messages: an option, a colon, and its value.
        wait: as of `driver_locks`.

    Raises:
        LockHeld: another process has it; the message says which.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    about = path.with_suffix(".json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        held = f"{what} is in use by {_holder(about)}"
        if wait is None:
            raise LockHeld(f"{held}; wait for it with --wait, or take another") from None
        wait(f"{held}: waiting")
        lock.acquire()
    try:
        draft = about.with_name(f"{about.name}.{secrets.token_hex(4)}")
        with draft.open("x") as text:
            text.write(json.dumps(_myself()))
        os.replace(draft, about)  # whatever lies there, or is linked from there, is not written to
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lease(
    ledger: Ledger,
    *,
    wait: Callable[[str], None] | None = None,
    on_lost: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lease of an experiment: a run of `kind=lock` that shows signs of life.

    Who wants it writes a run, waits, and reads: the holder stays, else the oldest wins. Whether a rival is
    alive is seen from its signs of life, not from clocks, which differ. Arguments and errors as of
    `driver_locks`.
    """
    ledger.open()
    mine = ledger.create_lock({"lock.state": "asking", "lock.beat": "0", "lock.by": json.dumps(_myself())})
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(ledger, mine, stop, on_lost), name="lease", daemon=True)
    heart.start()
    try:
        _win(ledger, mine, wait)
        yield
    finally:
        stop.set()
        heart.join(HEARTBEAT)  # where the store hangs, it may take longer; the thread dies with the process
        with contextlib.suppress(Exception):  # the store is away: the lease expires
            ledger.delete_runs([mine])


def _beat(ledger: Ledger, mine: str, stop: threading.Event, on_lost: Callable[[], None]) -> None:
    """Show signs of life until told to stop; the store may be away for a while."""
    count = 0
    while not stop.wait(HEARTBEAT):
        count += 1
        try:
            locks = ledger.locks()
            ours = next((lock for lock in locks if lock.run_id == mine), None)
            lost = ours is None or (_is_held(ours) and any(_is_held(lock) for lock in _earlier(locks, ours)))
            if not lost:
                ledger.touch_lock(mine, {"lock.beat": str(count)})
        except LedgerError:
            continue
        if lost and not stop.is_set():
            on_lost()
            return


def _win(ledger: Ledger, mine: str, wait: Callable[[str], None] | None) -> None:
    """Return once the lease is ours; the dead are removed on the way."""
    told = False
    while True:
        try:
            rival = _rival(ledger, mine)
            if rival is None:
                return
            lives = _lives(ledger, rival)
            if lives is False:
                ledger.delete_runs([rival.run_id])
            if not lives:
                continue
        except LedgerError:
            if wait is None:
                raise
            continue  # who waits, waits for the store as well
        held = f"--experiment: {ledger.experiment} is in use by {_described(rival.tags.get('lock.by', '{}'))}"
        if wait is None:
            raise LockHeld(f"{held}; wait for it with --wait, or take another")
        if not told:
            wait(f"{held}: waiting")
            told = True


def _rival(ledger: Ledger, mine: str) -> Lock | None:
    """Who goes before us; None where nobody does, and then the lease is ours.

    Runs may become visible late, and requests may take long: so a holder looks once more, and two that both
    see themselves as holders both go back to asking, where the older one goes first.
    """
    time.sleep(SETTLE)
    locks = ledger.locks()
    ours = next((lock for lock in locks if lock.run_id == mine), None)
    if ours is None:
        raise LockHeld("--experiment: another driver took this one for dead and works on it now")
    before = [lock for lock in locks if _is_held(lock) and lock.run_id != mine] or _earlier(locks, ours)
    if before:
        return min(before, key=_age)
    ledger.touch_lock(mine, {"lock.state": "held"})
    time.sleep(SETTLE)
    holders = [lock for lock in ledger.locks() if _is_held(lock) and lock.run_id != mine]
    if not holders:
        return None
    ledger.touch_lock(mine, {"lock.state": "asking"})
    return min(holders, key=_age)


def _is_held(lock: Lock) -> bool:
    return lock.tags.get("lock.state") == "held"


def _earlier(locks: list[Lock], than: Lock) -> list[Lock]:
    return [lock for lock in locks if _age(lock) < _age(than)]


def _age(lock: Lock) -> tuple[int, str]:
    return (lock.started, lock.run_id)


def _lives(ledger: Ledger, rival: Lock) -> bool | None:
    """Whether a rival shows a sign of life before it counts as dead; None where it is gone.

    While the store itself is slow, it proves nothing that no sign comes through.
    """
    by = _known(rival.tags.get("lock.by", "{}"))
    here = by.get("namespace") and by["namespace"] == _myself()["namespace"]
    if here and not Path(f"/proc/{by.get('pid')}").exists():
        return False
    deadline = time.monotonic() + DEAD_AFTER
    while time.monotonic() < deadline:
        time.sleep(SETTLE)
        asked = time.monotonic()
        now = next((lock for lock in ledger.locks() if lock.run_id == rival.run_id), None)
        if time.monotonic() - asked > SLOW:
            deadline = time.monotonic() + DEAD_AFTER
        if now is None:
            return None
        if now.tags.get("lock.beat") != rival.tags.get("lock.beat"):
            return True
    return False


def _myself() -> dict[str, object]:
    """Who we are, for other drivers; `namespace` is where our process number means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        namespace = None
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "namespace": namespace}


def _holder(about: Path) -> str:
    try:
        return _described(about.read_text())
    except OSError:  # it has only just begun
        return _described("{}")


def _described(text: str) -> str:
    known = _known(text)
    return plain(
        f"process {known.get('pid', '?')} on {known.get('host', '?')} since {known.get('since', '?')}"
    )


def _known(text: str) -> dict[str, object]:
    """What a driver says of itself; nothing where that is damaged."""
    try:
        known = json.loads(text)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
