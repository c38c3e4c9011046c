"""A folder on any filesystem that pyarrow knows, in which every file is whole or not there."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from trainables.redact import first_line, masked

PATIENCE = 300.0
"""Seconds for which an object store may be away before a call fails."""
GOOGLE_LIMIT = "retry_limit_seconds"
"""Option in an address of Google's storage."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two attempts; each pause is twice the one before."""
LASTING = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_|NO_SUCH_|SIGNATURE|MISSING_|UNRECOGNIZED|\w*(NOT_FOUND|TOKEN))"
    r"|HTTP status (30\d|40[0134])"
)
"""What an object store says of faults that do not pass by themselves."""
NOT_PASSING = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
)
Answer = TypeVar("Answer")


class StorageAway(OSError):
    """A storage has not answered for `PATIENCE` seconds."""


def _with_limit(uri: str) -> str:
    """The address; Google's client, which would try for 15 minutes before it says anything, gets seconds."""
    if not re.match("gc?s://", uri) or GOOGLE_LIMIT in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{GOOGLE_LIMIT}=5"


class Storage:
    """A folder on a local disk, NFS, S3 or another filesystem of pyarrow's.

    Calls of one that is no folder, and has answered before or is `patient`, are repeated while it is away:
    then they raise StorageAway. Others fail at once: an address may be wrong.
    """

    def __init__(self, uri: str | Path, *, patient: bool = False) -> None:
        """Take an absolute path or a URI such as `s3://bucket/folder`; ValueError if it is neither."""
        self._patient = patient
        try:
            self._fs, self._root = fs.FileSystem.from_uri(_with_limit(str(uri)))
        except (pa.ArrowInvalid, OSError) as error:
            line = first_line(error)
            raise ValueError(
                f"storage: got {masked(str(uri))!r}; allowed: an absolute path or a URI ({line})"
            ) from None

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """The answer to a call, which is repeated while an object store is away."""
        if isinstance(self._fs, fs.LocalFileSystem):
            return call()
        deadline, pause = time.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                answer = call()
            except OSError as error:
                if not (self._patient and _passes(error)):
                    raise
                if time.monotonic() + pause > deadline:
                    line = f"the storage was away for {PATIENCE:g} s: {first_line(error)}"
                    raise StorageAway(line) from error
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._patient = True
                return answer

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        path = f"{self._root}/{name}"

        def write() -> None:
            self._fs.create_dir(os.path.dirname(path), recursive=True)
            if isinstance(self._fs, fs.LocalFileSystem):
                _write_local(Path(path), content)
                return
            # One write from memory is one request: object stores publish an object only when it is complete.
            with self._fs.open_output_stream(path) as stream:
                stream.write(content)

        self._ask(write)

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError where there is none."""

        def read() -> bytes:
            with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
                return bytes(stream.read())

        return self._ask(read)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none where the folder does not exist."""
        return sorted(info.base_name for info in self._listed(folder) if info.is_file)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder; none where it does not exist."""
        return {info.base_name: info.size for info in self._listed(folder) if info.is_file}

    def times(self, folder: str) -> dict[str, float]:
        """When each file in a folder was written, by the storage's clock, s since 1970."""
        return {info.base_name: info.mtime_ns / 1e9 for info in self._listed(folder) if info.is_file}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it does not exist."""
        return sorted(info.base_name for info in self._listed(folder) if not info.is_file)

    def _listed(self, folder: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        listed: list[fs.FileInfo] = self._ask(lambda: self._fs.get_file_info(selector))
        return listed

    def rename(self, name: str, other: str) -> None:
        """Give a file another name; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._fs.move(f"{self._root}/{name}", f"{self._root}/{other}"))

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._fs.delete_dir(f"{self._root}/{folder}"))

    def delete(self, name: str) -> None:
        """Delete a file; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._fs.delete_file(f"{self._root}/{name}"))


def _passes(error: OSError) -> bool:
    """Whether a fault of an object store may pass by itself: of the network, or of the service."""
    if isinstance(error, FileNotFoundError | PermissionError) or error.errno in NOT_PASSING:
        return False
    return LASTING.search(str(error)) is None


def _write_local(path: Path, content: bytes) -> None:
    # Not mkstemp: its files are for their maker alone, and the driver may be another user.
    scratch = path.with_name(f".{path.name}-{os.getpid()}-{time.time_ns()}")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
