"""The ledger as one tidy DataFrame: one row a planned trial, finished or not.

A frame that was written as `trials.parquet` is read again by the next call, which asks the ledger only for
what has changed since: finished trials never change.
"""

import argparse
import contextlib
import hashlib
import os
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces import Selection, add_selection_arguments, search_from, selection_from
from search_spaces.names import arm_labels, arm_settings, name_cells, name_groups, subset
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.options import add_ledger_arguments, ledger_from
from study.ledger.records import DATA_TAG, TrialRecord
from study.ledger.search_state import SearchState, load_search_state
from trainables.redact import masked, plain
from trainables.trial import FIELDS, FieldValue, TrialConfig, field_type, format_value

MISSING = "MISSING"
"""Status of a trial that the ledger does not have."""
TAGS = (
    "data.sha256",
    "device",
    "threads",
    "host",
    "attempts",
    "git.commit",
    "git.dirty",
    "version.study",
    "version.torch",
    "version.ray",
    "version.python",
)
"""Tags of a run that a report tells of, each a column of that name."""
FRAME = "trials.parquet"
MARGIN = 3_600_000
"""ms by which the clocks of machines that finish trials may differ."""
NAMED_RUNS = 8
"""Most runs that an error names one by one."""
_FORMAT = 2
"""Of a stored frame; another one is read anew."""
_ABOUT = (
    *("key", "name", "status", "run_id", "changed", "failure"),
    *("group", "group_label", "cell", "cell_label", "subset", "settings", "arm", "arm_label"),
)
DESCRIPTION = (*_ABOUT, *FIELDS, *TAGS)
"""Columns that describe a trial; all others are its final metrics."""


class MixedData(ValueError):
    """Trials of one cell were trained on different data; the message names the runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What an analysis script was called with.

    Attributes:
        args: the options as they were given.
        selection: the trials that are meant; of a search, its finalists'.
        ledger: where they are.
        found: how far the search is; None where the space is none.
        trials: what it has of them, as of `load`.
        folder: for results.
    """

    args: argparse.Namespace
    selection: Selection
    ledger: Ledger
    found: SearchState | None
    trials: pd.DataFrame
    folder: Path


def parse_command_line(
    description: str,
    argv: Sequence[str] | None,
    *,
    subfolder: str = "",
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
    check: Callable[[argparse.Namespace], object] | None = None,
    searches: bool = False,
) -> Inputs:
    """Understand the options of an analysis script and read the trials that are meant.

    Ends the process with code 2 and one line on stderr for what cannot be used.

    Args:
        description: of the script, for its `--help`.
        argv: arguments; None: the process's own.
        subfolder: of `reports/<space>`, where results go by default.
        extend: adds options of the script's own.
        check: raises ValueError for what they cannot mean, before the ledger is read.
        searches: whether the script has a use for a search without finalists.
    """
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    add_selection_arguments(parser)
    add_ledger_arguments(parser)
    default = Path("reports", "<space>", subfolder)
    parser.add_argument("--out", metavar="DIR", type=Path, help=f"folder for results (default: {default})")
    if extend:
        extend(parser)
    args = parser.parse_args(argv)
    try:
        search = search_from(args)
        selection = Selection(space=args.space, trials=(), steps=()) if search else selection_from(args)
        if check:
            check(args)
        ledger = ledger_from(args)
        tracking_uri.check_reachable(ledger.uri)
        if not ledger.exists():
            raise ValueError(
                f"--experiment: no experiment {ledger.experiment!r} at {tracking_uri.redacted(ledger.uri)}"
            )
        report = args.out or Path("reports", args.space)
        folder = args.out or report / subfolder
        tracking_uri.check_writable("--out", folder)
        found, trials = None, pd.DataFrame()
        if search is None:
            trials = read(selection, ledger, report / FRAME)
        else:
            records = ledger.trials()
            found = load_search_state(search, records, {})
            selection = found.final_selection()
            if selection.trials:
                trials = load(selection, records)
            elif not searches:
                raise ValueError(f"--space {search.name}: the search has no finalists yet")
    except ValueError as error:
        parser.error(plain(masked(str(error))))
    return Inputs(args=args, selection=selection, ledger=ledger, found=found, trials=trials, folder=folder)


