"""p-values and intervals of paired differences that stay valid when one looks more than once.

Shapes: n seeds, in the order of their numbers, and m comparisons. A t-test that is repeated whenever seeds
are added claims a difference that is not there in far more than 5 % of studies. Three rules do not:

- `t`: the planned number of seeds, looked at once: the paired t-test as it is.
- `range`: a declared range `low..high`, looked at after any number of seeds within it. The path of
  t-statistics under the null hypothesis does not depend on the unknown spread, so the distribution of the
  smallest p-value along it is simulated once (`smallest_p`): a claim takes a constant, stricter level.
  (Pocock 1977, Biometrika 64, with the exact distribution for few seeds.)
- `anytime`: all other numbers of seeds, without any limit: the Gaussian-mixture e-process for the t-test of
  Wang & Ramdas (2023, arXiv 2310.03722, Theorem 4.9). Its probability of ever reaching 1 / α is at most α.

What was planned has already spent the whole level of 5 %. Looks outside of it therefore share another 0.5 %
(`SHARE_OF_OTHERS`): whatever one does, a false claim has a probability of at most 5.5 %.

p-values and bounds are those of all looks so far: a claim that was made stands. Only where the mean has
changed its sign since, bounds are those of the last look, and the claim is withdrawn.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from search_spaces.seeds import SeedPlan

MIXTURE = 0.1
"""c² of the mixture: 0.1 is best for differences of 1.5 to 3 standard deviations."""
SHARE_OF_OTHERS = 0.1
"""The share of the level that all looks outside of what was planned have together."""
PATHS = 200_000
"""Simulated paths: the level of a range is exact to 0.05 % (two standard errors of 0.05)."""
RULES = ("t", "range", "anytime")
"""The names of the three rules."""

Vector = npt.NDArray[np.float64]
Bounds = tuple[Vector, Vector]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Which p-values and intervals hold, by name (one of `RULES`), and the declared range, if it is one."""

    name: str = "t"
    low: int = 0
    high: int = 0

    def p(self, differences: Vector) -> Vector:
        """p-values (m,) of paired differences (n, m); NaN without spread, with n < 2, or below a range."""
        match self.name:
            case "t":
                return t_p(differences)
            case "range":
                return range_p(differences, self.low, self.high)
        return np.minimum(always_valid_p(differences) / SHARE_OF_OTHERS, 1.0)

    def interval(self, differences: Vector, level: Vector) -> Bounds:
        """Ends (m,) of the intervals for 1 - `level` (m,), which exclude 0 exactly where p <= `level`."""
        match self.name:
            case "t":
                return t_interval(differences, level)
            case "range":
                return range_interval(differences, level, self.low, self.high)
        return always_valid_interval(differences, level * SHARE_OF_OTHERS)


FIXED = Rule()


def rule_for(plan: SeedPlan | None, seeds: int) -> Rule:
    """The rule for a look after `seeds` seeds at what was planned; without a plan that of a single look."""
    if plan is None or plan.low == plan.high == seeds:
        return FIXED
    if plan.low <= seeds <= plan.high:
        return Rule(name="range", low=plan.low, high=plan.high)
    return Rule(name="anytime")


def t_p(differences: Vector) -> Vector:
    """Two-sided p-values (m,) of the paired t-test (Student 1908) of differences (n, m)."""
    n, mean, error = _moments(differences)
    return 2 * stdtr(max(n - 1, 1), -np.abs(mean / error))


def t_interval(differences: Vector, level: Vector) -> Bounds:
    """Its intervals: mean(d) ± t(n - 1) · SD(d) / √n."""
    n, mean, error = _moments(differences)
    half = -stdtrit(max(n - 1, 1), level / 2) * error
    return mean - half, mean + half


def always_valid_p(differences: Vector) -> Vector:
    """p-values (m,) of differences (n, m) that hold after any number of seeds, for any reason to stop.

    1 / max over k <= n of E_k with E_k = √(c²/(k + c²)) · ((k + c²)V / ((k + c²)V - S²))^(k/2), where S and
    V are the sums of the first k differences and of their squares. Three seeds give 0.032 at least.
    """
    n, m = differences.shape
    if n < 2:
        return np.full(m, np.nan)
    k = np.arange(1, n + 1)[:, None]
    sums, squares = np.cumsum(differences, axis=0), np.cumsum(differences**2, axis=0)
    share = np.divide(sums**2, (k + MIXTURE) * squares, out=np.zeros((n, m)), where=squares > 0)
    log_e = 0.5 * np.log(MIXTURE / (k + MIXTURE)) - k / 2 * np.log1p(-share)
    p = np.exp(-np.maximum(log_e.max(axis=0), 0.0))
    return np.where(_no_spread(differences), np.nan, p)


def always_valid_interval(differences: Vector, level: Vector) -> Bounds:
    """Intervals for 1 - `level` (m,) that hold after any number of seeds: where E_k < 1 / `level`.

    After k seeds: mean ± s · √((k - 1)/k · (K - 1)/(1 - K r)), r = c²/(k + c²), K = (level² r)^(-1/k), and
    the whole line while K r >= 1; then what all k <= n have in common.
    """
    n, m = differences.shape
    if n < 2:
        return np.full(m, np.nan), np.full(m, np.nan)
    k = np.arange(2, n + 1)[:, None]
    mean, deviation = _running(differences)
    r = MIXTURE / (k + MIXTURE)
    large = np.exp(-np.log(level[None, :] ** 2 * r) / k)
    finite = large * r < 1
    ratio = np.divide(large - 1, 1 - large * r, out=np.full((n - 1, m), np.inf), where=finite)
    half = np.where(deviation > 0, deviation, 1.0) * np.sqrt((k - 1) / k * ratio)
    return _common(differences, mean, np.where((deviation > 0) | ~finite, half, 0.0))


