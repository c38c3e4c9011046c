"""The linear probe against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from trainables.linear_probe import (
    FIXED_STRENGTH,
    STRENGTHS,
    gram_matrix,
    linear_probe_accuracy,
    logistic_regression,
)


def images(n: int, classes: int, dimensions: int = 30, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (n, dimensions) in double precision, with means and spreads of their own, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dimensions))
    h = 0.8 * centres[labels] + 1.5 * rng.normal(size=(n, dimensions))
    h = (h @ np.diag(np.geomspace(0.01, 30, dimensions))) + np.arange(dimensions)
    return torch.from_numpy(h), torch.from_numpy(labels)


def reference(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)


def probabilities(x: Tensor, weights: Tensor) -> np.ndarray:
    return (x @ weights[:-1] + weights[-1]).softmax(1).numpy()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_weights_are_scikit_learns(strength: float) -> None:
    h, labels = images(150, 5)
    x = (h - h.mean(0)) / h.std(0)
    theirs = reference(strength).fit(x, labels)
    ours = logistic_regression(x, labels, 5, strength=strength, tolerance=1e-10)
    np.testing.assert_allclose(ours[:-1].T, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours[-1], theirs.intercept_, atol=1e-6)
    # Neither where it starts nor how fast it gets there matters.
    quick = {"gram": gram_matrix(x), "start": ours + 0.3}
    warm = logistic_regression(x, labels, 5, strength=strength, tolerance=1e-10, **quick)
    np.testing.assert_allclose(warm[:-1], ours[:-1], atol=1e-6)


def test_two_classes_have_twice_the_strength_of_scikit_learns() -> None:
    x, labels = images(100, 2)
    x = (x - x.mean(0)) / x.std(0)
    ours = logistic_regression(x, labels, 2, strength=0.05, tolerance=1e-10)
    np.testing.assert_allclose(
        probabilities(x, ours), reference(0.1).fit(x, labels).predict_proba(x), atol=1e-6
    )


def test_single_precision_and_the_default_tolerance_are_close_enough() -> None:
    h, labels = images(300, 5, 200)
    x = ((h - h.mean(0)) / h.std(0)).float()
    for strength in (1e-4, 1e-2, 1.0):
        fitted = logistic_regression(x, labels, 5, strength=strength, gram=gram_matrix(x))
        ours = probabilities(x.double(), fitted)
        exact = reference(strength).fit(x.double(), labels).predict_proba(x.double())
        assert np.abs(ours - exact).max() < 0.02
        assert (ours.argmax(1) == exact.argmax(1)).mean() > 0.99


def test_strength_is_chosen_on_validation_images() -> None:
    (bank, bank_labels), held_out, (h, labels) = (
        images(120, 5),
        images(200, 5, seed=1),
        images(400, 5, seed=2),
    )
    right: dict[float, tuple[float, float]] = {}
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), reference(strength)).fit(bank, bank_labels)
        right[strength] = (model.score(*held_out), model.score(h, labels))
    best = max(STRENGTHS, key=lambda strength: (right[strength][0], -strength))
    assert [test for _, test in right.values()].count(right[best][1]) == 1  # another choice would show
    bank, h, held_out = bank.float(), h.float(), (held_out[0].float(), held_out[1])
    assert linear_probe_accuracy(h, labels, bank, bank_labels, held_out) == pytest.approx(right[best][1])
    alone = linear_probe_accuracy(h, labels, bank, bank_labels, None)
    assert alone == pytest.approx(right[FIXED_STRENGTH][1])


def test_of_strengths_that_are_equally_good_the_smallest_is_taken() -> None:
    bank, bank_labels = images(60, 3)
    h, labels = images(300, 3, seed=2)
    held_out = bank[:1], bank_labels[:1]  # right with any of them
    smallest = make_pipeline(StandardScaler(), reference(1e-4)).fit(bank, bank_labels).score(h, labels)
    for strengths in (STRENGTHS, STRENGTHS[::-1]):
        ours = linear_probe_accuracy(h, labels, bank, bank_labels, held_out, strengths=strengths)
        assert ours == pytest.approx(smallest)


def test_dimensions_that_do_not_vary_do_not_count() -> None:
    bank, bank_labels = images(60, 3)
    h, labels = images(300, 3, seed=2)
    bank, h = bank.float(), h.float()
    expected = linear_probe_accuracy(h, labels, bank, bank_labels, None)
    dead, noise = (
        torch.zeros(60, 2),
        0.1 + 1e-8 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0)),
    )
    constant = torch.cat([bank, dead, noise], 1)
    # Where the bank says nothing of a dimension, what it is in other images does not matter.
    elsewhere = torch.cat([h, torch.ones(300, 2), torch.full((300, 2), 0.2)], 1)
    assert linear_probe_accuracy(elsewhere, labels, constant, bank_labels, None) == expected


def test_labels_need_not_count_from_zero() -> None:
    (bank, bank_labels), (h, labels) = images(60, 3), images(300, 3, seed=2)
    names = torch.tensor([3, 7, 8])
    expected = linear_probe_accuracy(h, labels, bank, bank_labels, None)
    assert linear_probe_accuracy(h, names[labels], bank, names[bank_labels], None) == expected
    # One class alone is what all images are taken for.
    alone = linear_probe_accuracy(h, names[labels], bank[:5], torch.full((5,), 7), None)
    assert alone == pytest.approx(1 / 3)


def test_features_that_are_all_alike_give_the_largest_class() -> None:
    bank, labels = torch.ones(30, 8), torch.tensor([0] * 8 + [1] * 12 + [2] * 10)
    assert linear_probe_accuracy(bank, labels, bank, labels, (bank, labels)) == pytest.approx(0.4)
