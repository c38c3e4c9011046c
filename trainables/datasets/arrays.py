"""The files of a prepared dataset: how arrays are written, described and checked.

A dataset's folder has `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy` and
`meta.json`. Images are (N, 3, S, S) uint8, labels (N,) int64. Where a dataset has predefined folds, there may
be `folds.npy`, (folds, n) int64, indices into the training split.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.datasets.sources import Contents, DataError, Images, Part
from trainables.datasets.splits import UNLABELLED, Folds, Labels

LAYOUT = 2
"""Version of the prepared files; a folder of another layout is prepared again."""
ARRAYS = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")

DESCRIBED = {"layout", "sha256", "bytes", "mean", "std", "classes", "state"}
"""What `meta.json` says."""

FOLDS = "folds.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and labels of one split, mapped read-only.

    Attributes:
        images: (N, 3, S, S) uint8.
        labels: (N,) int64, -1 where there is no label.
    """

    images: Images
    labels: Labels


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`; those that killed processes left are removed, under the lock."""
    for left in folder.parent.glob(f".{folder.name}-scratch-*"):
        shutil.rmtree(left, ignore_errors=True)
    # Not mkdtemp: its folders are for their maker alone, and a data folder may be shared.
    scratch = folder.with_name(f".{folder.name}-scratch-{os.getpid()}-{time.time_ns()}")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_arrays(folder: Path, contents: Contents, state: str, title: str | None) -> str:
    """Write the arrays and `meta.json` into `folder`; returns the SHA-256."""
    digest = hashlib.sha256()
    pixels = np.zeros((3, 256), dtype=np.int64)  # of labelled training images, by channel and value
    total = len(contents.train.labels) + len(contents.test.labels)
    with _bar(title, total) as advance:
        for name, part in (("train", contents.train), ("test", contents.test)):
            written = 0
            for chunk in _saved(folder / f"{name}_images.npy", part, contents.image_size):
                digest.update(chunk.data)
                labelled = chunk[part.labels[written : written + len(chunk)] != UNLABELLED]
                if name == "train":
                    for channel in range(3):
                        pixels[channel] += np.bincount(labelled[:, channel].ravel(), minlength=256)
                written += len(chunk)
                advance(len(chunk))
            if written != len(part.labels):
                raise DataError(f"{name} has {written} images, but {len(part.labels)} labels")
            labels = np.ascontiguousarray(part.labels, dtype="<i8")
            _save(folder / f"{name}_labels.npy", partial(np.save, arr=labels))
            digest.update(labels.data)
    if contents.folds is not None:
        write_folds(folder, contents.folds)
    mean, std = _moments(pixels)
    meta = {
        "layout": LAYOUT,
        "sha256": digest.hexdigest(),
        "bytes": {name: (folder / name).stat().st_size for name in ARRAYS},
        "mean": mean,
        "std": std,
        "classes": contents.classes,
        "state": state,
    }
    text = json.dumps(meta, indent=2)
    _save(folder / "meta.json", lambda file: file.write(text.encode()))
    return digest.hexdigest()


def _saved(path: Path, part: Part, size: int) -> Iterator[Images]:
    """Write a part's images as an array file, never in memory as a whole; yields each piece written."""
    # Not through a memory map: on a full disk that ends the process, where a write says so.
    shape = (len(part.labels), 3, size, size)
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in part.chunks():
            piece = np.ascontiguousarray(chunk)
            file.write(piece.data)
            yield piece
        file.flush()
        os.fsync(file.fileno())


def _save(path: Path, write: Callable[[Any], object]) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _moments(pixels: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, on the scale 0–1, from counts of values (3, 256).

    Over all pixels: a mean of the images' own deviations, which is often copied, comes out too small.
    """
    mean, std = [], []
    for counts in pixels.tolist():
        n = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        mean.append(first / n / 255)
        # Integers: exact up to the root. A channel of one value has no spread to divide by.
        std.append(((n * second - first * first) ** 0.5) / n / 255 or 1.0)
    return mean, std


@contextlib.contextmanager
def _bar(title: str | None, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over images, on stderr; yields what moves it on. Without a title, none."""
    if title is None:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"preparing {title}", total=total)
        yield lambda count: progress.advance(task, count)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What is written beside the arrays; None unless all of them are there, whole and of this layout."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        known = meta["layout"] == LAYOUT and meta.keys() >= DESCRIBED
        return meta if known and all(_is_whole(folder / name, meta) for name in ARRAYS) else None
    except (OSError, KeyError, TypeError, ValueError):
        return None


def damaged_file(folder: Path) -> Path | None:
    """The file of a prepared folder that is not as it was written; None where all are, or none is there."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        return next((folder / name for name in ARRAYS if not _is_whole(folder / name, meta)), None)
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError):
        return folder / "meta.json"


def _is_whole(path: Path, meta: dict[str, Any]) -> bool:
    """Whether an array file has its length, and begins with what says so; reads 128 bytes."""
    try:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            length = file.tell() + math.prod(shape) * dtype.itemsize
            return os.fstat(file.fileno()).st_size == length == meta["bytes"][path.name]
    except (OSError, ValueError):
        return False


def write_folds(folder: Path, folds: Folds) -> None:
    """Write the predefined folds into `folder`. They have no part in the SHA-256: images and labels have."""
    _save(folder / FOLDS, partial(np.save, arr=np.ascontiguousarray(folds, dtype="<i8")))


def read_folds(folder: Path) -> Folds | None:
    """The predefined folds; None where they are not there, or not whole."""
    try:
        folds: Folds = np.load(folder / FOLDS)
    except (OSError, EOFError, ValueError):
        return None
    return folds


def digest_of(*splits: Split) -> str:
    """SHA-256 of the arrays as they are on disk now."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(split.images.data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return digest.hexdigest()
