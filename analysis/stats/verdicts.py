"""Which comparisons are decided, and how many seeds each cell still takes.

Cells that are compared with each other (`controls_elsewhere`) form a unit, whose cells have the same seeds. A
unit is looked at after the numbers of seeds that its plan names, each time at the seeds up to there alone. So
what it gets depends on its results, not on when or where trials ran, or how often a study was interrupted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.stats.comparisons import TESTED, ComparedArms, compared_arms
from analysis.stats.paired import Vector, adjust, verdicts
from analysis.stats.sequential import rule_for
from analysis.trials import load
from search_spaces import Selection
from search_spaces.seeds import SeedPlan
from study.ledger.records import TrialRecord
from trainables.trial import TrialConfig

ENDED = ("FINISHED", "FAILED")


class Look(NamedTuple):
    """How many seeds the cells of a unit take, and whether these are `running`, `decided` or `undecided`."""

    seeds: int
    state: str


@dataclass(frozen=True, slots=True)
class _Group:
    """Arms that are compared: accuracies (seeds, arms), which trials have ended, and pairs of columns.

    `places` are the row and the column of each trial, by key.
    """

    plan: SeedPlan | None
    families: Sequence[tuple[list[int], list[int]]]
    accuracies: Vector
    ended: npt.NDArray[np.bool_]
    places: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, compared: ComparedArms, most: int) -> "_Group":
        """The group with the results that its trials have, for up to `most` seeds."""
        column = {arm: number for number, arm in enumerate(compared.configs)}
        families = [
            ([column[arm] for arm in pairs], [column[arm] for arm in pairs.values()])
            for pairs in compared.families.values()
        ]
        values, ended = np.full((most, len(column)), np.nan), np.zeros((most, len(column)), bool)
        names = ("key", "seed", "arm_label", "status", TESTED)
        places = {}
        for key, seed, arm, status, value in zip(*(compared.trials[name] for name in names), strict=True):
            place = places[str(key)] = (int(seed), column[arm])
            values[place], ended[place] = value if status == "FINISHED" else np.nan, status in ENDED
        return cls(compared.plan, families, values, ended, places)

    def is_decided(self, seeds: int, margin: float | None) -> bool:
        """Whether each comparison is, after the first `seeds` seeds, that may yet be.

        An arm that had no result with any of them, as one that always diverges, is not waited for.
        """
        first = self.accuracies[:seeds]
        there = ~np.isnan(first)
        whole = first[there[:, there.any(axis=0)].all(axis=1) & there.any(axis=1)]
        rule = rule_for(self.plan, seeds)
        lost = np.asarray(~there.any(axis=0))
        for arms, baselines in self.families:
            found = verdicts(adjust(whole[:, arms] - whole[:, baselines], rule), margin)
            for verdict, arm, baseline in zip(found, arms, baselines, strict=True):
                if verdict not in ("claimed", "small") and not (lost[arm] or lost[baseline]):
                    return False
        return True


class SeedSchedule:
    """The seeds that each cell of a selection with a range takes, as results come in.

    Margin and steps are those of the cells' plan in the ledger, which was declared before the first look.
    """

    def __init__(
        self, selection: Selection, records: Mapping[str, TrialRecord], plans: Mapping[str, SeedPlan]
    ) -> None:
        """Take in what the ledger has; `plans` are the cells' own, by digest. ValueError without a range."""
        self._selection, self._plan = selection, _range_of(selection)
        trials = load(selection, records, plans)
        trials = trials.reindex(columns=list(dict.fromkeys([*trials.columns, TESTED])))
        compared = list(compared_arms(trials))
        unit_of = _units(trials, compared)
        self._cells = list(unit_of.values())
        self._unit = {key: unit_of[cell] for key, cell in zip(trials["key"], trials["cell"], strict=True)}
        self._groups: dict[int, list[_Group]] = {unit: [] for unit in self._cells}
        for group in compared:
            self._groups[unit_of[group.cell]].append(_Group.of(group, self._plan.high))
        self._looks = {unit: self._look(unit) for unit in self._groups}

    @property
    def selection(self) -> Selection:
        """The trials that are wanted so far, with a step that says so."""
        wanted = [t for t in self._selection.trials if t.seed < self._looks[self._unit[t.key]].seeds]
        counts = sorted({look.seeds for look in self._looks.values()})
        seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        step = f"--until decided: {len(wanted)} so far, {seeds} seeds a cell"
        return replace(self._selection, trials=tuple(wanted), steps=(*self._selection.steps, step))

    @property
    def most(self) -> Selection:
        """The trials that are wanted so far, and all that cells without an outcome may yet take."""
        open_units = {unit for unit, look in self._looks.items() if look.state == "running"}
        wanted = {trial.key for trial in self.selection.trials}
        trials = [t for t in self._selection.trials if t.key in wanted or self._unit[t.key] in open_units]
        return replace(self._selection, trials=tuple(trials))

    @property
    def outcome(self) -> str:
        """How many cells are decided, after how many seeds, in a line for people."""
        looks = [self._looks[unit] for unit in self._cells]
        after = sorted(look.seeds for look in looks if look.state == "decided")
        seeds = " to ".join(str(count) for count in dict.fromkeys((*after[:1], *after[-1:])))
        undecided = sum(look.state == "undecided" for look in looks)
        parts = {
            f"decided after {seeds} seeds": len(after),
            f"undecided after {self._plan.high}, the most that were declared": undecided,
            "not finished": len(looks) - len(after) - undecided,
        }
        return ", ".join(f"{count} of {len(looks)} cells {what}" for what, count in parts.items() if count)

    def take(self, trial: TrialConfig, status: str, value: float | None) -> list[TrialConfig]:
        """Take in how a trial has ended; returns the trials that are wanted because of it, seed by seed."""
        unit = self._unit.get(trial.key)
        if unit is None:
            return []
        for group in self._groups[unit]:
            if (place := group.places.get(trial.key)) is not None:
                group.accuracies[place] = np.nan if value is None else value
                group.ended[place] = status in ENDED
        before, self._looks[unit] = self._looks[unit], self._look(unit)
        new = range(before.seeds, self._looks[unit].seeds)
        return [t for t in self._selection.trials if t.seed in new and self._unit[t.key] == unit]

    def _look(self, unit: int) -> Look:
        """How many seeds the cells of a unit take, as far as their results say."""
        groups = self._groups[unit]
        plans = [group.plan for group in groups]
        margin = next((plan.margin for plan in plans if plan), None)
        same = (plan for plan in plans if plan and (plan.low, plan.high) == (self._plan.low, self._plan.high))
        looks = next(same, self._plan).looks
        for seeds in looks:
            if not all(group.ended[:seeds].all() for group in groups):
                return Look(seeds, "running")
            if all(group.is_decided(seeds, margin) for group in groups):
                return Look(seeds, "decided")
        return Look(looks[-1], "undecided")


