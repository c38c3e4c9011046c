"""How often verdicts are wrong, how often they find something, and how many trials they take.

`python benchmarks/verdict.py null` simulates cells without any true difference (a baseline and four arms) for
each policy of looking and each kind of noise, and prints the share of cells with a false claim at some look.
The first two policies repeat a t-test with Holm at each look, as if it were the only one.
`python benchmarks/verdict.py power` simulates one comparison for several true differences, and prints the
expected number of trials, and how often a design comes to which verdict; with `--seconds` of a trial, also
the minutes of a device (a core, or a GPU) that these trials take. Both use the report's statistics.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import numpy.typing as npt

from analysis.stats.paired import adjust, verdicts
from analysis.stats.sequential import rule_for
from search_spaces.seeds import SeedPlan

ARMS = 4
MOST = 30
Noise = Callable[[np.random.Generator], npt.NDArray[np.float64]]


def _normal(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return chance.standard_normal((MOST, 1 + ARMS))


def _heavy(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return chance.standard_t(3, (MOST, 1 + ARMS))


def _unequal(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return _normal(chance) * np.array([1, 0.2, 0.5, 1, 3])


def _loud_baseline(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return _normal(chance) * np.array([4.63, 0.45, 0.45, 0.45, 0.45])


def _correlated(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    return _normal(chance) + 2 * chance.standard_normal((MOST, 1))


def _skewed_baseline(chance: np.random.Generator) -> npt.NDArray[np.float64]:
    values = 0.2 * _normal(chance)
    values[:, 0] = 1 - chance.standard_exponential(MOST)
    return values


NOISES: dict[str, Noise] = {
    "normal": _normal,
    "heavy-tailed (t, 3 df)": _heavy,
    "unequal spread (SD 0.2 to 3)": _unequal,
    "baseline ten times as noisy": _loud_baseline,
    "correlated seeds (0.8)": _correlated,
    "skewed baseline (exponential)": _skewed_baseline,
}
"""Values (seeds, baseline and arms) of one cell without a true difference."""


def first_false_claim(
    differences: npt.NDArray[np.float64], plan: SeedPlan | None, looks: Sequence[int]
) -> bool:
    """Whether a study that looks after so many seeds claims something at some look."""
    margin = plan.margin if plan else None
    return any("claimed" in verdicts(adjust(differences[:n], rule_for(plan, n)), margin) for n in looks)


def until_decided(differences: npt.NDArray[np.float64], plan: SeedPlan) -> tuple[int, list[str]]:
    """After how many seeds `--until decided` stops, and with which verdicts."""
    for n in plan.looks:
        found = verdicts(adjust(differences[:n], rule_for(plan, n)), plan.margin)
        if "undecided" not in found:
            break
    return n, found


POLICIES: dict[str, tuple[SeedPlan | None, tuple[int, ...] | None]] = {
    "t-test at each of 3, 6, 12": (None, (3, 6, 12)),
    "t-test at every n from 3 to 30": (None, tuple(range(3, MOST + 1))),
    **{f"fixed n = {n}": (SeedPlan(low=n, high=n), (n,)) for n in (3, 5, 10)},
    "planned 3, looks at 3, 6, 12": (SeedPlan(low=3, high=3), (3, 6, 12)),
    "planned 3, looks at every n from 3 to 30": (SeedPlan(low=3, high=3), tuple(range(3, MOST + 1))),
    "declared 3..30, looks at every n": (SeedPlan(low=3, high=30), tuple(range(3, MOST + 1))),
    "declared 3..12, until decided, margin 1 SD": (SeedPlan(low=3, high=12, margin=2**0.5), None),
}
"""What is planned (None: nothing is recorded), and after how many seeds one looks (None: until decided)."""


def null(cells: int) -> None:
    """Print the share of cells with a false claim, by policy and noise."""
    print(f"| policy | {' | '.join(NOISES)} |\n| --- |{' --- |' * len(NOISES)}")
    for policy, (plan, looks) in POLICIES.items():
        shares = []
        for noise in NOISES.values():
            chance, false = np.random.default_rng(1), 0
            for _ in range(cells):
                values = noise(chance)
                differences = (values[:, 1:] - values[:, :1]) / 100  # in points, with an SD of about √2
                if plan and looks is None:
                    false += "claimed" in until_decided(differences, plan)[1]
                else:
                    false += first_false_claim(differences, plan, looks or ())
            shares.append(f"{false / cells:.1%}")
        print(f"| {policy} | {' | '.join(shares)} |", flush=True)


def power(cells: int, seconds: float | None = None) -> None:
    """Print trials and verdicts of one comparison (two trials a seed), by design and true difference.

    `seconds` are those of a trial on its device.
    """
    designs = {
        "3..30 until decided": SeedPlan(low=3, high=MOST),
        "3..30 until decided, margin 1 SD": SeedPlan(low=3, high=MOST, margin=1.0),
        **{f"fixed n = {n}": SeedPlan(low=n, high=n, margin=1.0) for n in (5, 10, 30)},
    }
    cost = "" if seconds is None else f" minutes, {seconds:g} s a trial |"
    print(f"| true difference (SD) | design | trials |{cost} claimed | wrong | < 1 SD |")
    print(f"| --- | --- | --- |{' --- |' if cost else ''} --- | --- | --- |")
    for effect in (0.0, 0.5, 1.0, 2.0, 3.0):
        for design, plan in designs.items():
            chance = np.random.default_rng(2)
            trials, claimed, wrong, small = 0, 0, 0, 0
            for _ in range(cells):
                differences = (effect + chance.standard_normal((MOST, 1))) / 100
                n, (verdict,) = until_decided(differences, plan)
                trials += 2 * n
                claimed += verdict == "claimed"
                wrong += verdict == "claimed" and not (effect and differences[:n].mean() > 0)
                small += verdict == "small"
            shares = " | ".join(f"{100 * count / cells:.1f} %" for count in (claimed, wrong, small))
            spent = "" if seconds is None else f" {trials / cells * seconds / 60:.1f} |"
            print(f"| {effect:g} | {design} | {trials / cells:.1f} |{spent} {shares} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("null", "power"))
    parser.add_argument("--cells", type=int, default=4000, help="simulated cells each (default: 4000)")
    parser.add_argument("--seconds", type=float, help="of a trial: `power` prints the device's time, too")
    given = parser.parse_args()
    if given.what == "null":
        null(given.cells)
    else:
        power(given.cells, given.seconds)
