"""What a trial leaves on storage: its result bundle, on any filesystem that pyarrow knows.

A bundle is one zip file `<storage>/results/<key>.zip`, written by the worker before its last report and
deleted by the driver once the ledger has all of it. Whoever dies in between, the result is not lost.
"""

import io
import json
import os
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from trainables.history import from_parquet
from trainables.trial import TrialConfig, TrialResult


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
            line = str(error).splitlines()[0]
            raise ValueError(
                f"storage: got {str(uri)!r}; allowed: an absolute path or a URI ({line})"
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
        selector = fs.FileSelector(f"{self._root}/{folder}", allow_not_found=True)
        return sorted(info.base_name for info in self._fs.get_file_info(selector) if info.is_file)

    def delete(self, name: str) -> None:
        """Delete a file; it may already be gone."""
        try:
            self._fs.delete_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return


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
