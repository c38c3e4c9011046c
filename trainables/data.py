"""Datasets: prepared once a machine into uint8 arrays on disk, then mapped read-only by every trial.

A prepared dataset is a folder `<data-dir>/prepared/<name>` with `train_images.npy`, `train_labels.npy`,
`test_images.npy`, `test_labels.npy` and `meta.json`. Images are (N, 3, H, W) uint8, labels (N,) int64,
-1 where there is no label. All processes that map one file share its pages.

Imports neither PyTorch nor Ray: the driver prepares data before either is loaded.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trainables.trial import TrialConfig

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

LAYOUT = 1
"""Version of the prepared files; a folder of another layout is prepared again."""
FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "meta.json")
"""What a prepared dataset consists of; where one is missing it is prepared again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and labels of one split, mapped read-only.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64, -1 where there is no label.
    """

    images: Images
    labels: Labels


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A prepared dataset.

    Attributes:
        name: its name in `TrialConfig.dataset`.
        train: all labelled training images.
        test: all test images.
        mean: per channel, over all pixels of `train`, on the scale 0–1.
        std: likewise.
        classes: class names, by label.
        sha256: digest of the images and labels of both splits.
    """

    name: str
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str

    @property
    def image_size(self) -> int:
        """Height and width of the images, in pixels."""
        return int(self.train.images.shape[-1])


def load(name: str, data_dir: Path) -> Dataset:
    """The dataset `name`, prepared first if this machine does not have it yet."""
    prepare(name, data_dir)
    folder = _folder(name, data_dir)
    meta = json.loads((folder / "meta.json").read_text())
    splits = {
        split: Split(
            images=np.load(folder / f"{split}_images.npy", mmap_mode="r"),
            labels=np.load(folder / f"{split}_labels.npy"),
        )
        for split in ("train", "test")
    }
    return Dataset(
        name=name,
        **splits,
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        classes=tuple(meta["classes"]),
        sha256=meta["sha256"],
    )


def prepare(name: str, data_dir: Path) -> str:
    """Make the dataset's arrays unless they are there; returns their SHA-256.

    One process of a machine works, the others wait at a file lock. The folder appears under its name
    only when it is whole.
    """
    folder = _folder(name, data_dir)
    digest = fingerprint(name, data_dir)
    if digest is not None:
        return digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        digest = fingerprint(name, data_dir)
        if digest is not None:
            return digest
        # Not mkdtemp: its folders are for their maker alone, and a data folder may be shared.
        scratch = folder.with_name(f".{folder.name}-{os.getpid()}-{time.time_ns()}")
        scratch.mkdir()
        try:
            digest = _write(scratch, *SOURCES[name]())
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return digest


def fingerprint(name: str, data_dir: Path) -> str | None:
    """SHA-256 of the prepared dataset, or None where it is not prepared; reads a few hundred bytes."""
    folder = _folder(name, data_dir)
    if not all((folder / file).exists() for file in FILES):
        return None
    meta = json.loads((folder / "meta.json").read_text())
    return str(meta["sha256"]) if meta["layout"] == LAYOUT else None


def check(trials: Iterable[TrialConfig], data_dir: Path) -> None:
    """Raise ValueError for a trial that asks for more images than its dataset has.

    Looks at what is prepared or embedded; of a dataset still to be downloaded nothing is known yet.
    """
    for trial in {(t.dataset, t.train_size, t.val_fraction, t.batch_size): t for t in trials}.values():
        prepared = _folder(trial.dataset, data_dir) / "train_labels.npy"
        if prepared.exists():
            training_indices(trial, np.load(prepared))
        elif trial.dataset in EMBEDDED:
            training_indices(trial, SOURCES[trial.dataset]()[0].labels)


def training_indices(config: TrialConfig, labels: Labels) -> tuple[Indices, Indices]:
    """Which images of the full training split are trained on, and which are held out for validation.

    Both choices are stratified by class and depend on the data alone, never on the trial's seed; a
    smaller `train_size` is a subset of a larger one.

    Args:
        config: its `val_fraction` is taken first, its `train_size` from the rest.
        labels: (N,) of the full training split.

    Returns:
        Sorted indices (n,) for training, (v,) for validation.

    Raises:
        ValueError: a class has too few images for `train_size`, or there are fewer than one batch.
    """
    order = _fixed_order(labels)
    by_class = [order[labels[order] == c] for c in np.unique(labels)]
    held_out = [round(config.val_fraction * len(indices)) for indices in by_class]
    rest = [indices[n:] for indices, n in zip(by_class, held_out, strict=True)]
    if config.train_size is None:
        chosen = rest
    else:
        if config.train_size < len(rest):
            raise ValueError(
                f"train_size: got {config.train_size}; allowed: at least one image of each of the"
                f" {len(rest)} classes of {config.dataset}"
            )
        share, extra = divmod(config.train_size, len(rest))
        sizes = [share + (c < extra) for c in range(len(rest))]
        if any(size > len(indices) for size, indices in zip(sizes, rest, strict=True)):
            raise ValueError(
                f"train_size: got {config.train_size}; allowed: at most {min(map(len, rest))} images a class"
                f" of {config.dataset} beside val_fraction={config.val_fraction}"
            )
        chosen = [indices[:size] for size, indices in zip(sizes, rest, strict=True)]
    train = np.sort(np.concatenate(chosen))
    if len(train) < config.batch_size:
        raise ValueError(
            f"batch_size: got {config.batch_size}; allowed: at most the {len(train)} training images"
        )
    validation = [indices[:n] for indices, n in zip(by_class, held_out, strict=True)]
    return train, np.sort(np.concatenate(validation))


def stratified_choice(labels: Labels, count: int) -> Indices:
    """`count` fixed indices into `labels`, classes in proportion (all where there are fewer), sorted.

    Taken round-robin by relative rank within the class: each prefix of the underlying order is
    stratified, so a smaller choice is a subset of a larger one.
    """
    order = _fixed_order(labels)
    rank = np.empty(len(labels))
    for c in np.unique(labels):
        members = order[labels[order] == c]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.argsort(rank, kind="stable")[:count])


def _fixed_order(labels: Labels) -> Indices:
    # RandomState, not default_rng: NumPy promises its stream never changes, and these choices must not.
    return np.random.RandomState(0).permutation(len(labels))


def _folder(name: str, data_dir: Path) -> Path:
    return data_dir / "prepared" / name


def _write(folder: Path, train: Split, test: Split, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for split, name in ((train, "train"), (test, "test")):
        np.save(folder / f"{name}_images.npy", split.images)
        np.save(folder / f"{name}_labels.npy", split.labels)
        digest.update(np.ascontiguousarray(split.images).tobytes())
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").tobytes())
    # Over all pixels: a mean of the images' own deviations comes out too small.
    values = train.images.transpose(1, 0, 2, 3).reshape(3, -1)
    meta = {
        "layout": LAYOUT,
        "sha256": digest.hexdigest(),
        "mean": [float(channel.mean(dtype=np.float64) / 255) for channel in values],
        "std": [float(channel.std(dtype=np.float64) / 255) for channel in values],
        "classes": classes,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2))
    return digest.hexdigest()


def _digits() -> tuple[Split, Split, tuple[str, ...]]:
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
    test = Split(images=images[in_test], labels=labels[in_test])
    train = Split(images=images[~in_test], labels=labels[~in_test])
    return train, test, tuple(str(digit) for digit in range(10))


EMBEDDED = ("digits",)
"""Datasets that need no download."""

SOURCES: dict[str, Callable[[], tuple[Split, Split, tuple[str, ...]]]] = {"digits": _digits}