def load(selection: Selection, records: Mapping[str, TrialRecord]) -> pd.DataFrame:
    """One row for each trial of the selection, in its order.

    Args:
        selection: the trials.
        records: what the ledger has of them, by key.

    Returns:
        Columns `key`, `name`, `status` (FINISHED, FAILED, KILLED, RUNNING or MISSING), `run_id`, `changed`
        (ms since 1970), `failure`, `cell` (its number, from 0), `cell_label`, `group` (of cells that differ
        in their augmentations alone), `group_label`, `subset` (of augmentations, for people), `settings`
        (what the arms of the cell have in common and is not the default, for people), `arm` (as in the tag),
        `arm_label` (unique within its cell), every field of `TrialConfig` (augmentations as text),
        every tag of `TAGS`, and every final metric: only of finished trials and only finite values, NaN for
        the others.

    Raises:
        MixedData: trials of one cell were trained on different data.
    """
    labels, cell_labels = arm_labels(selection.trials), name_cells(selection.trials)
    group_labels = {cell: " · ".join(parts) for cell, parts in name_groups(selection.trials).items()}
    members: dict[tuple[FieldValue, ...], list[TrialConfig]] = {}
    for trial in selection.trials:
        members.setdefault(trial.cell, []).append(trial)
    cells = {cell: number for number, cell in enumerate(members)}
    settings = {cell: ", ".join(arm_settings(having)) for cell, having in members.items()}
    groups = {label: number for number, label in enumerate(dict.fromkeys(group_labels.values()))}
    rows = []
    for trial in selection.trials:
        key, cell = trial.key, trial.cell
        record = records.get(key)
        fields = {name: getattr(trial, name) for name in FIELDS}
        row: dict[str, object] = {
            "key": key,
            "name": trial.name,
            "status": record.status if record else MISSING,
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
            **fields,
            "augmentations": format_value(trial.augmentations),
            **{name: record.tags.get(name) if record else None for name in TAGS},
        }
        if record and record.status == "FINISHED":
            row |= record.metrics
        rows.append(row)
    trials = pd.DataFrame(rows)
    metrics = metric_names(trials)
    # MLflow has no infinity: it stores the largest number instead.
    trials[metrics] = trials[metrics].where(trials[metrics].abs() < np.finfo(float).max)
    _refuse_mixed(trials)
    return trials


def read(selection: Selection, ledger: Ledger, frame: Path) -> pd.DataFrame:
    """The frame of `load`, from the ledger and from what an earlier call left in `frame`, which is renewed.

    Args:
        selection: the trials.
        ledger: where they are.
        frame: a file that need not exist. One of another ledger, or one that cannot be read, is passed over.
    """
    known, stored = _stored(frame, _identity(ledger))
    since = max((record.changed for record in known.values()), default=0) - MARGIN
    if not {trial.key for trial in selection.trials} <= {*stored.get("keys", ())}:
        since = 0  # of these trials nothing was asked before
    changed, gone = ledger.changed_since(max(since, 0))
    if not {*stored.get("gone", ())} <= gone:  # deleted runs were restored, or destroyed
        known = {}
        changed, gone = ledger.changed_since(0)
    records = {key: record for key, record in known.items() if record.run_id not in gone} | changed
    trials = load(selection, records)
    write(trials, ledger, frame, gone)
    return trials


def write(trials: pd.DataFrame, ledger: Ledger, frame: Path, gone: Collection[str] | None = None) -> None:
    """Store a frame for people and for the next call of `read`; whole or not at all.

    Args:
        trials: of `load`.
        ledger: of which they are.
        frame: the file.
        gone: runs that were trials and are none any more; None: not known, the next call reads everything.

    Raises:
        ValueError: the file is there and not one of ours.
    """
    if _is_foreign(frame):
        raise ValueError(f"--out: {frame} is there and was not made by this project; take another folder")
    frame.parent.mkdir(parents=True, exist_ok=True)
    draft = frame.with_name(f".{frame.name}.{os.getpid()}")
    stored = trials.copy()
    keys = [] if gone is None else trials["key"].tolist()
    # Texts, not lists: pandas copies attributes with every operation, item by item.
    stored.attrs = {"ledger": _identity(ledger), "keys": " ".join(keys), "gone": " ".join(sorted(gone or ()))}
    stored.to_parquet(draft, index=False)
    os.replace(draft, frame)


