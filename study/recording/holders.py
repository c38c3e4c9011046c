"""Who holds a lock, as it says of itself."""

import json
import os
import socket
import time
from pathlib import Path

from trainables.redact import plain


class LockHeld(ValueError):
    """Another driver uses the same output folder, storage or experiment."""


def this_process() -> dict[str, object]:
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
    known = parse(text)
    pid, host, since = (known.get(name, "?") for name in ("pid", "host", "since"))
    return plain(f"process {pid} on {host} since {since}")


def parse(text: str) -> dict[str, object]:
    """What a driver wrote of itself; empty where it is damaged."""
    try:
        known = json.loads(text)
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
