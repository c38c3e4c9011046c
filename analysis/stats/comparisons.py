"""The paired comparisons of a study, by cell, family of baselines and metric."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.paired import COLUMNS, Vector, describe_differences, is_claimed, pool, verdicts
from analysis.stats.sequential import FIXED, Rule, rule_for
from analysis.trials import cells_of, config_of
from search_spaces.families import controls_elsewhere, families
from search_spaces.seeds import SeedPlan
from trainables import metrics
from trainables.arms import CE
from trainables.metrics import ACCURACIES
from trainables.trial import FIELDS, TrialConfig, format_value, two_views

TESTED = metrics.TESTED
"""The only metric with p-values; the others are descriptive."""
_ADJUSTED = (
    *("p_t", "p", "p_holm", "p_sign_flip", "p_sign_flip_joint", "p_floor"),
    *("delta_low_holm", "delta_high_holm"),
)
"""Columns of the tested metric alone."""
_PLANNED = ("planned", "planned_on", "margin")
_ABOUT = ("dataset", "backbone", "augmentations", "arm", "gamma")
_COLUMNS = ("cell", *_ABOUT, "arm_label", "metric", "baseline", "baseline_label")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedArms:
    """Arms that are compared with each other, paired by seed.

    `trials` are those of the cell, and of a control elsewhere with its label here; `configs` has a trial of
    each arm by label, in order; `families` are `{baseline: {arm: its baseline}}`.
    """

    cell: int
    trials: pd.DataFrame
    configs: Mapping[str, TrialConfig]
    families: Mapping[str, Mapping[str, str]]

    @property
    def plan(self) -> SeedPlan | None:
        """How many seeds were planned for the cell, if that was recorded."""
        own = self.trials[self.trials["cell"] == self.cell]
        text = own["seed_plan"].iloc[0] if "seed_plan" in own and len(own) else None
        return None if text is None or pd.isna(text) else SeedPlan.from_json(text)

    @property
    def seeds(self) -> int:
        """After how many seeds it is looked at: those whose trials have all ended, some of them failed."""
        ended: dict[str, set[int]] = {arm: set() for arm in self.configs}
        columns = (self.trials[name].tolist() for name in ("arm_label", "seed", "status"))
        for arm, seed, status in zip(*columns, strict=True):
            if arm in ended and status in ("FINISHED", "FAILED"):
                ended[arm].add(seed)
        return len(set.intersection(*ended.values()))

    @property
    def rule(self) -> Rule:
        """Which p-values and intervals hold."""
        return rule_for(self.plan, self.seeds)


def compared_arms(trials: pd.DataFrame) -> Iterator[ComparedArms]:
    """What is compared with what: the arms of each cell, then each control that is a separate cell.

    Controls elsewhere (`controls_elsewhere`) are added to the arms of the cell one at a time, so that a seed
    that one of them lacks costs the comparisons within the cell nothing.
    """
    cells = cells_of(trials)
    configs = {number: arm_configs(cell) for number, cell in cells.items()}
    elsewhere = controls_elsewhere(configs)
    for number, cell in cells.items():
        arms = configs[number]
        yield ComparedArms(cell=number, trials=cell, configs=arms, families=families(arms))
        for label, other in elsewhere.get(number, {}).items():
            yield ComparedArms(
                cell=number,
                trials=pd.concat([cell, cells[other].assign(arm_label=label)]),
                configs={**arms, label: configs[other][CE]},
                families={label: {arm: label for arm, trial in arms.items() if two_views(trial)}},
            )


def arm_configs(cell: pd.DataFrame) -> dict[str, TrialConfig]:
    """A trial of each arm of a cell, by label."""
    first: dict[str, int] = {}
    for row, label in enumerate(cell["arm_label"].tolist()):
        first.setdefault(label, row)
    # Not by rows: those of a frame with all metrics take ten times longer, and a report needs thousands.
    names = [name for name in (*FIELDS, "tuned") if name in cell]
    columns = {name: cell[name].tolist() for name in names}
    return {
        label: config_of({name: column[row] for name, column in columns.items()})
        for label, row in first.items()
    }


def values_of(cell: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds × arm labels of one cell's finished trials, with arms and seeds that have no value.

    Raises:
        ValueError: a trial occurs twice.
    """
    # Not a pivot: one of a few rows takes milliseconds, and a large study needs hundreds.
    measured = cell[metric].tolist() if metric in cell else [np.nan] * len(cell)  # nothing is finished yet
    columns = (*(cell[name].tolist() for name in ("status", "arm_label", "seed")), measured)
    arms: dict[str, dict[int, float]] = {}
    for status, arm, seed, value in zip(*columns, strict=True):
        seeds = arms.setdefault(arm, {})
        if status == "FINISHED":
            if seed in seeds:
                raise ValueError(f"{arm}, seed {seed}: there are two results")
            seeds[seed] = value
    rows = sorted({seed for seeds in arms.values() for seed in seeds})
    table = np.array([[seeds.get(seed, np.nan) for seeds in arms.values()] for seed in rows], float)
    return pd.DataFrame(
        table.reshape(len(rows), len(arms)), index=pd.Index(rows, name="seed"), columns=list(arms)
    )


