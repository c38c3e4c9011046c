"""The power of the paired t-test: which differences n seeds find, and how many seeds a difference takes.

With n paired differences of true mean δ and standard deviation σ, t has a noncentral t distribution with
n - 1 degrees of freedom and noncentrality √n · δ / σ. The two-sided test at level α finds the difference
where |t| > t(n - 1, 1 - α/2) (Cohen 1988, Statistical Power Analysis, ch. 2). σ is not known: a measured
standard deviation stands for it, which few seeds tell badly (`sd_interval`).

A difference and its standard deviation have one unit, whichever that is. Without pandas: plans use this, too.
"""

import functools
import math

import numpy as np
from scipy.special import chdtr, chdtri, nctdtr, stdtrit

from search_spaces.families import LEVEL
from search_spaces.seeds import FEWEST

POWER = 0.8
"""The usual power to plan for (Cohen 1988)."""
FAR = 6.0
"""Noncentrality beyond which a difference is never found with the wrong sign."""
DIFFERENCE = 0.01
"""The difference that seeds are counted for: 1 point of a fraction."""


def paired_power(sd: float, difference: float, n: int, level: float) -> float:
    """Probability that the two-sided paired t-test of n >= 2 seeds at `level` finds a true difference."""
    return _power(math.sqrt(n) * abs(difference) / sd, n, level)


def detectable(sd: float, n: int, level: float, power: float = POWER) -> float:
    """The smallest true difference that n seeds find with this power; NaN for one seed or without spread."""
    return sd * _shift(n, level, power) / math.sqrt(n) if n > 1 and sd > 0 else math.nan


def seeds_needed(sd: float, difference: float, level: float, power: float = POWER) -> int:
    """The fewest seeds that find a true difference with this power, `FEWEST` at least.

    Raises:
        ValueError: the difference or its standard deviation is not a positive number.
    """
    for name, value in (("sd", sd), ("difference", difference)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}: got {value}; allowed: a number > 0")

    def enough(n: int) -> bool:
        return _shift(n, level, power) <= math.sqrt(n) * difference / sd

    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _power(noncentrality: float, n: int, level: float) -> float:
    critical = -stdtrit(n - 1, level / 2)
    missed = nctdtr(n - 1, noncentrality, critical)
    if noncentrality < FAR:  # beyond, the other tail has less than 1e-9
        missed -= nctdtr(n - 1, noncentrality, -critical)
    # For scattered arguments scipy's function is NaN.
    return 1.0 - float(missed) if missed >= 0 else _integrated_power(noncentrality, n, level)


def _integrated_power(noncentrality: float, n: int, level: float) -> float:
    """The same to 1e-6, as an integral over the mean, of how often the standard deviation is small enough.

    Where the standardised mean is z + noncentrality, |t| exceeds its critical value c if the sample's
    variance, over the true one, is below ((z + noncentrality) / c)².
    """
    critical = -stdtrit(n - 1, level / 2)
    z, step = np.linspace(-9, 9, 1441, retstep=True)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * step
    return float(density @ chdtr(n - 1, (n - 1) * ((z + noncentrality) / critical) ** 2))


@functools.lru_cache(maxsize=4096)
def _shift(n: int, level: float, power: float) -> float:
    """The noncentrality with which n seeds have this power, to 1e-9 of it.

    It is the same for all standard deviations: a large study asks for few of them.
    """
    low, high = 0.0, 4.0
    while _power(high, n, level) < power:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, n, level) < power else (low, middle)
    return high


def sd_interval(sd: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Where the true standard deviation of normal differences lies, by one measured with n >= 2 seeds.

    (n - 1) · SD² / σ² has a chi-squared distribution with n - 1 degrees of freedom.
    """
    squares = (n - 1) * sd**2
    return math.sqrt(squares / chdtri(n - 1, level / 2)), math.sqrt(squares / chdtri(n - 1, 1 - level / 2))
