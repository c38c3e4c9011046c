"""Final metrics on inputs whose answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from trainables import measures


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(n: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def logits_of(probabilities: list[list[float]]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_accuracy() -> None:
    logits = torch.tensor([[2.0, 1], [0, 3], [1, 0], [0, 1]])
    assert measures.accuracy(logits, torch.tensor([0, 1, 1, 1])) == 0.75


def test_cross_entropy_is_in_nats() -> None:
    logits = logits_of([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    assert measures.cross_entropy(logits, torch.tensor([1, 1])) == pytest.approx(
        (math.log(4) - math.log(0.8)) / 2
    )


@pytest.mark.parametrize(
    ("probabilities", "labels", "error"),
    [
        # Sure and always right, or always wrong.
        ([[1, 1e-30], [1e-30, 1]], [0, 1], 0.0),
        ([[1, 1e-30], [1e-30, 1]], [1, 0], 1.0),
        # In one bin of 15, (0.733, 0.8]: confidence 0.75 and 0.79, accuracy 1/2.
        ([[0.75, 0.25], [0.79, 0.21]], [0, 1], 0.27),
        # In two bins: |0.9 - 1| and |0.6 - 0|, half of the images each.
        ([[0.9, 0.1], [0.6, 0.4]], [0, 1], 0.35),
        # In one bin too much and too little cancel out; in two they do not.
        ([[0.75, 0.25]] * 4, [0, 0, 0, 1], 0.0),
        ([[0.6, 0.4]] * 2 + [[0.9, 0.1]] * 2, [0, 0, 0, 1], 0.4),
    ],
)
def test_calibration_error(probabilities: list[list[float]], labels: list[int], error: float) -> None:
    logits = logits_of(probabilities)
    assert measures.calibration_error(logits, torch.tensor(labels)) == pytest.approx(error, abs=1e-12)


def test_calibration_error_is_the_definition() -> None:
    logits, labels = 2 * random(500, 7), labels_of(500, 7)
    p = logits.double().softmax(1).numpy()
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    total = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert measures.calibration_error(logits, labels) == pytest.approx(total, abs=1e-12)


def angles(*degrees: float) -> Tensor:
    """Features on a circle, of different lengths: the cosine looks at directions alone."""
    a = torch.tensor(degrees) * math.pi / 180
    return torch.stack([a.cos(), a.sin()], 1) * torch.arange(1, len(degrees) + 1)[:, None]


def knn(h: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, k: int = 20) -> float:
    return measures.knn_accuracy(measures.nearest(h, bank, bank_labels, max(k, 30)), labels, k=k)


def test_neighbours_are_the_nearest_directions_and_vote() -> None:
    bank, bank_labels = angles(0, 10, 20, 90, 100), torch.tensor([2, 1, 1, 0, 0])
    h = angles(1, 95)
    assert knn(h, torch.tensor([2, 0]), bank, bank_labels, k=1) == 1.0
    assert knn(h, torch.tensor([1, 0]), bank, bank_labels, k=3) == 1.0
    assert knn(h, torch.tensor([2, 1]), bank, bank_labels, k=3) == 0.0


def test_of_equal_votes_the_lowest_class_wins() -> None:
    bank, bank_labels = angles(0, 10, 20, 30), torch.tensor([2, 2, 1, 1])
    assert knn(angles(0), torch.tensor([1]), bank, bank_labels, k=4) == 1.0


def test_a_small_bank_votes_as_a_whole() -> None:
    bank, bank_labels = angles(0, 10, 20), torch.tensor([0, 1, 1])
    assert knn(angles(0), torch.tensor([1]), bank, bank_labels) == 1.0


def test_neighbours_are_scikit_learns() -> None:
    bank, bank_labels = random(700, 12), labels_of(700, 5)
    h = random(1200, 12, seed=2)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(bank, bank_labels)
    predicted = torch.from_numpy(model.predict(h))
    assert knn(h, predicted, bank, bank_labels) == 1.0


def test_near_neighbours_weigh_more() -> None:
    bank, bank_labels = angles(0, 40, 41, 42), torch.tensor([1, 0, 0, 0])
    near = measures.nearest(angles(1), bank, bank_labels, 4)
    torch.testing.assert_close(near.cosine[0], (torch.tensor([1.0, 39, 40, 41]) * math.pi / 180).cos())
    assert near.labels.tolist() == [[1, 0, 0, 0]]
    one = torch.tensor([1])
    # Votes: e^(0.9998 / T) for class 1, about 3 e^(0.766 / T) for class 0: equal at T = 0.2338 / ln 3 = 0.21.
    assert measures.weighted_knn_accuracy(near, one, k=4) == 1.0
    assert measures.weighted_knn_accuracy(near, one, k=4, temperature=0.2) == 1.0
    assert measures.weighted_knn_accuracy(near, one, k=4, temperature=0.25) == 0.0
    assert measures.weighted_knn_accuracy(near, one, k=2, temperature=0.25) == 1.0


def test_weighted_neighbours_are_scikit_learns() -> None:
    bank, bank_labels = random(700, 12), labels_of(700, 5)
    h = random(1200, 12, seed=2)
    k = measures.weighted_neighbours(bank_labels)
    assert k == bank_labels.bincount().min() < 200
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank.double(), bank_labels)
    predicted = torch.from_numpy(model.predict(h.double()))
    near = measures.nearest(h.double(), bank.double(), bank_labels, 200)
    assert measures.weighted_knn_accuracy(near, predicted, k=k) == 1.0
    assert measures.knn_accuracy(near, predicted, k=k) < 1.0  # another rule


def test_as_many_weighted_neighbours_as_the_smallest_class_has() -> None:
    assert measures.weighted_neighbours(torch.tensor([0, 3, 0, 3, 3])) == 2  # classes without images are none
    assert measures.weighted_neighbours(torch.arange(3).repeat(300)) == 200


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 2.0, 30.0])
def test_calibration_floor_is_what_a_calibrated_network_has(sharpness: float) -> None:
    """The mean over labels that are drawn from the network's own probabilities."""
    logits = sharpness * random(300, 4)
    p, rng = logits.double().softmax(1), torch.Generator().manual_seed(3)
    floor = measures.calibration_floor(p.amax(1))
    draws = torch.multinomial(p, 500, replacement=True, generator=rng).T
    errors = torch.tensor([measures.calibration_error(logits, labels) for labels in draws])
    assert floor == pytest.approx(errors.mean().item(), abs=4 * errors.std().item() / math.sqrt(500) + 1e-12)


