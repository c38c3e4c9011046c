"""How far a difference in accuracy generalises: to new seeds alone, or to new seeds and new test images.

Every seed is tested on the same images. A paired t-test over seeds is a statement about new seeds tested on
these very images. With x[s, i] in {-1, 0, 1}, the difference in correctness of two arms with seed s on image
i, seeds and images are crossed random effects (Searle, Casella & McCulloch 1992, Variance Components, ch. 4):

    x[s, i] = mean + seed[s] + image[i] + residual[s, i]

Of S seeds and I images, the mean squares MS estimate I · σ²(seed) + σ²(res), S · σ²(image) + σ²(res) and
σ²(res). The mean of x has the variance σ²(seed) / S + σ²(image) / I + σ²(res) / (S · I), estimated by

    (max(MS(seed) - MS(res), 0) + max(MS(image) - MS(res), 0) + MS(res)) / (S · I)

with degrees of freedom after Satterthwaite (1946). Both kinds of interval are conditional on the training
images. Shapes: S seeds, I images.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from search_spaces.families import LEVEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Crossed:
    """A mean difference in accuracy, and how well it is known; fractions.

    Attributes:
        delta: mean over seeds and images.
        seeds: S.
        images: I.
        error_seeds: standard error over seeds alone: for new seeds, the images being these.
        error_images: what new images add; its square and that of `error_seeds` add up to that of `error`,
            unless seeds vary less than the residual alone would make them.
        error: standard error over both.
        df: Satterthwaite's degrees of freedom of `error`.
    """

    delta: float
    seeds: int
    images: int
    error_seeds: float
    error_images: float
    error: float
    df: float

    def over_seeds(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the interval for 1 - `level` for new seeds on these images: that of the paired t-test."""
        half = _half_width(self.error_seeds, self.seeds - 1, level)
        return self.delta - half, self.delta + half

    def over_both(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the interval for 1 - `level` for new seeds on new images of the same kind.

        Never narrower than the one over seeds: with three seeds Satterthwaite's often is, and then covers
        less than it says.
        """
        widths = _half_width(self.error, self.df, level), _half_width(self.error_seeds, self.seeds - 1, level)
        half = float(np.fmax(*widths))
        return self.delta - half, self.delta + half


def crossed(differences: npt.NDArray[np.floating | np.integer]) -> Crossed:
    """Variance components of differences in correctness (S, I), from a two-way analysis of variance.

    Raises:
        ValueError: fewer than two seeds or images.
    """
    seeds, images = differences.shape
    if min(seeds, images) < 2:
        raise ValueError(f"differences: got {seeds} x {images}; allowed: at least two seeds x two images")
    x = np.asarray(differences, np.float64)
    mean, by_seed, by_image = x.mean(), x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    freedom = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    sums = [
        images * ((by_seed - mean) ** 2).sum(),
        seeds * ((by_image - mean) ** 2).sum(),
        ((x - by_seed - by_image + mean) ** 2).sum(),
    ]
    squares = np.array(sums) / freedom  # MS(seed), MS(image), MS(res)
    # A component whose estimate is negative is taken for none, and leaves the sum.
    seed, image = (float(square > squares[2]) for square in squares[:2])
    weights = np.array([seed, image, 1.0 - seed - image])
    parts = weights * squares / (seeds * images)
    variance, spread = float(parts.sum()), float((parts**2 / freedom).sum())
    return Crossed(
        delta=float(mean),
        seeds=seeds,
        images=images,
        error_seeds=math.sqrt(squares[0] / (seeds * images)),
        error_images=math.sqrt(max(squares[1] - squares[2], 0.0) / (seeds * images)),
        error=math.sqrt(variance),
        df=variance**2 / spread if spread else math.nan,
    )


def _half_width(error: float, df: float, level: float) -> float:
    """NaN where there is no spread."""
    return -float(stdtrit(df, level / 2)) * error if error > 0 else math.nan
