"""How much paired differences vary from seed to seed: measured in a cell, or in its nearest relative.

Power depends on the standard deviation of the differences between two arms. Where a cell has too few seeds to
measure it, the measured cell that has most in common with it stands in, and is named.

Without pandas: plans of thousands of trials use this, too. A cell is the values of its `CELL_FIELDS`;
`results` are `{trial with seed 0: {seed: value}}`.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.stats.power import detectable, sd_interval, seeds_needed
from search_spaces.families import LEVEL, controls_elsewhere, families
from search_spaces.names import arm_labels
from search_spaces.seeds import FEWEST
from study.ledger.records import DATA_TAG, TrialRecord, is_result
from trainables.arms import CE
from trainables.trial import CELL_FIELDS, FIELDS, FieldValue, TrialConfig, two_views

Results = Mapping[TrialConfig, Mapping[int, float]]
Cell = tuple[FieldValue, ...]
Cells = Mapping[Cell, Mapping[str, TrialConfig]]
"""A trial of each arm of each cell, with seed 0, by label."""
_OTHERS = tuple(name for name in FIELDS if name != "seed")
_FOREMOST = tuple(CELL_FIELDS.index(name) for name in ("dataset", "backbone"))
"""In these a relative should be equal before all others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The standard deviation of the paired differences of one comparison.

    Attributes:
        trial: the arm's trial with seed 0.
        arm: its label; `baseline`: that of its baseline; `family`: the name of the baseline's family.
        comparisons: m, how many comparisons the family has.
        n: the seeds that both arms have.
        sd: with ddof = 1, in the unit of the values; NaN below three seeds, or without spread.
        relative: the comparison that `n` and `sd` were measured in, if it is another one.
    """

    trial: TrialConfig
    arm: str
    baseline: str
    family: str
    comparisons: int
    n: int
    sd: float
    relative: "Spread | None" = None

    @property
    def known(self) -> bool:
        """Whether there is a standard deviation, its own or a relative's."""
        return self.sd > 0

    @property
    def level(self) -> float:
        """α / m: what Holm asks of the smallest p of a family, as Bonferroni does of all."""
        return LEVEL / self.comparisons

    def detectable(self, n: int) -> float:
        """The smallest difference that n seeds find (`stats.power.detectable`)."""
        return detectable(self.sd, n, self.level)

    def seeds_for(self, difference: float) -> tuple[int, int, int]:
        """Seeds that find a difference, and for both ends of the 95 % interval of the standard deviation."""
        low, high = sd_interval(self.sd, self.n)
        needed, fewest, most = (seeds_needed(sd, difference, self.level) for sd in (self.sd, low, high))
        return needed, fewest, most


def spreads(cells: Cells, results: Results) -> list[Spread]:
    """One for each comparison of the cells, whose trials have seed 0, known or not."""
    found = []
    for arms, compared in _compared(cells):
        values = {label: results.get(trial, {}) for label, trial in arms.items()}
        for family, pairs in compared.items():
            for arm, baseline in pairs.items():
                ours, theirs = values[arm], values[baseline]
                differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
                found.append(
                    Spread(
                        trial=arms[arm],
                        arm=arm,
                        baseline=baseline,
                        family=family,
                        comparisons=len(pairs),
                        n=len(differences),
                        sd=_standard_deviation(differences),
                    )
                )
    return found


def _standard_deviation(differences: Sequence[float]) -> float:
    if len(differences) < FEWEST or max(differences) - min(differences) < 1e-12:
        return math.nan
    return float(np.std(differences, ddof=1))


def _compared(cells: Cells) -> Iterator[tuple[Mapping[str, TrialConfig], Mapping[str, Mapping[str, str]]]]:
    """The arms of each cell with their families, then with each control that is a separate cell."""
    elsewhere = controls_elsewhere(cells)
    for cell, arms in cells.items():
        yield arms, families(arms)
        for label, other in elsewhere.get(cell, {}).items():
            pairs = {arm: label for arm, trial in arms.items() if two_views(trial)}
            yield {**arms, label: cells[other][CE]}, {label: pairs}


