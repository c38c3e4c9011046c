"""A linear probe: how well a linear classifier does on the frozen features of a trained network.

The classifier is L2-regularised multinomial logistic regression, fitted by Newton's method with conjugate
gradients. Written here because a worker would take seconds to import scikit-learn or `torch.optim`.

Shapes: N images, M of them in the bank of training images, D dimensions of features, K classes of the bank.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What the weight C of the data is chosen from on validation images; a small C regularises strongly."""
FIXED_STRENGTH = 0.1
"""C where there are no validation images. (On images the network was fitted to, any C looks good.)"""
TOLERANCE = 1e-4
"""The largest entry that the gradient of the mean objective may have at the end."""
NEWTON_STEPS, CG_STEPS, HALVINGS = 100, 250, 40
"""Bounds that only rounding reaches: the objective is convex, and has a minimum."""


class LinearProbe(NamedTuple):
    """A linear classifier of features: scores are h @ slopes + bias.

    Attributes:
        classes: (K,) int64, what the columns stand for.
        slopes: (D, K) float64; `bias` (K,).
    """

    classes: Tensor
    slopes: Tensor
    bias: Tensor

    def accuracy(self, h: Tensor, labels: Tensor) -> float:
        """Share of images with features (N, D) whose class (N,) it predicts."""
        scores = h @ self.slopes.to(h) + self.bias.to(h)
        return (self.classes[scores.argmax(1).cpu()] == labels.cpu()).double().mean().item()