def test_calibration_floor_by_hand() -> None:
    # Two images, right with probability 0.8 each: 0, 1 or 2 of them, with 0.04, 0.32, 0.64; 1.6 expected.
    two = measures.calibration_floor(torch.tensor([0.8, 0.8], dtype=torch.float64))
    assert two == pytest.approx((0.04 * 1.6 + 0.32 * 0.6 + 0.64 * 0.4) / 2)
    # Alone in their bins: E|B - p| = 2 p (1 - p) each.
    apart = measures.calibration_floor(torch.tensor([0.8, 0.6], dtype=torch.float64))
    assert apart == pytest.approx((0.32 + 0.48) / 2)


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_calibration_floor_of_equal_confidences_is_binomial(n: int) -> None:
    k = np.arange(n + 1)
    expected = (binom.pmf(k, n, 0.97) * abs(k - 0.97 * n)).sum() / n
    floor = measures.calibration_floor(torch.full((n,), 0.97, dtype=torch.float64))
    assert floor == pytest.approx(expected, rel=1e-9)


def test_view_agreement() -> None:
    one = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    other = torch.tensor([[9.0, 1], [0, 2], [0, 5], [3, 1]])
    assert measures.view_agreement(one, other) == 0.75
    # By chance 3/4 of one view and 1/2 of the other agree on class 0, 1/4 and 1/2 on class 1.
    assert measures.view_kappa(one, other) == pytest.approx((0.75 - 0.5) / (1 - 0.5))
    assert measures.view_both_right(one, other, torch.tensor([0, 0, 0, 0])) == 0.5
    assert measures.view_both_right(one, other, torch.tensor([1, 1, 1, 0])) == 0.5


def test_kappa_is_scikit_learns() -> None:
    one, other = random(300, 6), random(300, 6) + random(300, 6, seed=1)
    expected = cohen_kappa_score(one.argmax(1), other.argmax(1))
    assert 0.2 < expected < 0.8
    assert measures.view_kappa(one, other) == pytest.approx(expected, abs=1e-12)


