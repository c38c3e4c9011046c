"""Datasets on disk, and which images are trained on."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from trainables import data
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]


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
    for half_made in (prepared / ".digits-a1b2c3", prepared / "digits"):
        half_made.mkdir(parents=True)
        (half_made / "train_images.npy").write_bytes(b"half")
    (prepared / ".digits.lock").touch()
    assert data.fingerprint("digits", tmp_path) is None
    assert sha256(data.load("digits", tmp_path)) == digits.sha256


def test_another_layout_is_prepared_again(tmp_path: Path, digits: data.Dataset) -> None:
    folder = tmp_path / "prepared/digits"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"layout": data.LAYOUT - 1, "sha256": "old"}))
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


# Classes of 10, 20 and 30 images, mixed.
LABELS = np.random.RandomState(1).permutation(np.repeat([0, 1, 2], [10, 20, 30]))


def counts(indices: np.ndarray) -> list[int]:
    return np.bincount(LABELS[indices], minlength=3).tolist()


def chosen(tiny: Tiny, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    everything = {"train_size": None, "val_fraction": 0, "batch_size": 2}
    return data.training_indices(tiny(**{**everything, **changes}), LABELS)


def test_all_images_are_trained_on_by_default(tiny: Tiny) -> None:
    train, validation = chosen(tiny)
    assert train.tolist() == [*range(60)]
    assert validation.tolist() == []


def test_validation_is_stratified_and_the_rest_is_trained_on(tiny: Tiny) -> None:
    train, validation = chosen(tiny, val_fraction=0.1)
    assert counts(validation) == [1, 2, 3]
    assert sorted([*train, *validation]) == [*range(60)]
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


@pytest.mark.parametrize(("size", "classes"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (27, [9, 9, 9])])
def test_train_size_is_balanced_beside_the_validation_split(
    tiny: Tiny, size: int, classes: list[int]
) -> None:
    train, validation = chosen(tiny, val_fraction=0.1, train_size=size)
    assert counts(train) == classes
    assert not set(train) & set(validation)
    assert np.array_equal(validation, chosen(tiny, val_fraction=0.1)[1])


def test_smaller_train_sizes_are_nested(tiny: Tiny) -> None:
    sets = [set(chosen(tiny, train_size=size)[0]) for size in range(3, 31)]
    assert [len(indices) for indices in sets] == [*range(3, 31)]
    assert all(small < large for small, large in itertools.pairwise(sets))


def test_choice_depends_on_the_data_alone(tiny: Tiny) -> None:
    expected = chosen(tiny, val_fraction=0.2, train_size=9)
    np.random.seed(5)  # noqa: NPY002  # the global generator is what must not matter
    for changes in ({"seed": 1}, {"method": "ce"}, {"augmentations": ()}, {"epochs": 3}):
        again = chosen(tiny, val_fraction=0.2, train_size=9, **changes)
        assert all(map(np.array_equal, again, expected))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_size": 33},
            "train_size: got 33; allowed: at most 10 images a class of digits beside val_fraction=0.0",
        ),
        (
            {"train_size": 30, "val_fraction": 0.1},
            "train_size: got 30; allowed: at most 9 images a class of digits beside val_fraction=0.1",
        ),
        ({"batch_size": 61}, "batch_size: got 61; allowed: at most the 60 training images"),
        ({"batch_size": 7, "train_size": 6}, "batch_size: got 7; allowed: at most the 6 training images"),
    ],
)
def test_config_that_does_not_fit_the_data_is_refused(
    tiny: Tiny, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        chosen(tiny, **changes)


@pytest.mark.parametrize("count", [1, 6, 7, 30, 59])
def test_stratified_choice_is_proportional_and_nested(count: int) -> None:
    indices = data.stratified_choice(LABELS, count)
    assert len(set(indices)) == count
    assert (np.diff(indices) > 0).all()
    assert np.abs(np.array(counts(indices)) - count * np.array([10, 20, 30]) / 60).max() < 1
    assert set(indices) < set(data.stratified_choice(LABELS, count + 1))


def test_stratified_choice_of_more_than_there_are_is_all() -> None:
    assert data.stratified_choice(LABELS, 100).tolist() == [*range(60)]


@pytest.mark.parametrize("file", data.FILES)
def test_a_missing_file_is_made_again(file: str, tmp_path: Path) -> None:
    digest = data.prepare("digits", tmp_path)
    (tmp_path / "prepared/digits" / file).unlink()
    assert data.fingerprint("digits", tmp_path) is None
    assert data.prepare("digits", tmp_path) == digest
    assert len(data.load("digits", tmp_path).test.labels) == 500
