"""Final metrics on inputs whose answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
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


def test_neighbours_are_the_nearest_directions_and_vote() -> None:
    bank, bank_labels = angles(0, 10, 20, 90, 100), torch.tensor([2, 1, 1, 0, 0])
    h = angles(1, 95)
    assert measures.knn_accuracy(h, torch.tensor([2, 0]), bank, bank_labels, k=1) == 1.0
    assert measures.knn_accuracy(h, torch.tensor([1, 0]), bank, bank_labels, k=3) == 1.0
    assert measures.knn_accuracy(h, torch.tensor([2, 1]), bank, bank_labels, k=3) == 0.0


def test_of_equal_votes_the_lowest_class_wins() -> None:
    bank, bank_labels = angles(0, 10, 20, 30), torch.tensor([2, 2, 1, 1])
    assert measures.knn_accuracy(angles(0), torch.tensor([1]), bank, bank_labels, k=4) == 1.0


def test_a_small_bank_votes_as_a_whole() -> None:
    bank, bank_labels = angles(0, 10, 20), torch.tensor([0, 1, 1])
    assert measures.knn_accuracy(angles(0), torch.tensor([1]), bank, bank_labels) == 1.0


def test_neighbours_are_scikit_learns() -> None:
    bank, bank_labels = random(700, 12), labels_of(700, 5)
    h = random(1200, 12, seed=2)
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(bank, bank_labels)
    predicted = torch.from_numpy(model.predict(h))
    assert measures.knn_accuracy(h, predicted, bank, bank_labels) == 1.0


def test_view_agreement() -> None:
    one = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    other = torch.tensor([[9.0, 1], [0, 2], [0, 5], [3, 1]])
    assert measures.view_agreement(one, other) == 0.75


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
