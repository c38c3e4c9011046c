"""What a study took of its machines: time, memory, energy."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from analysis.render.section import Section
from analysis.render.table import Table, entries, readable
from analysis.render.text import NO_VALUE, arm_title
from analysis.trials import cells_of, finished

Say = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: a number of each trial, how those of several are put together, and shown.

    `weights` (a number of each trial, too) are those of a mean; None: all alike.
    """

    title: str
    value: Callable[[pd.DataFrame], pd.Series]
    how: str
    shown: Say
    weights: Callable[[pd.DataFrame], pd.Series] | None = None

    def over(self, trials: pd.DataFrame) -> str:
        """The entry for finished trials; it says where some of them do not tell."""
        values = self.value(trials).dropna()
        if values.empty:
            return NO_VALUE
        if self.weights is None:
            text = self.shown(float(values.agg(self.how)))
        else:
            weights = self.weights(trials)[values.index]
            text = self.shown(float((values * weights).sum() / weights.sum()))
        return text if len(values) == len(trials) else f"{text} ({len(values)} of {len(trials)})"


def _of(*names: str) -> Callable[[pd.DataFrame], pd.Series]:
    """The sum of metrics; NaN where a trial lacks one."""
    return lambda trials: trials.reindex(columns=list(names)).astype(float).sum(axis=1, skipna=False)


def _time(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 2:
        return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB"


def _watt_hours(wh: float) -> str:
    if wh >= 1000:
        return f"{wh / 1000:.1f} kWh"
    return f"{wh:.0f} Wh" if wh >= 10 else f"{wh:.2g} Wh"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


_whole = _of("train_seconds", "evaluate_seconds")
COLUMNS = (
    Column("Time a trial", _whole, "mean", _time),
    Column("CPU time", _of("cpu_seconds"), "sum", _time),
    Column("CPUs used", _of("cpu_utilization"), "mean", _share, weights=_whole),
    Column("Peak memory", _of("memory_peak_mb"), "max", _gigabytes),
    Column("CPU energy a trial", _of("cpu_energy_wh"), "mean", _watt_hours),
    Column("CPU energy", _of("cpu_energy_wh"), "sum", _watt_hours),
    Column("GPU time", _of("gpu_seconds"), "sum", _time),
    Column("GPU used", _of("gpu_utilization"), "mean", _share, weights=_whole),
    Column("Peak GPU memory", _of("gpu_memory_peak_mb"), "max", _gigabytes),
    Column("GPU energy a trial", _of("gpu_energy_wh"), "mean", _watt_hours),
    Column("GPU energy", _of("gpu_energy_wh"), "sum", _watt_hours),
)
_CAPTION = (
    "Of finished trials, all attempts together, without what was trained again after a crash. Time a trial:"
    " by the clock, with evaluation, as the machines were loaded."
)
_NOTES = {
    "CPUs used": "CPU time in per cent of the time on the granted CPUs.",
    "Peak memory": "the most that the process of a trial had; that includes images, which trials on a"
    " machine share, and what earlier trials of the process left.",
    "CPU energy": "of the processors alone, shared out by CPU time among all that the machine worked on.",
    "GPU time": "times the granted share of a GPU.",
    "GPU used": "how much of the time the GPU was busy, with whatever ran there.",
    "Peak GPU memory": "what PyTorch reserved.",
    "GPU energy": "of the whole board, times the granted share.",
}
"""What a caption says of a column that is there."""


def costs_section(trials: pd.DataFrame) -> Section:
    """The section: a row for each arm of a single cell, else for each cell; empty if nothing was measured."""
    done = finished(trials)
    columns = [column for column in COLUMNS if column.value(done).notna().any()]
    shown = {column.title for column in columns}
    if not columns:
        return Section(id="costs", title="Costs")
    single = len(cells_of(trials)) == 1
    parts = {
        arm_title(str(label)) if single else str(label): part
        for label, part in done.groupby("arm_label" if single else "cell_label", sort=False)
    }
    if len(parts) > 1:
        parts["All"] = done
    table = Table(
        name="costs",
        title="What the study took",
        corner="Arm" if single else "Cell",
        columns=("Trials", *(column.title for column in columns)),
        rows=tuple(
            (name, entries(str(len(part)), *(column.over(part) for column in columns)))
            for name, part in parts.items()
        ),
        caption=" ".join([_CAPTION, *(f"{name}: {note}" for name, note in _NOTES.items() if name in shown)]),
    )
    return Section(id="costs", title="Costs", tables=(readable(table),), headed=False)
