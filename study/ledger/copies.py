"""Everything that a run has, read from one ledger and written into another.

A run that is written has the tag `kind=merging` until all of it is there: whoever is killed meanwhile leaves
no half of a trial, only a run that nobody counts, which the next merge completes or deletes.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from study.ledger import sqlite_reader
from study.ledger.ledger import MAX_METRICS, Ledger
from study.ledger.records import DRIVER_TAG, TrialRecord

MERGING = "merging"
"""The tag `kind` of a run that is being written."""
COMPLETE = "merged.replaces"
"""Tag of a run when all of it is there: the ids of the runs that it replaces."""


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    timestamp: int
    """ms since 1970"""
    step: int


def read_points(ledger: Ledger, run_id: str) -> list[Point]:
    """All points of a run, by name, step and time."""
    file = ledger.store.sqlite_file
    if file is not None:
        with contextlib.suppress(sqlite_reader.UnsupportedSchema):
            return sorted(set(map(Point._make, sqlite_reader.read_points(file, run_id))), key=_order)
    with ledger.store.asking():
        names = ledger.client.get_run(run_id).data.metrics
        found = {
            Point(point.key, float(point.value), int(point.timestamp), int(point.step))
            for name in names
            for point in ledger.client.get_metric_history(run_id, name)
        }
    return sorted(found, key=_order)


def _order(point: Point) -> tuple[str, int, int]:
    return point.name, point.step, point.timestamp


def settle_interrupted(ledger: Ledger) -> int:
    """Complete or delete what a killed merge left; returns how many trials were completed.

    Only for the driver that holds the lock.
    """
    completed = 0
    for run in list(ledger.store.search(f"tags.kind = '{MERGING}'")):
        replaced = run.data.tags.get(COMPLETE)
        if replaced is None:
            ledger.delete_runs([run.info.run_id])
        else:
            _publish(ledger, run.info.run_id, json.loads(replaced))
            completed += 1
    return completed


def write_trial(
    ledger: Ledger,
    record: TrialRecord,
    points: list[Point],
    files: Mapping[str, Path],
    *,
    origin: str,
    replaces: TrialRecord | None = None,
) -> str:
    """Add a trial's run as another ledger has it; returns its id here.

    Args:
        ledger: open, and locked by this process.
        record: as the other ledger has it.
        points: of the run.
        files: its artifacts, by their names there.
        origin: where it comes from, for the tag `merged.from`.
        replaces: the run of the same trial that this ledger has; it is deleted (MLflow can restore it).
    """
    from mlflow.entities import Metric, Param, RunTag

    status = "KILLED" if record.status == "RUNNING" else record.status  # nobody runs it here
    with ledger.store.asking():
        tags = {**record.tags, "kind": MERGING, "merged.from": origin, "merged.run": record.run_id}
        tags.pop(DRIVER_TAG, None)  # no driver of this ledger's
        run = ledger.client.create_run(
            ledger.experiment_id, record.started or None, tags, record.name or None
        )
        run_id = str(run.info.run_id)
        params = [Param(name, value) for name, value in record.params.items()]
        ledger.client.log_batch(run_id, params=params)
        for start in range(0, len(points), MAX_METRICS):
            part = points[start : start + MAX_METRICS]
            metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in part]
            ledger.client.log_batch(run_id, metrics=metrics)
        for path in files.values():
            ledger.client.log_artifact(run_id, str(path))
        ledger.client.set_terminated(run_id, status, record.changed or None)
        replaced = [] if replaces is None else [replaces.run_id]
        ledger.client.log_batch(run_id, tags=[RunTag(COMPLETE, json.dumps(replaced))])
        _publish(ledger, run_id, replaced)
    return run_id


def _publish(ledger: Ledger, run_id: str, replaced: list[str]) -> None:
    """Let a complete run count as the trial, instead of those that it replaces."""
    with ledger.store.asking():
        for other in replaced:
            if ledger.client.get_run(other).info.lifecycle_stage == "active":
                ledger.client.delete_run(other)
        ledger.client.set_tag(run_id, "kind", "trial")
