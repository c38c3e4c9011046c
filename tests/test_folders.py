"""Folders of images as datasets."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from trainables import data
from trainables.datasets import sources
from trainables.datasets.sources import DataError
from trainables.datasets.splits import UNLABELLED

CLASSES = ("cat", "dog")


def noise(seed: int, side: int = 8) -> np.ndarray:
    """Pixels of a picture, (side, side, 3)."""
    return np.random.RandomState(seed).randint(0, 256, (side, side, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data folder with `pets`: two classes, three training and two test images each, four unlabelled."""
    root = tmp_path / "pets"
    for c, name in enumerate(CLASSES):
        for i in range(3):
            save(root / f"train/{name}/{i}.png", noise(10 * c + i))
        for i in range(2):
            save(root / f"test/{name}/{i}.PNG", noise(100 + 10 * c + i))
    for i in range(4):
        save(root / f"unlabeled/{i % 2}/{i}.png", noise(200 + i))
    return tmp_path


def load(data_dir: Path, name: str = "folder:pets") -> data.Dataset:
    return data.load(name, data_dir)


def test_a_folder_becomes_arrays(pets: Path) -> None:
    dataset = load(pets)
    assert dataset.classes == CLASSES
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1, *[UNLABELLED] * 4]
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    expected = [noise(seed).transpose(2, 0, 1) for seed in (0, 1, 2, 10, 11, 12, 200, 202, 201, 203)]
    np.testing.assert_array_equal(dataset.train.images, expected)
    np.testing.assert_array_equal(
        dataset.test.images, [noise(seed).transpose(2, 0, 1) for seed in (100, 101, 110, 111)]
    )


def test_statistics_are_those_of_labelled_training_images(pets: Path) -> None:
    dataset = load(pets)
    pixels = dataset.train.images[:6] / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_images_of_all_kinds_become_rgb(pets: Path) -> None:
    pixels = noise(7)
    cat = pets / "pets/train/cat"
    for suffix in ("bmp", "ppm", "tiff", "webp"):
        options = {"lossless": True} if suffix == "webp" else {}
        Image.fromarray(pixels).save(cat / f"4.{suffix}", **options)
    Image.fromarray(pixels[..., 0]).save(cat / "5-grey.png")
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(cat / "6-alpha.png")
    images = load(pets).train.images
    for i in (3, 4, 5, 6, 8):
        np.testing.assert_array_equal(images[i], pixels.transpose(2, 0, 1))
    np.testing.assert_array_equal(images[7], np.repeat(pixels[None, ..., 0], 3, axis=0))


def test_a_stated_size_crops_the_middle_and_resizes(pets: Path) -> None:
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 2:14] = 200  # the middle square and the pixels that are mixed in at its edges
    save(pets / "pets/train/cat/9.png", wide)
    dataset = load(pets, "folder:pets@4")
    assert dataset.train.images.shape == (11, 3, 4, 4)
    assert (dataset.train.images[3] == 200).all()
    assert data.image_size("folder:pets@4", pets) == 4
    with pytest.raises(DataError, match=r"allowed: one size, or a size to bring all to: folder:pets@8$"):
        load(pets)


def test_hidden_files_are_passed_over(pets: Path) -> None:
    for place in ("train", "train/cat", "unlabeled"):
        (pets / "pets" / place / ".DS_Store").touch()
    (pets / "pets/train/cat/.cache").mkdir()
    (pets / "pets/train/cat/.cache/thumbnail.png").touch()
    assert len(load(pets).train.labels) == 10


def test_it_is_prepared_again_when_the_images_change(pets: Path) -> None:
    first = data.prepare("folder:pets", pets)
    again = lambda: data.prepare("folder:pets", pets, look_at_source=True)  # noqa: E731
    assert again() == first
    path = save(pets / "pets/train/cat/0.png", noise(99))
    assert data.prepare("folder:pets", pets) == first  # workers trust the driver
    second = again()
    assert second != first
    os.utime(path, (1, 1))  # touched, the same pixels
    assert again() == second
    path.unlink()
    assert again() not in (first, second)


def test_arrays_from_before_images_were_turned_are_prepared_again_once(pets: Path) -> None:
    """Their digest stays, and with it trials, where no image is turned by its EXIF."""
    first = data.prepare("folder:pets", pets)
    meta = pets / "prepared/folder-pets/meta.json"

    def as_before() -> None:
        known = json.loads(meta.read_text())
        meta.write_text(json.dumps({**known, "state": "of an earlier version"}))

    as_before()
    assert data.prepare("folder:pets", pets) == first  # workers trust the driver
    assert data.prepare("folder:pets", pets, look_at_source=True) == first
    assert json.loads(meta.read_text())["state"] == data.source("folder:pets", pets).state
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(noise(0)[::-1, ::-1]).save(pets / "pets/train/cat/0.png", exif=exif)
    assert data.prepare("folder:pets", pets, look_at_source=True) == first


