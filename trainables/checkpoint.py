"""What a trial leaves on storage, on any filesystem that pyarrow knows: saved states and its result bundle.

A saved state is one file `<storage>/checkpoints/<key>/<epoch>-<attempt>`, whole in itself. Several attempts
at one trial may be at work at once (workers outlive a killed driver by seconds): they write files of
different names, and a reader takes the newest whole one.

A bundle is one zip file `<storage>/results/<key>.zip`, written by the worker before its last report and
deleted by the driver once the ledger has all of it. Whoever dies in between, the result is not lost.
"""

import hashlib
import io
import json
import os
import re
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from trainables.history import from_parquet
from trainables.texts import first_line, masked
from trainables.trial import TrialConfig, TrialResult

KEPT_STATES = 2
"""The newest, and the one before it in case the newest turns out to be damaged."""
DAMAGED = ".damaged"
STATE = re.compile(r"\d{8,}-[0-9a-f]{8}")
"""Name of a saved state; other files in its folder are damaged, half-written, or not ours."""
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""Name of a file in a bundle."""


class Storage:
    """A folder on a local disk, NFS, S3 or another filesystem of pyarrow's."""

    def __init__(self, uri: str | Path) -> None:
        """Take an absolute path or a URI such as `s3://bucket/folder`.

        Raises:
            ValueError: pyarrow knows no such filesystem.
        """
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
        try:
            self._fs.move(f"{self._root}/{name}", f"{self._root}/{other}")
        except FileNotFoundError:
            return

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it; it may already be gone."""
        try:
            self._fs.delete_dir(f"{self._root}/{folder}")
        except FileNotFoundError:
            return

    def delete(self, name: str) -> None:
        """Delete a file; it may already be gone."""
        try:
            self._fs.delete_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return


class Checkpoints:
    """The saved states of one trial, as one attempt at it reads and writes them.

    Attributes:
        notes: for people, one line a damaged state.
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
        """Name and content of the saved states. One that is cut short or altered is set aside."""
        for name in reversed(self.names()):
            try:
                checksum, _, content = self._storage.read(f"{self._folder}/{name}").partition(b"\n")
            except FileNotFoundError:
                continue  # another attempt has just removed it
            if hashlib.sha256(content).hexdigest().encode() == checksum:
                yield name, content
            else:
                self.set_aside(name, "it is cut short or altered")

    def set_aside(self, name: str, reason: str) -> None:
        """Take a damaged state out of the way, under a name that says so, and note why."""
        self._storage.rename(f"{self._folder}/{name}", f"{self._folder}/{name}{DAMAGED}")
        self.notes.append(f"{self._folder}/{name} is set aside: {reason}")

    def names(self) -> list[str]:
        """Names of the states that are not known to be damaged, oldest first."""
        return [name for name in self._storage.names(self._folder) if STATE.fullmatch(name)]


def checkpoint_keys(storage: Storage) -> list[str]:
    """Keys of the trials that have saved states."""
    return storage.folders("checkpoints")


def saved_epoch(storage: Storage, key: str) -> int:
    """The epoch after which a trial will go on, 0 where nothing is saved; takes the file for whole."""
    return max((int(name.partition("-")[0]) for name in Checkpoints(storage, key).names()), default=0)


def delete_checkpoints(storage: Storage, key: str) -> None:
    """Delete the saved states of a trial, if there are any."""
    storage.delete_folder(f"checkpoints/{key}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A finished trial on its way to the ledger.

    Attributes:
        config: what was trained.
        result: what came out.
        tags: where and with which versions it was trained.
    """

    config: TrialConfig
    result: TrialResult
    tags: Mapping[str, str]


def write_bundle(storage: Storage, bundle: Bundle) -> None:
    """Put the bundle under its trial's key, replacing an earlier one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        about = {
            "params": bundle.config.to_params(),
            "metrics": dict(bundle.result.metrics),
            "tags": dict(bundle.tags),
        }
        archive.writestr("bundle.json", json.dumps(about))
        for name, content in bundle.result.artifacts.items():
            archive.writestr(name, content)
    storage.write(_bundle_name(bundle.config.key), buffer.getvalue())


def read_bundle(storage: Storage, key: str) -> Bundle:
    """The bundle of a trial.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or not of this version's trial with that key.
    """
    content = storage.read(_bundle_name(key))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if not FILE.fullmatch(name):  # whoever can write to the storage is not to write elsewhere
                    raise ValueError(f"it has a file of the name {name!r}")
            files = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(files.pop("bundle.json"))
        config = TrialConfig.from_params(about["params"])
        history = tuple(from_parquet(files["history.parquet"]))
        result = TrialResult(metrics=dict(about["metrics"]), history=history, artifacts=files)
        bundle = Bundle(config=config, result=result, tags=dict(about["tags"]))
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"damaged result bundle {_bundle_name(key)}: {error}") from error
    if config.key != key:
        raise ValueError(f"result bundle {_bundle_name(key)} is of trial {config.key}")
    return bundle


def bundle_keys(storage: Storage) -> list[str]:
    """Keys of the trials whose bundles are there."""
    return [name.removesuffix(".zip") for name in storage.names("results") if name.endswith(".zip")]


def delete_bundle(storage: Storage, key: str) -> None:
    """Delete the bundle of a trial, if there is one."""
    storage.delete(_bundle_name(key))


def _bundle_name(key: str) -> str:
    return f"results/{key}.zip"


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
