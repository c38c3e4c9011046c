"""Tables over the cells of a study: augmentations × arm, dataset and backbone × arm, choice of γ, effects."""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.cells import bold_caption, entry
from analysis.comparisons import (
    CONTROL,
    FEWEST,
    TESTED,
    claimed,
    difference_table,
    families,
    pooled_comparisons,
    seeds_text,
    values_of,
)
from analysis.formats import Entry, Table, texts
from analysis.labels import MINUS, NO_VALUE, TIMES, arm_text, difference_text, interval, points
from analysis.paired import LEVEL, Selected, best, common_seeds, effects, pool, select
from trainables.trial import TRANSFORMS

CLAIMED = "*"
"""Beside a difference whose adjusted interval leaves out zero."""


Effects = dict[str, tuple[pd.DataFrame, list[int]]]
"""By column of a table: effects of the augmentations, and seeds that are left out."""


def overview(
    trials: pd.DataFrame,
    summary: pd.DataFrame,
    compared: pd.DataFrame,
    effects_by_group: Mapping[int, Effects] | None = None,
) -> list[Table]:
    """All tables that speak of more than one cell, and what a choice of γ is worth.

    Args:
        trials: of `analysis.trials.load`.
        summary: of `analysis.cells.summarise`.
        compared: of `analysis.comparisons.comparisons`.
        effects_by_group: of `effects_of`, where these are known.
    """
    known = effects_by_group or {}
    tables = []
    for number, group in groups_of(trials):
        if is_several(group["cell"]):
            label = group["group_label"].iloc[0]
            tables.append(_by_subset(group, number, summary))
            tables += _differences_by_subset(group, number, compared)
            subsets = f"all {group['cell'].nunique()} subsets together"
            tables += _pooled(group, f"pooled-{number}", f"{label}: {subsets}")
            tables += _effects(group, number, known.get(number) or effects_of(group))
    if is_several(trials["group"]):
        tables.append(_by_group(trials))
        tables += _pooled(trials, "pooled-all", "All cells together")
    selected = _selected(trials)
    return tables + ([selected] if selected else [])


