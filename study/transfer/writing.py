"""Writing an archive, so that it is there whole or not at all."""

import contextlib
import fcntl
import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from study.transfer.members import CHUNK, COMPRESSED, SUMS, ArchiveError


class ArchiveWriter:
    """Writes an archive. It appears under its name when it is complete.

    The same members give the same bytes: they have one date, and are written in the order in which they are
    given.
    """

    def __init__(self, file: Path) -> None:
        """Begin an archive that will be `file`."""
        self._file = file
        self._draft = file.with_name(f".{file.name}.partial")
        self._held = self._draft.open("a")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, whatever ends it
            ours = os.path.samestat(os.fstat(self._held.fileno()), self._draft.stat())
        except OSError:
            ours = False
        if not ours:
            self._held.close()
            raise ArchiveError(f"{file} is being written by another process")
        self._zip = zipfile.ZipFile(self._draft, "w", allowZip64=True)
        self.members: dict[str, tuple[int, str]] = {}
        """Size and SHA-256 of what is written."""

    def add(self, name: str, content: bytes) -> None:
        """Add a member."""
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path) -> None:
        """Add a file as a member."""
        with path.open("rb") as file:
            self._add(name, file, path.stat().st_size)

    def _add(self, name: str, content: BinaryIO, size: int) -> None:
        about = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        about.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
        about.external_attr = 0o644 << 16
        about.file_size = size
        digest = hashlib.sha256()
        with self._zip.open(about, "w") as member:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                member.write(chunk)
        self.members[name] = (size, digest.hexdigest())

    def close(self) -> str:
        """Write the digests and give the archive its name; returns its own SHA-256."""
        sums = "".join(f"{digest}  {name}\n" for name, (_, digest) in sorted(self.members.items()))
        self.add(SUMS, sums.encode())
        self._zip.close()
        with self._draft.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(self._draft, self._file)
        self._held.close()
        return digest

    def abandon(self) -> None:
        """Leave no trace."""
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()
        self._draft.unlink(missing_ok=True)
        self._held.close()
