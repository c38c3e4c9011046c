"""Which images of a dataset are trained on, held out and looked at."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainables.datasets.splits import (
    UNLABELLED,
    Choice,
    Folds,
    Labels,
    stratified_choice,
    training_indices,
)
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]

# Classes of 10, 20 and 30 images, mixed.
LABELS = np.random.RandomState(1).permutation(np.repeat([0, 1, 2], [10, 20, 30]))


def counts(indices: np.ndarray) -> list[int]:
    return np.bincount(LABELS[indices], minlength=3).tolist()


# Of 40 images, classes as they come, and overlapping.
FOLDS = np.stack([np.sort(np.random.RandomState(fold).permutation(60)[:40]) for fold in range(10)])


def chosen(tiny: Tiny, labels: Labels = LABELS, folds: Folds | None = FOLDS, **changes: Any) -> Choice:
    everything = {"dataset": "stl10", "train_size": None, "val_fraction": 0, "batch_size": 2}
    return training_indices(tiny(**{**everything, **changes}), labels, folds)


def test_all_images_are_trained_on_by_default(tiny: Tiny) -> None:
    train, validation, _ = chosen(tiny)
    assert train.tolist() == [*range(60)]
    assert validation.tolist() == []


def test_validation_is_stratified_and_the_rest_is_trained_on(tiny: Tiny) -> None:
    train, validation, _ = chosen(tiny, val_fraction=0.1)
    assert counts(validation) == [1, 2, 3]
    assert sorted([*train, *validation]) == [*range(60)]
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


@pytest.mark.parametrize(("size", "classes"), [(6, [2, 2, 2]), (7, [3, 2, 2]), (27, [9, 9, 9])])
def test_train_size_is_balanced_beside_the_validation_split(
    tiny: Tiny, size: int, classes: list[int]
) -> None:
    train, validation, _ = chosen(tiny, val_fraction=0.1, train_size=size)
    assert counts(train) == classes
    assert not set(train) & set(validation)
    assert np.array_equal(validation, chosen(tiny, val_fraction=0.1).validation)


def test_smaller_train_sizes_are_nested(tiny: Tiny) -> None:
    sets = [set(chosen(tiny, train_size=size).train) for size in range(3, 31)]
    assert [len(indices) for indices in sets] == [*range(3, 31)]
    assert all(small < large for small, large in itertools.pairwise(sets))


def test_choice_depends_on_the_data_alone(tiny: Tiny) -> None:
    expected = chosen(tiny, val_fraction=0.2, train_size=9)
    np.random.seed(5)  # noqa: NPY002  # the global generator is what must not matter
    for changes in ({"seed": 1}, {"method": "ce"}, {"augmentations": ()}, {"epochs": 3}):
        again = chosen(tiny, val_fraction=0.2, train_size=9, **changes)
        assert all(map(np.array_equal, again, expected))


def test_with_a_data_seed_each_seed_has_its_own_images_alike_in_all_arms(tiny: Tiny) -> None:
    of = {"val_fraction": 0.2, "train_size": 9, "unlabeled_size": 20}
    first = chosen(tiny, MIXED, **of, data_seed=0)
    others = [
        chosen(tiny, MIXED, **of),  # the fixed choice
        chosen(tiny, MIXED, **of, data_seed=0, seed=1),
        chosen(tiny, MIXED, **of, data_seed=1),
    ]
    for i, other in enumerate(others):
        for later in [*others[i + 1 :], first]:
            assert not any(map(np.array_equal, other, later))
    for changes in ({"method": "ce"}, {"gamma": 0}, {"augmentations": ()}, {"backbone": "resnet18"}):
        again = chosen(tiny, MIXED, **of, data_seed=0, **changes)
        assert all(map(np.array_equal, again[:2], first[:2]))
    for choice in (first, *others):  # what holds of the fixed choice
        assert (counts(choice.train), counts(choice.validation)) == ([3, 3, 3], [2, 4, 6])
        assert not set(choice.train) & set(choice.validation)
        assert (MIXED[choice.unlabelled] == UNLABELLED).all()
    larger = chosen(tiny, MIXED, **{**of, "train_size": 12, "unlabeled_size": 40}, data_seed=0)
    assert set(first.train) < set(larger.train)
    assert set(first.unlabelled) < set(larger.unlabelled)


def test_a_data_seed_draws_every_image_equally_often(tiny: Tiny) -> None:
    """Each of a class's images is trained on with the same probability, 3 of 10, whatever the seed."""
    times = np.zeros(60)
    for seed in range(1000):
        times[chosen(tiny, train_size=9, data_seed=5, seed=seed).train] += 1
    shares = {c: times[c == LABELS] / 1000 for c in range(3)}
    for c, size in enumerate((10, 20, 30)):
        p = 3 / size
        assert np.abs(shares[c] - p).max() < 4.5 * np.sqrt(p * (1 - p) / 1000)  # 4.5 standard errors


