"""What each augmentation contributes: the full set against each with one left out, or none against each one.

The cells of a group differ in their augmentations alone, and a seed has the same weights and images in all of
them. So cells are compared with each other, paired by seed, for every arm by itself.
"""

from collections.abc import Collection

import pandas as pd

from analysis.stats.comparisons import compared_arms, planned_columns, shared_rule
from analysis.stats.factors import Column, accuracies_by_subset, subsets_of
from analysis.stats.paired import COLUMNS, common_seeds, describe_differences
from analysis.stats.sequential import Rule
from trainables.catalogue import AUGMENTATIONS
from trainables.trial import format_value

Subset = frozenset[str]

LEFT_OUT, ADDED = "left out", "added"
"""The full set against all but one; the smallest set against it and one more."""
_ABOUT = ("design", "arm_label", "baseline_label", "augmentation", "larger", "smaller")


def one_by_one(group: pd.DataFrame) -> pd.DataFrame:
    """Compare the cells of a group that differ by one augmentation from the full or from the smallest set.

    The full set is the union of all, the smallest their intersection; either must be a cell. Where every
    combination was run there are no rows: main effects (`analysis.stats.factors`) use all of its cells.

    Returns:
        One row per `design` (`left out`, `added`), arm and augmentation: `arm_label`, `baseline_label` (the
        control that is subtracted, if any), `augmentation`, `larger` and `smaller` (the subsets as text), the
        columns of `analysis.stats.paired.compare` for larger minus smaller, `dropped` seeds, which a cell of
        the design lacks, and what was planned (as in `analysis.stats.comparisons.comparisons`).
        A family has all augmentations of a design and an arm.
    """
    rows = []
    rule, plan, seeds = shared_rule(list(compared_arms(group)))
    columns = accuracies_by_subset(group)
    for design, pairs in _designs(subsets_of(group)).items():
        for column, by_subset in columns.items():
            own = {name: pair for name, pair in pairs.items() if {*pair} <= by_subset.keys()}
            if own:
                rows.append(_family(column, by_subset, own, rule).assign(design=design))
    names = [*_ABOUT, *COLUMNS, "dropped"]
    if not rows:
        return pd.DataFrame(columns=names)
    return pd.concat(rows, ignore_index=True)[names].assign(**planned_columns(plan), seeds=seeds)


def _designs(subsets: Collection[Subset]) -> dict[str, dict[str, tuple[Subset, Subset]]]:
    """The pairs of subsets (larger, smaller) to compare, by design and augmentation."""
    full, least = frozenset().union(*subsets), frozenset.intersection(*subsets)
    differing = [name for name in AUGMENTATIONS if name in full - least]
    if len(differing) > 1 and len(subsets) == 2 ** len(differing):
        return {}  # every combination
    left_out = {name: (full, full - {name}) for name in differing if {full, full - {name}} <= {*subsets}}
    added = {name: (least | {name}, least) for name in differing if {least, least | {name}} <= {*subsets}}
    if set(added.values()) <= set(left_out.values()):
        added = {}  # the same cells
    return {design: pairs for design, pairs in ((LEFT_OUT, left_out), (ADDED, added)) if pairs}


def _family(
    column: Column, by_subset: dict[Subset, pd.Series], pairs: dict[str, tuple[Subset, Subset]], rule: Rule
) -> pd.DataFrame:
    """The comparisons of an arm (or of its difference to a control) in one design."""
    subsets = list(dict.fromkeys(subset for pair in pairs.values() for subset in pair))
    values, dropped = common_seeds(pd.DataFrame({text_of(subset): by_subset[subset] for subset in subsets}))
    larger, smaller = ([text_of(pair[side]) for pair in pairs.values()] for side in (0, 1))
    differences = values[larger].to_numpy(float) - values[smaller].to_numpy(float)
    table = pd.DataFrame(describe_differences(differences, rule))
    arm, control = column
    return table.assign(
        arm_label=arm,
        baseline_label=control,
        augmentation=list(pairs),
        larger=larger,
        smaller=smaller,
        dropped=" ".join(map(str, dropped)),
    )


def text_of(subset: Subset) -> str:
    """`rrc+hflip`, in the order in which augmentations are applied."""
    return format_value(tuple(name for name in AUGMENTATIONS if name in subset))
