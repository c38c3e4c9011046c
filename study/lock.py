"""One driver an experiment at a time, on one machine."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class LockHeld(ValueError):
    """Another driver works on the same output folder."""


@contextlib.contextmanager
def driver_lock(output: Path) -> Iterator[None]:
    """Hold the lock of an output folder; it goes with the process, however that ends.

    Raises:
        LockHeld: another process has it; the message says which.
    """
    output.mkdir(parents=True, exist_ok=True)
    about = output / ".driver.json"
    try:
        with FileLock(output / ".driver.lock", timeout=0):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            about.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
            yield
    except Timeout:
        holder = json.loads(about.read_text()) if about.exists() else {}
        raise LockHeld(
            f"--output: {output} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}"
            f" since {holder.get('since', '?')}; wait for it, or take another folder"
        ) from None