def _units(trials: pd.DataFrame, compared: Sequence[ComparedArms]) -> dict[int, int]:
    """For each cell the number of its unit: the lowest of the cells that it is compared with."""
    unit = {int(cell): int(cell) for cell in dict.fromkeys(trials["cell"])}
    for group in compared:
        joined = {unit[int(cell)] for cell in group.trials["cell"].unique()}
        unit = {cell: min(joined) if of in joined else of for cell, of in unit.items()}
    return unit


def planned_steps(selection: Selection, slots: int | None) -> SeedPlan:
    """The selection's range with a step that fills `slots`, where one more seed would leave some idle."""
    plan = _range_of(selection)
    arms = sum(trial.seed == 0 for trial in selection.trials)
    step = max(1, (slots or 1) // max(arms, 1))
    return replace(plan, step=min(step, plan.high - plan.low))


def decided_selection(
    selection: Selection, records: Mapping[str, TrialRecord], plans: Mapping[str, SeedPlan]
) -> Selection:
    """The trials of a selection that verdicts ask for; without a range, all of them."""
    if selection.seeds is None or not selection.seeds.is_range:
        return selection
    return SeedSchedule(selection, records, plans).selection


def _range_of(selection: Selection) -> SeedPlan:
    if selection.seeds is None or not selection.seeds.is_range:
        raise ValueError(
            f"--seeds: got {selection.seeds}; verdicts decide within a range such as 3..12 alone"
        )
    return selection.seeds