def pooled_values(trials: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Test accuracy, averaged over cells within each seed, and the dropped seeds (`stats.paired.pool`)."""
    return pool([values_of(cell, TESTED) for cell in cells_of(trials).values()])


def comparisons(trials: pd.DataFrame, groups: Iterable[ComparedArms] | None = None) -> pd.DataFrame:
    """Compare the arms of each cell (by default `compared_arms`) with their baselines, paired by seed.

    Returns:
        One row per cell × arm × baseline × metric: `cell, dataset, backbone, augmentations, arm, gamma,
        arm_label, metric, baseline` (the family's name), `baseline_label`, then the columns of
        `analysis.stats.paired.compare`, and `dropped`: the seeds that an arm of the cell lacks, which are
        left out for all of them; `seeds` that have ended in all arms, `planned` ones (`3`, `3..12`), the day
        on which these were declared (`planned_on`), the declared `margin`, and the `verdict`, one of
        `analysis.stats.paired.VERDICTS`.
    """
    metrics = [name for name in ACCURACIES if name in trials.columns]
    rows: list[dict[str, object]] = []
    for group in compared_arms(trials) if groups is None else groups:
        arms = list(group.configs)
        plan, rule = (group.plan, group.rule) if group.families else (None, FIXED)
        for metric, values, dropped in _values(group, metrics) if group.families else ():
            for baseline, pairs in group.families.items():
                ours, theirs = ([arms.index(arm) for arm in side] for side in (pairs, pairs.values()))
                columns = describe_differences(values[:, ours] - values[:, theirs], rule)
                judged = verdicts(columns, plan.margin if plan else None)
                if metric != TESTED:
                    columns |= {name: np.full(len(pairs), np.nan) for name in _ADJUSTED}
                    judged = [""] * len(pairs)
                for i, (arm, against) in enumerate(pairs.items()):
                    trial = group.configs[arm]
                    rows.append(
                        {
                            **{name: getattr(trial, name) for name in _ABOUT},
                            "augmentations": format_value(trial.augmentations),
                            **{name: column[i] for name, column in columns.items()},
                            "cell": group.cell,
                            "arm_label": arm,
                            "metric": metric,
                            "baseline": baseline,
                            "baseline_label": against,
                            "dropped": dropped,
                            "seeds": group.seeds,
                            **planned_columns(plan),
                            "verdict": judged[i],
                        }
                    )
    return pd.DataFrame(rows, columns=[*_COLUMNS, *COLUMNS, "dropped", "seeds", *_PLANNED, "verdict"])


def planned_columns(plan: SeedPlan | None) -> dict[str, Any]:
    """What was planned, as columns: `3` or `3..12` seeds, declared on which day, with which margin."""
    if plan is None:
        return dict.fromkeys(_PLANNED)
    day = f"{plan.date} (adopted)" if plan.adopted else plan.date
    return dict(zip(_PLANNED, (str(plan), day, plan.margin), strict=True))


def shared_rule(groups: Sequence[ComparedArms]) -> tuple[Rule, SeedPlan | None, int]:
    """What holds for several cells together: the rule, their plan if they have the same, and fewest seeds.

    Plans may have been declared on different days; theirs is the last.
    """
    plans, seeds = {group.plan for group in groups}, min(group.seeds for group in groups)
    kinds = {plan and (plan.low, plan.high, plan.margin, plan.adopted) for plan in plans}
    if len(kinds) > 1:
        return Rule(name="anytime"), None, seeds
    plan = max(plans, key=lambda plan: (plan.date or "") if plan else "")
    return rule_for(plan, seeds), plan, seeds


def _values(group: ComparedArms, metrics: Sequence[str]) -> Iterator[tuple[str, Vector, str]]:
    """For each metric of a cell: values (seeds, arms) without the seeds that an arm lacks; and these."""
    for metric in metrics:
        wide = values_of(group.trials, metric)[list(group.configs)]
        values = wide.to_numpy()
        there = ~np.isnan(values)
        some = there.any(axis=1) if len(values) else np.zeros(0, bool)
        if not some.any():
            continue
        whole = there[:, there.any(axis=0)].all(axis=1)
        dropped = wide.index[some & ~whole]
        yield metric, values[whole], " ".join(str(seed) for seed in dropped)


def claimed(compared: pd.DataFrame) -> pd.Series:
    """Which rows of comparisons allow a claim (`analysis.stats.paired.is_claimed`)."""
    return pd.Series(is_claimed(compared), compared.index)
