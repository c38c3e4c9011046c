"""Which drivers work on a storage, as they say there themselves: a URI cannot be locked."""

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
"""Seconds after which a driver writes its file again: whoever looks sees that it is at work."""
DEAD_AFTER = 180.0
"""Seconds after which a file that was not written again is of a driver that was killed."""


class NoteNotWritten(OSError):
    """A storage that cannot be written."""


@contextlib.contextmanager
def kept_note(storage: Storage) -> Iterator[str]:
    """Write a driver's file again and again, and delete it in the end; yields its name."""
    note = f"{NOTES}/{uuid.uuid4().hex}"
    content = f"process {os.getpid()} on {socket.gethostname()}".encode()
    try:
        storage.write(note, content)
    except OSError as error:
        raise NoteNotWritten(str(error)) from None
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
        thread.join(BEAT)  # otherwise it could write once more what is deleted here
        with contextlib.suppress(OSError):
            storage.delete(note)


def drivers_at_work(storage: Storage) -> list[str]:
    """Who works on a storage now, in words for people: a URI cannot be locked.

    Times are those of the storage: clocks differ.
    """
    mine = f"{uuid.uuid4().hex}"
    storage.write(f"{NOTES}/{mine}", b"")
    try:
        written = storage.times(NOTES)
        now = written.pop(mine)
        alive = [name for name, then in written.items() if now - then < DEAD_AFTER]
        said = [_read(storage, name) for name in alive if not name.startswith(".")]  # which is a draft
        return [plain(text) for text in said if text]  # others ask by an empty one
    finally:
        storage.delete(f"{NOTES}/{mine}")


def _read(storage: Storage, name: str) -> str:
    """What a note says; empty if it is gone by now."""
    try:
        return storage.read(f"{NOTES}/{name}").decode(errors="replace")
    except FileNotFoundError:
        return ""