def test_a_network_that_knows_one_class_agrees_by_chance_alone() -> None:
    constant = torch.tensor([[1.0, 0, 0]]).expand(50, 3)
    assert measures.view_agreement(constant, constant) == 1
    assert measures.view_kappa(constant, constant) == 0
    assert measures.view_kappa(constant, random(50, 3)) == pytest.approx(0, abs=1e-12)


def test_view_cosine() -> None:
    h = random(100, 16)
    assert measures.view_cosine(h, h) == pytest.approx(1)
    assert measures.view_cosine(h - h.mean(0), -(h - h.mean(0))) == pytest.approx(-1)
    assert measures.view_cosine(h, random(100, 16, seed=1)) == pytest.approx(0, abs=0.1)
    # A mean that all share is no agreement.
    assert measures.view_cosine(h + 100, random(100, 16, seed=1) + 100) == pytest.approx(0, abs=0.1)


def test_view_cosine_by_hand() -> None:
    one, other = torch.tensor([[2.0, 0], [0, 2]]), torch.tensor([[2.0, 2], [0, 0]])
    # The mean is (1, 1): (1, -1) with (1, 1), and (-1, 1) with (-1, -1).
    assert measures.view_cosine(one, other) == pytest.approx(0)
    # The mean is (1.5, 1): (0.5, -1) with (0.5, 1), and (-1.5, 1) with (0.5, -1).
    other = torch.tensor([[2.0, 2], [2.0, 0]])
    first = (0.25 - 1) / 1.25
    second = (-0.75 - 1) / math.sqrt(3.25 * 1.25)
    assert measures.view_cosine(one, other) == pytest.approx((first + second) / 2)


def test_effective_rank_counts_equal_dimensions() -> None:
    for dimensions in (1, 2, 5):
        corners = torch.cat([torch.eye(dimensions), -torch.eye(dimensions)])
        h = torch.nn.functional.pad(corners, (0, 3)) * 7 + 100  # the mean does not count
        assert measures.effective_rank(h) == pytest.approx(dimensions)


def test_effective_rank_by_hand() -> None:
    h = torch.diag(torch.tensor([3.0, 1.0]))
    h = torch.cat([h, -h])  # singular values in proportion 3 to 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert measures.effective_rank(h) == pytest.approx(math.exp(entropy))


def test_effective_rank_of_collapsed_features_is_zero() -> None:
    assert measures.effective_rank(torch.zeros(50, 8)) == 0
    assert measures.effective_rank(random(1, 64).expand(50, 64)) == 0  # alike but for rounding


def test_effective_rank_has_bounds() -> None:
    assert 1 <= measures.effective_rank(random(40, 300)) <= 39
    assert 1 <= measures.effective_rank(random(300, 40)) <= 40


@pytest.mark.parametrize("seed", range(3))
def test_silhouette_is_scikit_learns(seed: int) -> None:
    labels = labels_of(200, 6, seed=seed)
    h = random(200, 10, seed=seed) + 2 * random(6, 10, seed=9)[labels]
    expected = silhouette_score(h.double().numpy(), labels.numpy(), metric="cosine")
    assert measures.silhouette(h, labels) == pytest.approx(expected, abs=1e-12)


def test_silhouette_by_hand() -> None:
    # Two tight classes at right angles: a = 0, b = 1. Then one image sits with the other class.
    h, labels = angles(0, 0, 90, 90), torch.tensor([0, 0, 1, 1])
    assert measures.silhouette(h, labels) == pytest.approx(1)
    assert measures.silhouette(angles(0, 0, 0, 0), labels) == pytest.approx(0)


def test_silhouette_of_an_image_alone_in_its_class_is_zero() -> None:
    h, labels = angles(0, 0, 90), torch.tensor([0, 0, 4])  # classes without images are none
    assert measures.silhouette(h, labels) == pytest.approx(2 / 3)


def test_silhouette_of_one_class_is_zero() -> None:
    assert measures.silhouette(angles(0, 30, 90), torch.tensor([1, 1, 1])) == 0


def test_silhouette_of_dead_features() -> None:
    h = torch.cat([torch.zeros(2, 2), angles(0, 0)])
    expected = silhouette_score(np.asarray(h.double()), [0, 0, 1, 1], metric="cosine")
    assert measures.silhouette(h, torch.tensor([0, 0, 1, 1])) == pytest.approx(expected)