def test_damaged_arrays_without_their_images_are_named(pets: Path) -> None:
    data.prepare("folder:pets", pets)
    (pets / "pets").rename(pets / "elsewhere")
    file = pets / "prepared/folder-pets/test_images.npy"
    file.write_bytes(bytes(20) + file.read_bytes()[20:])
    message = f"{file} is damaged; allowed: {pets / 'pets'}, from which folder:pets can be prepared again"
    with pytest.raises(DataError, match=re.escape(message)):
        load(pets)


def test_without_its_images_the_arrays_serve(pets: Path) -> None:
    first = data.prepare("folder:pets", pets)
    (pets / "pets").rename(pets / "elsewhere")
    assert data.prepare("folder:pets", pets, look_at_source=True) == first
    assert data.image_size("folder:pets", pets) == 8


def test_a_channel_that_is_empty_does_no_harm(pets: Path) -> None:
    for path in (pets / "pets/train").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[..., 2] = 0
        save(path, pixels)
    dataset = load(pets)
    assert dataset.mean[2] == 0
    assert dataset.std[2] == 1
    assert all(0 < value < 1 for value in dataset.std[:2])


def test_large_images_are_decoded_a_few_at_a_time(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.prepare("folder:pets", pets)
    assert sources.images_at_once(8) > 1000
    assert sources.images_at_once(1024) == 5
    assert sources.images_at_once(10_000) == 1
    monkeypatch.setattr(sources, "CHUNK_BYTES", 3 * 8 * 8 * 2)
    os.utime(pets / "pets/train/cat/0.png", (1, 1))
    assert data.prepare("folder:pets", pets, look_at_source=True) == first


def unreadable(root: Path) -> None:
    """A folder that may not be read; root reads everything, so the error itself is made."""
    more = root / "train/dog/more"
    save(more / "3.png", noise(0))
    before = os.scandir

    def scandir(path: str) -> Any:
        if str(path) == str(more):
            raise PermissionError(13, "Permission denied", str(more))
        return before(path)

    os.scandir = scandir  # type: ignore[assignment]  # undone by the test's monkeypatch


BROKEN = {
    "there is no folder {root}/test; allowed: one with a folder of images for each class": (
        lambda root: (root / "test").rename(root / "tests")
    ),
    "{root}/train/cat has no images; allowed: at least one, ending with .bmp, ": (
        lambda root: [path.unlink() for path in (root / "train/cat").iterdir()]
    ),
    "{root}/unlabeled has no images; allowed: at least one, ending with .bmp, ": (
        lambda root: [path.unlink() for path in (root / "unlabeled").rglob("*.png")]
    ),
    "folder:pets: train and test have different classes: only in {root}/test: bird": (
        lambda root: save(root / "test/bird/0.png", noise(0))
    ),
    "{root}/train/0.png is in no class; allowed: train/<class>/0.png": (
        lambda root: save(root / "train/0.png", noise(0))
    ),
    "{root}/test/dog/notes.txt is no image; allowed: files that end with .bmp, ": (
        lambda root: (root / "test/dog/notes.txt").touch()
    ),
    "{root}/train/dog/1.png cannot be read as an image: ": (
        lambda root: (root / "train/dog/1.png").write_bytes(b"no picture")
    ),
    "{root}/train/dog/2.png cannot be read as an image: image file is truncated": (
        lambda root: (root / "train/dog/2.png").write_bytes((root / "train/dog/2.png").read_bytes()[:150])
    ),
    "{root}/test/cat/1.PNG has 9 x 9 pixels, the first image 8 x 8; allowed: one size, or a size": (
        lambda root: save(root / "test/cat/1.PNG", noise(0, side=9))
    ),
    "{root}/train/cat/0.png has 4 x 8 pixels; allowed: square images, or a size to crop and resize them to:"
    " folder:pets@4": (lambda root: save(root / "train/cat/0.png", noise(0)[:, :4])),
    "{root}/train/cat/1.png has pixels of mode I;16; allowed: 8 bits a channel": (
        lambda root: Image.new("I;16", (8, 8)).save(root / "train/cat/1.png")
    ),
    "folder:pets: [Errno 2] No such file or directory: '{root}/train/dog/3.png'": (
        lambda root: (root / "train/dog/3.png").symlink_to("nowhere.png")
    ),
    "folder:pets: [Errno 13] Permission denied: '{root}/train/dog/more'": unreadable,
    "{root}/train has one class, 'dog'; allowed: at least two": (
        lambda root: [(root / split / "cat").rename(root / f"{split}-cat") for split in ("train", "test")]
    ),
    "folder:pets: there is no folder {root} (did you mean 'folder:pet'?); allowed: a folder with train/": (
        lambda root: root.rename(root.parent / "pet")
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_broken_is_named_and_nothing_is_left(
    pets: Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", os.scandir)
    BROKEN[message](pets / "pets")
    with pytest.raises(DataError, match="^" + re.escape(message.format(root=pets / "pets"))):
        load(pets)
    assert [path.name for path in (pets / "prepared").iterdir()] == [".folder-pets.lock"]


def test_a_broken_change_leaves_what_was_prepared(pets: Path) -> None:
    first = data.prepare("folder:pets", pets)
    (pets / "pets/train/cat/0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/0\.png cannot be read"):
        data.prepare("folder:pets", pets, look_at_source=True)
    assert data.fingerprint("folder:pets", pets) == first