def with_relatives(wanted: Sequence[Spread], measured: Sequence[Spread]) -> list[Spread]:
    """The same comparisons, unknown ones with the standard deviation of their nearest measured relative.

    Nearest is the cell with the same dataset and backbone, of several that with the most equal fields, of
    these the first. In it stands in the comparison of the same two arms; if there is none, the one that
    varies most of those with the same baseline, or else of all. Unknown stays what has no relative.
    """
    places: dict[Cell, list[Spread]] = {}
    for spread in measured:
        if spread.known:
            places.setdefault(spread.trial.cell, []).append(spread)

    @functools.cache
    def nearest(cell: Cell) -> Cell:
        return max(places, key=partial(_likeness, cell))

    def filled(spread: Spread) -> Spread:
        if spread.known or not places:
            return spread
        other = max(places[nearest(spread.trial.cell)], key=partial(_suitability, spread))
        return dataclasses.replace(spread, n=other.n, sd=other.sd, relative=other)

    return [filled(spread) for spread in wanted]


def _likeness(here: Cell, there: Cell) -> tuple[int, int]:
    """How many of the foremost fields two cells have in common, and how many of all."""
    equal = [ours == theirs for ours, theirs in zip(here, there, strict=True)]
    return sum(equal[place] for place in _FOREMOST), sum(equal)


def _suitability(spread: Spread, other: Spread) -> tuple[bool, bool, float]:
    same_baseline = spread.baseline == other.baseline
    return same_baseline and spread.arm == other.arm, same_baseline, other.sd


def results_of(records: Iterable[TrialRecord], metric: str) -> dict[TrialConfig, dict[int, float]]:
    """The results of finished trials that have at least three seeds.

    Of each cell, on one version of its data. Trials of another `PROTOCOL`, whose keys differ, are left out.
    """
    groups: dict[tuple[str | None, ...], dict[int, TrialRecord]] = {}
    for record in records:
        if record.status == "FINISHED" and is_result(record.metrics.get(metric, math.nan)):
            # One description is parsed for all its seeds: that takes longer than all else.
            about = (record.tags.get(DATA_TAG), *(record.params.get(name) for name in _OTHERS))
            with contextlib.suppress(KeyError, ValueError):
                groups.setdefault(about, {})[int(record.params["seed"])] = record
    cells: dict[Cell, dict[str | None, dict[TrialConfig, dict[int, float]]]] = {}
    for (digest, *_), seeds in groups.items():
        trial = _parsed(seeds[min(seeds)]) if len(seeds) >= FEWEST else None
        if trial is not None:
            values = {seed: record.metrics[metric] for seed, record in seeds.items()}
            cells.setdefault(trial.cell, {}).setdefault(digest, {})[with_seed_0(trial)] = values
    whole = (max(versions.values(), key=_count) for versions in cells.values())
    return {trial: values for results in whole for trial, values in results.items()}


def _count(results: Results) -> int:
    return sum(map(len, results.values()))


def _parsed(record: TrialRecord) -> TrialConfig | None:
    """The trial of a record; None if another version of this project made it."""
    with contextlib.suppress(TypeError, ValueError):
        trial = TrialConfig.from_params(record.params)
        return trial if trial.key == record.key else None
    return None


def cells_with(trials: Iterable[TrialConfig]) -> dict[Cell, dict[str, TrialConfig]]:
    """A trial of each arm of each cell with seed 0, by label."""
    trials = list(trials)
    labels = arm_labels(trials)
    cells: dict[Cell, dict[str, TrialConfig]] = {}
    for trial in trials:
        arms = cells.setdefault(trial.cell, {})
        if labels[trial] not in arms:
            arms[labels[trial]] = with_seed_0(trial)
    return cells


def with_seed_0(trial: TrialConfig) -> TrialConfig:
    """The same for every replicate."""
    return trial.replace(seed=0) if trial.seed else trial  # replacing takes 0.2 ms
