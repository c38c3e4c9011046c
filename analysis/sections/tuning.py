"""How well each arm did with each value of what was tuned for it, on validation images."""

from dataclasses import replace

import pandas as pd

from analysis.render.section import Section
from analysis.render.table import Entry, Table
from analysis.render.text import NO_VALUE, spread_text
from analysis.trials import cells_of, finished
from trainables.arms import Arm
from trainables.trial import format_value

METRIC = "val_acc"
FAILED = "failed"


def tuning_section(trials: pd.DataFrame) -> Section:
    """A table for each cell in which an arm was tried with several values; empty without such ones."""
    if METRIC not in trials:
        return Section()
    tables = [table for number, cell in cells_of(trials).items() if (table := _table(number, cell))]
    return Section(id="tuning", title="Tuned for each arm", short_title="Tuning", tables=tuple(tables))


def _table(number: int, cell: pd.DataFrame) -> Table | None:
    """Arms x tried values of one cell; None if no arm was tried with several."""
    text = cell["tuned"].iloc[0]
    names = text.split("+") if isinstance(text, str) else []
    arms = [str(_without(arm, names)) for arm in cell["arm_label"]]
    values = [
        ", ".join(f"{name} {format_value(row[name])}" for name in names) for row in cell.to_dict("records")
    ]
    tried = cell.assign(kind=arms, value=values)
    if tried.groupby("kind")["value"].nunique().max() < 2:
        return None
    ordered = tried.sort_values(names, kind="stable")
    columns = list(dict.fromkeys(ordered["value"]))
    several = bool(finished(tried).dropna(subset=METRIC)[["kind", "value"]].duplicated().any())
    failed = bool((tried["status"] == "FAILED").any())
    rows = []
    for kind, arm in tried.groupby("kind", sort=False):
        best = _best(finished(arm).dropna(subset=METRIC))
        entries = tuple(_entry(arm[arm["value"] == value], bold=value == best) for value in columns)
        rows.append((Arm.parse(str(kind)).title, entries))
    return Table(
        name=f"tuning-{number}",
        title=f"{cell['cell_label'].iloc[0]}: what was tried for each arm",
        corner="Validation accuracy (%)",
        columns=tuple(columns),
        rows=tuple(rows),
        caption="Accuracy on validation images after the last epoch, in %"
        + (", of two seeds both, of more the mean ± standard deviation" if several else "")
        + f". Bold: the best of each row{', of what most seeds finished with' if several else ''}."
        + (f" {FAILED}: ended with an error, such as a loss that is not finite." if failed else "")
        + f" {NO_VALUE}: not tried, or without a result.",
    )


def _without(label: str, names: list[str]) -> Arm:
    """The arm without the options that tell what was tuned."""
    arm = Arm.parse(label)
    options = tuple(option for option in arm.options if option.partition("=")[0] not in names)
    return replace(arm, options=options)


def _best(done: pd.DataFrame) -> str:
    """The value with the highest mean; one that fewer seeds have than another is less well known."""
    seeds = done["value"].value_counts()
    means = done[done["value"].isin(seeds.index[seeds == seeds.max()])].groupby("value")[METRIC].mean()
    return str(means.idxmax()) if len(means) else ""


def _entry(tried: pd.DataFrame, *, bold: bool) -> Entry:
    """The validation accuracy of an arm with one value, over its seeds."""
    done, lost = finished(tried).dropna(subset=METRIC), tried[tried["status"] == "FAILED"]
    text = spread_text([float(value) for value in done[METRIC]])
    if len(lost):
        text = f"{text}, {len(lost)} {FAILED}" if len(done) else FAILED
    return Entry(text=text, bold=bold, runs=(*done["run_id"], *lost["run_id"]), metric=METRIC)
