"""Arms compared over several cells: pooled over these cells, and for cells in general."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.stats.across_cells import ACROSS_CELLS, across_cells
from analysis.stats.comparisons import (
    TESTED,
    ComparedArms,
    compared_arms,
    planned_columns,
    shared_rule,
    values_of,
)
from analysis.stats.improvement import improvement_over_cells
from analysis.stats.paired import COLUMNS, compare, pool, verdicts
from trainables.arms import Arm
from trainables.trial import ARM_FIELDS, format_value


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSet:
    """Cells that have the same arms.

    `kind` is what distinguishes them from those of the other sets, empty for a single set; `families` are
    those that at least two of the cells have, by baseline.
    """

    kind: str
    families: Mapping[str, Sequence[ComparedArms]]


def cell_sets(trials: pd.DataFrame, among: Collection[int] | None = None) -> list[CellSet]:
    """The sets of at least two cells that have the same arms.

    Arms are the same if all their fields are, whatever their labels in their cells. If the numbers of cells
    are given (`among`), only these are pooled; controls elsewhere may be in others.
    """
    sources = [group for group in compared_arms(trials) if among is None or group.cell in among]
    same = _same_arms(sources)
    sets: dict[object, dict[str, list[ComparedArms]]] = {}
    for group in sources:
        for baseline in group.families:
            sets.setdefault(same[group.cell], {}).setdefault(baseline, []).append(group)
    found = [families for families in sets.values() if any(len(members) > 1 for members in families.values())]
    kinds = _kinds([[group for members in families.values() for group in members] for families in found])
    return [
        CellSet(kind=kind, families={name: members for name, members in families.items() if len(members) > 1})
        for families, kind in zip(found, kinds, strict=True)
    ]


def pooled_comparisons(trials: pd.DataFrame, among: Collection[int] | None = None) -> list[pd.DataFrame]:
    """Compare arms with their baselines over all cells that have the same arms, in test accuracy.

    Returns:
        For each of `cell_sets`, one row per arm × baseline: `arm_label, baseline, baseline_label, cells` (how
        many), `kind`, the columns of `analysis.stats.paired.compare` (of these, `improvement` is over cells
        and seeds), of `analysis.stats.across_cells.across_cells`, and `dropped`.
    """
    if TESTED not in trials:
        return []
    return [
        pd.concat(
            [_pooled(members, baseline) for baseline, members in cells.families.items()], ignore_index=True
        ).assign(kind=cells.kind)
        for cells in cell_sets(trials, among)
    ]


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
    cells = [values_of(group.trials, TESTED) for group in members]
    values, dropped = pool(cells)
    rule, plan, seeds = shared_rule(members)
    table = compare(values, pairs, rule)
    for arm, against in pairs.items():
        if values[[arm, against]].notna().to_numpy().all():
            by_cell = np.array([(cell[arm] - cell[against])[values.index] for cell in cells])
            names = ["improvement", "improvement_low", "improvement_high", *ACROSS_CELLS]
            table.loc[arm, names] = [*improvement_over_cells(by_cell), *across_cells(by_cell).values()]
    columns = {str(name): column.to_numpy() for name, column in table.items()}
    table = table.reindex(columns=[*COLUMNS, *ACROSS_CELLS]).rename_axis("arm_label").reset_index()
    return table.assign(
        **planned_columns(plan),
        seeds=seeds,
        verdict=verdicts(columns, plan.margin if plan else None),
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
