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
    rows = []
    for kind, arm in tried.groupby("kind", sort=False):
        done = finished(arm).dropna(subset=METRIC)
        means = done.groupby("value")[METRIC].mean()
        best = str(means.idxmax()) if len(means) else ""
        entries = tuple(_entry(done[done["value"] == value], bold=value == best) for value in columns)
        rows.append((Arm.parse(str(kind)).title, entries))
    return Table(
        name=f"tuning-{number}",
        title=f"{cell['cell_label'].iloc[0]}: what was tried for each arm",
        corner="Validation accuracy (%)",
        columns=tuple(columns),
        rows=tuple(rows),
        caption="Accuracy on validation images after the last epoch, in %. Bold: the best of each arm."
        f" {NO_VALUE}: not tried, or without a result.",
    )


def _without(label: str, names: list[str]) -> Arm:
    """The arm without the options that tell what was tuned."""
    arm = Arm.parse(label)
    options = tuple(option for option in arm.options if option.partition("=")[0] not in names)
    return replace(arm, options=options)


def _entry(done: pd.DataFrame, *, bold: bool) -> Entry:
    """The validation accuracy of an arm with one value, over its seeds."""
    values = [float(value) for value in done[METRIC]]
    return Entry(text=spread_text(values), bold=bold, runs=tuple(done["run_id"]), metric=METRIC)
