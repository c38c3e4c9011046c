"""The ledger as one tidy DataFrame: one row a planned trial, finished or not."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from search_spaces import Selection, add_selection_arguments, selection_from
from search_spaces.names import arm_labels, name_cells
from study import store
from study.ledger import Ledger, TrialRecord, add_ledger_arguments, ledger_from
from trainables.trial import FIELDS, format_value

MISSING = "MISSING"
"""Status of a trial that the ledger does not have."""


def parse_command_line(
    description: str, argv: Sequence[str] | None, *, subfolder: str = ""
) -> tuple[Selection, Ledger, Path]:
    """The selection, ledger and output folder that an analysis script was called with.

    Ends the process with code 2 and one line on stderr for what cannot be used.

    Args:
        description: of the script, for its `--help`.
        argv: arguments; None: the process's own.
        subfolder: of `reports/<space>`, where results go by default.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add_selection_arguments(parser)
    add_ledger_arguments(parser)
    default = Path("reports", "<space>", subfolder)
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"folder for results (default: {default})")
    args = parser.parse_args(argv)
    try:
        selection = selection_from(args)
        ledger = ledger_from(args)
        store.probe(ledger.uri)
        if not ledger.exists():
            raise ValueError(
                f"--experiment: no experiment {ledger.experiment!r} at {store.shown(ledger.uri)}"
            )
        folder = args.out or Path("reports", selection.space, subfolder)
        store.check_writable("--out", folder)
    except ValueError as error:
        parser.error(str(error))
    return selection, ledger, folder


def load(selection: Selection, records: Mapping[str, TrialRecord]) -> pd.DataFrame:
    """One row for each trial of the selection, in its order.

    Args:
        selection: the trials.
        records: what the ledger has of them, by key.

    Returns:
        Columns `key`, `name`, `status` (FINISHED, FAILED, KILLED, RUNNING or MISSING), `run_id`, `changed`
        (ms since 1970), `failure`, `cell` (its number, from 0), `cell_label`, `arm` (as in the tag),
        `arm_label` (unique within its cell), every field of `TrialConfig` (augmentations as text), and
        every final metric: only of finished trials, NaN for the others.
    """
    cells = {cell: number for number, cell in enumerate(dict.fromkeys(t.cell for t in selection.trials))}
    labels, cell_labels = arm_labels(selection.trials), name_cells(selection.trials)
    rows = []
    for trial in selection.trials:
        record = records.get(trial.key)
        fields = {name: getattr(trial, name) for name in FIELDS}
        row: dict[str, object] = {
            "key": trial.key,
            "name": trial.name,
            "status": record.status if record else MISSING,
            "run_id": record.run_id if record else None,
            "changed": record.changed if record else None,
            "failure": record.tags.get("failure") if record else None,
            "cell": cells[trial.cell],
            "cell_label": cell_labels[trial.cell],
            "arm": trial.arm,
            "arm_label": labels[trial],
            **fields,
            "augmentations": format_value(trial.augmentations),
        }
        if record and record.status == "FINISHED":
            row |= record.metrics
        rows.append(row)
    return pd.DataFrame(rows)


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials alone: the only ones that have results."""
    return trials[trials["status"] == "FINISHED"]


def cell_labels(trials: pd.DataFrame) -> dict[int, str]:
    """The label of each cell, by its number."""
    return dict(zip(trials["cell"], trials["cell_label"], strict=True))
