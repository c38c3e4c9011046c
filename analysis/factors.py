"""What each augmentation does, and how augmentations change each other's effects."""

import itertools

import pandas as pd

from analysis.comparisons import TESTED, fields_by_arm, values_of
from analysis.formats import Table, texts
from analysis.labels import CLAIMED, MINUS, TIMES, arm_text, difference_text, interval, points, seeds_text
from analysis.paired import effects
from search_spaces.families import CONTROL, LEVEL, families
from trainables.trial import TRANSFORMS

Effects = dict[str, tuple[pd.DataFrame, list[int]]]
"""By column of a table: effects of the augmentations, and seeds that are left out."""


def effects_of(group: pd.DataFrame) -> Effects:
    """Main effects and interactions of the augmentations on test accuracy, where every combination was run.

    Args:
        group: trials of cells that differ in their augmentations alone.

    Returns:
        For each arm, and for each γ > 0 minus its control: the table of `analysis.paired.effects`, and the
        seeds that are left out because a trial of them is missing. Empty where combinations were not planned.
    """
    subsets = [frozenset(text.split("+")) - {"none"} for text in dict.fromkeys(group["augmentations"])]
    used = frozenset().union(*subsets)
    factors = [name for name in TRANSFORMS if name in used]
    if len(factors) < 2 or len(subsets) != 2 ** len(factors) or TESTED not in group:
        return {}
    values = {
        subset: values_of(cell, TESTED)
        for (_, cell), subset in zip(group.groupby("cell", sort=False), subsets, strict=True)
    }
    about = fields_by_arm(group)
    columns = {arm_text(arm): {s: v[arm] for s, v in values.items() if arm in v} for arm in about}
    for arm, control in families(about).get(CONTROL, {}).items():
        both = {s: v[arm] - v[control] for s, v in values.items() if arm in v and control in v}
        columns[difference_text(arm, control)] = both
    found = {}
    for title, by_subset in columns.items():
        if len(by_subset) == len(subsets) and (fitted := _fitted(by_subset, factors)):
            found[title] = fitted
    return found


def _fitted(
    by_subset: dict[frozenset[str], pd.Series], factors: list[str]
) -> tuple[pd.DataFrame, list[int]] | None:
    wide = pd.DataFrame(by_subset)
    whole = wide.dropna()
    terms = len(factors) + len(list(itertools.combinations(factors, 2)))
    if len(whole) < 2 or len(whole) * (wide.shape[1] - 1) <= terms:
        return None  # too few trials for so many terms
    rows = [
        {"seed": seed, "value": value, **{name: name in subset for name in factors}}
        for subset, column in zip(by_subset, whole.to_numpy().T, strict=True)
        for seed, value in zip(whole.index, column, strict=True)
    ]
    dropped = [int(seed) for seed in wide.index if seed not in whole.index]
    return effects(pd.DataFrame(rows), factors), dropped


def effects_tables(group: pd.DataFrame, number: int, found: Effects) -> list[Table]:
    """The table of `effects_of` for the group of that number, if there is anything to show."""
    if not found:
        return []
    terms = list(next(iter(found.values()))[0].index)
    rows = []
    for term in terms:
        entries = []
        for table, _ in found.values():
            row = table.loc[term]
            mark = CLAIMED if row["p_holm"] <= LEVEL else ""
            entries.append(f"{points(row['effect'])} ({interval(row['low'], row['high'])}){mark}")
        rows.append((term.replace(":", f" {TIMES} "), texts(*entries)))
    dropped = sorted(set().union(*(seeds for _, seeds in found.values())))
    left_out = f" Left out, as a trial of them is missing: {seeds_text(dropped)}." if dropped else ""
    return [
        Table(
            name=f"effects-{number}",
            title=f"{group['group_label'].iloc[0]}: what each augmentation does",
            corner="Term",
            columns=tuple(found),
            rows=tuple(rows),
            caption="Effects on test accuracy in points with 95 % intervals, from least squares with a block"
            " for each seed. Main effect: mean change when the augmentation is switched on, over all settings"
            f" of the others; a {TIMES} b: how much larger that of a is with b than without. Columns with"
            f" {MINUS}: effects on the paired difference. {CLAIMED}: p <= {LEVEL} after Holm over the"
            f" {len(rows)} terms of its column; intervals are not adjusted.{left_out}",
        )
    ]
