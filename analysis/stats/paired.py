"""Comparing arms that are paired by seed: tests and intervals.

Values are a frame of one metric in one cell: a row per seed, a column per arm, NaN where a trial has no
result. A difference is always arm minus baseline, seed by seed; its unit is the metric's. With differences d
of n seeds:

- paired t: mean(d) ± t(n - 1) · SD(d) / √n with ddof = 1 (Student 1908), two-sided, where the number of
  seeds is the planned one; else a rule that allows for several looks (`analysis.stats.sequential`);
- sign-flip: the share of all 2ⁿ patterns of signs under which |mean(d)| is at least as large, of each arm by
  itself and of all arms of a family jointly (`analysis.stats.sign_flips`);
- Holm (1979) over the m arms of a cell that are compared with one baseline, planned ones whose trials are
  missing included: the family does not shrink because trials fail. An adjusted interval has the level
  1 - α · p / p_holm, so that it excludes zero exactly where p_holm <= α.

Differences without any spread (possible with few test images) have no t and no interval.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from analysis.stats.improvement import improvement
from analysis.stats.sequential import FIXED, Rule, t_p
from analysis.stats.sign_flips import sign_flips
from search_spaces.families import LEVEL, smallest_p
from search_spaces.seeds import FEWEST

Vector = npt.NDArray[np.float64]


def common_seeds(values: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """The values (seeds × arms) of the seeds that every arm has, sorted; and the seeds that were dropped.

    An arm without any value stays: it is missing as a whole.
    """
    values = values.sort_index().dropna(how="all")
    lacking = values.dropna(axis="columns", how="all").isna().any(axis="columns")
    return values[~lacking], [int(seed) for seed in values.index[lacking]]


def compare(values: pd.DataFrame, baseline: str | Mapping[str, str], rule: Rule = FIXED) -> pd.DataFrame:
    """Compare arms with one baseline, or each with its own: one family of comparisons.

    `values` are seeds × arms, without seeds that only some arms have (`common_seeds`); `rule` depends on what
    was planned.

    Returns:
        One row an arm, in the order of `values` or of the mapping: `n`, `delta` (mean difference),
        `delta_low`, `delta_high`, `delta_low_holm`, `delta_high_holm`, `wins` (seeds in which the arm is
        higher), `improvement`, `improvement_low`, `improvement_high` (`analysis.stats.improvement`), `p_t`
        (of a t-test at this n alone), `rule`, `p` and `p_holm` (by that rule, as the intervals),
        `p_sign_flip`, `p_sign_flip_joint` (over the arms of the family), `p_floor` (the smallest possible p
        of sign flips, also jointly). NaN where n is too small or there is no spread.
    """
    if isinstance(baseline, str):
        baseline = {arm: baseline for arm in values.columns if arm != baseline}
    arms = list(baseline)
    differences = values[arms].to_numpy(float) - values[list(baseline.values())].to_numpy(float)
    return pd.DataFrame(describe_differences(differences, rule), index=pd.Index(arms, name="arm"))


def describe_differences(differences: Vector, rule: Rule = FIXED) -> dict[str, Vector]:
    """Statistics of paired differences (seeds, arms) of one family: the columns of `compare`, (arms,) each.

    Rows are in the order of seeds: rules of several looks follow it.

    An arm without any value stays in the family, without a result.

    Raises:
        ValueError: an arm has a value for some seeds only.
    """
    missing = np.isnan(differences)
    if (missing.any(axis=0) & ~missing.all(axis=0)).any():
        raise ValueError("an arm has no result for a seed that its baseline has, or the other way round")
    present = ~missing.any(axis=0) & bool(len(differences))
    count = differences.shape[1]
    columns = {name: np.full(count, np.nan) for name in COLUMNS}
    for name, column in _tests(differences[:, present], rule).items():
        columns[name][present] = column
    columns |= adjust(differences, rule)
    # Missing arms keep their share of the level: the family does not shrink because trials fail.
    columns["p_sign_flip_joint"] = np.minimum(columns["p_sign_flip_joint"] * count / max(present.sum(), 1), 1)
    columns |= {name: np.nan_to_num(columns[name]).astype(int) for name in ("n", "wins")}
    return {**{name: columns[name] for name in COLUMNS}, "rule": np.full(count, rule.name, object)}


def adjust(differences: Vector, rule: Rule = FIXED) -> dict[str, Vector]:
    """What a verdict takes, of arguments as for `describe_differences`: `n` and `p`, adjusted after Holm.

    Returns:
        The columns `n`, `p`, `p_holm`, `delta_low_holm` and `delta_high_holm` of `compare`.
    """
    return adjust_together([differences], rule)


def adjust_together(parts: Sequence[Vector], rule: Rule = FIXED) -> dict[str, Vector]:
    """The columns of `adjust` for one family whose comparisons have different seeds: (seeds, arms) each."""
    present = [~np.isnan(part).any(axis=0) & bool(len(part)) for part in parts]
    known = [part[:, there] for part, there in zip(parts, present, strict=True)]
    there = np.concatenate(present)
    n = np.concatenate([np.full(part.shape[1], len(part)) for part in parts])
    p, low, high = (np.full(len(there), np.nan) for _ in range(3))
    p[there] = np.concatenate([rule.p(d) for d in known])
    adjusted = holm(p)
    share = np.divide(p, adjusted, out=np.full(len(p), 1 / max(len(p), 1)), where=adjusted != 0)
    levels = np.split(LEVEL * share[there], np.cumsum([d.shape[1] for d in known])[:-1])
    bounds = [rule.interval(d, level) for d, level in zip(known, levels, strict=True)]
    low[there], high[there] = (np.concatenate(ends) for ends in zip(*bounds, strict=True))
    found = {"n": np.where(there, n, 0), "p": p, "p_holm": adjusted}
    return {**found, "delta_low_holm": low, "delta_high_holm": high}


COLUMNS = (
    *("n", "delta", "delta_low", "delta_high", "delta_low_holm", "delta_high_holm", "wins"),
    *("improvement", "improvement_low", "improvement_high"),
    *("p_t", "rule", "p", "p_holm", "p_sign_flip", "p_sign_flip_joint", "p_floor"),
)


VERDICTS = ("claimed", "small", "undecided", "missing")
"""Of a comparison: a difference is claimed; it is smaller than the margin; neither; it has no results."""


def verdicts(columns: Mapping[str, Vector], margin: float | None) -> list[str]:
    """The verdict on each comparison, from the columns of `adjust`; `margin` in points."""
    n, low, high = (np.asarray(columns[name], float) for name in ("n", "delta_low_holm", "delta_high_holm"))
    claimed = is_claimed(columns)
    bound = (margin or 0.0) / 100
    small = (low > -bound) & (high < bound) & (n >= FEWEST)
    return [
        "missing" if not n[i] else "claimed" if claimed[i] else "small" if small[i] else "undecided"
        for i in range(len(n))
    ]


def is_claimed(columns: Mapping[str, Vector] | pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which comparisons allow a claim, from the columns of `adjust`: the adjusted interval excludes zero."""
    names = ("n", "p_holm", "delta_low_holm", "delta_high_holm")
    n, p, low, high = (np.asarray(columns[name], float) for name in names)
    return np.asarray(((low > 0) | (high < 0)) & (p <= LEVEL) & (n >= FEWEST))


