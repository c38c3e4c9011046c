"""Tables over the cells of a study: augmentations × arm, dataset and backbone × arm, choice of γ, effects."""

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.render.table import Entry, Table, texts
from analysis.render.text import (
    CLAIMED,
    NO_VALUE,
    arm_text,
    difference_text,
    interval,
    number_of,
    points,
    seeds_text,
    slug,
    span,
    spread_text,
)
from analysis.sections.cells import bold_caption, entry
from analysis.sections.differences import difference_table
from analysis.stats.comparisons import (
    TESTED,
    arm_configs,
    claimed,
    pooled_comparisons,
    settings_note,
    settings_text,
    values_of,
)
from analysis.stats.factors import Effects, effects_of, effects_tables
from analysis.stats.paired import FEWEST, Selected, best, pool, select
from search_spaces.families import LEVEL
from trainables.arms import Arm, weight_text
from trainables.trial import TrialConfig


def overview(
    trials: pd.DataFrame,
    summary: pd.DataFrame,
    compared: pd.DataFrame,
    effects_by_group: Mapping[int, Effects] | None = None,
) -> list[Table]:
    """All tables that speak of more than one cell, and what a choice of γ is worth.

    Args:
        trials: of `analysis.trials.load`.
        summary: of `analysis.sections.cells.summarise`.
        compared: of `analysis.stats.comparisons.comparisons`.
        effects_by_group: of `effects_of`, where these are known.
    """
    known = effects_by_group or {}
    tables = []
    for number, group in groups_of(trials):
        if is_several(group["cell"]):
            label = group["group_label"].iloc[0]
            tables.append(_by_subset(group, number, summary))
            tables += _differences_by_subset(group, number, compared)
            pooled = pooled_comparisons(trials, set(group["cell"]))
            tables += _pooled(pooled, f"pooled-{number}", f"{label}: {{}} subsets together")
            tables += effects_tables(group, number, known.get(number) or effects_of(group))
    if is_several(trials["group"]):
        tables.append(_by_group(trials))
        tables += _pooled(pooled_comparisons(trials), "pooled-all", "{} cells together")
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
    spread = "mean ± standard deviation over" if tested["n"].max() > 2 else "values of"
    text = f"Test accuracy in %, {spread} n = {span(set(tested['n']))} of {_planned(group)}."
    text += settings_note(group)
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
        places = family.set_index(["cell", "arm_label", "baseline_label"]).to_dict("index")
        rows = []
        for cell, members in group[group["cell"].isin(set(family["cell"]))].groupby("cell", sort=False):
            entries = [
                claim_text(places[cell, *pair]) if (cell, *pair) in places else NO_VALUE for pair in pairs
            ]
            rows.append((str(members["subset"].iloc[0]), texts(*entries)))
        tables.append(
            Table(
                name=f"subset-differences-{slug(str(baseline))}-{number}",
                title=f"{group['group_label'].iloc[0]}: differences by augmentations",
                corner="Augmentations",
                columns=tuple(difference_text(*pair) for pair in pairs),
                rows=tuple(rows),
                caption="Difference in test accuracy in points, paired by seed, n ="
                f" {span(set(family['n']))}, with the interval adjusted after Holm within its row; {CLAIMED}:"
                f" it leaves out zero, and n >= {FEWEST}. {_by_chance(len(rows))}",
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
    alike = len({settings_text(group) for _, group in trials.groupby("group", sort=False)}) == 1
    for label, group in trials.groupby("group_label", sort=False):
        cells = [values_of(cell, TESTED) for _, cell in group.groupby("cell", sort=False)]
        values, dropped = pool(cells)
        counts.add(len(cells))
        left_out |= set(dropped)
        having = [arm for arm in values if values[arm].notna().any()]
        # An arm that some subsets lack, or call otherwise, may be better than all that are left.
        whole = len(having) > 1 and set(having) == set(group["arm_label"])
        first, others = best(values) if whole else (None, [])
        entries = [_mean_entry(values, arm, {first, *others}, group) for arm in arms]
        title = f"{label}{'' if alike else _settings(group)}"
        rows.append((title, (*entries, Entry(text=f"{len(values)} of {_planned(group)}"))))
        bold += [
            {"arm_label": arm, "best": arm == first, "n": len(values), "shared": len(values)} for arm in arms
        ]
    what = "mean over the subsets of augmentations within each seed, then mean" if max(counts) > 1 else "mean"
    text = f"Test accuracy in %, {what} ± standard deviation over n seeds (of one or two: the values)."
    if max(counts) > 1:
        text += f" {NO_VALUE}: not in every subset under this name."
    text += settings_note(trials) if alike else ""
    if left_out:
        text += f" Left out where a trial of them is missing: {seeds_text(sorted(left_out))}."
    return Table(
        name="groups",
        title="Datasets and backbones",
        corner="Dataset · backbone",
        columns=(*map(arm_text, arms), "n"),
        rows=tuple(rows),
        caption=" ".join([text, *bold_caption(pd.DataFrame(bold))]),
    )


def _mean_entry(values: pd.DataFrame, arm: str, bold: set[str | None], group: pd.DataFrame) -> Entry:
    if arm not in values or values[arm].isna().all():
        return Entry(text=NO_VALUE)
    used = group[(group["arm_label"] == arm) & group["seed"].isin(values.index)]
    runs = tuple(used["run_id"].dropna())
    return Entry(text=spread_text(values[arm].tolist()), bold=arm in bold, runs=runs)


def _planned(group: pd.DataFrame) -> str:
    """`5 seeds`."""
    return number_of(group["seed"].nunique(), "seed")


def _settings(group: pd.DataFrame) -> str:
    """` (views asymmetric)`, or nothing."""
    text = settings_text(group)
    return f" ({text})" if text else ""


def _pooled(found: Sequence[pd.DataFrame], name: str, title: str) -> list[Table]:
    """Differences over several cells at once, a table for each set of arms that cells have."""
    tables = []
    for number, compared in enumerate(found):
        cells, kind = compared["cells"].max(), compared["kind"].iloc[0]
        of = title.format(cells) + (f" ({kind})" if kind else "")
        table = difference_table(compared, f"{name}-arms-{number}" if number else name, of)
        if table:
            tables.append(table)
    return tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What choosing γ on validation images gives in one cell.

    Attributes:
        label: of the cell, with what sets its arms apart from others of the same γ.
        found: of `analysis.stats.paired.select`.
        dropped: seeds that an arm lacks.
    """

    label: str
    found: Selected
    dropped: tuple[int, ...]


def choices(trials: pd.DataFrame) -> Iterator[Choice]:
    """What choosing γ gives, for each cell where there is a choice; arms differ in γ alone."""
    if "val_acc" not in trials or TESTED not in trials:
        return
    for label, cell in trials.groupby("cell_label", sort=False):
        validation, test = (values_of(cell, metric) for metric in ("val_acc", TESTED))
        kinds: dict[TrialConfig, list[str]] = {}
        for arm, trial in arm_configs(cell[cell["gamma"] > 0]).items():
            if validation[arm].notna().any() and test[arm].notna().any():
                kinds.setdefault(trial.replace(gamma=1.0, seed=0), []).append(arm)
        for arms in kinds.values():
            there = (validation[arms].notna() & test[arms].notna()).all(axis=1)
            if len(arms) > 1 and there.sum() > 1:
                setting = Arm.parse(arms[0]).setting
                yield Choice(
                    label=f"{label}{f' ({setting})' if setting else ''}",
                    found=select(validation.loc[there, arms], test.loc[there, arms]),
                    dropped=tuple(int(seed) for seed in there.index[~there]),
                )


def _selected(trials: pd.DataFrame) -> Table | None:
    rows, left_out = [], set()
    for choice in choices(trials):
        found, n = choice.found, len(choice.found.test)
        chosen = ", ".join(
            f"{_gamma(arm)} ({count} of {n})" for arm, count in Counter(found.chosen).most_common()
        )
        optimistic = f"{100 * found.optimistic:.1f}", _gamma(found.optimistic_arm)
        rows.append((choice.label, texts(spread_text(found.test.tolist()), f"{n}", chosen, *optimistic)))
        left_out |= set(choice.dropped)
    if not rows:
        return None
    missing = f" Left out where an arm lacks them: {seeds_text(sorted(left_out))}." if left_out else ""
    return Table(
        name="selected",
        title="What a choice of γ > 0 is worth",
        corner="Cell",
        columns=("Selected", "n", "γ (seeds)", "Best on test (optimistic)", "γ"),
        rows=tuple(rows),
        caption="Test accuracy in %. Selected: for each seed the γ > 0 with the highest mean validation"
        " accuracy over the other seeds, mean ± standard deviation over n seeds (of two: the values). Best on"
        " test: the highest mean; chosen with the images that it is measured on, it is too high: of five γ"
        f" that do nothing the best lies half a standard deviation above their mean at n = 5.{missing}",
    )


def _gamma(arm: str) -> str:
    return weight_text(Arm.parse(arm).gamma or 0.0)
