"""What must hold on a node of a cluster before a trial can run there."""

import functools
import hashlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from trainables.redact import first_line
from trainables.storage.filesystem import Storage

ATTEMPTS, PAUSE = 3, 1.0
"""How often a node looks for the driver's note, and the seconds between: network folders may lag behind."""
NOTES = "nodes"
"""Folder of the storage with a file for each driver that works on a cluster."""
_read_before: set[tuple[str, str]] = set()
"""Storages and notes that this process has read."""


@functools.cache
def source_digest() -> str:
    """SHA-256 of the code that trains, as it lies on this machine."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def check_node(expected: Mapping[str, str]) -> str | None:
    """Why no trial of a driver may run on this node, in words for people; None: it may.

    Args:
        expected: `storage` (a folder or URI), `note` (a file in it, written by the driver) and `code` (the
            driver's `source_digest`). A storage that does not answer is a reason unless this process has
            read the note before: then it may answer again.
    """
    host = socket.gethostname()
    if source_digest() != expected["code"]:
        return f"--address: node {host} has other code of this project; install the same on all nodes"
    seen = _seen(expected["storage"], expected["note"])
    if seen is None:
        return None
    return (
        f"--storage: got {expected['storage']!r}, but node {host} {seen}; allowed on a cluster: a folder that"
        " all nodes see, or a URI such as s3://bucket/folder that they may read and write"
    )


def _seen(storage: str, note: str) -> str | None:
    """What is wrong with the driver's note on this node; None: it is there, or was when it was last read."""
    wrong = ""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            Storage(storage).read(note)
        except FileNotFoundError:
            wrong = "does not see what the driver writes there"
        except (OSError, ValueError) as error:
            if (storage, note) in _read_before:  # a fault that passes: of the network, or of the service
                return None
            wrong = f"cannot read it ({first_line(error)})"
        else:
            _read_before.add((storage, note))
            return None
        if attempt < ATTEMPTS:
            time.sleep(PAUSE)
    return wrong
