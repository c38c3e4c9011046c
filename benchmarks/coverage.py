"""What intervals and tests of the report cover, by simulation: shares of simulated studies.

    python benchmarks/coverage.py [--studies 2000]

Noise has SD 1 and is normal; all else is in its units. Each share has a standard error of at most
√(0.25 / studies), near 0.95 of about 0.2 / √studies. Beside each method of the report stands what one might
have done instead.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from analysis.stats.across_cells import across_cells
from analysis.stats.factors import effects
from analysis.stats.improvement import improvement, improvement_over_cells
from analysis.stats.paired import holm
from analysis.stats.selection import select
from analysis.stats.sign_flips import sign_flips

Array = npt.NDArray[np.float64]
Study = Callable[[np.random.Generator], Sequence[float]]


def main() -> None:
    """Simulate and print all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per line")
    studies: int = parser.parse_args().studies

    table(
        "Cells in general: k cells, n seeds, τ: SD of the true differences of cells, s: SD of seeds' effects",
        ("k", "n", "τ", "s"),
        ("mean", "pooled only", "new cell", "new, HTS 2009"),
        itertools.product((4, 10), (5, 10), (0.0, 0.3, 1.0), (0.0, 0.7)),
        many_cells,
        studies=studies,
    )
    table(
        "Main effects of 3 augmentations: SD of how seeds react",
        ("n", "SD"),
        ("one contrast a seed", "one residual"),
        itertools.product((3, 5), (0.0, 0.5, 1.0)),
        main_effects,
        studies=studies // 4,
    )
    table(
        "Selected among m alike arms; r: correlation of validation and test accuracy",
        ("n", "m", "r"),
        ("jackknife", "SD / √n"),
        itertools.product((3, 5, 10), (2, 4), (0.0, 0.8)),
        selected,
        studies=studies,
    )
    table(
        "Probability of improvement p in one cell",
        ("n", "p"),
        ("exact", "Wilson"),
        itertools.product((3, 5, 10), (0.5, 0.7, 0.95)),
        one_cell,
        studies=studies,
    )
    table(
        "Probability of improvement 0.69 over k cells; r: correlation of cells through the seed",
        ("k", "n", "r"),
        ("Korn-Graubard", "t over seeds"),
        itertools.product((4, 10), (3, 5, 10), (0.0, 0.6)),
        over_cells,
        studies=studies,
    )
    table(
        "Sign flips: m arms, one of which differs by d (SD of an arm): it is found; another one is claimed",
        ("n", "m", "d"),
        ("joint: found", "joint: false", "Holm: found", "Holm: false"),
        itertools.product((6, 7, 10), (4,), (0.0, 2.0)),
        flips,
        studies=studies,
    )


def table(
    title: str,
    names: Sequence[str],
    columns: Sequence[str],
    settings: Iterable[tuple[float, ...]],
    study: Callable[..., Study],
    *,
    studies: int,
) -> None:
    """Print a line per setting: the mean of what each simulated study returns."""
    print(f"\n{title}\n" + "".join(f"{name:>6}" for name in names) + "".join(f"{c:>22}" for c in columns))
    for setting in settings:
        chance = np.random.default_rng(0)
        one = study(*setting)
        shares = np.mean([one(chance) for _ in range(studies)], axis=0)
        print("".join(f"{v:6g}" for v in setting) + "".join(f"{share:22.3f}" for share in shares), flush=True)


def many_cells(k: int, n: int, tau: float, shared: float) -> Study:
    """Whether intervals hold the mean of all cells, and the true difference of a new one; both from 0."""

    def study(chance: np.random.Generator) -> Sequence[float]:
        d = (
            tau * chance.normal(size=(k, 1))
            + shared * chance.normal(size=(1, n))
            + chance.normal(size=(k, n))
        )
        new, found = tau * chance.normal(), across_cells(d)
        pooled = stats.t.ppf(0.975, n - 1) * d.mean(axis=0).std(ddof=1) / math.sqrt(n)
        error = d.mean(axis=1).std(ddof=1) / math.sqrt(k)
        other = stats.t.ppf(0.975, k - 2) * math.hypot(found["tau"], error)
        return (
            found["general_low"] <= 0 <= found["general_high"],
            abs(d.mean()) <= pooled,
            found["new_low"] <= new <= found["new_high"],
            abs(d.mean() - new) <= other,
        )

    return study


