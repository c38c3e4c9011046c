"""A folder on any filesystem that pyarrow knows, in which every file is whole or not there."""

import contextlib
import os
import time
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from trainables.redact import first_line, masked


class Storage:
    """A folder on a local disk, NFS, S3 or another filesystem of pyarrow's."""

    def __init__(self, uri: str | Path) -> None:
        """Take an absolute path or a URI such as `s3://bucket/folder`; ValueError if it is neither."""
        try:
            self._fs, self._root = fs.FileSystem.from_uri(str(uri))
        except (pa.ArrowInvalid, OSError) as error:
            line = first_line(error)
            raise ValueError(
                f"storage: got {masked(str(uri))!r}; allowed: an absolute path or a URI ({line})"
            ) from None

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is there whole or not at all."""
        path = f"{self._root}/{name}"
        self._fs.create_dir(os.path.dirname(path), recursive=True)
        if isinstance(self._fs, fs.LocalFileSystem):
            _write_local(Path(path), content)
            return
        # One write from memory is one request: object stores publish an object only when it is complete.
        with self._fs.open_output_stream(path) as stream:
            stream.write(content)

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError where there is none."""
        with self._fs.open_input_stream(f"{self._root}/{name}") as stream:
            return bytes(stream.read())

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; none where the folder does not exist."""
        return sorted(info.base_name for info in self._listed(folder) if info.is_file)

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder; none where it does not exist."""
        return {info.base_name: info.size for info in self._listed(folder) if info.is_file}

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it does not exist."""
        return sorted(info.base_name for info in self._listed(folder) if not info.is_file)

    def _listed(self, folder: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        listed: list[fs.FileInfo] = self._fs.get_file_info(selector)
        return listed

    def rename(self, name: str, other: str) -> None:
        """Give a file another name; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.move(f"{self._root}/{name}", f"{self._root}/{other}")

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_dir(f"{self._root}/{folder}")

    def delete(self, name: str) -> None:
        """Delete a file; it may already be gone."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._root}/{name}")


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
