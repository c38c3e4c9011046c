"""Tables over the cells of a study: by augmentations, by dataset and backbone, effects, and choice of γ."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.render.table import Entry, Table, entries, readable
from analysis.render.text import (
    CLAIMED,
    MINUS,
    NO_VALUE,
    TIMES,
    arm_title,
    difference_title,
    format_points,
    interval,
    left_out,
    number_of,
    over_seeds,
    slug,
    span,
    spread_text,
)
from analysis.sections.between_cells import between_cells_table
from analysis.sections.cells import bold_caption, entry, settings_note, settings_text
from analysis.sections.many_cells import many_cells
from analysis.sections.one_by_one import one_by_one_tables
from analysis.sections.selected import selected_tables
from analysis.stats.comparisons import TESTED, claimed, pooled_values
from analysis.stats.factors import Effects
from analysis.stats.paired import FEWEST, best
from analysis.stats.results import Results
from analysis.trials import cells_of, groups_of
from search_spaces.families import LEVEL


def overview(results: Results) -> list[Table]:
    """All tables over more than one cell, and what a choice of γ is worth."""
    tables = []
    groups = groups_of(results.trials)
    for number, group in groups.items():
        if len(set(group["cell"])) > 1:
            title = f"{group['group_label'].iloc[0]}: {{}} subsets together"
            tables.append(_by_subset(group, number, results.summary))
            tables += _differences_by_subset(group, number, results.compared)
            tables += many_cells(results.pooled_by_group[number], f"pooled-{number}", title)
            if results.effects[number]:
                tables.append(_effects(group, number, results.effects[number]))
            if number in results.one_by_one:
                label = str(group["group_label"].iloc[0])
                tables += one_by_one_tables(results.one_by_one[number], number, label)
    if len(groups) > 1:
        tables.append(_by_group(results.trials))
        tables += many_cells(results.pooled, "pooled-all", "{} cells together")
    if contrasts := between_cells_table(results.between_cells, results.trials):
        tables.append(contrasts)
    return tables + selected_tables(results.trials)


def _by_subset(group: pd.DataFrame, number: int, summary: pd.DataFrame) -> Table:
    """Test accuracy, a row per subset of augmentations."""
    arms = list(dict.fromkeys(group["arm_label"]))
    tested = summary[(summary["metric"] == TESTED) & summary["cell"].isin(set(group["cell"]))]
    shown = {(row["cell"], row["arm_label"]): entry(row) for _, row in tested.iterrows()}
    rows = [
        (cell["subset"].iloc[0], tuple(shown.get((number, arm), Entry(text=NO_VALUE)) for arm in arms))
        for number, cell in cells_of(group).items()
    ]
    text = f"Test accuracy in %, {over_seeds(set(tested['n']))} of {_planned(group)}.{settings_note(group)}"
    table = Table(
        name=f"subsets-{number}",
        title=f"{group['group_label'].iloc[0]}: test accuracy by augmentations",
        corner="Augmentations",
        columns=tuple(map(arm_title, arms)),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(tested)]),
    )
    return readable(table)


def _differences_by_subset(group: pd.DataFrame, number: int, compared: pd.DataFrame) -> list[Table]:
    """Differences in test accuracy with adjusted intervals, a row per subset; a table per baseline."""
    ours = compared["cell"].isin(set(group["cell"]))
    compared = compared[ours & (compared["metric"] == TESTED) & (compared["n"] > 0)]
    compared = compared.assign(claimed=claimed(compared))
    tables = []
    for baseline, family in compared.groupby("baseline", sort=False):
        pairs = list(dict.fromkeys(zip(family["arm_label"], family["baseline_label"], strict=True)))
        texts = {
            (row["cell"], row["arm_label"], row["baseline_label"]): _claim_text(row)
            for row in family.to_dict("records")
        }
        rows = [
            (cell["subset"].iloc[0], entries(*(texts.get((place, *pair), NO_VALUE) for pair in pairs)))
            for place, cell in cells_of(group[group["cell"].isin(set(family["cell"]))]).items()
        ]
        against = arm_title(str(baseline))
        tables.append(
            Table(
                name=f"subset-differences-{slug(str(baseline))}-{number}",
                title=f"{group['group_label'].iloc[0]}: differences to {against} by augmentations",
                corner="Augmentations",
                columns=tuple(difference_title(*pair) for pair in pairs),
                rows=tuple(rows),
                caption="Difference in test accuracy in points, paired by seed, n ="
                f" {span(set(family['n']))}, with the interval adjusted after Holm within its row; {CLAIMED}:"
                f" it excludes zero, and n >= {FEWEST}. Rows are not adjusted for each other: of {len(rows)}"
                f" without any true difference, {LEVEL * len(rows):.1f} would carry a mark on average.",
            )
        )
    return tables


def _claim_text(row: Mapping[Hashable, Any]) -> str:
    """`+1.2 (−0.3 to +2.7)`, with a mark if the comparison allows a claim."""
    text = format_points(row["delta"])
    if not math.isnan(row["delta_low_holm"]):
        text += f" ({interval(row['delta_low_holm'], row['delta_high_holm'])})"
    return text + (CLAIMED if row["claimed"] else "")


def _effects(group: pd.DataFrame, number: int, effects: Effects) -> Table:
    """Main effects and interactions of the augmentations."""
    rows = []
    for term in next(iter(effects.values()))[0].index:
        texts = [
            f"{format_points(row['effect'])} ({interval(row['low'], row['high'])})"
            + (CLAIMED if row["claimed"] else "")
            for row in (table.loc[term] for table, _ in effects.values())
        ]
        rows.append((term.replace(":", f" {TIMES} "), entries(*texts)))
    dropped = set().union(*(seeds for _, seeds in effects.values()))
    return Table(
        name=f"effects-{number}",
        title=f"{group['group_label'].iloc[0]}: what each augmentation does",
        corner="Term",
        columns=tuple(difference_title(*column) for column in effects),
        rows=tuple(rows),
        caption="Effects on test accuracy in points with 95 % intervals: one contrast a seed, and t over the"
        f" seeds, n = {span({int(table['n'].iloc[0]) for table, _ in effects.values()})}, which may react"
        " differently. Main effect: mean change when the augmentation is switched on, over all settings"
        f" of the others; a {TIMES} b: how much larger that of a is with b than without. Columns with"
        f" {MINUS}: effects on the paired difference. {CLAIMED}: p <= {LEVEL} after Holm over the {len(rows)}"
        f" terms of its column, and n >= {FEWEST}; intervals are not adjusted."
        + left_out(", as a trial of them is missing", dropped),
    )


def _by_group(trials: pd.DataFrame) -> Table:
    """Test accuracy, a row per dataset and backbone: mean over subsets within each seed."""
    arms = list(dict.fromkeys(trials["arm_label"]))
    rows, lost, counts = [], set(), []
    several = trials.groupby("group")["cell"].nunique().max() > 1
    alike = len({settings_text(group) for _, group in trials.groupby("group", sort=False)}) == 1
    for label, group in trials.groupby("group_label", sort=False):
        values, dropped = pooled_values(group)
        values = values.dropna(axis="columns", how="all")
        lost |= set(dropped)
        # An arm that some subsets lack, or label differently, may be better than all others.
        whole = len(values.columns) > 1 and set(values) == set(group["arm_label"])
        bold = best(values) if whole else []
        if bold:
            counts.append(len(values))
        used = group[group["seed"].isin(values.index)].dropna(subset="run_id").groupby("arm_label")["run_id"]
        shown = {
            arm: Entry(text=spread_text(list(column)), bold=arm in bold, runs=tuple(used.get_group(arm)))
            for arm, column in values.items()
        }
        row = [shown.get(arm, Entry(text=NO_VALUE)) for arm in arms]
        own = "" if alike or not settings_text(group) else f" ({settings_text(group)})"
        rows.append((f"{label}{own}", (*row, Entry(text=f"{len(values)} of {_planned(group)}"))))
    what = "mean over the subsets of augmentations within each seed, then mean" if several else "mean"
    text = f"Test accuracy in %, {what} ± standard deviation over n seeds (of one or two: the values)."
    text += f" {NO_VALUE}: not in every subset under this name." if several else ""
    text += settings_note(trials) if alike else ""
    text += left_out(" where a trial of them is missing", lost)
    table = Table(
        name="groups",
        title="Datasets and backbones",
        corner="Dataset · backbone",
        columns=(*map(arm_title, arms), "n"),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(pd.DataFrame({"best": True, "n": counts, "shared": counts}))]),
    )
    return readable(table)


def _planned(group: pd.DataFrame) -> str:
    return number_of(group["seed"].nunique(), "seed")