def test_draws_of_a_data_seed_never_change(tiny: Tiny) -> None:
    train, validation, _ = chosen(tiny, train_size=6, val_fraction=0.1, data_seed=3, seed=2)
    assert (train.tolist(), validation.tolist()) == (
        [24, 30, 31, 35, 47, 52],
        [10, 25, 27, 34, 39, 55],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_size": 33},
            "train_size: got 33; allowed: at most 10 images a class of stl10 beside val_fraction=0.0",
        ),
        (
            {"train_size": 30, "val_fraction": 0.1},
            "train_size: got 30; allowed: at most 9 images a class of stl10 beside val_fraction=0.1",
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
    indices = stratified_choice(LABELS, count)
    assert len(set(indices)) == count
    assert (np.diff(indices) > 0).all()
    assert np.abs(np.array(counts(indices)) - count * np.array([10, 20, 30]) / 60).max() < 1
    assert set(indices) < set(stratified_choice(LABELS, count + 1))


def test_stratified_choice_of_more_than_there_are_is_all() -> None:
    assert stratified_choice(LABELS, 100).tolist() == [*range(60)]


# The same with 40 unlabelled images behind them, as `data.prepare` writes them.
MIXED = np.concatenate([LABELS, np.full(40, UNLABELLED)])


def test_unlabelled_images_are_chosen_beside_the_labelled_ones(tiny: Tiny) -> None:
    for size in (0, 1, 25, 40):
        train, validation, unlabelled = chosen(tiny, MIXED, val_fraction=0.1, unlabeled_size=size)
        assert len(set(unlabelled)) == size
        assert (MIXED[unlabelled] == UNLABELLED).all()
        assert (np.diff(unlabelled) > 0).all()
        assert np.array_equal(train, chosen(tiny, val_fraction=0.1).train)
        assert np.array_equal(validation, chosen(tiny, val_fraction=0.1).validation)


def test_choice_of_unlabelled_images_is_fixed_mixed_and_nested(tiny: Tiny) -> None:
    sets = [chosen(tiny, MIXED, unlabeled_size=size).unlabelled for size in (10, 20, 40)]
    assert set(sets[0]) < set(sets[1]) < set(sets[2])
    assert sets[0].tolist() != [*range(60, 70)]
    for seed in (1, 2):
        assert np.array_equal(chosen(tiny, MIXED, unlabeled_size=20, seed=seed).unlabelled, sets[1])


def test_unlabelled_images_help_to_fill_a_batch(tiny: Tiny) -> None:
    assert len(chosen(tiny, MIXED, unlabeled_size=40, batch_size=100).unlabelled) == 40
    with pytest.raises(ValueError, match=r"^batch_size: got 101; allowed: at most the 100 training images$"):
        chosen(tiny, MIXED, unlabeled_size=40, batch_size=101)


def test_more_unlabelled_images_than_there_are(tiny: Tiny) -> None:
    message = "unlabeled_size: got 41; allowed: at most the 40 unlabelled images of stl10"
    with pytest.raises(ValueError, match=f"^{message}$"):
        chosen(tiny, MIXED, unlabeled_size=41)


def test_a_fold_is_what_labelled_images_are_taken_from(tiny: Tiny) -> None:
    for seed in (0, 3, 9, 10, 23):
        assert chosen(tiny, fold="seed", seed=seed).train.tolist() == FOLDS[seed % 10].tolist()
        assert chosen(tiny, fold="4", seed=seed).train.tolist() == FOLDS[4].tolist()
    assert len(chosen(tiny).train) == 60
    unlabelled = chosen(tiny, MIXED, fold="4", unlabeled_size=20).unlabelled
    assert np.array_equal(unlabelled, chosen(tiny, MIXED, unlabeled_size=20).unlabelled)


def test_choices_within_a_fold(tiny: Tiny) -> None:
    for fold in range(10):
        classes = counts(FOLDS[fold])
        for data_seed in (None, 0):
            of = {"fold": str(fold), "val_fraction": 0.2, "train_size": 6, "data_seed": data_seed}
            train, validation, _ = chosen(tiny, **of)
            assert counts(train) == [2, 2, 2]
            assert counts(validation) == [round(0.2 * n) for n in classes]
            assert not set(train) & set(validation)
            assert {*train, *validation} <= {*FOLDS[fold]}


def test_a_class_that_a_fold_has_too_few_images_of(tiny: Tiny) -> None:
    fewest = min(counts(FOLDS[0]))
    size = 3 * (fewest + 1)
    message = (
        f"train_size: got {size}; allowed: at most {fewest} images a class of stl10 beside val_fraction=0.0"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        chosen(tiny, fold="0", train_size=size)
    without = np.stack([np.flatnonzero(LABELS != 0)[:24]] * 10)  # none of the first class
    with pytest.raises(ValueError, match=r"^train_size: got 3; allowed: at most 0 images a class of stl10"):
        chosen(tiny, folds=without, fold="0", train_size=3)
    with pytest.raises(ValueError, match=r"^val_fraction: .*\(the smallest has 0\)$"):
        chosen(tiny, folds=without, fold="0", val_fraction=0.2)
    with pytest.raises(ValueError, match=r"^fold: got '0'; allowed: none, as the folds are not at hand$"):
        chosen(tiny, folds=None, fold="0")


@pytest.mark.parametrize("fraction", [0.04, 0.96])
def test_a_validation_split_that_a_class_has_no_part_in(tiny: Tiny, fraction: float) -> None:
    message = (
        f"val_fraction: got {fraction}; allowed: 0, or a share that leaves every class of stl10 an image to"
        " train on and one to validate on (the smallest has 10)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        chosen(tiny, val_fraction=fraction)
