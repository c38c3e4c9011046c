"""A driver's note on a storage: its workers must see it, and it says that the driver is at work."""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator

from trainables.node import NOTES
from trainables.redact import plain
from trainables.storage.filesystem import Storage

BEAT = 30.0
"""Seconds after which a driver writes its note again."""
DEAD_AFTER = 180.0
"""Seconds after which a note that was not written again is of a driver that was killed."""
PATIENCE = 60.0
"""Seconds to wait for a note that is being written."""


class Unwritable(OSError):
    """A storage that cannot be written."""


@contextlib.contextmanager
def kept_note(storage: Storage) -> Iterator[str]:
    """Within this context there is a note, whose name this yields; Unwritable where it cannot be written."""
    note, content = f"{NOTES}/{uuid.uuid4().hex}", f"process {os.getpid()} on {socket.gethostname()}".encode()
    try:
        storage.write(note, content)
    except OSError as error:
        raise Unwritable(str(error)) from None
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):  # it is away: the workers say so
                storage.write(note, content)

    thread = threading.Thread(target=write, name="note", daemon=True)
    thread.start()
    try:
        yield note
    finally:
        ended.set()
        thread.join(PATIENCE)  # otherwise it could write once more what is deleted here
        with contextlib.suppress(OSError):
            storage.delete(note)


def drivers_at_work(storage: Storage) -> list[str]:
    """Who works on a storage now, in words for people: a URI cannot be locked.

    Times are those of the storage: clocks differ.
    """
    mine = uuid.uuid4().hex
    storage.write(f"{NOTES}/{mine}", b"")
    try:
        written = storage.times(NOTES)
        now = written.pop(mine)
        alive = [name for name, then in written.items() if now - then < DEAD_AFTER]
        return [plain(storage.read(f"{NOTES}/{name}").decode(errors="replace")) for name in alive]
    finally:
        storage.delete(f"{NOTES}/{mine}")
