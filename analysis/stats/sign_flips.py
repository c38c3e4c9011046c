"""Sign-flip tests of paired differences: of each arm by itself, and of all arms of a family jointly.

Under the hypothesis that arm and baseline do not differ, the difference of a seed is as likely to have the
other sign. That needs no normal distribution, but a symmetric one, and n seeds have 2ⁿ patterns of signs: a
two-sided p-value cannot be smaller than 2 / 2ⁿ.

Jointly, all arms of a seed change their sign together, which keeps how arms depend on each other. The
largest statistic of the arms is compared with its distribution over the patterns, so the smallest possible
p-value stays 2 / 2ⁿ for any number of arms, where Holm would multiply it by their number.
"""

import functools
import itertools

import numpy as np
import numpy.typing as npt

from search_spaces.families import EXACT, RANDOM_PATTERNS

Vector = npt.NDArray[np.float64]

SAME = 1e-9
"""Sums of the same numbers in another order differ in the last bits: statistics so close are ties."""
NO_DIFFERENCE = 1e-12
"""A smaller difference of two accuracies is a rounding error."""


def sign_flips(differences: Vector) -> dict[str, Vector]:
    """Two-sided p-values of paired differences (n seeds, m arms), which are without NaN.

    The statistic is |Σd| / √Σd². Signs do not change Σd², so its order over the patterns is that of |t|, and
    of |Σd|: each arm by itself has the p-value of its mean. Arms with different spreads become comparable.

    The joint p-values are those of Westfall & Young's (1993) step-down max-T procedure, with all arms of a
    seed flipped together (Romano & Wolf 2005): the arm with the j-th largest statistic is compared with the
    largest statistic among itself and the arms below it. With differences that are symmetric jointly the
    probability of any false claim is at most the level, whichever arms do differ. Step-down is never less
    powerful than comparing every arm with the largest statistic of all.

    Returns:
        `p_sign_flip` and `p_sign_flip_joint`, (m,) each; NaN for n = 0. Exact up to n = 16: all 2ⁿ patterns;
        above, 99,999 random ones with a fixed seed and the observed one.
    """
    n, m = differences.shape
    single, joint = np.full(m, np.nan), np.full(m, np.nan)
    if n == 0 or m == 0:
        return {"p_sign_flip": single, "p_sign_flip_joint": joint}
    # Not scipy's permutation_test: it draws new random patterns for every arm.
    signs = _signs(n)
    d = np.where(np.abs(differences) < NO_DIFFERENCE, 0.0, differences)
    size = np.sqrt((d**2).sum(axis=0))
    d = d / np.where(size > 0, size, 1.0)
    observed = np.abs(d.sum(axis=0)) - SAME
    upwards = np.argsort(observed, kind="stable")  # from the smallest statistic: the last step comes first
    largest = np.zeros(len(signs))
    for some in np.array_split(upwards, -(-m // 16)):  # 100,000 sums each
        statistics = np.abs(signs @ d[:, some])
        single[some] = np.mean(statistics >= observed[some], axis=0)
        statistics[:, 0] = np.maximum(statistics[:, 0], largest)
        largest_below = np.maximum.accumulate(statistics, axis=1)
        joint[some] = np.mean(largest_below >= observed[some], axis=0)
        largest = largest_below[:, -1]
    joint[upwards[::-1]] = np.maximum.accumulate(joint[upwards[::-1]])
    return {"p_sign_flip": single, "p_sign_flip_joint": joint}


@functools.lru_cache(maxsize=4)
def _signs(n: int) -> Vector:
    """Patterns of n signs, one a row: all 2ⁿ, or for more than `EXACT` the observed one and random ones."""
    if n <= EXACT:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(0).choice((1.0, -1.0), (RANDOM_PATTERNS, n))
    return np.vstack([np.ones(n), drawn])