def linear_probe_accuracy(
    h: Tensor,
    labels: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """Share of images with features h (N, D) and labels (N,) that `fit_linear_probe` classifies right."""
    return fit_linear_probe(bank, bank_labels, held_out, strengths=strengths).accuracy(h, labels)


def fit_linear_probe(
    bank: Tensor,
    bank_labels: Tensor,
    held_out: tuple[Tensor, Tensor] | None,
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> LinearProbe:
    """Logistic regression on the bank's standardised features.

    Args:
        bank: (M, D) features of training images, which are fitted on their device; `bank_labels` (M,). They
            are standardised by their own mean and standard deviation, and all others by the same.
        held_out: features (V, D) and labels (V,) of validation images: the C with the highest accuracy on
            them is taken, of equal ones the smallest. None: `FIXED_STRENGTH`.
        strengths: what C is chosen from.
    """
    classes, targets = bank_labels.unique(return_inverse=True)
    variance, mean = torch.var_mean(bank, dim=0, correction=0)
    # A dimension that varies by no more than rounding is constant, and is not blown up to unit variance.
    constant = variance.sqrt() <= 10 * torch.finfo(bank.dtype).eps * mean.abs()
    scale = torch.where(constant, torch.ones_like(mean), variance.sqrt())
    x = (bank - mean) / scale
    fit = partial(logistic_regression, x, targets.to(bank.device), classes=len(classes), gram=gram_matrix(x))

    def probe_of(weights: Tensor) -> LinearProbe:
        slopes = weights[:-1] / scale[:, None]  # so that features need not be standardised
        return LinearProbe(classes.cpu(), slopes, weights[-1] - mean.to(slopes.dtype) @ slopes)

    if held_out is None:
        return probe_of(fit(strength=FIXED_STRENGTH))
    fitted: list[Tensor] = []
    for strength in sorted(strengths):  # each starts where the one before it ended
        fitted.append(fit(strength=strength, start=fitted[-1] if fitted else None))
    # max takes the first of equally good ones: the smallest C.
    return max(map(probe_of, fitted), key=lambda probe: probe.accuracy(*held_out))


def logistic_regression(
    x: Tensor,
    targets: Tensor,
    classes: int,
    *,
    strength: float,
    start: Tensor | None = None,
    gram: Tensor | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Weights W (D, K) and biases b (K,) that minimise C Σₙ -log softmax(xₙ W + b)[tₙ] + ‖W‖² / 2.

    scikit-learn's `LogisticRegression(C=strength)` for three classes and more; with two it has one vector
    of weights instead of two opposite ones, and its C/2 is C here.

    Args:
        x: (M, D); products with it have its precision, all else is float64.
        targets: (M,) int64 from 0 to K - 1, on the device of `x`.
        classes: K.
        strength: C.
        start: weights that another strength gave.
        gram: `gram_matrix(x)`: the same result in less time.
        tolerance: the largest entry of the gradient of the objective / (C M) at the end.

    Returns:
        (D + 1, K) float64: the last row are the biases, with mean 0 unless `start` has another.
    """
    m, ridge = len(x), 1 / (strength * len(x))
    weights = x.new_zeros(x.shape[1] + 1, classes, dtype=torch.float64) if start is None else start.clone()
    rows = torch.arange(m, device=x.device)

    def scores_of(w: Tensor) -> Tensor:
        return (x @ w[:-1].to(x.dtype)).double() + w[-1]

    def pulled_back(residual: Tensor, w: Tensor) -> Tensor:
        """The gradient by the weights, of a gradient by the scores (M, K) and the penalty."""
        of_data = (x.T @ residual.to(x.dtype)).double()
        return torch.cat([of_data / m + ridge * w[:-1], residual.sum(0, keepdim=True) / m])

    def objective(scores: Tensor, w: Tensor) -> Tensor:
        return -scores.log_softmax(1)[rows, targets].mean() + ridge / 2 * w[:-1].square().sum()

    scores = scores_of(weights)
    precondition = _preconditioner(scores.softmax(1), ridge, gram)
    for _ in range(NEWTON_STEPS):
        p = scores.softmax(1)
        residual = p.clone()
        residual[rows, targets] -= 1
        gradient = pulled_back(residual, weights)
        if gradient.abs().max() <= tolerance:
            break

        def curvature(v: Tensor, p: Tensor = p) -> Tensor:
            """The Hessian times v."""
            moved = p * scores_of(v)
            return pulled_back(moved - p * moved.sum(1, keepdim=True), v)

        step = _conjugate_gradients(curvature, -gradient, precondition)
        moved, slope, before = scores_of(step), (gradient * step).sum(), objective(scores, weights)
        length = 1.0
        for _ in range(HALVINGS):
            if objective(scores + length * moved, weights + length * step) <= before + 1e-4 * length * slope:
                break
            length /= 2
        else:  # no step lowers it: what is left is rounding
            break
        weights, scores = weights + length * step, scores + length * moved
    return weights


def gram_matrix(x: Tensor) -> Tensor | None:
    """xᵀx / M (D, D), which speeds up fits to standardised features x (M, D); None where it would not."""
    return x.T @ x / len(x) if len(x) > x.shape[1] else None


def _preconditioner(p: Tensor, ridge: float, gram: Tensor | None) -> Operator:
    """An approximate inverse of the Hessian: as if all scores had their mean curvature q, q xᵀx / M + ridge.

    Features are so correlated that without it a fit takes many more products with x (ten times as many on
    10,000 x 2,048 correlated ones, of which a probe classifies two thirds right). `p` (M, K) are
    probabilities where the fit starts.
    """
    if gram is None:
        return lambda v: v
    q = (p * (1 - p)).mean().clamp_min(1e-8)
    # More than rounding, or there may be no Cholesky factor.
    shift = max(ridge, 10 * torch.finfo(gram.dtype).eps * (q * gram.trace()).item())
    factor = torch.linalg.cholesky(q.to(gram.dtype) * gram + shift * torch.eye(len(gram)).to(gram))

    def inverse(v: Tensor) -> Tensor:
        return torch.cat([torch.cholesky_solve(v[:-1].to(gram.dtype), factor).double(), v[-1:] / q])

    return inverse


def _conjugate_gradients(product: Operator, target: Tensor, precondition: Operator) -> Tensor:
    """A Newton step (Nocedal & Wright 2006, 7.1): v with product(v) ≈ `target`, closer where that is small.

    `product` is a symmetric positive semidefinite operator on tensors of the shape of `target`.
    """
    solution, residual = torch.zeros_like(target), target
    direction = preconditioned = precondition(residual)
    decrease = (residual * preconditioned).sum()
    size = target.norm()
    for _ in range(CG_STEPS):
        if residual.norm() <= size * size.sqrt().clamp_max(0.5):
            break
        curved = product(direction)
        length = decrease / (direction * curved).sum()
        solution = solution + length * direction
        residual = residual - length * curved
        preconditioned = precondition(residual)
        previous, decrease = decrease, (residual * preconditioned).sum()
        direction = preconditioned + decrease / previous * direction
    return solution
