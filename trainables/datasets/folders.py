"""Users' own datasets: folders of images."""

import contextlib
import difflib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from trainables.datasets.sources import Contents, DataError, Images, Part, Source, images_at_once
from trainables.datasets.splits import UNLABELLED, Labels

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name: it would hand a PostScript file to Ghostscript."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits a channel: others would be cut off, not converted."""


def folder(name: str, root: Path, *, size: int | None) -> Source:
    """The images in `root/{train,test}/<class>/` and, where there is one, `root/unlabeled/`.

    They are cropped to squares and resized to `size` pixels; None: all are squares of one size.

    Raises:
        DataError: a folder is missing or empty, a file is no image, or the splits have different classes.
    """
    if not root.is_dir():
        siblings = [path.name for path in root.parent.glob("*/") if (path / "train").is_dir()]
        near = difflib.get_close_matches(root.name, siblings, n=1)
        hint = f" (did you mean 'folder:{near[0]}'?)" if near else ""
        raise DataError(
            f"{name}: there is no folder {root}{hint}; allowed: a folder with train/<class>/ and"
            " test/<class>/, and images in them"
        )
    train, test = _classes(root / "train"), _classes(root / "test")
    if train.keys() != test.keys():
        raise DataError(
            f"{name}: train and test have different classes: "
            + "; ".join(
                f"only in {root / split}: {_some(sorted(extra))}"
                for split, extra in (
                    ("train", train.keys() - test.keys()),
                    ("test", test.keys() - train.keys()),
                )
                if extra
            )
        )
    if len(train) < 2:
        raise DataError(f"{root / 'train'} has one class, {next(iter(train))!r}; allowed: at least two")
    unlabelled = _images(root / "unlabeled") if (root / "unlabeled").exists() else []
    files = {
        "train": [path for paths in train.values() for path in paths] + unlabelled,
        "test": [path for paths in test.values() for path in paths],
    }
    labels = {"train": np.concatenate([_labels(train), np.full(len(unlabelled), UNLABELLED)])}
    labels["test"] = _labels(test)
    state = _state(root, files["train"] + files["test"])  # before any is opened
    side = size or _side(files["train"][0], name)

    def part(split: str) -> Part:
        return Part(
            labels=labels[split],
            chunks=lambda: _decoded(files[split], side, name, resize=size is not None),
        )

    contents = Contents(train=part("train"), test=part("test"), image_size=side, classes=tuple(train))
    return Source(
        labels=labels["train"],
        test_images=len(labels["test"]),
        image_size=side,
        state=state,
        read=lambda _: contents,
    )


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, by class name, both sorted."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; allowed: one with a folder of images for each class")
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    for path in entries:
        if not path.is_dir():
            raise DataError(f"{path} is in no class; allowed: {folder.name}/<class>/{path.name}")
        if re.search("[\ud800-\udfff]", path.name):
            raise DataError(
                f"{folder}: the class {os.fsencode(path.name)!r} is not UTF-8; allowed: a name in UTF-8"
            )
    if not entries:
        raise DataError(f"{folder} is empty; allowed: a folder of images for each class")
    return {path.name: _images(path) for path in entries}


def _images(folder: Path) -> list[Path]:
    """All images below a folder, sorted; hidden files and folders are passed over."""
    found, left = [], [(str(folder), frozenset[tuple[int, int]]())]
    while left:
        place, above = left.pop()
        status = os.stat(place)
        here = status.st_dev, status.st_ino
        if here in above:
            raise DataError(f"{place} is a link to a folder that it lies in; allowed: a folder of images")
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    left.append((entry.path, above | {here}))
                elif entry.name.lower().endswith(SUFFIXES):
                    found.append(entry.path)
                else:
                    raise DataError(
                        f"{entry.path} is no image; allowed: files that end with {', '.join(SUFFIXES)}"
                    )
    if not found:
        raise DataError(f"{folder} has no images; allowed: at least one, ending with {', '.join(SUFFIXES)}")
    return [Path(path) for path in sorted(found)]


def _some(names: list[str]) -> str:
    """The first names, and how many there are besides."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _labels(classes: dict[str, list[Path]]) -> Labels:
    return np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])


def _state(root: Path, files: Iterable[Path]) -> str:
    """Changes with names, sizes and times of change of the files; reads none of them."""
    # What is read from a file changed once: upright as its EXIF says. Arrays from before are made again.
    digest, above = hashlib.sha256(b"upright"), len(os.fsencode(root))
    for path in files:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise DataError(f"{path} is no regular file; allowed: images")
        about = f"\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(os.fsencode(path)[above:] + about.encode())
    return digest.hexdigest()


def _side(path: Path, name: str) -> int:
    """Height and width of the first image, which all the others must have."""
    with _opened(path) as image:
        width, height = _upright(image).size
    if width != height:
        raise DataError(
            f"{path} has {width} x {height} pixels; allowed: square images, or a size to crop and resize them"
            f" to: {name}@{min(width, height)}"
        )
    return int(width)


def _decoded(paths: list[Path], side: int, name: str, *, resize: bool) -> Iterator[Images]:
    """The images in `paths`, chunk by chunk, (n, 3, side, side)."""

    def decode(path: Path) -> Images:
        with _opened(path) as image:
            return _as_array(image, path, side, name, resize=resize)

    # Pillow decodes outside of Python's lock.
    count = images_at_once(side)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, len(paths), count):
            yield np.stack(list(threads.map(decode, paths[start : start + count])))


def _as_array(image: Any, path: Path, side: int, name: str, *, resize: bool) -> Images:
    from PIL import Image, ImageOps

    if image.mode not in MODES:
        raise DataError(f"{path} has pixels of mode {image.mode}; allowed: 8 bits a channel")
    image = _upright(image)
    if not resize and image.size != (side, side):
        raise DataError(
            f"{path} has {image.width} x {image.height} pixels, the first image {side} x {side}; allowed: one"
            f" size, or a size to bring all to: {name}@{side}"
        )
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of the direct way, which gives the same colours
    image = image.convert("RGB")
    if resize:
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _upright(image: Any) -> Any:
    """The image turned as its EXIF orientation says: cameras that are held sideways save images that lie."""
    from PIL import ExifTags, Image

    image.load()  # which turns TIFF by itself
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF says nothing, and images are read without it
        return image
    turn = Image.Transpose
    mirrored = turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM
    turns = *mirrored, turn.TRANSPOSE, turn.ROTATE_270, turn.TRANSVERSE, turn.ROTATE_90
    return image.transpose(turns[orientation - 2]) if orientation in range(2, 9) else image


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An image opened with Pillow; errors name its file."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise DataError(f"{path} cannot be read as an image: {error}") from None
