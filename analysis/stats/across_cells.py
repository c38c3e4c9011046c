"""What several cells say about cells in general: mean, heterogeneity, and a new cell.

The paired differences of an arm in k cells and n seeds are read as random effects of cells and of seeds,
which the cells share: d = μ + cell + seed + rest, with variances τ², σ_s² and σ². They are estimated by the
mean squares of a two-way table without replication (Searle, Casella & McCulloch 1992, chapter 4).

Every cell counts the same, whatever its spread: from 3 to 10 seeds, spreads are known too badly for weights.
All of it holds for cells that come about as these did. Coverage: `benchmarks/coverage.py`.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from search_spaces.families import LEVEL

Vector = npt.NDArray[np.float64]

FEWEST_CELLS = 3
"""Two cells say next to nothing about cells in general: their interval has one degree of freedom."""


def across_cells(differences: Vector) -> dict[str, float]:
    """Random effects of the paired differences (k cells, n seeds) of one arm, in the unit of the differences.

    - Mean over cells in general: its variance is τ²/k + σ_s²/n + σ²/(kn), estimated without bias by
      (MS_cells + MS_seeds - MS_rest) / (kn), and taken as no smaller than with either mean square alone; a t
      interval with Satterthwaite's (1946) degrees of freedom.
    - τ² = (MS_cells - MS_rest) / n, and 0 if that is negative; I² = 1 - MS_rest / MS_cells likewise is the
      share of the variance of the cells' means that is not noise (Higgins & Thompson 2002).
    - A new cell: where the mean difference of n seeds lies in a cell to come, by t(k - 1). The true
      difference varies less, so its coverage is at least as high. (Higgins, Thompson & Spiegelhalter's (2009)
      t(k - 2) with the estimate of τ² covers less than 0.9 where τ is smaller than the noise, for many a τ²
      is then estimated as 0.)

    Returns:
        `general_low`, `general_high`, `tau`, `i_squared` (0 to 1), `new_low`, `new_high`; intervals have
        95 %. NaN with fewer than three cells or two seeds, or without any spread.
    """
    k, n = differences.shape
    if k < FEWEST_CELLS or n < 2:
        return dict.fromkeys(ACROSS_CELLS, math.nan)
    mean, by_cell, by_seed = differences.mean(), differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_cell[:, None] - by_seed + mean
    of_cells, of_seeds = n * by_cell.var(ddof=1), k * by_seed.var(ddof=1)
    of_rest = (rest**2).sum() / ((k - 1) * (n - 1))
    total, freedom = _mean_square(of_cells, of_seeds, of_rest, k, n)
    error = math.sqrt(total / (k * n))
    if error < 1e-12:
        return dict.fromkeys(ACROSS_CELLS, math.nan)
    half = -float(stdtrit(freedom, LEVEL / 2)) * error
    new = -float(stdtrit(k - 1, LEVEL / 2)) * math.sqrt(of_cells / n + error**2)
    found = (
        *(mean - half, mean + half, math.sqrt(max(of_cells - of_rest, 0) / n)),
        *(max(1 - of_rest / of_cells, 0.0) if of_cells else 0.0, mean - new, mean + new),
    )
    return dict(zip(ACROSS_CELLS, map(float, found), strict=True))


ACROSS_CELLS = ("general_low", "general_high", "tau", "i_squared", "new_low", "new_high")


def _mean_square(of_cells: float, of_seeds: float, of_rest: float, k: int, n: int) -> tuple[float, float]:
    """kn times the variance of the mean, and its degrees of freedom."""
    total = of_cells + of_seeds - of_rest
    if total <= max(of_cells, of_seeds):  # the smaller one is below the noise that it has in it
        return (of_cells, k - 1) if of_cells >= of_seeds else (of_seeds, n - 1)
    parts = of_cells**2 / (k - 1) + of_seeds**2 / (n - 1) + of_rest**2 / ((k - 1) * (n - 1))
    return total, max(total**2 / parts, min(k, n) - 1)
