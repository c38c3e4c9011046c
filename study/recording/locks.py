"""One driver per experiment at a time, on one machine and through a remote store."""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from study.ledger.ledger import Ledger
from study.recording.holders import LockHeld, describe_holder, this_process
from study.recording.leases import lease


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
            text.write(json.dumps(this_process()))
        os.replace(draft, holder)  # never writes into an existing file or through a link
        yield
    finally:
        lock.release()
