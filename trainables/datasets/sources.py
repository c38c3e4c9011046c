"""Where datasets come from. Images are handed over piece by piece, for `data.prepare` to write.

A source knows its labels and image size before anything is downloaded or decoded, so that a study that
cannot work is refused before it starts.

Imports PyTorch only where a dataset comes through torchvision, and only when it is read.
"""

import hashlib
import http.client
import importlib.util
import os
import socket
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.datasets.splits import UNLABELLED, Folds, Labels, stratified_choice

Images = npt.NDArray[np.uint8]

CHUNK_BYTES = 2**24
"""Pixels of the images that are handed over at once."""
FOLDS_MD5 = "4bbf8cd098ab9f87fe03fbcb37c06b28"
"""Of the file of STL-10's folds in its archive; torchvision reads it unchecked."""
STALLED_SECONDS = 60
"""A download that sends nothing for so long has failed."""


class DataError(Exception):
    """A dataset cannot be had; the message names the file or address and says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One split, not read yet.

    Attributes:
        labels: (N,).
        chunks: called once; yields (n, 3, S, S), N images in all.
    """

    labels: Labels
    chunks: Callable[[], Iterable[Images]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """A dataset, not read yet: training images, labelled ones first, and test images.

    `folds` are its predefined folds; None where it has none, or they did not come with the images.
    """

    train: Part
    test: Part
    image_size: int
    classes: tuple[str, ...]
    folds: Folds | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is known of a dataset before it is read, and how to read it.

    Attributes:
        labels: of the training split.
        state: changes when the images do; empty for datasets that never change.
        read: the contents, given a folder for temporary files that outlives the reading.
        folds: stand-ins for the predefined folds, with as many of `labels` of each class; None: it has none.
        read_folds: the real folds, without the images, given a folder for temporary files.
    """

    labels: Labels
    test_images: int
    image_size: int
    state: str
    read: Callable[[Path], Contents]
    folds: Folds | None = None
    read_folds: Callable[[Path], Folds] | None = None


def images_at_once(size: int) -> int:
    """How many images of `size` x `size` pixels are handed over at once."""
    return max(1, CHUNK_BYTES // (3 * size * size))


def digits(data_dir: Path) -> Source:
    """scikit-learn's handwritten digits, enlarged and repeated to three channels."""
    contents = _digits()
    return Source(
        labels=contents.train.labels,
        test_images=len(contents.test.labels),
        image_size=contents.image_size,
        state="",
        read=lambda _: contents,
    )


def cifar10(data_dir: Path) -> Source:
    """CIFAR-10 (Krizhevsky 2009) through torchvision."""
    return Source(
        labels=np.repeat(np.arange(10), 5000),
        test_images=10_000,
        image_size=32,
        state="",
        read=lambda scratch: _cifar10(data_dir, scratch),
    )


def stl10(data_dir: Path) -> Source:
    """STL-10 (Coates et al. 2011), with its unlabelled images, through torchvision.

    It has ten predefined folds of 1,000 labelled images, 100 of each class.
    """
    fold = np.arange(10)[:, None] * 500 + np.arange(100)  # stands for each: any 100 images of each class
    return Source(
        labels=np.concatenate([np.repeat(np.arange(10), 500), np.full(100_000, UNLABELLED)]),
        test_images=8_000,
        image_size=96,
        state="",
        read=lambda scratch: _stl10(data_dir, scratch),
        folds=np.tile(fold.ravel(), (10, 1)),
        read_folds=lambda scratch: _stl10_folds(data_dir, scratch),
    )


def _digits() -> Contents:
    """scikit-learn's 1,797 handwritten 8 x 8 digits as 32 x 32 images, 1,297 for training, 500 for test."""
    from PIL import Image

    # What sklearn.datasets.load_digits reads, without the two seconds that importing it takes.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",")
    grey = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    # Pillow resamples in integers: the same bytes on every machine.
    large = np.stack(
        [np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey]
    )
    images = np.repeat(large[:, None], 3, axis=1)
    labels = table[:, -1].astype(np.int64)
    in_test = np.zeros(len(labels), dtype=bool)
    in_test[stratified_choice(labels, 500)] = True
    return Contents(
        train=_part(images[~in_test], labels[~in_test]),
        test=_part(images[in_test], labels[in_test]),
        image_size=32,
        classes=tuple(str(digit) for digit in range(10)),
    )


def _cifar10(data_dir: Path, scratch: Path) -> Contents:
    from torchvision.datasets import CIFAR10

    train, test = _loaded(CIFAR10, data_dir, scratch, {"train": True}, {"train": False})
    return Contents(
        train=_part(train.data.transpose(0, 3, 1, 2), np.asarray(train.targets, dtype=np.int64)),
        test=_part(test.data.transpose(0, 3, 1, 2), np.asarray(test.targets, dtype=np.int64)),
        image_size=32,
        classes=tuple(train.classes),
    )


def _stl10(data_dir: Path, scratch: Path) -> Contents:
    from torchvision.datasets import STL10

    train, test = _loaded(STL10, data_dir, scratch, {"split": "train"}, {"split": "test"})
    # torchvision has checked this file with the others, but would read its 2.8 GB into memory.
    file = Path(train.root, train.base_folder, train.train_list[2][0])
    unlabelled = np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, *train.data.shape[1:])
    labels = np.concatenate([train.labels.astype(np.int64), np.full(len(unlabelled), UNLABELLED)])
    return Contents(
        train=_part(train.data, labels, unlabelled.transpose(0, 1, 3, 2)),  # stored column by column
        test=_part(test.data, test.labels.astype(np.int64)),
        image_size=96,
        classes=tuple(train.classes),
        folds=_folds_in(Path(train.root, train.base_folder, train.folds_list_file)),
    )


