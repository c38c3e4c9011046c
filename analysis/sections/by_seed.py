"""The table of every trial of a cell: rows are seeds, columns arms."""

import pandas as pd

from analysis.render.table import Entry, Table, readable
from analysis.render.text import NO_VALUE, arm_title
from analysis.stats.comparisons import TESTED

UNFINISHED = {"MISSING": "missing", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "running"}
"""What a trial without a result is called, by its status."""


def seed_table(trials: pd.DataFrame, cell: int) -> Table:
    """The test accuracy of every trial of a cell, in per cent, linked to its run.

    A trial without a result says what became of it; a dash stands where an arm was not planned with a seed.
    """
    part = trials[trials["cell"] == cell]
    arms = list(dict.fromkeys(part["arm_label"]))
    shown = {(row["seed"], row["arm_label"]): _entry(row) for _, row in part.iterrows()}
    return readable(
        Table(
            name=f"seeds-{cell}",
            title=f"{part['cell_label'].iloc[0]}: every seed",
            corner="Test accuracy (%)",
            columns=tuple(map(arm_title, arms)),
            rows=tuple(
                (f"seed {seed}", tuple(shown.get((seed, arm), Entry(text=NO_VALUE)) for arm in arms))
                for seed in sorted(set(part["seed"]))
            ),
            caption="Accuracy on clean test images of each trial, in %. Comparisons are paired within a row."
            + _unfinished(part),
        )
    )


def _entry(row: pd.Series) -> Entry:
    runs = () if pd.isna(row["run_id"]) else (str(row["run_id"]),)
    if row["status"] != "FINISHED":
        return Entry(text=UNFINISHED.get(row["status"], str(row["status"]).lower()), runs=runs)
    value = row.get(TESTED, float("nan"))
    return Entry(text="not finite" if pd.isna(value) else f"{100 * value:.1f}", runs=runs)


def _unfinished(part: pd.DataFrame) -> str:
    """What the words among the numbers mean; empty if there are none."""
    counts = part.loc[part["status"] != "FINISHED", "status"].value_counts()
    named = [f"{counts[status]} {word}" for status, word in UNFINISHED.items() if status in counts]
    return f" {', '.join(named)} of {len(part)} trials." if named else ""
