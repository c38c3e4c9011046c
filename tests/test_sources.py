"""CIFAR-10 and STL-10 through torchvision's own code, from small archives in the real formats."""

import contextlib
import functools
import http.server
import io
import re
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import archive, cifar10_archive, md5, stl10_archive, tell_torchvision
from torchvision.datasets import CIFAR10, STL10

from trainables import data
from trainables.datasets.sources import FOLDS_MD5, DataError
from trainables.datasets.splits import UNLABELLED
from trainables.trial import TrialConfig

SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""Python 3.11.0 to 3.11.3 do not know filters, and Python 3.12 warns without one."""

RANDOM = np.random.RandomState(0)
CIFAR_TRAIN = RANDOM.randint(0, 256, (40, 3, 32, 32), dtype=np.uint8)
CIFAR_TEST = RANDOM.randint(0, 256, (10, 3, 32, 32), dtype=np.uint8)
STL_TRAIN = RANDOM.randint(0, 256, (20, 3, 96, 96), dtype=np.uint8)
STL_FOLDS = np.stack([RANDOM.permutation(20)[:12] for _ in range(10)])
STL_UNLABELLED = RANDOM.randint(0, 256, (30, 3, 96, 96), dtype=np.uint8)
STL_TEST = RANDOM.randint(0, 256, (10, 3, 96, 96), dtype=np.uint8)


class Served:
    """A web server on loopback with one file, which may be cut short."""

    def __init__(self, content: bytes, folder: Path) -> None:
        (folder / "archive.tar.gz").write_bytes(content)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        handler.log_message = lambda *args: None  # type: ignore[attr-defined]
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/archive.tar.gz"


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Publish a dataset's archive under an address of its own, with torchvision told of its checksums."""
    with contextlib.ExitStack() as stack:

        def publish(kind: Any, content: bytes, files: dict[str, bytes]) -> str:
            folder = tmp_path / "web"
            folder.mkdir()
            served = Served(content, folder)
            thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(served.server.server_close)
            stack.callback(served.server.shutdown)
            monkeypatch.setattr(kind, "url", served.url)
            tell_torchvision(monkeypatch, kind, content, files)
            return served.url

        yield publish


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cifar10_is_downloaded_and_read(serve: Any, data_dir: Path) -> None:
    serve(CIFAR10, *cifar10_archive(CIFAR_TRAIN, CIFAR_TEST))
    dataset = data.load("cifar10", data_dir)
    np.testing.assert_array_equal(dataset.train.images, CIFAR_TRAIN)
    np.testing.assert_array_equal(dataset.test.images, CIFAR_TEST)
    assert dataset.train.labels.tolist() == [i % 10 for i in range(40)]
    assert dataset.test.labels.tolist() == [*range(10)]
    assert dataset.classes == tuple(f"class{c}" for c in range(10))
    np.testing.assert_allclose(dataset.mean, CIFAR_TRAIN.mean((0, 2, 3)) / 255)
    np.testing.assert_allclose(dataset.std, CIFAR_TRAIN.std((0, 2, 3)) / 255)
    assert names(data_dir) == ["cifar-10-python.tar.gz", "prepared"]
    assert names(data_dir / "prepared") == [".cifar10.lock", "cifar10"]


def test_stl10_is_downloaded_and_read_with_its_unlabelled_images(serve: Any, data_dir: Path) -> None:
    serve(STL10, *stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST, STL_FOLDS))
    dataset = data.load("stl10", data_dir)
    np.testing.assert_array_equal(dataset.folds, STL_FOLDS)
    np.testing.assert_array_equal(dataset.train.images, np.concatenate([STL_TRAIN, STL_UNLABELLED]))
    np.testing.assert_array_equal(dataset.test.images, STL_TEST)
    assert dataset.train.labels.tolist() == [*range(10)] * 2 + [UNLABELLED] * 30
    assert dataset.test.labels.tolist() == [*range(10)]
    assert dataset.classes == tuple(f"class{c}" for c in range(10))
    np.testing.assert_allclose(dataset.mean, STL_TRAIN.mean((0, 2, 3)) / 255)


