"""The result bundle of a trial: one zip file, `<storage>/results/<key>.zip`.

The worker writes it before its last report, and the driver deletes it once the ledger has all of it: whoever
dies in between, the result is not lost.
"""

import io
import json
import re
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.catalogue import code_of
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig, parse_value

FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""Name of a file in a bundle."""


HALF_WRITTEN = re.compile(r"\..+\.zip-\d+-(\d+)")
"""Name of a bundle that is being written to a folder, with the ns since 1970 at which that began."""
OLD = 600.0
"""Seconds after which it is written no more: a worker may outlive its driver."""


class CodeNotLoaded(ValueError):
    """A result is of a trial with code of a file of your own that this process has not loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What a finished trial leaves.

    Attributes:
        metrics: final metrics by name, without the `final/` prefix; fractions, or seconds where the
            name says so.
        history: one row an epoch: `epoch` (1 … epochs), `timestamp` (ms since 1970), and metrics.
        artifacts: file name -> content.
    """

    metrics: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    artifacts: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A finished trial on its way to the ledger; its tags say where and with what it was trained."""

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
        CodeNotLoaded: only with a file of your own could it be read.
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
        if missing := _not_loaded(about["params"]):
            what = f"{', '.join(missing)}, of a file of your own that --space does not name"
            raise CodeNotLoaded(f"result bundle {_bundle_name(key)} is of a trial with {what}")
        config = TrialConfig.from_params(about["params"])
        history = tuple(from_parquet(files["history.parquet"]))
        result = TrialResult(metrics=dict(about["metrics"]), history=history, artifacts=files)
        bundle = Bundle(config=config, result=result, tags=dict(about["tags"]))
    except CodeNotLoaded:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"damaged result bundle {_bundle_name(key)}: {error}") from error
    if config.key != key:
        raise ValueError(f"result bundle {_bundle_name(key)} is of trial {config.key}")
    return bundle


def _not_loaded(params: Mapping[str, str]) -> list[str]:
    """Names of a trial's terms, augmentations and backbones that are of a file which is not loaded."""
    missing = []
    for field, kinds in {"term_code": ("term",), "code": ("backbone", "augmentation")}.items():
        codes = parse_value(field, params.get(field, "none")) or ""
        names = [code.partition("@")[0] for code in codes.split("+") if code]
        missing += [name for name in names if not any(code_of(kind, name) for kind in kinds)]
    return missing


def bundle_keys(storage: Storage) -> list[str]:
    """Keys of the trials whose bundles are there."""
    return [name.removesuffix(".zip") for name in storage.names("results") if name.endswith(".zip")]


def delete_bundle(storage: Storage, key: str) -> None:
    """Delete the bundle of a trial, if there is one."""
    storage.delete(_bundle_name(key))


def delete_half_written(storage: Storage) -> None:
    """Delete what killed workers have not written to the end, some time ago."""
    for name in storage.names("results"):
        found = HALF_WRITTEN.fullmatch(name)
        if found and time.time_ns() - int(found[1]) > 1e9 * OLD:
            storage.delete(f"results/{name}")


def _bundle_name(key: str) -> str:
    return f"results/{key}.zip"


def to_parquet(history: Sequence[Mapping[str, float]]) -> bytes:
    """The rows of `TrialResult.history` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in history]), buffer)
    return buffer.getvalue()


def from_parquet(content: bytes) -> list[dict[str, float]]:
    """The rows that `to_parquet` wrote."""
    rows: list[dict[str, float]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows
