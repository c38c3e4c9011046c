"""Every paired comparison of a study: each cell, each family of baselines, each metric; and over cells."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.render.text import METRICS, arm_text, joined
from analysis.stats.paired import COLUMNS, FEWEST, LEVEL, Vector, compare, describe_differences, pool
from analysis.trials import config_of
from search_spaces.families import controls_elsewhere, families
from trainables.arms import CE
from trainables.trial import ARM_FIELDS, TrialConfig, format_value, two_views

TESTED = "test_acc"
"""The one metric that has p-values; the others describe."""
_ADJUSTED = ("p_t", "p_holm", "p_sign_flip", "p_floor", "delta_low_holm", "delta_high_holm")
"""Columns of the tested metric alone."""
_ABOUT = ("dataset", "backbone", "augmentations", "arm", "gamma")
_COLUMNS = ("cell", *_ABOUT, "arm_label", "metric", "baseline", "baseline_label")


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Arms that are compared with each other, paired by seed.

    Attributes:
        cell: its number.
        trials: of the cell, and of a control elsewhere with its label here.
        arms: labels in their order.
        configs: a trial of each.
        families: `{baseline: {arm: its baseline}}`.
    """

    cell: int
    trials: pd.DataFrame
    arms: tuple[str, ...]
    configs: Mapping[str, TrialConfig]
    families: Mapping[str, Mapping[str, str]]


def compared_arms(trials: pd.DataFrame) -> Iterator[Compared]:
    """What is compared with what: the arms of each cell, then with each control that is a cell of its own.

    A control elsewhere (`controls_elsewhere`) is added to the arms of its cell one by one, so that a seed
    that it lacks takes nothing from the comparisons within the cell.
    """
    cells = {int(str(number)): cell for number, cell in trials.groupby("cell", sort=False)}
    configs = {number: arm_configs(cell) for number, cell in cells.items()}
    elsewhere = controls_elsewhere(configs)
    for number, cell in cells.items():
        arms = configs[number]
        yield Compared(cell=number, trials=cell, arms=tuple(arms), configs=arms, families=families(arms))
        for label, other in elsewhere.get(number, {}).items():
            yield Compared(
                cell=number,
                trials=pd.concat([cell, cells[other].assign(arm_label=label)]),
                arms=(*arms, label),
                configs={**arms, label: configs[other][CE]},
                families={label: {arm: label for arm, trial in arms.items() if two_views(trial)}},
            )


def arm_configs(cell: pd.DataFrame) -> dict[str, TrialConfig]:
    """A trial of each arm of a cell, by label."""
    rows = cell.drop_duplicates("arm_label").to_dict("records")
    return {row["arm_label"]: config_of(row) for row in rows}


def values_of(cell: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds × arm labels of one cell's finished trials: also arms and seeds without a value.

    Raises:
        ValueError: a trial is there twice.
    """
    # By hand: a pivot of a few rows takes milliseconds, and a large study asks for hundreds.
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


def comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    """Hold the arms of each cell against their baselines, paired by seed.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × baseline × metric: `cell, dataset, backbone, augmentations, arm, arm_label,
        gamma, metric, baseline` (of `families`), `baseline_label`, then the columns of
        `analysis.stats.paired.compare`, and `dropped`: the seeds that an arm of the cell lacks, which are
        left out for all of them.
    """
    metrics = [name for name in METRICS if name in trials.columns]
    rows: dict[str, list[object]] = {name: [] for name in (*_COLUMNS, *COLUMNS, "dropped")}
    for of in compared_arms(trials):
        if not of.families:
            continue
        for metric, values, dropped in _values(of.trials, of.arms, metrics):
            for baseline, held in of.families.items():
                columns = [[of.arms.index(arm) for arm in side] for side in (held, held.values())]
                found = describe_differences(values[:, columns[0]] - values[:, columns[1]])
                if metric != TESTED:
                    found |= {name: np.full(len(held), np.nan) for name in _ADJUSTED}
                for i, (arm, against) in enumerate(held.items()):
                    trial = of.configs[arm]
                    row: dict[str, object] = {name: getattr(trial, name) for name in _ABOUT}
                    row["augmentations"] = format_value(trial.augmentations)
                    row |= {name: column[i] for name, column in found.items()}
                    row |= {"cell": of.cell, "arm_label": arm, "metric": metric, "dropped": dropped}
                    row |= {"baseline": baseline, "baseline_label": against}
                    for name, column in rows.items():
                        column.append(row[name])
    return pd.DataFrame(rows)


def _values(
    cell: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, Vector, str]]:
    """For each metric that a cell has: values (seeds, arms) without seeds that an arm lacks, and these."""
    for metric in metrics:
        wide = values_of(cell, metric)[list(arms)]
        values = wide.to_numpy()
        there = ~np.isnan(values)
        some = there.any(axis=1) if len(values) else np.zeros(0, bool)
        if not some.any():
            continue
        whole = there[:, there.any(axis=0)].all(axis=1)
        dropped = wide.index[some & ~whole]
        yield metric, values[whole], " ".join(str(seed) for seed in dropped)


def claimed(compared: pd.DataFrame) -> pd.Series:
    """Which comparisons allow a claim: True where the adjusted interval leaves out zero and n is enough."""
    beyond = (compared["delta_low_holm"] > 0) | (compared["delta_high_holm"] < 0)
    return beyond & (compared["p_holm"] <= LEVEL) & (compared["n"] >= FEWEST)


def pooled_comparisons(trials: pd.DataFrame, among: Collection[int] | None = None) -> list[pd.DataFrame]:
    """Hold arms against their baselines over all cells that have the same arms, in test accuracy.

    Arms are the same where every field that makes them is, whatever they are called in their cells.

    Args:
        trials: of `analysis.trials.load`.
        among: numbers of the cells that are pooled; None: of all. Controls elsewhere may be in others.

    Returns:
        For each set of arms that at least two cells have, one row an arm × baseline: `arm_label, baseline,
        baseline_label, cells` (how many), `kind` (what sets these cells apart from those of the other sets;
        empty where there is one set), the columns of `analysis.stats.paired.compare` and `dropped`.
    """
    if TESTED not in trials:
        return []
    sources = [of for of in compared_arms(trials) if among is None or of.cell in among]
    same = _same_arms(sources)
    sets: dict[object, dict[str, list[Compared]]] = {}
    for of in sources:
        for baseline in of.families:
            sets.setdefault(same[of.cell], {}).setdefault(baseline, []).append(of)
    pooled: list[tuple[pd.DataFrame, list[Compared]]] = []
    for by_baseline in sets.values():
        tables = [_pooled(members, baseline) for baseline, members in by_baseline.items() if len(members) > 1]
        if tables:
            members = [of for having in by_baseline.values() for of in having]
            pooled.append((pd.concat(tables, ignore_index=True), members))
    kinds = _kinds([members for _, members in pooled])
    return [table.assign(kind=kind) for (table, _), kind in zip(pooled, kinds, strict=True)]


def _kinds(sets: Sequence[Sequence[Compared]]) -> list[str]:
    """What tells sets of cells apart: `unlabeled_size 5000`, else their arms, else the cells themselves."""
    if len(sets) < 2:
        return [""] * len(sets)
    used = [_used_values(members) for members in sets]
    differing = [name for name in ARM_FIELDS if len({of.get(name) for of in used}) > 1]
    texts = [", ".join(f"{name} {of[name]}" for name in differing if name in of) for of in used]
    arms = [f"arms {joined([arm_text(arm) for arm in members[0].arms])}" for members in sets]
    texts = [text if texts.count(text) == 1 and text else arms[i] for i, text in enumerate(texts)]
    where = [dict.fromkeys(of.trials["cell_label"].iloc[0] for of in members) for members in sets]
    return [text if texts.count(text) == 1 else joined(list(where[i])) for i, text in enumerate(texts)]


def _used_values(members: Sequence[Compared]) -> dict[str, str]:
    """The values that each field has in the arms of these cells that use it, as text; not method and γ."""
    values: dict[str, dict[str, None]] = {}
    for trial in (trial for of in members for trial in of.configs.values()):
        for name in ARM_FIELDS:
            if name not in ("method", "gamma") and trial.uses(name):
                values.setdefault(name, {})[format_value(getattr(trial, name))] = None
    return {name: "/".join(sorted(having)) for name, having in values.items()}


def _pooled(members: Sequence[Compared], baseline: str) -> pd.DataFrame:
    """One family over several cells."""
    held = members[0].families[baseline]
    values, dropped = pool([values_of(of.trials, TESTED) for of in members])
    table = compare(values, held).rename_axis("arm_label").reset_index()
    return table.assign(
        baseline=baseline,
        baseline_label=list(held.values()),
        cells=len(members),
        dropped=" ".join(map(str, dropped)),
    )


def _same_arms(sources: Sequence[Compared]) -> dict[int, object]:
    """For each cell what is equal for cells of the same arms.

    Where no arm uses `views`, they are alike by definition: such a cell goes with the others, unless these
    have views of several kinds themselves.
    """
    others = [name for name in ARM_FIELDS if name != "views"]
    kinds: dict[int, tuple[Hashable, Hashable]] = {}
    for of in sources:
        if of.cell not in kinds:  # the first is of the cell's own arms
            configs = [of.configs[arm] for arm in sorted(of.arms)]
            arms = tuple((trial.arm, *(getattr(trial, name) for name in others)) for trial in configs)
            differing = any(trial.uses("views") for trial in configs)
            kinds[of.cell] = arms, tuple(trial.views for trial in configs) if differing else None
    views_of: dict[Hashable, set[Hashable]] = {}
    for kind in kinds.values():
        views_of.setdefault(kind[0], set()).update([kind[1]] if kind[1] else [])
    return {cell: (arms, views if len(views_of[arms]) > 1 else None) for cell, (arms, views) in kinds.items()}


def settings_text(trials: pd.DataFrame) -> str:
    """What the arms of these cells have in common beside their names: `views asymmetric, lambd 0.01`."""
    parts = dict.fromkeys(part for text in trials["settings"].unique() for part in text.split(", ") if part)
    return ", ".join(parts)


def settings_note(trials: pd.DataFrame) -> str:
    """The same as a sentence of a caption; nothing where there is nothing to say."""
    text = settings_text(trials)
    return f" Arms of two views: {text}." if text else ""
