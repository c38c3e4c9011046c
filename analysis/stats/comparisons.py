"""The paired comparisons of a study: by cell, family of baselines and metric, and pooled over cells."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.paired import (
    COLUMNS,
    FEWEST,
    LEVEL,
    Vector,
    compare,
    describe_differences,
    pool,
    verdicts,
)
from analysis.stats.sequential import FIXED, Rule, rule_for
from analysis.trials import cells_of, config_of
from search_spaces.families import controls_elsewhere, families
from search_spaces.seeds import SeedPlan
from trainables import metrics
from trainables.arms import CE, Arm
from trainables.metrics import ACCURACIES
from trainables.trial import ARM_FIELDS, TrialConfig, format_value, two_views

TESTED = metrics.TESTED
"""The only metric with p-values; the others are descriptive."""
_ADJUSTED = ("p_t", "p", "p_holm", "p_sign_flip", "p_floor", "delta_low_holm", "delta_high_holm")
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
        ended = self.trials[self.trials["status"].isin(["FINISHED", "FAILED"])]
        arms = [set(ended.loc[ended["arm_label"] == arm, "seed"]) for arm in self.configs]
        return len(set.intersection(*arms))

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
    rows = cell.drop_duplicates("arm_label").to_dict("records")
    return {row["arm_label"]: config_of(row) for row in rows}


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
                            **_planned(plan),
                            "verdict": judged[i],
                        }
                    )
    return pd.DataFrame(rows, columns=[*_COLUMNS, *COLUMNS, "dropped", "seeds", *_PLANNED, "verdict"])


def _planned(plan: SeedPlan | None) -> dict[str, object]:
    """What was planned, as columns: `3` or `3..12` seeds, declared on which day, with which margin."""
    if plan is None:
        return dict.fromkeys(_PLANNED)
    day = f"{plan.date} (adopted)" if plan.adopted else plan.date
    return dict(zip(_PLANNED, (str(plan), day, plan.margin), strict=True))


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
    """Which comparisons allow a claim: the adjusted interval excludes zero, and n is large enough."""
    beyond = (compared["delta_low_holm"] > 0) | (compared["delta_high_holm"] < 0)
    return beyond & (compared["p_holm"] <= LEVEL) & (compared["n"] >= FEWEST)


def pooled_comparisons(trials: pd.DataFrame, among: Collection[int] | None = None) -> list[pd.DataFrame]:
    """Compare arms with their baselines over all cells that have the same arms, in test accuracy.

    Arms are the same if all their fields are, whatever their labels in their cells. If the numbers of cells
    are given (`among`), only these are pooled; controls elsewhere may be in others.

    Returns:
        For each set of arms that at least two cells have, one row per arm × baseline: `arm_label, baseline,
        baseline_label, cells` (how many), `kind` (what distinguishes these cells from those of the other
        sets; empty for a single set), the columns of `analysis.stats.paired.compare` and `dropped`.
    """
    if TESTED not in trials:
        return []
    sources = [group for group in compared_arms(trials) if among is None or group.cell in among]
    same = _same_arms(sources)
    sets: dict[object, dict[str, list[ComparedArms]]] = {}
    for group in sources:
        for baseline in group.families:
            sets.setdefault(same[group.cell], {}).setdefault(baseline, []).append(group)
    pooled: list[tuple[pd.DataFrame, list[ComparedArms]]] = []
    for by_baseline in sets.values():
        tables = [_pooled(members, baseline) for baseline, members in by_baseline.items() if len(members) > 1]
        if tables:
            members = [group for groups in by_baseline.values() for group in groups]
            pooled.append((pd.concat(tables, ignore_index=True), members))
    kinds = _kinds([members for _, members in pooled])
    return [table.assign(kind=kind) for (table, _), kind in zip(pooled, kinds, strict=True)]


def _kinds(sets: Sequence[Sequence[ComparedArms]]) -> list[str]:
    """What distinguishes sets of cells: `unlabeled_size 5000`, else their arms, else the cells themselves."""
    if len(sets) < 2:
        return [""] * len(sets)
    used = [_used_values(members) for members in sets]
    differing = [name for name in ARM_FIELDS if len({values.get(name) for values in used}) > 1]
    texts = [", ".join(f"{name} {values[name]}" for name in differing if name in values) for values in used]
    arms = [f"arms {', '.join(Arm.parse(arm).title for arm in members[0].configs)}" for members in sets]
    texts = [text if texts.count(text) == 1 and text else arms[i] for i, text in enumerate(texts)]
    cells = [dict.fromkeys(group.trials["cell_label"].iloc[0] for group in members) for members in sets]
    return [text if texts.count(text) == 1 else ", ".join(cells[i]) for i, text in enumerate(texts)]


def _used_values(members: Sequence[ComparedArms]) -> dict[str, str]:
    """The values of each field in the arms of these cells that use it, as text; not method and γ."""
    values: dict[str, set[str]] = {}
    for trial in (trial for group in members for trial in group.configs.values()):
        for name in ARM_FIELDS:
            if name not in ("method", "gamma") and trial.uses(name):
                values.setdefault(name, set()).add(format_value(getattr(trial, name)))
    return {name: "/".join(sorted(texts)) for name, texts in values.items()}


def _pooled(members: Sequence[ComparedArms], baseline: str) -> pd.DataFrame:
    """One family over several cells."""
    pairs = members[0].families[baseline]
    values, dropped = pool([values_of(group.trials, TESTED) for group in members])
    plans = {group.plan for group in members}
    seeds, plan = min(group.seeds for group in members), members[0].plan
    rule = rule_for(plan, seeds) if len(plans) == 1 else Rule(name="anytime")
    table = compare(values, pairs, rule).rename_axis("arm_label").reset_index()
    planned = pd.DataFrame([_planned(plan if len(plans) == 1 else None)] * len(table))
    table = pd.concat([table, planned], axis="columns")
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    return table.assign(
        seeds=seeds,
        verdict=verdicts(columns, plan.margin if plan and len(plans) == 1 else None),
        baseline=baseline,
        baseline_label=list(pairs.values()),
        cells=len(members),
        dropped=" ".join(map(str, dropped)),
    )


def _same_arms(sources: Sequence[ComparedArms]) -> dict[int, object]:
    """For each cell a value that is equal for cells with the same arms.

    Where no arm uses `views`, its value means nothing: such a cell belongs to the others, unless these have
    several kinds of views themselves.
    """
    others = [name for name in ARM_FIELDS if name != "views"]
    kinds: dict[int, tuple[Hashable, Hashable]] = {}
    for group in sources:
        if group.cell not in kinds:  # the first has the cell's own arms
            configs = [group.configs[arm] for arm in sorted(group.configs)]
            arms = tuple((trial.arm, *(getattr(trial, name) for name in others)) for trial in configs)
            differing = any(trial.uses("views") for trial in configs)
            kinds[group.cell] = arms, tuple(trial.views for trial in configs) if differing else None
    views_of: dict[Hashable, set[Hashable]] = {}
    for own, views in kinds.values():
        views_of.setdefault(own, set()).update([views] if views else [])
    return {cell: (own, views if len(views_of[own]) > 1 else None) for cell, (own, views) in kinds.items()}
