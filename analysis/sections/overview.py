"""Tables over the cells of a study: by augmentations, by dataset and backbone, effects, and choice of γ."""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.render.table import Entry, Table, entries
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
from analysis.sections.cells import bold_caption, entry, settings_note, settings_text
from analysis.sections.differences import difference_table
from analysis.stats.comparisons import TESTED, arm_configs, claimed, pooled_values, values_of
from analysis.stats.factors import Effects
from analysis.stats.paired import FEWEST, Selected, best, select
from analysis.stats.results import Results
from analysis.trials import cells_of, groups_of
from search_spaces.families import LEVEL
from trainables.arms import Arm, weight_text
from trainables.trial import TrialConfig


def overview(results: Results) -> list[Table]:
    """All tables over more than one cell, and what a choice of γ is worth."""
    tables = []
    groups = groups_of(results.trials)
    for number, group in groups.items():
        if len(set(group["cell"])) > 1:
            title = f"{group['group_label'].iloc[0]}: {{}} subsets together"
            tables.append(_by_subset(group, number, results.summary))
            tables += _differences_by_subset(group, number, results.compared)
            tables += _pooled(results.pooled_by_group[number], f"pooled-{number}", title)
            if results.effects[number]:
                tables.append(_effects(group, number, results.effects[number]))
    if len(groups) > 1:
        tables.append(_by_group(results.trials))
        tables += _pooled(results.pooled, "pooled-all", "{} cells together")
    return tables + _selected(results.trials)


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
    return Table(
        name=f"subsets-{number}",
        title=f"{group['group_label'].iloc[0]}: test accuracy by augmentations",
        corner="Augmentations",
        columns=tuple(map(arm_title, arms)),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(tested)]),
    )


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
        tables.append(
            Table(
                name=f"subset-differences-{slug(str(baseline))}-{number}",
                title=f"{group['group_label'].iloc[0]}: differences by augmentations",
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
            + (CLAIMED if row["p_holm"] <= LEVEL else "")
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
        caption="Effects on test accuracy in points with 95 % intervals, from least squares with a block"
        " for each seed. Main effect: mean change when the augmentation is switched on, over all settings"
        f" of the others; a {TIMES} b: how much larger that of a is with b than without. Columns with"
        f" {MINUS}: effects on the paired difference. {CLAIMED}: p <= {LEVEL} after Holm over the {len(rows)}"
        " terms of its column; intervals are not adjusted."
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
            arm: Entry(
                text=spread_text(list(column)), bold=arm in bold, runs=tuple(used.get_group(arm))
            )
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
    return Table(
        name="groups",
        title="Datasets and backbones",
        corner="Dataset · backbone",
        columns=(*map(arm_title, arms), "n"),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(pd.DataFrame({"best": True, "n": counts, "shared": counts}))]),
    )


def _planned(group: pd.DataFrame) -> str:
    return number_of(group["seed"].nunique(), "seed")


def _pooled(pooled: Sequence[pd.DataFrame], name: str, title: str) -> list[Table]:
    """Differences pooled over cells, a table per set of arms; `title` has a place for the number of cells."""
    tables = []
    for number, compared in enumerate(pooled):
        kind = f" ({compared['kind'].iloc[0]})" if compared["kind"].iloc[0] else ""
        own_name = f"{name}-arms-{number}" if number else name
        tables.append(difference_table(compared, own_name, title.format(compared["cells"].max()) + kind))
    return [table for table in tables if table]


def _choices(trials: pd.DataFrame) -> Iterator[tuple[str, Selected, list[int]]]:
    """For each set of arms in a cell that differ in γ > 0 alone: label, result of choosing, dropped seeds."""
    if "val_acc" not in trials or TESTED not in trials:
        return
    for label, cell in trials.groupby("cell_label", sort=False):
        validation, test = (values_of(cell, metric) for metric in ("val_acc", TESTED))
        kinds: dict[TrialConfig, list[str]] = {}
        for arm, trial in arm_configs(cell[cell["gamma"] > 0]).items():
            if validation[arm].notna().any() and test[arm].notna().any():
                kinds.setdefault(trial.replace(gamma=1.0, seed=0), []).append(arm)
        for arms in kinds.values():
            whole = (validation[arms].notna() & test[arms].notna()).all(axis=1)
            if len(arms) > 1 and whole.sum() > 1:
                setting = Arm.parse(arms[0]).setting
                title = f"{label} ({setting})" if setting else str(label)
                result = select(validation.loc[whole, arms], test.loc[whole, arms])
                yield title, result, [int(seed) for seed in whole.index[~whole]]


def _selected(trials: pd.DataFrame) -> list[Table]:
    rows, lost = [], set()
    for label, selected, dropped in _choices(trials):
        n = len(selected.test)
        chosen = ", ".join(
            f"{_gamma(arm)} ({count} of {n})" for arm, count in Counter(selected.chosen).most_common()
        )
        optimistic = f"{100 * selected.optimistic:.1f}", _gamma(selected.optimistic_arm)
        rows.append((label, entries(spread_text(selected.test.tolist()), f"{n}", chosen, *optimistic)))
        lost |= set(dropped)
    table = Table(
        name="selected",
        title="What a choice of γ > 0 is worth",
        corner="Cell",
        columns=("Selected", "n", "γ (seeds)", "Best on test (optimistic)", "γ"),
        rows=tuple(rows),
        caption="Test accuracy in %. Selected: for each seed the γ > 0 with the highest mean validation"
        " accuracy over the other seeds, mean ± standard deviation over n seeds (of two: the values). Best on"
        " test: the highest mean; chosen with the images that it is measured on, it is too high: of five γ"
        " without any effect, the best lies half a standard deviation above their mean at n = 5."
        + left_out(" where an arm lacks them", lost),
    )
    return [table] if rows else []


def _gamma(arm: str) -> str:
    return weight_text(Arm.parse(arm).gamma or 0.0)