def main_effects(n: int, reaction: float) -> Study:
    """How many of three main effects, which are 0, their intervals hold."""
    on = np.array(list(itertools.product((False, True), repeat=3)))
    names = ["a", "b", "c"]
    coded = np.column_stack(
        [on - 0.5, *((on[:, i] - 0.5) * (on[:, j] - 0.5) for i, j in ((0, 1), (0, 2), (1, 2)))]
    )

    def study(chance: np.random.Generator) -> Sequence[float]:
        values = chance.normal(size=(n, 8)) + reaction * chance.normal(size=(n, 3)) @ coded[:, :3].T
        rows = pd.DataFrame(np.tile(on, (n, 1)), columns=names)
        found = effects(rows.assign(seed=np.repeat(np.arange(n), 8), value=values.ravel()), names).loc[names]
        centred = values - values.mean(axis=1, keepdims=True)
        estimate = centred.mean(axis=0) @ coded / (coded**2).sum(axis=0)
        freedom = n * 7 - 6
        residual = ((centred - coded @ estimate) ** 2).sum() / freedom
        half = stats.t.ppf(0.975, freedom) * math.sqrt(residual / (n * 2))
        return (
            float(((found["low"] <= 0) & (found["high"] >= 0)).mean()),
            float((np.abs(estimate[:3]) <= half).mean()),
        )

    return study


def selected(n: int, m: int, correlation: float) -> Study:
    """Whether intervals hold the worth of the rule, which is 0."""

    def study(chance: np.random.Generator) -> Sequence[float]:
        test = chance.normal(size=(n, m))
        validation = correlation * test + math.sqrt(1 - correlation**2) * chance.normal(size=(n, m))
        found = select(pd.DataFrame(validation), pd.DataFrame(test))
        half = stats.t.ppf(0.975, n - 1) * float(found.test.sem())
        return found.low <= 0 <= found.high, abs(float(found.test.mean())) <= half

    return study


def one_cell(n: int, p: float) -> Study:
    """Whether intervals hold p."""

    def study(chance: np.random.Generator) -> Sequence[float]:
        found = improvement(np.where(chance.random((n, 1)) < p, 1.0, -1.0))
        wilson = stats.binomtest(round(n * float(found["improvement"][0])), n).proportion_ci(0.95, "wilson")
        return found["improvement_low"][0] <= p <= found["improvement_high"][
            0
        ], wilson.low <= p <= wilson.high

    return study


def over_cells(k: int, n: int, correlation: float) -> Study:
    """Whether intervals hold the probability that a difference with mean 0.5 is positive."""
    p = float(stats.norm.cdf(0.5))

    def study(chance: np.random.Generator) -> Sequence[float]:
        d = math.sqrt(correlation) * chance.normal(size=(1, n))
        d = 0.5 + d + math.sqrt(1 - correlation) * chance.normal(size=(k, n))
        share, low, high = improvement_over_cells(d)
        half = stats.t.ppf(0.975, n - 1) * (d > 0).mean(axis=0).std(ddof=1) / math.sqrt(n)
        return low <= p <= high, abs(share - p) <= half

    return study


def flips(n: int, m: int, effect: float) -> Study:
    """Whether the arm that differs is found, and whether another one is claimed (any, if none differs)."""

    def study(chance: np.random.Generator) -> Sequence[float]:
        values = chance.normal(size=(n, m + 1))
        values[:, 1] += effect
        found = sign_flips(values[:, 1:] - values[:, :1])
        alike = slice(1 if effect else 0, None)
        joint, single = found["p_sign_flip_joint"], holm(found["p_sign_flip"])
        return [f for p in (joint, single) for f in (p[0] <= 0.05, bool((p[alike] <= 0.05).any()))]

    return study


if __name__ == "__main__":
    main()
