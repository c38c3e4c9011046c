"""The probability of improvement: how likely an arm is higher than its baseline with the same seed.

Agarwal et al. (2021) take all pairs of runs; runs of one seed share weights and crops, so here a pair is one
seed. A tie counts half. Differences of accuracies are in any unit.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit

from analysis.stats.sign_flips import NO_DIFFERENCE
from search_spaces.families import LEVEL

Vector = npt.NDArray[np.float64]


def clopper_pearson(successes: Vector, n: Vector) -> tuple[Vector, Vector]:
    """Ends of the exact 95 % interval of a probability (Clopper & Pearson 1934), of any shape.

    Halves of ties and effective numbers make counts that are no integers: the quantiles of the beta
    distribution are defined for them, too.
    """
    low = np.where(successes > 0, betaincinv(np.maximum(successes, 1e-9), n - successes + 1, LEVEL / 2), 0.0)
    failures = n - successes
    high = np.where(failures > 0, betaincinv(successes + 1, np.maximum(failures, 1e-9), 1 - LEVEL / 2), 1.0)
    return low, high


def improvement(differences: Vector) -> dict[str, Vector]:
    """Share of seeds in which an arm is higher, from paired differences (n seeds, m arms): (m,) each.

    The interval excludes one half exactly where the two-sided sign test has p <= 0.05, if there are no ties.

    Returns:
        `improvement`, `improvement_low`, `improvement_high` (95 %), between 0 and 1; NaN for n = 0.
    """
    n, m = differences.shape
    if n == 0:
        return dict.fromkeys(("improvement", "improvement_low", "improvement_high"), np.full(m, np.nan))
    wins = _higher(differences).sum(axis=0)
    low, high = clopper_pearson(wins, np.full(m, float(n)))
    return {"improvement": wins / n, "improvement_low": low, "improvement_high": high}


def improvement_over_cells(differences: Vector) -> tuple[float, float, float]:
    """Mean share over several cells, and its 95 % interval, from paired differences (k cells, n seeds).

    Cells share their seeds, so k · n comparisons are fewer than they look. Korn & Graubard (1998): the exact
    interval of the effective number of comparisons, p (1 - p) / Var(p), where seeds are the replicates of p;
    at most k · n. If all comparisons agree, the effective number is n. The interval is for these cells.

    Returns:
        Share and interval, between 0 and 1; NaN with fewer than two seeds.
    """
    k, n = differences.shape
    if n < 2:
        return math.nan, math.nan, math.nan
    by_seed = _higher(differences).mean(axis=0)
    share, variance = float(by_seed.mean()), float(by_seed.var(ddof=1)) / n
    effective = float(n)
    if 0 < share < 1:
        # The quantiles say how much less n seeds know about the variance than k · n comparisons would.
        fewer = float(stdtrit(k * n - 1, LEVEL / 2) / stdtrit(n - 1, LEVEL / 2)) ** 2
        effective = min(share * (1 - share) / variance * fewer, k * n) if variance else float(k * n)
    low, high = clopper_pearson(np.array(share * effective), np.array(effective))
    return share, float(low), float(high)


def _higher(differences: Vector) -> Vector:
    """1 where the arm is higher, one half for a tie, 0 otherwise."""
    return np.where(np.abs(differences) < NO_DIFFERENCE, 0.5, (differences > 0).astype(float))
