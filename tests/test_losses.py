"""The losses against loops written from the thesis's equations."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.fast.optimizer import SGD
from trainables.losses import barlow_twins_loss, cross_entropy, siamese_loss
from trainables.methods.barlow_twins import EPS, cross_correlation


def embeddings(batch: int = 6, m: int = 4, *, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Embeddings of two views that agree in part, with means other than 0 and deviations other than 1."""
    g = torch.Generator().manual_seed(0)
    common, noise1, noise2 = torch.randn(3, batch, m, generator=g, dtype=torch.float64)
    return [(3 * (common + 0.5 * noise) + 2).to(dtype) for noise in (noise1, noise2)]


def reference_correlation(z1: list[list[float]], z2: list[list[float]], *, center: bool) -> list[list[float]]:
    """Eq. 3.4 by loops over batch b and dimensions i, j."""
    batch, m = len(z1), len(z1[0])

    def standardised(z: list[list[float]]) -> list[list[float]]:
        means = [sum(z[b][i] for b in range(batch)) / batch for i in range(m)]
        variances = [sum((z[b][i] - means[i]) ** 2 for b in range(batch)) / batch for i in range(m)]
        return [
            [(z[b][i] - means[i]) / math.sqrt(variances[i] + 1e-5) for i in range(m)] for b in range(batch)
        ]

    def correlation(i: int, j: int) -> float:
        if center:
            return sum(s1[b][i] * s2[b][j] for b in range(batch)) / batch
        length1 = math.sqrt(sum(z1[b][i] ** 2 for b in range(batch)))
        length2 = math.sqrt(sum(z2[b][j] ** 2 for b in range(batch)))
        return sum(z1[b][i] * z2[b][j] for b in range(batch)) / (length1 * length2)

    s1, s2 = standardised(z1), standardised(z2)
    return [[correlation(i, j) for j in range(m)] for i in range(m)]


def reference_loss(z1: Tensor, z2: Tensor, *, lambd: float, center: bool) -> float:
    """Eq. 3.3 by loops."""
    c = reference_correlation(z1.tolist(), z2.tolist(), center=center)
    m = len(c)
    return sum((1 - c[i][i]) ** 2 + lambd * sum(c[i][j] ** 2 for j in range(m) if j != i) for i in range(m))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("batch", [2, 6, 7])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_barlow_twins_loss_is_the_equation(batch: int, m: int, center: bool) -> None:
    z1, z2 = embeddings(batch, m)
    expected = reference_loss(z1, z2, lambd=0.3, center=center)
    assert barlow_twins_loss(z1, z2, lambd=0.3, center=center).item() == pytest.approx(expected, rel=1e-12)


def test_defaults_are_those_of_the_original_paper() -> None:
    z1, z2 = embeddings()
    expected = reference_loss(z1, z2, lambd=0.0051, center=True)
    assert barlow_twins_loss(z1, z2).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_gradient_is_that_of_the_equation(center: bool) -> None:
    views = [z.requires_grad_() for z in embeddings()]
    gradients = torch.autograd.grad(barlow_twins_loss(*views, lambd=0.3, center=center), views)
    step = 1e-6
    for view, gradient in enumerate(gradients):
        for b, i in [(0, 0), (2, 3), (5, 1)]:
            losses = []
            for sign in (1, -1):
                moved = [z.detach().clone() for z in views]
                moved[view][b, i] += sign * step
                losses.append(reference_loss(*moved, lambd=0.3, center=center))
            assert gradient[b, i].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("center", [True, False])
def test_views_may_change_places(center: bool) -> None:
    z1, z2 = embeddings()
    loss, swapped = barlow_twins_loss(z1, z2, center=center), barlow_twins_loss(z2, z1, center=center)
    assert swapped.item() == pytest.approx(loss.item(), rel=1e-12)


# Columns of mean 0 and deviation 1, so that C is known: what eps takes away is the only difference.
SQUARE = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("z1", "z2", "loss"),
    [
        (SQUARE, SQUARE, 0),  # C is the unit matrix
        (SQUARE, -SQUARE, 2 * 4),  # C is minus the unit matrix: (1 + 1)^2 twice
        (SQUARE, SQUARE.flip(1), 2 * 1 + 0.5 * 2),  # ones beside the diagonal, zeros on it
        (SQUARE[:, [0, 0]], SQUARE[:, [0, 0]], 0.5 * 2),  # all ones: redundant dimensions
        (SQUARE[:, :1], SQUARE[:, 1:], 1),  # one dimension, uncorrelated
    ],
    ids=["same", "opposite", "crossed", "redundant", "uncorrelated"],
)
def test_losses_that_one_can_see(z1: Tensor, z2: Tensor, loss: float) -> None:
    assert barlow_twins_loss(z1, z2, lambd=0.5, center=False).item() == pytest.approx(loss, abs=1e-12)
    assert barlow_twins_loss(z1, z2, lambd=0.5, center=True).item() == pytest.approx(loss, abs=10 * EPS)
    assert barlow_twins_loss(z1 + 7, z2 - 3, lambd=0.5).item() == pytest.approx(loss, abs=10 * EPS)


@pytest.mark.parametrize("center", [True, False])
def test_correlations_are_between_minus_one_and_one(center: bool) -> None:
    z1, _ = embeddings(batch=3, m=50)
    c = cross_correlation(z1, z1, center=center)
    assert c.shape == (50, 50)
    assert c.abs().max() <= 1 + 1e-12
    assert c.diagonal().min() > 0.99
    assert c.min() < -0.9  # three images: some dimensions run against each other