def groups_of(trials: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The groups of cells that differ in their augmentations alone, with their numbers."""
    return [(int(group["group"].iloc[0]), group) for _, group in trials.groupby("group", sort=False)]


def is_several(column: pd.Series) -> bool:
    """Whether there is more than one value."""
    return len(column) > 0 and bool((column != column.iloc[0]).any())


def _by_subset(group: pd.DataFrame, number: int, summary: pd.DataFrame) -> Table:
    """Test accuracy, a row a subset of augmentations, a column an arm."""
    arms = list(dict.fromkeys(group["arm_label"]))
    tested = summary[(summary["metric"] == TESTED) & summary["cell"].isin(set(group["cell"]))]
    tested = tested.set_index(["cell", "arm_label"])
    rows = []
    for cell, members in group.groupby("cell", sort=False):
        entries = tuple(
            entry(tested.loc[[(cell, arm)]].iloc[0]) if (cell, arm) in tested.index else Entry(text=NO_VALUE)
            for arm in arms
        )
        rows.append((str(members["subset"].iloc[0]), entries))
    n = int(tested["n"].max())
    spread = "mean ± standard deviation over" if n > 2 else "values of"
    text = f"Test accuracy in %, {spread} up to n = {n} {_seeds(n)}."
    return Table(
        name=f"subsets-{number}",
        title=f"{group['group_label'].iloc[0]}: test accuracy by augmentations",
        corner="Augmentations",
        columns=tuple(map(arm_text, arms)),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(tested.reset_index())]),
    )


def _differences_by_subset(group: pd.DataFrame, number: int, compared: pd.DataFrame) -> list[Table]:
    """Differences in test accuracy with their adjusted intervals, a row a subset; a table a baseline."""
    ours = compared["cell"].isin(set(group["cell"]))
    compared = compared[ours & (compared["metric"] == TESTED) & (compared["n"] > 0)]
    compared = compared.assign(claimed=claimed(compared))
    tables = []
    for baseline, family in compared.groupby("baseline", sort=False):
        pairs = list(dict.fromkeys(zip(family["arm_label"], family["baseline_label"], strict=True)))
        places = family.set_index(["cell", "arm_label"]).to_dict("index")
        rows = []
        for cell, members in group.groupby("cell", sort=False):
            entries = [
                claim_text(places[cell, arm]) if (cell, arm) in places else NO_VALUE for arm, _ in pairs
            ]
            rows.append((str(members["subset"].iloc[0]), texts(*entries)))
        low, high = int(family["n"].min()), int(family["n"].max())
        n = str(low) if low == high else f"{low}–{high}"
        tables.append(
            Table(
                name=f"subset-differences-{str(baseline).replace('=', '-')}-{number}",
                title=f"{group['group_label'].iloc[0]}: differences by augmentations",
                corner="Augmentations",
                columns=tuple(difference_text(*pair) for pair in pairs),
                rows=tuple(rows),
                caption=f"Difference in test accuracy in points, paired by seed, n = {n}, with the interval"
                f" adjusted after Holm within its row; {CLAIMED}: it leaves out zero, and n >= {FEWEST}."
                f" {_by_chance(len(rows))}",
            )
        )
    return tables


def claim_text(row: Mapping[Hashable, Any]) -> str:
    """`+1.2 (−0.3 to +2.7)`, with a mark where the adjusted interval leaves out zero."""
    text = points(row["delta"])
    if not math.isnan(row["delta_low_holm"]):
        text += f" ({interval(row['delta_low_holm'], row['delta_high_holm'])})"
    return text + (CLAIMED if row["claimed"] else "")


def _by_chance(rows: int) -> str:
    return (
        f"Rows are not adjusted for each other: of {rows} without any true difference,"
        f" {LEVEL * rows:.1f} would carry a mark on average."
    )


def _by_group(trials: pd.DataFrame) -> Table:
    """Test accuracy, a row a dataset and backbone, a column an arm: mean over subsets within each seed."""
    arms = list(dict.fromkeys(trials["arm_label"]))
    rows, counts, left_out, bold = [], set(), set(), []
    for label, group in trials.groupby("group_label", sort=False):
        cells = [values_of(cell, TESTED) for _, cell in group.groupby("cell", sort=False)]
        values, dropped = pool(cells)
        counts.add(len(cells))
        left_out |= set(dropped)
        first, alike = best(values)
        rows.append((str(label), tuple(_mean_entry(values, arm, {first, *alike}, group) for arm in arms)))
        bold += [
            {"arm_label": arm, "best": arm == first, "n": len(values), "shared": len(values)} for arm in arms
        ]
    several = max(counts) > 1
    what = "mean over the subsets of augmentations within each seed, then mean" if several else "mean"
    text = f"Test accuracy in %, {what} ± standard deviation over seeds."
    if left_out:
        text += f" Left out where a trial of them is missing: {seeds_text(sorted(left_out))}."
    return Table(
        name="groups",
        title="Datasets and backbones",
        corner="Dataset · backbone",
        columns=tuple(map(arm_text, arms)),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(pd.DataFrame(bold))]),
    )


def _mean_entry(values: pd.DataFrame, arm: str, bold: set[str | None], group: pd.DataFrame) -> Entry:
    if arm not in values or values[arm].isna().all():
        return Entry(text=NO_VALUE)
    column = 100 * values[arm]
    spread = f" ± {column.std(ddof=1):.1f}" if len(column) > 1 else ""
    used = group[(group["arm_label"] == arm) & group["seed"].isin(values.index)]
    return Entry(text=f"{column.mean():.1f}{spread}", bold=arm in bold, runs=tuple(used["run_id"].dropna()))


def _pooled(trials: pd.DataFrame, name: str, title: str) -> list[Table]:
    """Differences over all cells at once, a table for each set of arms that cells have."""
    tables = []
    found = pooled_comparisons(trials)
    for number, compared in enumerate(found):
        of = f"{title}, arms {number + 1} of {len(found)}" if len(found) > 1 else title
        table = difference_table(compared, f"{name}-arms-{number}" if number else name, of)
        if table:
            tables.append(table)
    return tables


def selections(trials: pd.DataFrame) -> Iterator[tuple[str, Selected]]:
    """What choosing γ on validation images gives, for each cell where there is a choice: label and result."""
    if "val_acc" not in trials or TESTED not in trials:
        return
    for label, cell in trials.groupby("cell_label", sort=False):
        arms = list(dict.fromkeys(cell.loc[cell["gamma"] > 0, "arm_label"]))
        both = [
            values_of(cell, metric)[arms].dropna(axis="columns", how="all") for metric in ("val_acc", TESTED)
        ]
        arms = [arm for arm in arms if all(arm in values for values in both)]
        validation, test = (common_seeds(values[arms], drop=True)[0] for values in both)
        seeds = validation.index.intersection(test.index)
        if len(arms) > 1 and len(seeds) > 1:
            yield str(label), select(validation.loc[seeds], test.loc[seeds])


def _selected(trials: pd.DataFrame) -> Table | None:
    rows = []
    for label, found in selections(trials):
        values = 100 * found.test
        spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 2 else ""
        chosen = ", ".join(
            f"{arm_text(arm).removeprefix('γ = ')} ({count} of {len(values)})"
            for arm, count in Counter(found.chosen).most_common()
        )
        optimistic = f"{100 * found.optimistic:.1f}", arm_text(found.optimistic_arm).removeprefix("γ = ")
        rows.append((label, texts(f"{values.mean():.1f}{spread}", chosen, *optimistic)))
    if not rows:
        return None
    return Table(
        name="selected",
        title="What a choice of γ > 0 is worth",
        corner="Cell",
        columns=("Selected", "γ (seeds)", "Best on test (optimistic)", "γ"),
        rows=tuple(rows),
        caption="Test accuracy in %. Selected: for each seed the γ > 0 with the highest mean validation"
        " accuracy over the other seeds, mean ± standard deviation over seeds. Best on test: the highest"
        " mean; chosen with the images that it is measured on, it is too high: of five γ that do nothing the"
        " best lies half a standard deviation above their mean at n = 5.",
    )


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
    about = group.drop_duplicates("arm_label").set_index("arm_label")
    columns = {arm_text(arm): {s: v[arm] for s, v in values.items() if arm in v} for arm in about.index}
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


def _effects(group: pd.DataFrame, number: int, found: Effects) -> list[Table]:
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


def _seeds(n: int) -> str:
    return "seed" if n == 1 else "seeds"
