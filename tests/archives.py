"""Small archives in the real formats of CIFAR-10 and STL-10, and how torchvision is told of them."""

import hashlib
import io
import pickle
import tarfile
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, STL10

Files = dict[str, bytes]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()  # noqa: S324  # the archives' own checksums


def archive(folder: str, files: Files) -> bytes:
    """A .tar.gz with `files` in `folder`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def cifar10_archive(train: np.ndarray, test: np.ndarray) -> tuple[bytes, Files]:
    """CIFAR-10's "Python version": pickled batches, one row of 3 x 32 x 32 bytes an image.

    Images are (N, 3, 32, 32), N a multiple of 5 in training; labels go round the ten classes.
    """
    labels = [i % 10 for i in range(len(train))]
    size = len(train) // 5
    batches = {
        f"data_batch_{i + 1}": (train[size * i : size * (i + 1)], labels[size * i : size * (i + 1)])
        for i in range(5)
    }
    batches["test_batch"] = (test, [i % 10 for i in range(len(test))])
    files = {
        name: pickle.dumps({"data": images.reshape(len(images), -1), "labels": of})
        for name, (images, of) in batches.items()
    }
    files["batches.meta"] = pickle.dumps({"label_names": [f"class{c}" for c in range(10)]})
    return archive(CIFAR10.base_folder, files), files


def stl10_archive(
    train: np.ndarray, unlabelled: np.ndarray, test: np.ndarray, folds: np.ndarray | None = None
) -> tuple[bytes, Files]:
    """STL-10's binary version: images column by column, labels from 1.

    Images are (N, 3, 96, 96); labels go round the ten classes. Without `folds` (10, n) their file is missing.
    """
    files = {
        f"{name}_X.bin": images.transpose(0, 1, 3, 2).tobytes()
        for name, images in (("train", train), ("unlabeled", unlabelled), ("test", test))
    }
    for name, images in (("train", train), ("test", test)):
        files[f"{name}_y.bin"] = (np.arange(len(images)) % 10 + 1).astype(np.uint8).tobytes()
    files["class_names.txt"] = "".join(f"class{c}\n" for c in range(10)).encode()
    if folds is not None:  # with a space at the end of each line, as in the real one
        files[STL10.folds_list_file] = "".join(f"{' '.join(map(str, fold))} \n" for fold in folds).encode()
    return archive(STL10.base_folder, files), files


def tell_torchvision(monkeypatch: pytest.MonkeyPatch, kind: Any, content: bytes, files: Files) -> None:
    """Let one of torchvision's datasets, and the reader of folds, expect the checksums of these files."""
    monkeypatch.setattr(kind, "tgz_md5", md5(content))
    for name in ("train_list", "test_list"):
        checked = [[file, md5(files[file])] for file, _ in getattr(kind, name)]
        monkeypatch.setattr(kind, name, checked)
    if kind is STL10 and STL10.folds_list_file in files:
        monkeypatch.setattr("trainables.datasets.sources.FOLDS_MD5", md5(files[STL10.folds_list_file]))
    if kind is CIFAR10:
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files["batches.meta"])})