def test_constant_dimension_is_finite() -> None:
    z = torch.ones(4, 2, requires_grad=True)
    loss = barlow_twins_loss(z, z)
    loss.backward()
    assert loss.item() == 2  # C is zero
    assert torch.equal(z.grad, torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("shape1", "shape2", "message"),
    [
        ((1, 3), (1, 3), "embeddings: got a batch of 1; allowed: at least 2 images"),
        ((4, 3), (4, 2), "embeddings: got shapes (4, 3) and (4, 2); allowed: (B, M) twice"),
        ((4, 3), (5, 3), "embeddings: got shapes (4, 3) and (5, 3); allowed: (B, M) twice"),
        ((4,), (4,), "embeddings: got shapes (4,) and (4,); allowed: (B, M) twice"),
        ((4, 3, 1), (4, 3, 1), "embeddings: got shapes (4, 3, 1) and (4, 3, 1); allowed: (B, M) twice"),
    ],
)
def test_embeddings_of_no_use_are_refused(
    shape1: tuple[int, ...], shape2: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        barlow_twins_loss(torch.ones(shape1), torch.ones(shape2))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computed_in_fp32_whatever_the_autocast(dtype: torch.dtype, center: bool) -> None:
    z1, z2 = embeddings(64, 16, dtype=dtype)
    expected = barlow_twins_loss(z1.float(), z2.float(), center=center)
    assert expected.dtype == torch.float32
    assert torch.equal(barlow_twins_loss(z1, z2, center=center), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(barlow_twins_loss(z1, z2, center=center), expected)


LOGITS = torch.tensor([[2.0, 0, 1], [0, 3, 0], [1, 1, 1], [0, 0, 5]], dtype=torch.float64)


def test_cross_entropy_is_the_mean_over_labelled_images() -> None:
    logits = LOGITS.clone().requires_grad_()
    cross_entropy(logits, torch.tensor([0, -1, 2, -1])).backward()
    labelled = LOGITS[[0, 2]].requires_grad_()
    expected = F.cross_entropy(labelled, torch.tensor([0, 2]))
    expected.backward()
    assert torch.equal(cross_entropy(logits, torch.tensor([0, -1, 2, -1])), expected)
    assert torch.equal(logits.grad[[0, 2]], labelled.grad)
    assert torch.equal(logits.grad[[1, 3]], torch.zeros(2, 3, dtype=torch.float64))


def test_cross_entropy_of_unlabelled_images_is_zero() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = cross_entropy(logits, torch.full((4,), -1))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(LOGITS))


def test_gamma_zero_is_the_sum_of_two_cross_entropies() -> None:
    targets = torch.tensor([0, 1, 2, 0])
    ours, theirs = ([(k * LOGITS).requires_grad_() for k in (1, -2)] for _ in range(2))
    loss = siamese_loss(*ours, targets, gamma=0)
    expected = F.cross_entropy(theirs[0], targets) + F.cross_entropy(theirs[1], targets)
    loss.total.backward()
    expected.backward()
    assert loss.term is None
    assert loss.total.item() == loss.ce.item() == pytest.approx(expected.item(), rel=1e-12)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-12, atol=0)


def test_siamese_loss_adds_gamma_times_barlow_twins() -> None:
    targets, (z1, z2) = torch.tensor([0, 1, -1, 0]), embeddings(4)
    term = barlow_twins_loss(z1, z2, lambd=0.3, center=False)
    loss = siamese_loss(LOGITS, -LOGITS, targets, term, gamma=0.25)
    ce = (cross_entropy(LOGITS, targets) + cross_entropy(-LOGITS, targets)).item()
    bt = reference_loss(z1, z2, lambd=0.3, center=False)
    assert loss.ce.item() == ce
    assert loss.term.item() == pytest.approx(bt, rel=1e-12)
    assert loss.total.item() == pytest.approx(ce + 0.25 * bt, rel=1e-12)


def test_unlabelled_images_count_in_the_barlow_twins_term_only() -> None:
    logits = LOGITS.clone().requires_grad_()
    z1, z2 = (z.requires_grad_() for z in embeddings(4))
    term = barlow_twins_loss(z1, z2)
    siamese_loss(logits, logits, torch.tensor([0, 1, -1, 2]), term, gamma=1).total.backward()
    assert torch.equal(logits.grad[2], torch.zeros(3, dtype=torch.float64))
    assert z1.grad[2].abs().min() > 0


def test_gamma_needs_a_term() -> None:
    with pytest.raises(ValueError, match=r"^term: got none; required where gamma is 0\.5$"):
        siamese_loss(LOGITS, LOGITS, torch.tensor([0, 1, 2, 0]), gamma=0.5)


def test_siamese_0_on_identical_views_is_ce_at_twice_the_rate_and_half_the_decay() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, generator=g, dtype=torch.float64)
    x = torch.randn(10, 8, 5, generator=g, dtype=torch.float64)
    targets = torch.randint(3, (10, 8), generator=g)

    def weights(siamese: bool) -> Tensor:
        w = start.clone().requires_grad_()
        optimizer = SGD([w], momentum=0.9, weight_decay=1e-2 if siamese else 0.5e-2)
        for images, labels in zip(x, targets, strict=True):
            logits = images @ w.T
            optimizer.zero_grad()
            if siamese:
                siamese_loss(logits, logits, labels, gamma=0).total.backward()
            else:
                cross_entropy(logits, labels).backward()
            optimizer.step(0.1 if siamese else 0.2)
        return w.detach()

    assert not torch.allclose(weights(siamese=True), start)
    assert torch.equal(weights(siamese=True), weights(siamese=False))  # factors of 2 round nothing
