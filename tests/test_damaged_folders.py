"""Folders of images as people have them: each becomes the right arrays, or one clear error."""

import io
import os
import signal
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from trainables import data
from trainables.datasets.sources import DataError
from trainables.datasets.splits import UNLABELLED

SIDE, SMALL = 8, 4
LONGEST = 10
"""Seconds until a folder is answered."""
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def picture(seed: int = 9, mode: str = "RGB", width: int = SIDE, height: int = SIDE) -> Image.Image:
    return Image.fromarray(noise(seed, height, width, 3)).convert(mode)


def put(name: str, content: bytes, folder: str = "train/cat") -> Callable[[Path], None]:
    """Leave a file in a class."""
    return lambda root: [(root / folder / name).write_bytes(content), None][1]  # type: ignore[func-returns-value]


def saved(name: str, image: Image.Image, folder: str = "train/cat", **options: Any) -> Callable[[Path], None]:
    """Leave an image in a class, in the format that its name says."""
    return lambda root: image.save(root / folder / name, **options)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def huge(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, and holds nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def flipped(root: Path) -> None:
    """A bit in the middle of an image."""
    file = root / "train/cat/0.png"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def listening(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(root / "train/cat")  # names of sockets are short
        made.bind("s.png")
        os.chdir(before)


def many_classes(root: Path, count: int = 1001) -> None:
    content = encoded(picture(), "PNG")
    for split in ("train", "test"):
        for number in range(count):
            (root / split / f"c{number:04}").mkdir()
            (root / split / f"c{number:04}/0.png").write_bytes(content)


def only_in_train(root: Path) -> None:
    for number in range(300):
        (root / f"train/c{number:04}").mkdir()
        saved("0.png", picture(), f"train/c{number:04}")(root)


def without(*names: str) -> Callable[[Path], None]:
    def remove(root: Path) -> None:
        for name in names:
            (root / name).rename(root.parent / name.replace("/", "-"))

    return remove


def class_named(name: bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        for split in ("train", "test"):
            folder = os.path.join(os.fsencode(root / split), name)
            os.mkdir(folder)
            picture().save(os.fsdecode(os.path.join(folder, b"0.png")))

    return make


def two_that_link_to_each_other(root: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (root.parent / name).mkdir()
        (root.parent / name / "on").symlink_to(root.parent / other)
    (root / "train/cat/a").symlink_to(root.parent / "a")


def replaced(name: str, by: bytes) -> Callable[[Path], None]:
    return put(Path(name).name, by, str(Path(name).parent))


FINE: dict[str, Callable[[Path], object]] = {
    "nothing wrong": lambda root: None,
    "no unlabelled images": without("unlabeled"),
    "grey": saved("g.png", picture(mode="L")),
    "black and white": saved("b.png", picture(mode="1")),
    "grey with alpha": saved("la.png", picture(mode="LA")),
    "alpha": saved("a.png", picture(mode="RGBA")),
    "palette": saved("p.png", picture(mode="P")),
    "palette with a transparent colour": saved("p.png", picture(mode="P"), transparency=3),
    "palette with transparency": saved("p.png", picture(mode="P"), transparency=bytes(range(256))),
    "a transparent colour": saved("t.png", picture(), transparency=(1, 2, 3)),
    "CMYK": saved("c.jpg", picture(mode="CMYK"), quality=95),
    "CMYK in TIFF": saved("c.tif", picture(mode="CMYK")),
    "YCbCr": saved("y.jpg", picture(mode="YCbCr")),
    "progressive": saved("p.jpeg", picture(), progressive=True),
    "animated PNG": saved("n.png", picture(), save_all=True, append_images=[picture(1), picture(2)]),
    "animated WebP": saved("n.webp", picture(), save_all=True, append_images=[picture(1)], lossless=True),
    "TIFF of several pages": saved("n.tiff", picture(), save_all=True, append_images=[picture(1)]),
    "two images of a stereo camera": put(
        "m.jpg", encoded(picture(), "MPO", save_all=True, append_images=[picture(1)])
    ),
    "PGM": saved("g.pgm", picture(mode="L")),
    "BMP": saved("b.BMP", picture()),
    "JPEG named PNG": put("j.png", encoded(picture(), "JPEG")),
    "PNG named JPEG": put("p.jpg", encoded(picture(), "PNG")),
    "GIF named PNG": put("g.png", encoded(picture(), "GIF")),
    **{f"turned, {o}": saved("o.jpg", picture(), exif=turned(o)) for o in range(1, 9)},
    "turned TIFF": saved("o.tif", picture(), exif=turned(6)),
    "turned WebP": saved("o.webp", picture(), exif=turned(8), lossless=True),
    "turned by nonsense": saved("o.png", picture(), exif=turned(77)),
    "an ICC profile of nonsense": saved("i.png", picture(), icc_profile=b"no profile"),
    "bytes after the end": put("t.png", encoded(picture(), "PNG") + b"\0" * 999),
    "EXIF of nonsense": put("e.webp", encoded(picture(), "WEBP", lossless=True, exif=b"Exif\0\0nonsense")),
    "a thousand classes": many_classes,
    "a class with spaces": class_named(b" two words "),
    "a class in Greek": class_named("γάτα".encode()),
    "a class with a line feed": class_named(b"a\nb"),
    "a class that commands a terminal": class_named(b"\x1b[2J"),
    "a file whose name is no text": lambda root: (root / "train/cat/0.png").rename(
        os.fsdecode(os.fsencode(root / "train/cat") + b"/\xff\xfe.png")
    ),
    "the longest name": saved("x" * 251 + ".png", picture()),
    "a link to an image": lambda root: (root / "train/cat/l.png").symlink_to(root / "test/dog/0.png"),
    "a class that is a link": lambda root: [
        (root / split / "cow").symlink_to(root / split / "dog") for split in ("train", "test")
    ],
    "hidden files": put(".DS_Store", b"\0", "train"),
    "deep folders": lambda root: [
        (root / "train/cat" / "/".join("d" * 60)).mkdir(parents=True),
        saved("0.png", picture(), "train/cat/" + "/".join("d" * 60))(root),
    ],
}
"""What is right, though it looks odd."""
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda root: root.rename(root.parent / "elsewhere"), "there is no folder"),
    "a file in its place": (
        lambda root: [root.rename(root.parent / "elsewhere"), root.write_bytes(b"")],
        "there is no folder",
    ),
    "nothing in it": (without("train", "test", "unlabeled"), "there is no folder {root}/train"),
    "no test": (without("test"), "there is no folder {root}/test"),
    "a split that is a file": (
        lambda root: [without("test")(root), (root / "test").touch()],
        "there is no folder",
    ),
    "a split that links to itself": (
        lambda root: [without("train")(root), (root / "train").symlink_to("train")],
        "there is no folder {root}/train",
    ),
    "an empty split": (lambda root: [without("test")(root), (root / "test").mkdir()], "{root}/test is empty"),
    "an empty class": (without("train/cat/0.png", "train/cat/1.png"), "{root}/train/cat has no images"),
    "one class": (without("train/cat", "test/cat"), "{root}/train has one class, 'dog'"),
    "classes that disagree": (without("test/cat"), "different classes: only in {root}/train: cat"),
    "hundreds that disagree": (only_in_train, "c0000, c0001, c0002, c0003, c0004 and 295 more"),
    "an image in no class": (saved("0.png", picture(), "train"), "{root}/train/0.png is in no class"),
    "a text": (put("notes.txt", b"hello"), "{root}/train/cat/notes.txt is no image"),
    "no suffix": (put("image", b""), "{root}/train/cat/image is no image"),
    "zero bytes": (replaced("test/dog/0.png", b""), "{root}/test/dog/0.png cannot be read as an image"),
    "zero bytes in the first": (replaced("train/cat/0.png", b""), "{root}/train/cat/0.png cannot be read"),
    "zeros": (put("z.png", b"\0" * 5000), "{root}/train/cat/z.png cannot be read as an image"),
    "noise": (put("z.jpg", noise(0, 5000).tobytes()), "{root}/train/cat/z.jpg cannot be read as an image"),
    "a page of HTML": (
        put("h.jpg", b"<html>404</html>"),
        "{root}/train/cat/h.jpg cannot be read as an image",
    ),
    "truncated PNG": (put("t.png", encoded(picture(), "PNG")[:120]), "{root}/train/cat/t.png cannot be read"),
    "truncated JPEG": (
        put("t.jpg", encoded(picture(), "JPEG")[:-200]),
        "{root}/train/cat/t.jpg cannot be read",
    ),
    "truncated TIFF": (
        put("t.tif", encoded(picture(), "TIFF")[:99]),
        "{root}/train/cat/t.tif cannot be read",
    ),
    "truncated WebP": (
        put("t.webp", encoded(picture(), "WEBP")[:60]),
        "{root}/train/cat/t.webp cannot be read",
    ),
    "a header alone": (put("t.png", encoded(picture(), "PNG")[:33]), "{root}/train/cat/t.png cannot be read"),
    "a flipped bit": (flipped, "{root}/train/cat/0.png cannot be read as an image"),
    "PostScript": (
        put("e.png", POSTSCRIPT),
        "{root}/train/cat/e.png cannot be read as an image: cannot identify",
    ),
    "PCX": (
        put("x.png", encoded(picture(), "PCX")),
        "{root}/train/cat/x.png cannot be read: cannot identify",
    ),
    "an icon": (
        put("i.png", encoded(picture(), "ICO")),
        "{root}/train/cat/i.png cannot be read: cannot identify",
    ),
    "a PDF": (
        put("p.png", encoded(picture(), "PDF")),
        "{root}/train/cat/p.png cannot be read: cannot identify",
    ),
    "too large to be true": (put("h.png", huge(60_000, 60_000)), "{root}/train/cat/h.png cannot be read"),
    "wide beyond measure": (put("h.png", huge(2**31 - 1, 1)), "{root}/train/cat/h.png cannot be read"),
    "no pixel": (put("h.png", huge(0, 0)), "{root}/train/cat/h.png cannot be read"),
    "16 bits": (
        lambda root: Image.fromarray(noise(0, 8, 8).astype(np.uint16)).save(root / "train/cat/s.png"),
        "{root}/train/cat/s.png has pixels of mode I;16; allowed: 8 bits a channel",
    ),
    "floats": (
        lambda root: Image.fromarray(np.ones((8, 8), np.float32)).save(root / "train/cat/f.tif"),
        "{root}/train/cat/f.tif has pixels of mode F; allowed: 8 bits a channel",
    ),
    "LAB": (saved("l.tif", picture(mode="LAB")), "{root}/train/cat/l.tif has pixels of mode LAB"),
    "a pipe": (lambda root: os.mkfifo(root / "train/cat/p.png"), "{root}/train/cat/p.png is no regular file"),
    "a pipe that comes first": (
        lambda root: os.mkfifo(root / "train/cat/!.png"),
        "{root}/train/cat/!.png is no regular file",
    ),
    "a pipe in place of a class": (
        lambda root: os.mkfifo(root / "train/cow"),
        "{root}/train/cow is in no class",
    ),
    "a socket": (listening, "{root}/train/cat/s.png is no regular file"),
    "a device": (
        lambda root: (root / "unlabeled/z.png").symlink_to("/dev/zero"),
        "{root}/unlabeled/z.png is no regular file",
    ),
    "a folder with the name of an image": (
        lambda root: (root / "train/cow.png").mkdir(),
        "{root}/train/cow.png has no images",
    ),
    "a link to nothing": (
        lambda root: (root / "train/cat/l.png").symlink_to("nowhere"),
        "No such file or directory: '{root}/train/cat/l.png'",
    ),
    "a link to itself": (
        lambda root: (root / "train/cat/l.png").symlink_to("l.png"),
        "Too many levels of symbolic links: '{root}/train/cat/l.png'",
    ),
    "a folder that links to itself": (
        lambda root: (root / "train/cat/again").symlink_to(root / "train/cat"),
        "{root}/train/cat/again is a link to a folder that it lies in",
    ),
    "folders that link upwards, twice": (
        lambda root: [(root / f"train/cat/{name}").symlink_to("..") for name in "ab"],
        "is a link to a folder that it lies in",
    ),
    "folders that link to each other": (two_that_link_to_each_other, "is a link to a folder that it lies in"),
    "a class whose name is no text": (class_named(b"\xff\xfe"), r"the class b'\xff\xfe' is not UTF-8"),
}
"""What cannot be right, and a part of the error that says so."""
UNEQUAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "another size": (
        saved("w.png", picture(width=9, height=9)),
        "w.png has 9 x 9 pixels, the first image 8 x 8",
    ),
    "one pixel": (
        saved("w.png", picture(width=1, height=1)),
        "w.png has 1 x 1 pixels, the first image 8 x 8",
    ),
    "wide": (saved("w.png", picture(width=SIDE * 2)), "w.png has 16 x 8 pixels, the first image 8 x 8"),
    "turned on its side": (
        saved("w.jpg", picture(width=SIDE * 2), exif=turned(6)),
        "w.jpg has 8 x 16 pixels, the first image 8 x 8",
    ),
    "a first that is wide": (
        saved("!.png", picture(width=20)),
        "!.png has 20 x 8 pixels; allowed: square images",
    ),
}
"""What is right where a size is given, and otherwise an error."""


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Path]:
    """A folder of two classes; a test that waits on it ends."""
    for split, count in (("train", 2), ("test", 1)):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                picture(10 * number + i).save(tmp_path / "pets" / split / name / f"{i}.png")
    (tmp_path / "pets/unlabeled").mkdir()
    picture(50).save(tmp_path / "pets/unlabeled/0.png")

    def hung(*_: object) -> None:
        for path in tmp_path.rglob("*.png"):  # threads that wait for a pipe would never end
            if path.is_fifo():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(LONGEST)
    yield tmp_path / "pets"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def expected(file: Path, size: int | None) -> np.ndarray:
    """An image as Pillow's own functions make it: (3, side, side)."""
    with Image.open(file) as image:
        try:
            whole = ImageOps.exif_transpose(image)
        except SyntaxError:  # of EXIF that is none
            whole = image
        colours = (whole.convert("RGBA") if whole.mode == "P" else whole).convert("RGB")
    if size:
        colours = ImageOps.fit(colours, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(colours).transpose(2, 0, 1)


def check_whole(root: Path, size: int | None) -> None:
    """The dataset has every image of the folder once, in its class, as Pillow reads it."""
    dataset = data.load(f"folder:pets@{size}" if size else "folder:pets", root.parent)
    classes = sorted(path.name for path in (root / "train").iterdir() if not path.name.startswith("."))
    assert dataset.classes == tuple(classes)
    for split, arrays in (("train", dataset.train), ("test", dataset.test)):
        places = [(label, root / split / name) for label, name in enumerate(classes)]
        if split == "train" and (root / "unlabeled").exists():
            places.append((UNLABELLED, root / "unlabeled"))
        images, labels = [], []
        for label, folder in places:
            walked = (
                os.path.join(place, name)
                for place, _, names in os.walk(folder, followlinks=True)
                for name in names
            )
            for path in sorted(walked):
                images.append(expected(Path(path), size))
                labels.append(label)
        assert arrays.labels.tolist() == labels
        np.testing.assert_array_equal(arrays.images, images)


@pytest.mark.parametrize("size", [None, SMALL])
@pytest.mark.parametrize("name", FINE)
def test_what_looks_odd_is_read_as_it_is(pets: Path, name: str, size: int | None) -> None:
    FINE[name](pets)
    check_whole(pets, size)


@pytest.mark.parametrize("size", [None, SMALL])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_one_clear_error(pets: Path, name: str, size: int | None) -> None:
    break_it, message = BROKEN[name]
    break_it(pets)
    with pytest.raises(DataError) as raised:
        data.prepare(f"folder:pets@{size}" if size else "folder:pets", pets.parent)
    said = str(raised.value).replace(" as an image", "")
    assert message.format(root=pets).replace(" as an image", "") in said
    assert len(said.splitlines()) == 1
    assert len(said.replace(str(pets), "")) < 300
    assert [path.name[0] for path in (pets.parent / "prepared").iterdir()] == ["."]


@pytest.mark.parametrize("name", UNEQUAL)
def test_images_of_another_shape_take_a_size(pets: Path, name: str) -> None:
    make, message = UNEQUAL[name]
    make(pets)
    with pytest.raises(DataError) as raised:
        data.prepare("folder:pets", pets.parent)
    assert message in str(raised.value)
    check_whole(pets, SMALL)
