"""Datasets: prepared once a machine into uint8 arrays on disk, then mapped read-only by every trial.

A prepared dataset is a folder `<data-dir>/prepared/<name>` with `train_images.npy`, `train_labels.npy`,
`test_images.npy`, `test_labels.npy` and `meta.json`; STL-10 may have `folds.npy`, too. Images are
(N, 3, S, S) uint8, labels (N,) int64; in the training split, unlabelled images (label -1) come after all the
others. All processes that map one file share its pages.

To prepare ahead, with a progress bar: `python -m trainables.data NAME --data-dir DIR`.

Imports neither Ray nor, unless a dataset is downloaded, PyTorch.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from trainables.catalogue import DATASETS, FOLDER, has_folds
from trainables.command_line import CommandLine, path
from trainables.datasets import sources
from trainables.datasets.arrays import (
    FOLDS,
    Split,
    damaged_file,
    digest_of,
    read_folds,
    read_meta,
    scratch_folder,
    write_arrays,
    write_folds,
)
from trainables.datasets.folders import folder as folder_of_images
from trainables.datasets.sources import DataError, Source
from trainables.datasets.splits import UNLABELLED, Folds, Labels, fold_number, training_indices
from trainables.trial import TrialConfig, nearest

SIZE_FIELDS = ("dataset", "train_size", "val_fraction", "unlabeled_size", "batch_size")
"""Fields of a trial that decide how many images it works on."""
EMBEDDED = tuple(name for name, about in DATASETS.items() if about.embedded)
"""Datasets that need neither a download nor a folder of images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How many images a trial works on: in an epoch, labelled or not; labelled; held out; for tests."""

    epoch: int
    train: int
    validation: int
    test: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        train: all labelled training images, then the unlabelled ones.
        mean: per channel, over all pixels of the labelled training images, on the scale 0–1; `std` likewise.
        sha256: digest of the images and labels of both splits.
        folds: (folds, n) indices into `train` of its predefined folds; None where it has none, or they were
            not prepared with it.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str
    folds: Folds | None = None

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.train.images.shape[-1])


def load(name: str, data_dir: Path, *, folds: bool = False) -> Dataset:
    """The dataset `name`, prepared first if this machine does not have it yet; see `prepare` for errors."""
    folder = _folder(name, data_dir)
    while True:
        prepare(name, data_dir, folds=folds)
        try:
            meta = read_meta(folder)
            splits = {
                split: Split(
                    images=np.load(folder / f"{split}_images.npy", mmap_mode="r"),
                    labels=np.load(folder / f"{split}_labels.npy"),
                )
                for split in ("train", "test")
            }
        except FileNotFoundError:
            continue  # just being replaced, as its images have changed
        found = read_folds(folder) if has_folds(name) else None
        if meta is not None and meta == read_meta(folder) and (found is not None or not folds):
            break
    return Dataset(
        name=name,
        **splits,
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        classes=tuple(meta["classes"]),
        sha256=meta["sha256"],
        folds=found,
    )


def prepare(
    name: str,
    data_dir: Path,
    *,
    folds: bool = False,
    look_at_source: bool = False,
    progress: bool = False,
) -> str:
    """Make the dataset's arrays unless they are there; returns their SHA-256.

    One process of a machine works, the others wait at a file lock. The folder appears under its name only
    when it is whole. With `folds` it gets its predefined folds, if it was prepared without. With
    `look_at_source` a dataset is prepared again if its folder of images has changed.

    Raises:
        DataError: a download failed, or images are missing or broken. Nothing half-made is left.
    """
    folder = _folder(name, data_dir)
    digest = fingerprint(name, data_dir, look_at_source=look_at_source)
    if digest is not None and not (folds and read_folds(folder) is None):
        return digest
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            digest = fingerprint(name, data_dir, look_at_source=look_at_source)
            if digest is None:
                with scratch_folder(folder) as scratch:
                    digest = _write(folder, scratch, source(name, data_dir), name if progress else None)
            if folds and read_folds(folder) is None:
                with scratch_folder(folder) as scratch:
                    _add_folds(folder, scratch, source(name, data_dir))
    except OSError as error:
        raise DataError(f"{name} cannot be prepared in {folder.parent}: {error}") from error
    return digest


def _write(folder: Path, scratch: Path, origin: Source, title: str | None) -> str:
    """Write the arrays of a dataset into `folder`, in place of any that are there; returns the SHA-256."""
    if title and (damaged := damaged_file(folder)):
        title = f"{title} again: {damaged.name} is damaged"
    arrays = scratch / "arrays"
    arrays.mkdir()
    digest = write_arrays(arrays, origin.read(scratch), origin.state, title)
    if folder.exists():
        os.replace(folder, scratch / "replaced")
    os.replace(arrays, folder)
    return digest


def _add_folds(folder: Path, scratch: Path, origin: Source) -> None:
    """Write the predefined folds beside the arrays, which stay as they are."""
    if origin.read_folds is None:
        raise DataError(f"{folder.name} has no predefined folds")
    write_folds(scratch, origin.read_folds(scratch))
    os.replace(scratch / FOLDS, folder / FOLDS)


def is_prepared(name: str, data_dir: Path, *, folds: bool = False) -> bool:
    """Whether `prepare` would have nothing to do."""
    return fingerprint(name, data_dir) is not None and not (
        folds and read_folds(_folder(name, data_dir)) is None
    )


def fingerprint(name: str, data_dir: Path, *, look_at_source: bool = False) -> str | None:
    """SHA-256 of the prepared dataset, or None where it is not prepared; reads a few hundred bytes.

    With `look_at_source`, None also where the folder of images that it came from has changed since; a
    folder that is gone has not changed.
    """
    meta = read_meta(_folder(name, data_dir))
    if meta is None:
        return None
    images = FOLDER.fullmatch(name)
    if look_at_source and images and (data_dir / images["name"]).exists():
        return str(meta["sha256"]) if source(name, data_dir).state == meta["state"] else None
    return str(meta["sha256"])


def check(trials: Iterable[TrialConfig], data_dir: Path) -> dict[TrialConfig, Sizes]:
    """How many images each trial works on, whether its dataset is prepared or not.

    Before anything is downloaded or prepared, it finds trials that their datasets cannot serve.

    Raises:
        ValueError: a trial asks for more images than its dataset has.
        DataError: a folder of images is missing, or not laid out as it must be.
    """
    known: dict[str, tuple[Labels, int, Folds | None]] = {}
    sizes: dict[tuple[object, ...], Sizes] = {}
    found = {}
    for trial in trials:
        fields = (*(getattr(trial, name) for name in SIZE_FIELDS), fold_number(trial))
        if fields not in sizes:
            if trial.dataset not in known:
                known[trial.dataset] = _known_labels(trial.dataset, data_dir)
            labels, test, folds = known[trial.dataset]
            choice = training_indices(trial, labels, folds)
            steps = (len(choice.train) + len(choice.unlabelled)) // trial.batch_size
            sizes[fields] = Sizes(
                epoch=steps * trial.batch_size,
                train=len(choice.train),
                validation=len(choice.validation),
                test=test,
            )
        found[trial] = sizes[fields]
    return found


def image_size(name: str, data_dir: Path) -> int:
    """Height and width of a dataset's images, in pixels, whether it is prepared or not."""
    if fingerprint(name, data_dir) is not None:
        images = np.load(_folder(name, data_dir) / "train_images.npy", mmap_mode="r")
        return int(images.shape[-1])
    return source(name, data_dir).image_size