def _identity(ledger: Ledger) -> str:
    """Of the ledger and of the format, without the address: the file may be handed on."""
    made = ledger.created() if ledger.exists() else 0
    uri = tracking_uri.redacted(ledger.uri)  # no password: it could be guessed
    text = f"{_FORMAT} {uri} {ledger.experiment} {made}"
    return hashlib.sha256(text.encode()).hexdigest()


def _read_frame(frame: Path) -> pd.DataFrame | None:
    """What is stored; None where nothing is, or it is damaged: the ledger has everything."""
    with contextlib.suppress(OSError, ValueError):
        return pd.read_parquet(frame)
    return None


def _is_foreign(frame: Path) -> bool:
    stored = _read_frame(frame)
    return stored is not None and "ledger" not in stored.attrs


def _stored(frame: Path, identity: str) -> tuple[dict[str, TrialRecord], dict[str, list[str]]]:
    """The finished trials of a frame of the same ledger, as records, and what was asked and gone then."""
    stored = _read_frame(frame)
    if stored is None or stored.attrs.get("ledger") != identity or not {*_ABOUT, *TAGS} <= {*stored.columns}:
        return {}, {}
    asked = {name: str(stored.attrs.get(name, "")).split() for name in ("keys", "gone")}
    rows = finished(stored)
    metrics = rows[metric_names(rows)].to_dict("records")
    tags = rows[list(TAGS)].to_dict("records")
    about = zip(rows["key"], rows["run_id"], rows["changed"], metrics, tags, strict=True)
    records = {
        key: TrialRecord(
            key=key,
            run_id=run_id,
            status="FINISHED",
            params={},
            tags={str(name): value for name, value in tag.items() if isinstance(value, str)},
            metrics={str(name): value for name, value in values.items()},
            changed=int(changed),
        )
        for key, run_id, changed, values, tag in about
    }
    return records, asked


def _refuse_mixed(trials: pd.DataFrame) -> None:
    """Raise MixedData if a cell has trials on different data.

    Those of another PROTOCOL cannot be here: it is part of the key by which trials are found.
    """
    for label, cell in finished(trials).dropna(subset=DATA_TAG).groupby("cell_label", sort=False):
        runs = {digest: list(part["run_id"]) for digest, part in cell.groupby(DATA_TAG)}
        if len(runs) > 1:
            groups = "; ".join(f"{str(digest)[:12]}: {_named(ids)}" for digest, ids in runs.items())
            raise MixedData(
                f"{label}: its trials were trained on different data, which no table may mix. Runs by"
                f" {DATA_TAG}: {groups}. `python study/run.py … --rerun-stale` trains those again that are"
                " not on the data at hand"
            )


def _named(run_ids: Sequence[str]) -> str:
    more = f" and {len(run_ids) - NAMED_RUNS} more" if len(run_ids) > NAMED_RUNS else ""
    return ", ".join(run_ids[:NAMED_RUNS]) + more


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials alone: the only ones that have results."""
    return trials[trials["status"] == "FINISHED"]


def config_of(row: Mapping[Hashable, Any]) -> TrialConfig:
    """The trial of a row of a frame, where None has become NaN and integers beside it floats."""
    values: dict[str, Any] = {name: None if pd.isna(row[name]) else row[name] for name in FIELDS}
    whole = [name for name, value in values.items() if value is not None and field_type(name)[0] is int]
    return TrialConfig(**{**values, **{name: int(values[name]) for name in whole}})


def metric_names(trials: pd.DataFrame) -> list[str]:
    """The final metrics among the columns."""
    return [name for name in trials.columns if name not in DESCRIPTION]


def cell_labels(trials: pd.DataFrame) -> dict[int, str]:
    """The label of each cell, by its number."""
    return dict(zip(trials["cell"], trials["cell_label"], strict=True))
