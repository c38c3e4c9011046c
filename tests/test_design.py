"""The vocabulary of designs."""

import re
from math import comb

import pytest

from search_spaces import select, selection
from search_spaces.design import (
    Trials,
    add_one_in,
    arms,
    exclude,
    leave_one_out,
    pairs,
    powerset,
    product,
    trials,
)
from trainables.catalogue import TRANSFORMS
from trainables.trial import TrialConfig


def test_powerset() -> None:
    subsets = powerset(TRANSFORMS)
    assert len(subsets) == len(set(subsets)) == 16
    assert [sum(len(s) == size for s in subsets) for size in range(5)] == [comb(4, k) for k in range(5)]
    assert subsets[0] == ()
    assert subsets[-1] == TRANSFORMS
    assert powerset("ab") == [(), ("a",), ("b",), ("a", "b")]


def test_pairs_leave_one_out_and_add_one_in() -> None:
    assert pairs("abc") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert leave_one_out("abc") == [("a", "b", "c"), ("b", "c"), ("a", "c"), ("a", "b")]
    assert add_one_in("abc") == [(), ("a",), ("b",), ("c",)]


def test_arms() -> None:
    assert arms([0, 0.1], lambd=1.0) == [
        {"method": "ce"},
        {"method": "siamese", "gamma": 0, "lambd": 1.0},
        {"method": "siamese", "gamma": 0.1, "lambd": 1.0},
    ]


def test_product_is_every_combination() -> None:
    rows = product(seed=range(2), epochs=[5], arm=arms([0.1]))
    assert rows == [
        {"seed": 0, "epochs": 5, "method": "ce"},
        {"seed": 0, "epochs": 5, "method": "siamese", "gamma": 0.1},
        {"seed": 1, "epochs": 5, "method": "ce"},
        {"seed": 1, "epochs": 5, "method": "siamese", "gamma": 0.1},
    ]
    assert product() == [{}]
    assert product(lr=[0.1], schedule=[{"lr": 0.2, "lr_schedule": "cosine"}]) == [
        {"lr": 0.2, "lr_schedule": "cosine"}
    ]


def test_product_of_a_field_that_does_not_exist() -> None:
    message = "unknown field 'epoch' (did you mean 'epochs'?); allowed: dataset, "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        product(seed=range(2), epoch=[1])


CELL = {"dataset": "digits", "backbone": "convnet", "augmentations": ()}


def test_rows_become_trials_and_equal_ones_are_merged() -> None:
    made = trials(product(seed=[0], gamma=[0.1, 0.2], method=["ce", "siamese"]), epochs=3, **CELL)
    assert [trial.arm for trial in made] == ["ce", "siamese-0.1", "siamese-0.2"]
    assert all(trial.epochs == 3 for trial in made)
    assert trials([{"method": "ce", "seed": 0, "epochs": 7}], epochs=3, **CELL)[0].epochs == 7


def test_exclusions_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def space() -> list[TrialConfig]:
        design: list[TrialConfig] = trials(
            product(seed=range(2), augmentations=powerset(TRANSFORMS), arm=arms([0.1])),
            dataset="digits",
            backbone="convnet",
        )
        design = exclude(
            design,
            lambda trial: trial.method == "siamese" and not trial.augmentations,
            because="without augmentation both views are alike",
        )
        return exclude(design, lambda trial: trial.lr > 1, because="nothing is so fast")

    assert len(space()) == 2 * (16 * 2 - 1)
    assert all(trial.augmentations or trial.arm == "ce" for trial in space())
    monkeypatch.setattr(selection, "SPACES", {"mine": space})
    assert select("mine", seeds=1).steps == (
        "space mine: 62 trials",
        "without 2: without augmentation both views are alike",
        "--seeds 1: 31",
    )


def test_a_plain_list_may_be_a_design() -> None:
    config = TrialConfig(**CELL, method="ce", seed=0)
    left = exclude([config, config], lambda trial: False, because="never")
    assert left == [config]
    assert isinstance(left, Trials)
    assert left.notes == ()