def range_p(differences: Vector, low: int, high: int) -> Vector:
    """p-values (m,) of differences (n, m) that hold after any number of seeds from `low` to `high`.

    The probability, under the null hypothesis, that the smallest p-value of a paired t-test along the whole
    range is at most the smallest one so far. NaN with fewer than `low`, as where a seed failed: no look.
    """
    n, m = differences.shape
    if n < low:
        return np.full(m, np.nan)
    simulated = smallest_p(low, high)
    smallest = np.fmin.reduce(_p_along(differences, low), axis=0)
    p = (1 + np.searchsorted(simulated, smallest, side="right")) / (1 + len(simulated))
    return np.where(_no_spread(differences) | np.isnan(smallest), np.nan, np.minimum(p, 1.0))


def range_interval(differences: Vector, level: Vector, low: int, high: int) -> Bounds:
    """Intervals for 1 - `level` (m,) that hold likewise: what t-intervals at a stricter level leave.

    The whole line with fewer than `low` seeds; NaN with n < 2.
    """
    n, m = differences.shape
    if n < 2:
        return np.full(m, np.nan), np.full(m, np.nan)
    mean, deviation = _running(differences)
    k = np.arange(2, n + 1)[:, None]
    strict = np.array([nominal_level(float(one), low, high) for one in level])
    with np.errstate(invalid="ignore"):
        half = -stdtrit(k - 1, strict / 2) * deviation / np.sqrt(k)
    half[: max(low - 2, 0)] = np.inf  # no look
    return _common(differences, mean, half)


def nominal_level(level: float, low: int, high: int) -> float:
    """The constant level at which a t-test at each look claims falsely with probability `level` at most."""
    if low == high or math.isnan(level):
        return level
    simulated = smallest_p(low, high)
    allowed = math.floor(level * (1 + len(simulated)) * (1 + 1e-12)) - 1
    if allowed < 0:
        return 0.0
    return float(np.nextafter(simulated[allowed], 0)) if allowed < len(simulated) else 1.0


@functools.lru_cache(maxsize=8)
def smallest_p(low: int, high: int) -> Vector:
    """The smallest p-values of t-tests after `low` to `high` seeds, under the null hypothesis, sorted.

    Simulated with a fixed seed: standard normal differences, as t does not depend on their scale.
    """
    chance = np.random.default_rng(0)
    found = []
    for _ in range(20):  # in parts, for memory
        paths = chance.standard_normal((high, PATHS // 20))
        found.append(np.fmin.reduce(_p_along(paths, low), axis=0))
    return np.sort(np.concatenate(found))


def _p_along(differences: Vector, low: int) -> Vector:
    """p-values of the t-test after `low`, …, n seeds; NaN without spread."""
    n = len(differences)
    first = max(low, 2)
    mean, deviation = _running(differences)
    k = np.arange(first, n + 1)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(mean[first - 2 :]) * np.sqrt(k) / deviation[first - 2 :]
    return np.where(deviation[first - 2 :] > 0, 2 * stdtr(k - 1, -t), np.nan)


def _running(differences: Vector) -> tuple[Vector, Vector]:
    """Mean and standard deviation (ddof = 1) of the first 2, …, n differences; no spread is exactly 0."""
    k = np.arange(1, len(differences) + 1)[:, None]
    shifted = differences - differences[:1]  # equal differences have no rounding then
    mean = np.cumsum(shifted, axis=0) / k
    squares = np.cumsum(shifted**2, axis=0)
    variance = (squares - k * mean**2)[1:] / (k[1:] - 1)
    alike = squares[1:] <= k[1:] * 1e-24
    return (mean + differences[:1])[1:], np.sqrt(np.where(alike, 0.0, np.maximum(variance, 0.0)))


def _moments(differences: Vector) -> tuple[int, Vector, Vector]:
    """n, the mean (m,) of differences (n, m), and its standard error; NaN without spread."""
    n, m = differences.shape
    nothing = np.full(m, np.nan)
    if n < 2:
        return n, differences.mean(axis=0) if n else nothing, nothing
    error = differences.std(axis=0, ddof=1) / math.sqrt(n)
    return n, differences.mean(axis=0), np.where(_no_spread(differences), np.nan, error)


def _no_spread(differences: Vector) -> npt.NDArray[np.bool_]:
    """Which comparisons (m,) have the same difference for all seeds, but for rounding."""
    return np.asarray(np.isclose(differences, differences[:1], rtol=0, atol=1e-12).all(axis=0))


def _common(differences: Vector, mean: Vector, half: Vector) -> Bounds:
    """What the intervals `mean` ± `half` (n - 1, m) have in common; NaN without spread.

    Where that is nothing, or lies on one side of 0 and the mean on the other, it is the last one: the
    differences changed with the seeds.
    """
    low, high = np.fmax.reduce(mean - half, axis=0), np.fmin.reduce(mean + half, axis=0)
    changed = (low > high) | ((low > 0) & (mean[-1] < 0)) | ((high < 0) & (mean[-1] > 0))
    low, high = np.where(changed, (mean - half)[-1], low), np.where(changed, (mean + half)[-1], high)
    alike = _no_spread(differences)
    return np.where(alike, np.nan, low), np.where(alike, np.nan, high)
