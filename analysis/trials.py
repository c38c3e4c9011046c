"""The ledger as one tidy DataFrame: one row per planned trial, finished or not."""

import contextlib
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces import Selection
from search_spaces.names import SEPARATOR, arm_labels, arm_settings, name_cells, name_groups, subset
from search_spaces.seeds import SeedPlan, cell_digest
from study.ledger.records import DATA_TAG, LEFT_OUT_TAG, TrialRecord, is_result
from trainables.trial import FIELDS, FieldValue, TrialConfig, field_type, format_value

TAGS = (
    *("data.sha256", "device", "threads", "host", "attempts", "git.commit", "git.dirty"),
    *("source.sha256", "source.kept", "environment", "gpus.kernels", LEFT_OUT_TAG),
    *("version.study", "version.torch", "version.ray", "version.python"),
)
"""Tags of a run that a report shows, each a column of that name."""
FRAME = "trials.parquet"
NAMED_RUNS = 8
"""Most runs that an error names one by one."""
DESCRIPTION = (
    *("key", "name", "status", "run_id", "changed", "failure"),
    *("group", "group_label", "cell", "cell_label", "subset", "settings", "arm", "arm_label", "tuned"),
    "seed_plan",
    *(*FIELDS, *TAGS),
)
"""Columns that describe a trial; all others are its final metrics."""


class MixedData(ValueError):
    """Trials of one cell were trained on different data; the message names the runs."""


def load(
    selection: Selection, records: Mapping[str, TrialRecord], plans: Mapping[str, SeedPlan] | None = None
) -> pd.DataFrame:
    """One row for each trial of the selection, in its order; `records` are by key.

    `plans` are those of `study.ledger.seed_plans`: how many seeds each cell was planned with.

    Returns:
        Columns `key`, `name`, `status` (FINISHED, FAILED, KILLED, RUNNING; MISSING: not in the ledger),
        `run_id`, `changed` (ms since 1970), `failure`, `cell` (its number, from 0), `cell_label`, `group` (of
        cells that differ in their augmentations alone), `group_label`, `subset` (augmentations, for people),
        `settings` (what the arms of the cell share that is not the default, for people), `arm` (as in the
        tag), `arm_label` (unique within its cell), `tuned` (fields that were tuned for each arm: `lr`; or
        None), `seed_plan` (JSON of the `SeedPlan`, if any), every field of `TrialConfig` (augmentations as
        text), every tag of `TAGS`, and every final metric: results of finished trials, NaN otherwise.

    Raises:
        MixedData: trials of one cell were trained on different data.
    """
    labels, cell_labels = arm_labels(selection.trials), name_cells(selection.trials)
    group_labels = {cell: SEPARATOR.join(parts) for cell, parts in name_groups(selection.trials).items()}
    members: dict[tuple[FieldValue, ...], list[TrialConfig]] = {}
    for trial in selection.trials:
        members.setdefault(trial.cell, []).append(trial)
    cells = {cell: number for number, cell in enumerate(members)}
    settings = {cell: ", ".join(arm_settings(trials)) for cell, trials in members.items()}
    groups = {label: number for number, label in enumerate(dict.fromkeys(group_labels.values()))}
    plans = plans or {}
    digests = {cell: cell_digest(trials[0]) for cell, trials in members.items()}
    declared = {cell: plans[digest].to_json() for cell, digest in digests.items() if digest in plans}
    rows = []
    for trial in selection.trials:
        key, cell = trial.key, trial.cell
        record = records.get(key)
        row: dict[str, object] = {
            "key": key,
            "name": trial.name,
            "status": record.status if record else "MISSING",
            "run_id": record.run_id if record else None,
            "changed": record.changed if record else None,
            "failure": record.tags.get("failure") if record else None,
            "group": groups[group_labels[cell]],
            "group_label": group_labels[cell],
            "cell": cells[cell],
            "cell_label": cell_labels[cell],
            "subset": subset(trial),
            "settings": settings[cell],
            "arm": trial.arm,
            "arm_label": labels[trial],
            "tuned": format_value(trial.tuned) if trial.tuned else None,
            "seed_plan": declared.get(cell),
            **{name: getattr(trial, name) for name in FIELDS},
            "augmentations": format_value(trial.augmentations),
            **{name: record.tags.get(name) if record else None for name in TAGS},
        }
        if record and record.status == "FINISHED":
            row |= record.metrics
        rows.append(row)
    trials = pd.DataFrame(rows, columns=None if rows else pd.Index(DESCRIPTION))
    metrics = metric_names(trials)
    trials[metrics] = trials[metrics].where(is_result(trials[metrics]))
    _refuse_mixed(trials)
    return trials


def write(trials: pd.DataFrame, path: Path) -> None:
    """Write the frame as Parquet, whole or not at all.

    Raises:
        ValueError: the file exists, and another program made it.
    """
    with contextlib.suppress(OSError, pa.ArrowInvalid):  # a damaged file is replaced
        if path.is_file() and not {"key", "cell_label"} <= {*pq.read_schema(path).names}:
            raise ValueError(f"--out: {path} exists and was not made by this project; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # not through a link
    trials.to_parquet(draft, index=False)
    os.replace(draft, path)


def _refuse_mixed(trials: pd.DataFrame) -> None:
    """Raise MixedData if a cell has trials on different data.

    Trials of another PROTOCOL cannot be here: it is part of the key by which trials are found.
    """
    for label, cell in finished(trials).dropna(subset=DATA_TAG).groupby("cell_label", sort=False):
        runs = {digest: list(part["run_id"]) for digest, part in cell.groupby(DATA_TAG)}
        if len(runs) > 1:
            groups = "; ".join(f"{str(digest)[:12]}: {_named(ids)}" for digest, ids in runs.items())
            raise MixedData(
                f"{label}: its trials were trained on different data, which no table may mix. Runs by"
                f" {DATA_TAG}: {groups}. `python study/run.py … --rerun-stale` trains those again whose data"
                " differ from the data at hand"
            )


def _named(run_ids: Sequence[str]) -> str:
    more = f" and {len(run_ids) - NAMED_RUNS} more" if len(run_ids) > NAMED_RUNS else ""
    return ", ".join(run_ids[:NAMED_RUNS]) + more


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials: the only ones with results."""
    return trials[trials["status"] == "FINISHED"]


def config_of(row: Mapping[Hashable, Any]) -> TrialConfig:
    """The trial of a row of a frame, where None has become NaN and integers beside it floats."""
    values: dict[str, Any] = {name: None if pd.isna(row[name]) else row[name] for name in FIELDS}
    tuned = row.get("tuned")
    values["tuned"] = () if tuned is None or pd.isna(tuned) else tuple(tuned.split("+"))
    whole = [name for name in FIELDS if values[name] is not None and field_type(name)[0] is int]
    return TrialConfig(**{**values, **{name: int(values[name]) for name in whole}})


def metric_names(trials: pd.DataFrame) -> list[str]:
    """The final metrics among the columns."""
    return [name for name in trials.columns if name not in DESCRIPTION]


def cells_of(trials: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The trials of each cell, by its number."""
    return {int(str(number)): cell for number, cell in trials.groupby("cell", sort=False)}


def groups_of(trials: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The trials of each group of cells that differ in their augmentations alone, by its number."""
    return {int(str(number)): group for number, group in trials.groupby("group", sort=False)}


def cell_labels(trials: pd.DataFrame) -> dict[int, str]:
    """The label of each cell, by its number."""
    return dict(zip(trials["cell"], trials["cell_label"], strict=True))
