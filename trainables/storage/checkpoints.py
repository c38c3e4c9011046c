"""The saved states of a trial: one file each, `<storage>/checkpoints/<key>/<epoch>-<attempt>`.

Several attempts at one trial may run at once (workers outlive a killed driver by seconds): they write files
of different names, and a reader takes the newest file that is whole.
"""

import hashlib
import re
import uuid
from collections.abc import Iterator

from trainables.storage.filesystem import Storage

KEPT_STATES = 2
"""The newest, and the one before it in case the newest turns out to be damaged."""
DAMAGED = ".damaged"
STATE = re.compile(r"\d{8,}-[0-9a-f]{8}")
"""Name of a saved state; other files in its folder are damaged, half-written, or not ours."""


class Checkpoints:
    """The saved states of one trial, as one attempt at it reads and writes them.

    Attributes:
        notes: for people, one line for each damaged checkpoint.
    """

    def __init__(self, storage: Storage, key: str) -> None:
        """Touch nothing yet.

        Args:
            storage: where they lie.
            key: of the trial.
        """
        self._storage = storage
        self._folder = f"checkpoints/{key}"
        self._attempt = uuid.uuid4().hex[:8]
        self._written: list[str] = []
        self.notes: list[str] = []

    def save(self, epoch: int, content: bytes) -> None:
        """Write the state after `epoch` epochs, and remove what two whole later ones make useless."""
        name = f"{epoch:08d}-{self._attempt}"
        checksum = hashlib.sha256(content).hexdigest().encode()
        self._storage.write(f"{self._folder}/{name}", checksum + b"\n" + content)
        self._written.append(name)
        if len(self._written) >= KEPT_STATES:
            oldest_needed = self._written[-KEPT_STATES]
            for other in self.names():
                if other < oldest_needed:
                    self._storage.delete(f"{self._folder}/{other}")

    def newest_first(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of the checkpoints. One that is cut short or altered is quarantined."""
        for name in reversed(self.names()):
            try:
                checksum, _, content = self._storage.read(f"{self._folder}/{name}").partition(b"\n")
            except FileNotFoundError:
                continue  # another attempt has just removed it
            if hashlib.sha256(content).hexdigest().encode() == checksum:
                yield name, content
            else:
                self.quarantine(name, "it is cut short or altered")

    def quarantine(self, name: str, reason: str) -> None:
        """Rename a damaged checkpoint, so that nobody reads it again, and note why."""
        self._storage.rename(f"{self._folder}/{name}", f"{self._folder}/{name}{DAMAGED}")
        self.notes.append(f"{self._folder}/{name} is quarantined: {reason}")

    def names(self) -> list[str]:
        """Names of the states that are not known to be damaged, oldest first."""
        return [name for name in self._storage.names(self._folder) if STATE.fullmatch(name)]


def checkpoint_keys(storage: Storage) -> list[str]:
    """Keys of the trials that have saved states."""
    return storage.folders("checkpoints")


def saved_epoch(storage: Storage, key: str) -> int:
    """The epoch after which a trial will resume, 0 if nothing is saved; assumes that the file is whole."""
    return max((int(name.partition("-")[0]) for name in Checkpoints(storage, key).names()), default=0)


def delete_checkpoints(storage: Storage, key: str) -> None:
    """Delete the saved states of a trial, if there are any."""
    storage.delete_folder(f"checkpoints/{key}")
