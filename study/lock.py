"""One driver an experiment at a time, on one machine."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class LockHeld(ValueError):
    """Another driver works on the same output folder."""


@contextlib.contextmanager
def driver_lock(output: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of an output folder; it goes with the process, however that ends.

    Args:
        output: the folder, made where missing.
        wait: where another process has the lock, gets a line that says which, and then the lock is waited
            for; None: not waited for.

    Raises:
        LockHeld: another process has it; the message says which.
    """
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".driver.lock")
    about = output / ".driver.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        held = f"{output} is in use by {_holder(about)}"
        if wait is None:
            raise LockHeld(f"--output: {held}; wait for it with --wait, or take another folder") from None
        wait(f"{held}: waiting")
        lock.acquire()
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        about.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
        yield
    finally:
        lock.release()


def _holder(about: Path) -> str:
    try:
        known = json.loads(about.read_text())
    except (OSError, ValueError):  # it has only just begun
        known = {}
    return f"process {known.get('pid', '?')} on {known.get('host', '?')} since {known.get('since', '?')}"