@pytest.mark.parametrize("where", ["archive", "unpacked", "download"])
def test_folds_are_added_to_what_was_prepared_without_them(where: str, serve: Any, data_dir: Path) -> None:
    without, _ = stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST)
    content, files = stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST, STL_FOLDS)
    serve(STL10, content, files)
    STL10.tgz_md5 = md5(without)  # undone with the other attributes
    (data_dir / STL10.filename).write_bytes(without)
    before = data.load("stl10", data_dir)
    assert before.folds is None
    assert data.is_prepared("stl10", data_dir)
    assert not data.is_prepared("stl10", data_dir, folds=True)
    written = (data_dir / "prepared/stl10/train_images.npy").stat()

    STL10.tgz_md5 = md5(content)
    (data_dir / STL10.filename).unlink()
    if where == "archive":
        (data_dir / STL10.filename).write_bytes(content)
    elif where == "unpacked":
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(data_dir, **SAFELY)  # noqa: S202  # an archive of ours
    after = data.load("stl10", data_dir, folds=True)
    np.testing.assert_array_equal(after.folds, STL_FOLDS)
    assert after.sha256 == before.sha256 == data.prepare("stl10", data_dir, folds=True)
    assert (data_dir / "prepared/stl10/train_images.npy").stat() == written  # not prepared again
    assert names(data_dir / "prepared") == [".stl10.lock", "stl10"]

    (data_dir / "prepared/stl10/folds.npy").write_bytes(b"\x93NUMPY")  # damaged: made again
    np.testing.assert_array_equal(data.load("stl10", data_dir, folds=True).folds, STL_FOLDS)


@pytest.mark.parametrize("unpacked", [False, True])
def test_folds_that_are_missing_are_named(unpacked: bool, serve: Any, data_dir: Path) -> None:
    content, files = stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST)
    serve(STL10, content, files)
    where = data_dir / STL10.filename / STL10.base_folder
    if unpacked:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extractall(data_dir, **SAFELY)  # noqa: S202  # an archive of ours
        where = data_dir / STL10.base_folder
    message = f"{where}/fold_indices.txt is missing or damaged: its MD5 is not {FOLDS_MD5}. It is a part of "
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        data.load("stl10", data_dir, folds=True)
    assert data.load("stl10", data_dir).folds is None  # the images are prepared all the same


def test_folds_in_an_archive_that_is_cut_short(serve: Any, data_dir: Path) -> None:
    content, files = stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST, STL_FOLDS)
    serve(STL10, content, files)
    data.load("stl10", data_dir)
    (data_dir / "prepared/stl10/folds.npy").unlink()
    (data_dir / STL10.filename).write_bytes(content[:1000])
    message = f"{data_dir / STL10.filename} is incomplete or damaged ("
    with pytest.raises(DataError, match=f"^{re.escape(message)}.*Remove it to have it downloaded again$"):
        data.load("stl10", data_dir, folds=True)


def test_sizes_within_a_fold(serve: Any, data_dir: Path, tiny: Callable[..., TrialConfig]) -> None:
    """Before anything is downloaded, and as it is once it is prepared."""
    trial = tiny(dataset="stl10", fold="seed", train_size=None, val_fraction=0.1, batch_size=2)
    (sizes,) = data.check([trial], data_dir).values()
    assert (sizes.train, sizes.validation, sizes.test) == (900, 100, 8000)
    with pytest.raises(
        ValueError, match=r"^train_size: got 910; allowed: at most 90 images a class of stl10"
    ):
        data.check([trial.replace(train_size=910)], data_dir)
    assert names(data_dir) == []
    serve(STL10, *stl10_archive(STL_TRAIN, STL_UNLABELLED, STL_TEST, STL_FOLDS))
    data.load("stl10", data_dir)
    (sizes,) = data.check([trial.replace(val_fraction=0)], data_dir).values()
    assert (sizes.train, sizes.test) == (12, 10)


def test_an_archive_put_there_by_hand_is_used(serve: Any, data_dir: Path) -> None:
    content, files = cifar10_archive(CIFAR_TRAIN, CIFAR_TEST)
    serve(CIFAR10, content, files)
    CIFAR10.url = "http://127.0.0.1:1/nothing"  # undone with the other attributes
    (data_dir / CIFAR10.filename).write_bytes(content)
    assert len(data.load("cifar10", data_dir).train.labels) == 40
    assert (data_dir / CIFAR10.filename).read_bytes() == content


def test_a_folder_that_torchvision_unpacked_is_used(serve: Any, data_dir: Path) -> None:
    content, files = cifar10_archive(CIFAR_TRAIN, CIFAR_TEST)
    serve(CIFAR10, content, files)
    CIFAR10.url = "http://127.0.0.1:1/nothing"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(data_dir, **SAFELY)  # noqa: S202  # an archive of ours
    assert len(data.load("cifar10", data_dir).train.labels) == 40
    assert names(data_dir) == ["cifar-10-batches-py", "prepared"]


def check_nothing_is_left(data_dir: Path, *kept: str) -> None:
    assert names(data_dir) == sorted([*kept, "prepared"])
    assert names(data_dir / "prepared") == [".cifar10.lock"]