def class_count(name: str, data_dir: Path) -> int:
    """Number of classes of a dataset, whether it is prepared or not."""
    labels, *_ = _known_labels(name, data_dir)
    return len(np.unique(labels[labels != UNLABELLED]))


def source(name: str, data_dir: Path) -> Source:
    """What is known of a dataset before it is read; DataError where a folder of images is not in order."""
    images = FOLDER.fullmatch(name)
    if images is None:
        made: Source = getattr(sources, name)(data_dir)  # a function for each of `DATASETS`
        return made
    size, root = images["size"], data_dir / images["name"]
    try:
        if not root.exists() and (damaged := damaged_file(_folder(name, data_dir))):
            raise DataError(f"{damaged} is damaged; allowed: {root}, from which {name} can be prepared again")
        return folder_of_images(name, root, size=int(size) if size else None)
    except OSError as error:
        raise DataError(f"{name}: {error}") from None


def _folder(name: str, data_dir: Path) -> Path:
    return data_dir / "prepared" / name.replace(":", "-")


def _only_prepared(name: str, data_dir: Path) -> bool:
    """Whether the arrays are all there is: the folder of images that they came from is gone."""
    images = FOLDER.fullmatch(name)
    gone = images is not None and not (data_dir / images["name"]).exists()
    return gone and fingerprint(name, data_dir) is not None


def _known_labels(name: str, data_dir: Path) -> tuple[Labels, int, Folds | None]:
    """Labels of the training split, the number of test images, and folds, whether it is prepared or not."""
    folder = _folder(name, data_dir)
    with_folds = has_folds(name) and is_prepared(name, data_dir, folds=True)
    if with_folds or _only_prepared(name, data_dir):
        labels, test = (np.load(folder / f"{split}_labels.npy") for split in ("train", "test"))
        return labels, len(test), read_folds(folder)
    origin = source(name, data_dir)
    return origin.labels, origin.test_images, origin.folds


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare datasets ahead; returns the exit code."""
    parser = CommandLine(
        prog="python -m trainables.data",
        usage="%(prog)s NAME … [options]",
        description="Prepare datasets ahead.",
    )
    allowed = f"{', '.join(DATASETS)}, folder:NAME or folder:NAME@SIZE"
    parser.add_argument("names", metavar="NAME", nargs="+", help=allowed)
    parser.add_argument(
        "--data-dir", metavar="DIR", type=path, default=Path("data"), help="datasets (default: data)"
    )
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in DATASETS and not FOLDER.fullmatch(name):
            parser.error(f"NAME: got {name!r}{nearest(name, DATASETS)}; allowed: {allowed}")
    try:
        for name in filter(FOLDER.fullmatch, args.names):
            _known_labels(name, args.data_dir)  # DataError, before any is prepared
        for name in args.names:
            digest = prepare(name, args.data_dir, look_at_source=True, progress=True)
            dataset = load(name, args.data_dir)
            if digest_of(dataset.train, dataset.test) != digest:
                folder = _folder(name, args.data_dir)
                raise DataError(f"{folder} is damaged: it is not what was prepared. Remove it and try again")
            labels, size = dataset.train.labels, dataset.image_size
            counts = [f"{int((labels != UNLABELLED).sum())} training images"]
            if unlabelled := int((labels == UNLABELLED).sum()):
                counts.append(f"{unlabelled} unlabelled")
            counts.append(f"{len(dataset.test.labels)} test images")
            if dataset.folds is not None:
                counts.append(f"{len(dataset.folds)} folds")
            print(
                f"{name}: {', '.join(counts)} of {len(dataset.classes)} classes, {size} x {size} pixels,"
                f" in {_folder(name, args.data_dir)}, sha256 {digest[:16]}"
            )
    except DataError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; nothing half-made is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
