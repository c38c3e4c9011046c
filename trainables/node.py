"""What must hold on a node of a cluster before a trial can run there."""

import functools
import hashlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from trainables.checkpoint import Storage
from trainables.texts import first_line

ATTEMPTS, PAUSE = 3, 1.0
"""How often a node looks for the driver's note, and the seconds between: network folders may lag behind."""


@functools.cache
def source_digest() -> str:
    """SHA-256 of the code that trains, as it lies on this machine."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def problem(expected: Mapping[str, str], *, at_start: bool = False) -> str | None:
    """Why no trial of a driver may run on this node, in words for people; None: it may.

    Args:
        expected: `storage` (a folder or URI), `note` (a file in it, written by the driver) and `code` (the
            driver's `source_digest`).
        at_start: nothing runs yet, so that a storage which does not answer is a reason, too. Later it may
            do so again.
    """
    host = socket.gethostname()
    if source_digest() != expected["code"]:
        return f"--address: node {host} has other code of this project; install the same on all nodes"
    seen = _seen(expected["storage"], expected["note"], at_start)
    if seen is None:
        return None
    return (
        f"--storage: got {expected['storage']!r}, but node {host} {seen}; allowed on a cluster: a folder that"
        " all nodes see, or a URI such as s3://bucket/folder"
    )


def _seen(storage: str, note: str, at_start: bool) -> str | None:
    """What is wrong with the driver's note on this node; None: it is there."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            Storage(storage).read(note)
            return None
        except FileNotFoundError:
            if attempt < ATTEMPTS:
                time.sleep(PAUSE)
        except (OSError, ValueError) as error:
            return f"cannot read it ({first_line(error)})" if at_start else None
    return "does not see what the driver writes there"