def test_an_address_that_does_not_answer(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar.tar.gz")
    with pytest.raises(DataError) as error:
        data.prepare("cifar10", data_dir)
    assert str(error.value).startswith("download of http://127.0.0.1:1/cifar.tar.gz failed: <urlopen error ")
    hint = f"Type the same command again, or put the file by hand at {data_dir}/cifar-10-python.tar.gz"
    assert str(error.value).endswith(hint)
    check_nothing_is_left(data_dir)


def test_a_download_that_is_cut_short(serve: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, files = cifar10_archive(CIFAR_TRAIN, CIFAR_TEST)
    serve(CIFAR10, content[:-100], files)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(content))
    with pytest.raises(DataError, match=r"failed: what came is incomplete or damaged\. Type the same"):
        data.prepare("cifar10", data_dir)
    check_nothing_is_left(data_dir)


def test_a_server_that_falls_silent(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/cifar.tar.gz")
        monkeypatch.setattr("trainables.datasets.sources.STALLED_SECONDS", 0.2)
        with pytest.raises(DataError, match=r"failed: .*timed out"):
            data.prepare("cifar10", data_dir)
    assert socket.getdefaulttimeout() is None
    check_nothing_is_left(data_dir)


def test_a_damaged_archive_is_named(serve: Any, data_dir: Path) -> None:
    content, files = cifar10_archive(CIFAR_TRAIN, CIFAR_TEST)
    url = serve(CIFAR10, content, files)
    path = data_dir / CIFAR10.filename
    path.write_bytes(content[:-1])
    message = (
        f"{path} is incomplete or damaged: its MD5 is not {md5(content)}. Remove it to have it downloaded"
        f" again, or replace it by a whole copy of {url}"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        data.prepare("cifar10", data_dir)
    check_nothing_is_left(data_dir, CIFAR10.filename)


def test_an_incomplete_folder_that_torchvision_unpacked_is_named(serve: Any, data_dir: Path) -> None:
    serve(CIFAR10, *cifar10_archive(CIFAR_TRAIN, CIFAR_TEST))
    folder = data_dir / CIFAR10.base_folder
    folder.mkdir()
    with pytest.raises(DataError, match=rf"^{folder} is incomplete or damaged \(.*; remove it$"):
        data.prepare("cifar10", data_dir)
    check_nothing_is_left(data_dir, CIFAR10.base_folder)


def test_a_damaged_file_is_never_unpickled(serve: Any, data_dir: Path, tmp_path: Path) -> None:
    """An archive of the right checksum, say, with a batch that is not what torchvision knows."""
    _, files = cifar10_archive(CIFAR_TRAIN, CIFAR_TEST)
    evil = {**files, "data_batch_3": b"cos\nsystem\n(S'touch evil'\ntR."}
    serve(CIFAR10, archive(CIFAR10.base_folder, evil), files)
    with pytest.raises(DataError, match=r"cifar-10-batches-py is incomplete or damaged"):
        data.prepare("cifar10", data_dir)
    check_nothing_is_left(data_dir, CIFAR10.filename)
    assert not Path("evil").exists()


def test_a_full_disk_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.data.os.fsync", full)
    with pytest.raises(DataError, match=r"^digits cannot be prepared in .*: \[Errno 28\] No space left"):
        data.prepare("digits", data_dir)
    assert names(data_dir / "prepared") == [".digits.lock"]


@pytest.mark.parametrize(("name", "labelled", "unlabelled", "size"), [
    ("cifar10", 50_000, 0, 32),
    ("stl10", 5_000, 100_000, 96),
])  # fmt: skip
def test_what_is_known_before_the_download(
    name: str, labelled: int, unlabelled: int, size: int, data_dir: Path
) -> None:
    known = data.source(name, data_dir)
    assert np.bincount(known.labels + 1, minlength=11).tolist() == [unlabelled, *[labelled // 10] * 10]
    assert known.image_size == data.image_size(name, data_dir) == size
    assert names(data_dir) == []


def prepare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainables.data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_datasets_are_prepared_ahead_from_the_command_line(tmp_path: Path) -> None:
    for _ in range(2):
        done = prepare("digits", "--data-dir", str(tmp_path))
        assert done.returncode == 0
        assert done.stdout == (
            "digits: 1297 training images, 500 test images of 10 classes, 32 x 32 pixels, in"
            f" {tmp_path}/prepared/digits, sha256 9b9558d2aa04e6c0\n"
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cifar",
            "NAME: got 'cifar' (did you mean 'cifar10'?); allowed: cifar10, stl10, digits, folder:NAME",
        ),
        ("folder:../etc", "NAME: got 'folder:../etc'; allowed: cifar10, "),
        ("folder:pets", "folder:pets: there is no folder "),
    ],
)
def test_bad_names_are_one_line(name: str, message: str, tmp_path: Path) -> None:
    done = prepare(name, "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(f"python -m trainables.data: error: {message}")
