"""Which comparisons are decided, and how many seeds each cell still takes.

Cells that are compared with each other (`controls_elsewhere`) form a unit, whose cells have the same seeds. A
unit is looked at after the numbers of seeds that its plan names, each time at the seeds up to there alone. So
what it gets depends on its results, not on when or where trials ran, or how often a study was interrupted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.stats.comparisons import TESTED, ComparedArms, compared_arms, values_of
from analysis.stats.paired import FEWEST, LEVEL, Vector, describe_differences
from analysis.stats.sequential import rule_for
from analysis.trials import load
from search_spaces import Selection
from search_spaces.seeds import SeedPlan
from study.ledger.records import TrialRecord
from trainables.trial import TrialConfig

VERDICTS = ("claimed", "small", "undecided", "missing")
"""Of a comparison: a difference is claimed; it is smaller than the margin; neither; it has no results."""
ENDED = ("FINISHED", "FAILED")


def verdicts(columns: Mapping[str, Vector], margin: float | None) -> list[str]:
    """The verdict on each comparison, from the columns of `describe_differences`; `margin` in points."""
    n, low, high = (np.asarray(columns[name], float) for name in ("n", "delta_low_holm", "delta_high_holm"))
    claimed = ((low > 0) | (high < 0)) & (np.asarray(columns["p_holm"], float) <= LEVEL) & (n >= FEWEST)
    bound = (margin or 0.0) / 100
    small = (low > -bound) & (high < bound)
    return [
        "missing" if not n[i] else "claimed" if claimed[i] else "small" if small[i] else "undecided"
        for i in range(len(n))
    ]


@dataclass(frozen=True, slots=True)
class _Values:
    """The results of one group of arms: seeds × arms, which seeds have ended, and its families."""

    group: ComparedArms
    values: pd.DataFrame
    ended: frozenset[int]

    def is_decided(self, seeds: int, margin: float | None) -> bool:
        """Whether each comparison is, after the first `seeds` seeds."""
        first = self.values[self.values.index < seeds]
        there = first.notna().to_numpy()
        whole = first[there[:, there.any(axis=0)].all(axis=1)] if there.any() else first.iloc[:0]
        rule = rule_for(self.group.plan, seeds)
        for pairs in self.group.families.values():
            d = whole[list(pairs)].to_numpy() - whole[list(pairs.values())].to_numpy()
            if "undecided" in verdicts(describe_differences(d, rule), margin):
                return False
        return True


class SeedSchedule:
    """The seeds that each cell of a selection with a range takes, as results come in.

    The `margin` is that of the cells' plan in the ledger, which was declared before the first look.
    """

    def __init__(
        self, selection: Selection, records: Mapping[str, TrialRecord], plans: Mapping[str, SeedPlan]
    ) -> None:
        """Take in what the ledger has; `plans` are the cells' own, by digest. The selection has a range."""
        assert selection.seeds is not None
        self._selection, self._looks = selection, selection.seeds.looks
        self._frame = load(selection, records, plans)
        self._frame = self._frame.reindex(columns=list(dict.fromkeys([*self._frame.columns, TESTED])))
        self._row = dict(zip(self._frame["key"], self._frame.index, strict=True))
        self._unit_of = _units(self._frame)
        self._seeds = {unit: self._count(unit) for unit in dict.fromkeys(self._unit_of.values())}

    @property
    def selection(self) -> Selection:
        """The trials that are wanted so far, with a step that says so."""
        wanted = [t for t in self._selection.trials if t.seed < self._seeds[self._unit(t)]]
        counts = sorted({self._seeds[unit] for unit in self._unit_of.values()})
        span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        step = f"--until decided: {len(wanted)} so far, {span} seeds a cell"
        return replace(self._selection, trials=tuple(wanted), steps=(*self._selection.steps, step))

    def take(self, trial: TrialConfig, status: str, value: float | None) -> list[TrialConfig]:
        """Take in how a trial has ended; returns the trials that are wanted because of it, seed by seed."""
        row = self._row.get(trial.key)
        if row is None:
            return []
        self._frame.loc[row, "status"] = status
        self._frame.loc[row, TESTED] = np.nan if value is None else value
        unit = self._unit(trial)
        before, self._seeds[unit] = self._seeds[unit], self._count(unit)
        new = range(before, self._seeds[unit])
        return [t for t in self._selection.trials if t.seed in new and self._unit(t) == unit]

    def _unit(self, trial: TrialConfig) -> int:
        return self._unit_of[int(self._frame.at[self._row[trial.key], "cell"])]

    def _count(self, unit: int) -> int:
        """How many seeds the cells of a unit take, as far as their results say."""
        cells = [cell for cell, of in self._unit_of.items() if of == unit]
        groups = list(_values(self._frame[self._frame["cell"].isin(cells)]))
        for seeds in self._looks:
            if not all(group.ended.issuperset(range(seeds)) for group in groups):
                return seeds
            plans = [group.group.plan for group in groups]
            margin = next((plan.margin for plan in plans if plan), None)
            if all(group.is_decided(seeds, margin) for group in groups):
                return seeds
        return self._looks[-1]


def _values(frame: pd.DataFrame) -> Iterator[_Values]:
    """The results of what is compared among these trials; a cell without comparisons has none."""
    for group in compared_arms(frame):
        ended = group.trials[group.trials["status"].isin(ENDED)]
        seeds = [set(ended.loc[ended["arm_label"] == arm, "seed"]) for arm in group.configs]
        values = values_of(group.trials, TESTED)[list(group.configs)]
        yield _Values(group, values, frozenset(map(int, set.intersection(*seeds))))


def _units(frame: pd.DataFrame) -> dict[int, int]:
    """For each cell the number of its unit: the lowest of the cells that it is compared with."""
    unit = {int(cell): int(cell) for cell in dict.fromkeys(frame["cell"])}
    for group in compared_arms(frame):
        joined = {unit[int(cell)] for cell in group.trials["cell"].unique()}
        for cell, of in unit.items():
            if of in joined:
                unit[cell] = min(joined)
    return unit


def planned_steps(selection: Selection, slots: int | None) -> SeedPlan:
    """The selection's range with a step that fills `slots` trials at once, if a round of one seed does not."""
    assert selection.seeds is not None
    arms = sum(trial.seed == 0 for trial in selection.trials)
    step = max(1, (slots or 1) // max(arms, 1))
    return replace(selection.seeds, step=min(step, selection.seeds.high - selection.seeds.low))


def decided_selection(
    selection: Selection, records: Mapping[str, TrialRecord], plans: Mapping[str, SeedPlan]
) -> Selection:
    """The trials of a selection that verdicts ask for; without a range, all of them."""
    if selection.seeds is None or not selection.seeds.is_range:
        return selection
    return SeedSchedule(selection, records, plans).selection


