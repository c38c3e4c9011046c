"""Do effects differ between cells? Differences of paired differences.

"Significant here and not there" shows no difference between here and there (Gelman & Stern 2006, *The
American Statistician* 60(4)). A contrast does: of each seed, arm minus baseline in one cell less the same in
another. Cells share their seeds, and with them initial weights and, where data are alike, images and crops.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.stats.comparisons import (
    TESTED,
    ComparedArms,
    compared_arms,
    planned_columns,
    shared_rule,
    values_of,
)
from analysis.stats.paired import COLUMNS, describe_differences, verdicts
from trainables.arms import CE, CONTROL

MOST = 60
"""Most contrasts: of more, nobody reads them one by one, and few would pass Holm's test."""
Pair = tuple[str, str]
"""Labels of an arm and its baseline."""
_ABOUT = ("cell", "reference", "arm_label", "baseline_label")


def between_cells(trials: pd.DataFrame, pairs: Sequence[Pair] | None = None) -> pd.DataFrame:
    """Contrast the effects in each cell with those in the first one, in test accuracy.

    `pairs` are the arms and baselines whose differences are effects; by default γ = 0 minus `ce`, and each
    arm with a term minus its control, as the first cell has them. All contrasts are one family, adjusted
    after Holm.

    Returns:
        One row per cell but the first × pair that it has: `cell`, `reference` (numbers), `arm_label`,
        `baseline_label`, the columns of `analysis.stats.paired.compare`, `dropped` (seeds that one of the
        cells lacks in one of these arms), the plan's columns, and the `verdict`. Empty with fewer than two
        cells that have such arms, and with more than `MOST` contrasts.
    """
    groups = {group.cell: group for group in reversed([*compared_arms(trials)])}  # of a cell, its own arms
    cells = [groups[number] for number in sorted(groups) if groups[number].families]
    empty = pd.DataFrame(columns=[*_ABOUT, *COLUMNS, "dropped", "verdict"])
    if len(cells) < 2 or TESTED not in trials:
        return empty
    first, *others = cells
    wanted = [pair for pair in (_effects(first) if pairs is None else pairs) if _has(first, pair)]
    rows = [(other, pair) for other in others for pair in wanted if _has(other, pair)]
    if not 0 < len(rows) <= MOST:
        return empty
    used = list({id(group): group for group in (first, *(group for group, _ in rows))}.values())
    effects = {group.cell: _differences(group, wanted) for group in used}
    table = pd.concat(
        {i: effects[group.cell][pair] - effects[first.cell][pair] for i, (group, pair) in enumerate(rows)},
        axis="columns",
    )
    there = table.notna().any()
    whole = table[table.loc[:, there].notna().all(axis="columns")]
    rule, plan, seeds = shared_rule(used)
    columns = describe_differences(whole.to_numpy(float), rule)
    return pd.DataFrame(
        {
            "cell": [group.cell for group, _ in rows],
            "reference": first.cell,
            "arm_label": [arm for _, (arm, _) in rows],
            "baseline_label": [baseline for _, (_, baseline) in rows],
            **columns,
            "dropped": " ".join(str(seed) for seed in table.index.difference(whole.index)),
            **planned_columns(plan),
            "seeds": seeds,
            "verdict": verdicts(columns, plan.margin if plan else None),
        }
    )


def _effects(group: ComparedArms) -> list[Pair]:
    """What a second view does, and what each term does beside it."""
    controls = group.families.get(CONTROL, {})
    views = group.families.get(CE, {})
    pairs = [(control, views[control]) for control in dict.fromkeys(controls.values()) if control in views]
    if not controls:
        pairs = list(views.items())
    return [*pairs, *controls.items()]


def _has(group: ComparedArms, pair: Pair) -> bool:
    return all(label in group.configs for label in pair)


def _differences(group: ComparedArms, pairs: Sequence[Pair]) -> dict[Pair, pd.Series]:
    """Arm minus baseline of each pair that a cell has, by seed."""
    values = values_of(group.trials, TESTED)
    return {pair: values[pair[0]] - values[pair[1]] for pair in pairs if _has(group, pair)}
