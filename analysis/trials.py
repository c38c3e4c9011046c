"""The ledger as one tidy DataFrame: one row a planned trial, finished or not."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from search_spaces import Selection, add_selection_arguments, selection_from
from study import store
from study.ledger import Ledger, TrialRecord, add_ledger_arguments, ledger_from
from trainables.trial import ARM_FIELDS, CELL_FIELDS, FIELDS, FieldValue, TrialConfig, format_value

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


def name_cells(trials: Sequence[TrialConfig]) -> dict[tuple[FieldValue, ...], str]:
    """What to call each cell: dataset, backbone, augmentations, and what else varies between cells."""
    firsts = {trial.cell: trial for trial in trials}
    always = ("dataset", "backbone", "augmentations")
    varying = [
        name
        for name in CELL_FIELDS
        if name not in always and len({getattr(trial, name) for trial in firsts.values()}) > 1
    ]
    return {
        cell: " · ".join(
            [format_value(getattr(trial, name)) for name in always]
            + [f"{name} {format_value(getattr(trial, name))}" for name in varying]
        )
        for cell, trial in firsts.items()
    }


def arm_labels(trials: Sequence[TrialConfig]) -> dict[TrialConfig, str]:
    """The arm's name, with the fields that tell apart arms of one name within a cell."""
    groups: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for trial in trials:
        groups.setdefault((trial.cell, trial.arm), set()).add(_arm_values(trial))
    labels = {}
    for trial in trials:
        variants = list(zip(*groups[trial.cell, trial.arm], strict=True))
        differing = [name for name, values in zip(ARM_FIELDS, variants, strict=True) if len(set(values)) > 1]
        extra = "".join(f" {name}={format_value(getattr(trial, name))}" for name in differing)
        labels[trial] = trial.arm + extra
    return labels


def _arm_values(trial: TrialConfig) -> tuple[object, ...]:
    return tuple(getattr(trial, name) for name in ARM_FIELDS)