def _stl10_folds(data_dir: Path, scratch: Path) -> Folds:
    """The folds of STL-10 alone, from its archive, which is downloaded where missing, or from its files."""
    from torchvision.datasets import STL10

    unpacked, archive = data_dir / STL10.base_folder, data_dir / STL10.filename
    file = unpacked / STL10.folds_list_file
    if (folds := _folds_in(file)) is not None:
        return folds
    if archive.exists() or not unpacked.is_dir():
        if not archive.exists():
            _download(STL10, archive, scratch)
        name = f"{STL10.base_folder}/{STL10.folds_list_file}"
        file = scratch / STL10.folds_list_file
        file.write_bytes(_member(archive, name))
        if (folds := _folds_in(file)) is not None:
            return folds
        file = archive / name
    raise DataError(f"{file} is missing or damaged: its MD5 is not {FOLDS_MD5}. It is a part of {STL10.url}")


def _member(archive: Path, name: str) -> bytes:
    """One file of an archive; empty where it has none of this name."""
    try:
        # As a stream: finding a file by its name would unpack all of the archive, twice.
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                if member.name == name and (file := tar.extractfile(member)):
                    return file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive} is incomplete or damaged ({error}). Remove it to have it downloaded again"
        ) from None
    return b""


def _folds_in(file: Path) -> Folds | None:
    """The folds in a file of STL-10, one a line; None where it is missing or damaged."""
    content = file.read_bytes() if file.exists() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != FOLDS_MD5:
        return None
    return np.array([line.split() for line in content.decode().splitlines()], dtype=np.int64)


def _part(images: Images, labels: Labels, *more: Images) -> Part:
    def chunks() -> Iterator[Images]:
        for array in (images, *more):
            count = images_at_once(array.shape[-1])
            for start in range(0, len(array), count):
                yield array[start : start + count]

    return Part(labels=labels, chunks=chunks)


def _loaded(kind: Any, data_dir: Path, scratch: Path, *splits: dict[str, Any]) -> list[Any]:
    """The splits of one of torchvision's datasets, downloaded where that was not done by hand.

    The archive is looked for in `data_dir`, where it is also left, or there already unpacked. torchvision
    compares the checksums of the archive and of each file in it with its own before it reads them.
    """
    from torchvision.datasets.utils import check_integrity, extract_archive

    archive, root = data_dir / kind.filename, scratch
    if (data_dir / kind.base_folder).is_dir():
        archive = root = data_dir
    elif not archive.exists():
        _download(kind, archive, scratch)
    elif not check_integrity(archive, kind.tgz_md5):
        raise DataError(
            f"{archive} is incomplete or damaged: its MD5 is not {kind.tgz_md5}. Remove it to have it"
            f" downloaded again, or replace it by a whole copy of {kind.url}"
        )
    try:
        with warnings.catch_warnings():
            # tarfile's, of archives of strangers, which these are not: the checksum is torchvision's. And
            # NumPy's, of how CIFAR-10 was pickled in 2009.
            warnings.filterwarnings("ignore", "Python 3.14 will, by default, filter", DeprecationWarning)
            warnings.filterwarnings("ignore", r"dtype\(\): align should be passed")
            if root == scratch:
                extract_archive(archive, scratch)
            return [kind(root, **split) for split in splits]
    except (RuntimeError, EOFError) as error:
        raise DataError(f"{root / kind.base_folder} is incomplete or damaged ({error}); remove it") from None


def _download(kind: Any, archive: Path, scratch: Path) -> None:
    from torchvision.datasets.utils import download_url

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_SECONDS)
    try:
        download_url(kind.url, scratch, kind.filename, kind.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = "what came is incomplete or damaged" if isinstance(error, RuntimeError) else error
        raise DataError(
            f"download of {kind.url} failed: {reason}. Type the same command again, or put the file by"
            f" hand at {archive}"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    os.replace(scratch / kind.filename, archive)