def holm(p: Vector) -> Vector:
    """Holm's adjusted p-values (m,); NaN stays NaN, but counts in m as a test that does not reject."""
    # Not statsmodels' multipletests: each call collects Python's garbage, which takes 80 ms.
    order = np.argsort(p)  # NaN last
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def _tests(d: Vector, rule: Rule) -> dict[str, Vector]:
    """Statistics of paired differences (n, m), column by column: (m,) each."""
    n, m = d.shape
    low, high = rule.interval(d, np.full(m, LEVEL))
    return {
        "n": np.full(m, n),
        "delta": d.mean(axis=0) if n else np.full(m, np.nan),
        "delta_low": low,
        "delta_high": high,
        "wins": (d > 0).sum(axis=0),
        **improvement(d),
        "p_t": t_p(d),
        **sign_flips(d),
        "p_floor": np.full(m, smallest_p(n) if n else np.nan),
    }


def pool(cells: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, list[int]]:
    """The mean over several cells (seeds × arms each) within each seed, for statements about all of them.

    Cells share their seeds (and with them weights and crops), so seeds, not trials, are the replicates: pass
    the result to `compare`. It says nothing about other cells.

    Returns:
        Seeds × the arms that every cell has, and the dropped seeds: those that an arm of a cell lacks.
    """
    arms = [arm for arm in cells[0].columns if all(arm in cell.columns for cell in cells)]
    seeds = sorted(set().union(*(cell.index for cell in cells)))
    stack = np.stack([cell.reindex(index=seeds, columns=arms).to_numpy(float) for cell in cells])
    mean = pd.DataFrame(stack.mean(axis=0), index=pd.Index(seeds, name="seed"), columns=arms)
    # An arm without any value in a cell is missing as a whole; it costs the others no seed.
    empty = [arm for arm in arms if any(cell[arm].isna().all() for cell in cells)]
    # If all arms are missing, there is nothing to average.
    whole = mean.drop(columns=empty).dropna() if len(empty) < len(arms) else mean.iloc[:0]
    dropped = [int(seed) for seed in seeds if seed not in whole.index]
    return mean.loc[whole.index].assign(**dict.fromkeys(empty, np.nan))[arms], dropped


def best(values: pd.DataFrame) -> list[str]:
    """The arm with the highest mean, then those whose mean is the same as printed: one decimal of a per cent.

    `values` (seeds × arms) are fractions, without seeds that only some arms have. An arm without any value
    is never among the best. Which arms differ is not said here: that takes `compare`.
    """
    means = values.mean().dropna().sort_values(ascending=False, kind="stable")
    return [str(arm) for arm, mean in means.items() if f"{100 * mean:.1f}" == f"{100 * means.iloc[0]:.1f}"]


def prediction_interval(values: Vector) -> tuple[float, float]:
    """Where one more run lies with 95 %: mean ± t(n - 1) · SD · √(1 + 1/n); NaN below three values."""
    n = len(values)
    if n < FEWEST:
        return math.nan, math.nan
    half = float(-stdtrit(n - 1, LEVEL / 2)) * float(values.std(ddof=1)) * math.sqrt(1 + 1 / n)
    return float(values.mean() - half), float(values.mean() + half)
