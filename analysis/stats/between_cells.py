"""Do effects differ between cells? Differences of paired differences.

"Significant here and not there" shows no difference between here and there (Gelman & Stern 2006, *The
American Statistician* 60(4)). A contrast does: of each seed, arm minus baseline in one cell less the same in
another. Cells share their seeds, and with them initial weights and, where data are alike, images and crops.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.stats.comparisons import (
    TESTED,
    ComparedArms,
    compared_arms,
    planned_columns,
    shared_rule,
    values_of,
)
from analysis.stats.paired import (
    COLUMNS,
    Vector,
    adjust_together,
    common_seeds,
    describe_differences,
    verdicts,
)
from analysis.stats.sequential import Rule
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
        `baseline_label`, the columns of `analysis.stats.paired.compare`, `dropped` (seeds that an arm of one
        of the two cells lacks), the plan's columns, and the `verdict`. Empty with fewer than two cells that
        have such arms, and with more than `MOST` contrasts.
    """
    groups = {group.cell: group for group in reversed([*compared_arms(trials)])}  # of a cell, its own arms
    cells = [groups[number] for number in sorted(groups) if groups[number].families]
    empty = pd.DataFrame(columns=[*_ABOUT, *COLUMNS, "dropped", "verdict"])
    if len(cells) < 2 or TESTED not in trials:
        return empty
    first, *others = cells
    wanted = [pair for pair in (_effects(first) if pairs is None else pairs) if _has(first, pair)]
    shared = [(other, [pair for pair in wanted if _has(other, pair)]) for other in others]
    shared = [(other, theirs) for other, theirs in shared if theirs]
    count = sum(len(theirs) for _, theirs in shared)
    if not 0 < count <= MOST:
        return empty
    rule, plan, seeds = shared_rule([first, *(other for other, _ in shared)])
    reference, missing = _effects_by_seed(first, wanted)
    parts, about = [], []
    for other, theirs in shared:
        effects, lacking = _effects_by_seed(other, theirs)
        contrast = effects - reference[theirs]  # NaN in seeds that one of the cells lacks
        known = contrast.columns[contrast.notna().any()]
        whole = contrast[contrast[known].notna().all(axis="columns") & bool(len(known))]
        dropped = sorted({*contrast.index, *missing, *lacking} - {*whole.index})
        parts.append(whole)
        about += [(other.cell, first.cell, *pair, " ".join(map(str, dropped))) for pair in theirs]
    columns = _together(parts, rule)
    planned = planned_columns(plan)
    table = pd.DataFrame(about, columns=[*_ABOUT, "dropped"]).assign(
        **columns, **planned, seeds=seeds, verdict=verdicts(columns, plan.margin if plan else None)
    )
    return table[[*_ABOUT, *columns, "dropped", *planned, "seeds", "verdict"]]


def _together(parts: Sequence[pd.DataFrame], rule: Rule) -> dict[str, Vector]:
    """The columns of `describe_differences` for one family of contrasts, with their own seeds each."""
    seeds = next((part.index for part in parts if len(part)), parts[0].index)
    # A cell without results stays in the family.
    values = [(part if len(part) else part.reindex(seeds)).to_numpy(float) for part in parts]
    if all(part.index.equals(seeds) for part in parts if len(part)):
        return describe_differences(np.hstack(values), rule)
    described = [describe_differences(part, rule) for part in values]
    columns = {name: np.concatenate([one[name] for one in described]) for name in described[0]}
    columns["p_sign_flip_joint"][:] = np.nan  # which flips all contrasts of a seed together
    return {**columns, **adjust_together(values, rule)}


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


def _effects_by_seed(group: ComparedArms, pairs: Sequence[Pair]) -> tuple[pd.DataFrame, list[int]]:
    """Arm minus baseline of each pair (seeds × pairs); and seeds that an arm of the cell lacks, left out."""
    values, dropped = common_seeds(values_of(group.trials, TESTED)[list(group.configs)])
    effects = {pair: values[pair[0]] - values[pair[1]] for pair in pairs}
    return pd.DataFrame(effects), dropped
