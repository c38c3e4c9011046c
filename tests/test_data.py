"""Datasets on disk, and which images are trained on."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trainables import data
from trainables.datasets import arrays


def sha256(dataset: data.Dataset) -> str:
    arrays = [array for split in (dataset.train, dataset.test) for array in (split.images, split.labels)]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def test_digits_have_the_shapes_of_every_dataset(digits: data.Dataset) -> None:
    assert digits.train.images.shape == (1297, 3, 32, 32)
    assert digits.test.images.shape == (500, 3, 32, 32)
    for split in (digits.train, digits.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.labels.shape == split.images.shape[:1]
    assert digits.name == "digits"
    assert digits.image_size == 32
    assert digits.classes == tuple("0123456789")


def test_digits_are_scikit_learns(digits: data.Dataset) -> None:
    grey = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    large = [np.asarray(Image.fromarray(g).resize((32, 32), Image.Resampling.BILINEAR)) for g in grey]
    expected = [(label, image.tobytes()) for label, image in zip(load_digits().target, large, strict=True)]
    images = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    assert all((images[:, channel] == images[:, 0]).all() for channel in (1, 2))
    ours = [(label, image[0].tobytes()) for label, image in zip(labels, images, strict=True)]
    assert sorted(ours) == sorted(expected)


def test_digits_test_split_is_stratified(digits: data.Dataset) -> None:
    test = np.bincount(digits.test.labels)
    every = test + np.bincount(digits.train.labels)
    assert np.abs(test - 500 * every / 1797).max() <= 1


@pytest.mark.parametrize("name", [*arrays.ARRAYS, "meta.json"])
def test_what_is_damaged_is_prepared_again(name: str, data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "prepared", tmp_path / "prepared")
    file = tmp_path / "prepared/digits" / name
    whole = file.read_bytes()
    assert arrays.damaged_file(file.parent) is None
    file.write_bytes(bytes(20) + whole[20:])
    assert arrays.damaged_file(file.parent) == file
    assert not data.is_prepared("digits", tmp_path)
    digest = data.load("digits", tmp_path).sha256
    assert digest == data.fingerprint("digits", data_dir)
    assert file.read_bytes() == whole


def test_statistics_are_over_all_pixels(digits: data.Dataset) -> None:
    values = digits.train.images / 255
    np.testing.assert_allclose(digits.mean, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(digits.std, values.std((0, 2, 3)), rtol=1e-12)


def test_digest_is_that_of_the_arrays(digits: data.Dataset, data_dir: Path) -> None:
    # The literal: a version of Pillow or scikit-learn that gives other images is noticed here.
    assert (
        digits.sha256 == sha256(digits) == "9b9558d2aa04e6c005f7aa5447c3e8185bbef117f5d38db432b1f9f52cd1d6af"
    )
    assert data.prepare("digits", data_dir) == data.fingerprint("digits", data_dir) == digits.sha256


def test_images_are_mapped_read_only(digits: data.Dataset) -> None:
    assert isinstance(digits.train.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        digits.train.images[0, 0, 0, 0] = 1


def test_prepared_once(data_dir: Path) -> None:
    folder = data_dir / "prepared/digits"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    data.load("digits", data_dir)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert sorted(before) == [
        "meta.json",
        "test_images.npy",
        "test_labels.npy",
        "train_images.npy",
        "train_labels.npy",
    ]


def test_not_prepared_has_no_fingerprint(tmp_path: Path) -> None:
    assert data.fingerprint("digits", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_does_no_harm(tmp_path: Path, digits: data.Dataset) -> None:
    prepared = tmp_path / "prepared"
    for half_made in (prepared / ".digits-scratch-123-456", prepared / "digits"):
        half_made.mkdir(parents=True)
        (half_made / "train_images.npy").write_bytes(b"half")
    (prepared / ".digits.lock").touch()
    assert data.fingerprint("digits", tmp_path) is None
    assert sha256(data.load("digits", tmp_path)) == digits.sha256
    assert sorted(path.name for path in prepared.iterdir()) == [".digits.lock", "digits"]


def test_another_layout_is_prepared_again(tmp_path: Path, digits: data.Dataset) -> None:
    folder = tmp_path / "prepared/digits"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"layout": arrays.LAYOUT - 1, "sha256": "old"}))
    (folder / "old.npy").touch()
    assert data.prepare("digits", tmp_path) == digits.sha256
    assert not (folder / "old.npy").exists()


def test_two_processes_at_once_make_one_whole_dataset(tmp_path: Path, digits: data.Dataset) -> None:
    code = (
        "import sys; from pathlib import Path; from trainables import data;"
        "print(data.prepare('digits', Path(sys.argv[1])));"
        "print(sorted({'torch', 'ray', 'sklearn'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.communicate(timeout=60)[0].split() == [digits.sha256, "[]"]
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == [".digits.lock", "digits"]
    assert sha256(data.load("digits", tmp_path)) == digits.sha256


@pytest.mark.parametrize("file", [*arrays.ARRAYS, "meta.json"])
def test_a_missing_file_is_made_again(file: str, tmp_path: Path) -> None:
    digest = data.prepare("digits", tmp_path)
    (tmp_path / "prepared/digits" / file).unlink()
    assert data.fingerprint("digits", tmp_path) is None
    assert data.prepare("digits", tmp_path) == digest
    assert len(data.load("digits", tmp_path).test.labels) == 500


@pytest.mark.parametrize("content", ["", "{", "[]", '{"layout": 2}', "null"])
def test_a_description_that_cannot_be_read_is_made_again(content: str, tmp_path: Path) -> None:
    digest = data.prepare("digits", tmp_path)
    (tmp_path / "prepared/digits/meta.json").write_text(content)
    assert data.fingerprint("digits", tmp_path) is None
    assert data.prepare("digits", tmp_path) == digest


def test_an_array_that_is_cut_short_is_made_again(tmp_path: Path) -> None:
    digest = data.prepare("digits", tmp_path)
    path = tmp_path / "prepared/digits/test_images.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert data.prepare("digits", tmp_path) == digest
    assert data.load("digits", tmp_path).test.images.shape == (500, 3, 32, 32)


def test_loading_while_the_data_is_replaced_gives_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arrays are replaced between two of the files that are read."""
    first = data.load("digits", tmp_path)
    meta = json.loads((tmp_path / "prepared/digits/meta.json").read_text())
    before, calls = np.load, []

    def load(path: Path, *args: Any, **options: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:  # somebody else: other images, other statistics
            (tmp_path / "prepared/digits/meta.json").write_text(json.dumps({**meta, "sha256": "new"}))
        if len(calls) == 6:
            (tmp_path / "prepared/digits/meta.json").unlink()
            raise FileNotFoundError(path)
        return before(path, *args, **options)

    monkeypatch.setattr(np, "load", load)
    again = data.load("digits", tmp_path)
    assert again.sha256 == first.sha256  # prepared once more, after the second disturbance
    assert len(calls) == 4 + 2 + 4


def test_preparing_ahead_notices_altered_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["digits", "--data-dir", str(tmp_path)]) == 0
    path = tmp_path / "prepared/digits/test_labels.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        data.main(["digits", "--data-dir", str(tmp_path)])
    assert (
        f"{tmp_path}/prepared/digits is damaged: it is not what was prepared. Remove it"
        in capsys.readouterr().err
    )
