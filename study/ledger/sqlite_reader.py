"""Reads trials straight from MLflow's SQLite database, many times faster than its client.

Importing MLflow's client takes 3 s, and reading a run a millisecond. A plan only reads: here that takes
tenths of a second for thousands of trials. Only the schema below is supported; for others, for servers and
for writing, the client is used.
"""

import contextlib
import math
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from study.ledger.records import FINAL_PREFIX, TrialRecord, without_mlflow_tags
from study.ledger.tracking_uri import LedgerError
from trainables.redact import first_line

SCHEMA = "dc11669786a5"
"""Alembic's name of the schema of MLflow 3.17."""
BUSY_TIMEOUT = 60.0
"""Seconds to wait for a database that another process has locked."""
WORKSPACE = "default"
RUNS = """
    select run.run_uuid, run.name, run.status, run.start_time, run.end_time from runs run
    join tags kind on kind.run_uuid = run.run_uuid and kind.key = 'kind' and kind.value = 'trial'
    where run.experiment_id = ? and run.lifecycle_stage = 'active'
    order by run.start_time desc, run.run_uuid
"""
"""The runs of trials, in the order in which MLflow's client returns them."""
STUDY_RUNS = """
    select run.run_uuid, space.value from runs run
    join tags kind on kind.run_uuid = run.run_uuid and kind.key = 'kind' and kind.value = 'study'
    join tags space on space.run_uuid = run.run_uuid and space.key = 'space'
    where run.experiment_id = ? and run.lifecycle_stage = 'active'
    order by run.start_time, run.run_uuid
"""


class Experiment(NamedTuple):
    """An experiment in the database."""

    id: str
    deleted: bool


class UnsupportedSchema(Exception):
    """The database cannot be read here; the client may be able to."""


def find_experiment(file: Path, name: str) -> Experiment | None:
    """The experiment of that name, None where there is none; raises UnsupportedSchema."""
    with _reading(file) as database:
        row = database.execute(
            "select experiment_id, lifecycle_stage from experiments where name = ? and workspace = ?",
            (name, WORKSPACE),
        ).fetchone()
    return None if row is None else Experiment(str(row[0]), row[1] == "deleted")


def read_experiment_tags(file: Path, experiment_id: str) -> dict[str, str]:
    """The experiment's own tags; raises UnsupportedSchema."""
    with _reading(file) as database:
        question = "select key, value from experiment_tags where experiment_id = ?"
        return dict(database.execute(question, (experiment_id,)).fetchall())


def read_trials(file: Path, experiment_id: str) -> list[TrialRecord]:
    """The trials of an experiment, all as of one moment; raises UnsupportedSchema."""
    with _reading(file) as database:
        runs = database.execute(RUNS, (experiment_id,)).fetchall()
        params, tags = (_texts(database, table, [run[0] for run in runs]) for table in ("params", "tags"))
        metrics: dict[str, dict[str, float]] = {run[0]: {} for run in runs}
        for run_id, name, value, is_nan in database.execute(
            "select run_uuid, key, value, is_nan from latest_metrics where substr(key, 1, ?) = ?",
            (len(FINAL_PREFIX), FINAL_PREFIX),
        ):
            if run_id in metrics:
                short = sys.intern(name.removeprefix(FINAL_PREFIX))
                metrics[run_id][short] = float("nan") if is_nan else value
    return [
        TrialRecord(
            key=tags[run_id].get("trial.key", ""),
            run_id=run_id,
            status=status,
            params=params[run_id],
            tags=without_mlflow_tags(tags[run_id]),
            metrics=metrics[run_id],
            changed=int(ended or started or 0),
            name=name or "",
            started=int(started or 0),
        )
        for run_id, name, status, started, ended in runs
    ]


def read_studies(file: Path, experiment_id: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Id and tags of the oldest run of `kind=study` of each space, by space; raises UnsupportedSchema."""
    studies: dict[str, tuple[str, dict[str, str]]] = {}
    with _reading(file) as database:
        for run_id, space in database.execute(STUDY_RUNS, (experiment_id,)).fetchall():
            if space not in studies:
                tags = database.execute("select key, value from tags where run_uuid = ?", (run_id,))
                studies[space] = (run_id, dict(tags.fetchall()))
    return studies


def read_artifact_addresses(file: Path, experiment_id: str) -> dict[str, str]:
    """Where the artifacts of each run of an experiment lie, by the run's id; raises UnsupportedSchema."""
    query = "select run_uuid, artifact_uri from runs where experiment_id = ?"
    with _reading(file) as database:
        return dict(database.execute(query, (experiment_id,)).fetchall())


def read_points(file: Path, run_id: str) -> list[tuple[str, float, int, int]]:
    """Name, value, timestamp (ms since 1970) and step of all points of a run; raises UnsupportedSchema."""
    value = "case when is_nan then null else value end"
    query = f"select key, {value}, timestamp, step from metrics where run_uuid = ?"  # noqa: S608
    with _reading(file) as database:
        rows = database.execute(query, (run_id,)).fetchall()
    return [(name, math.nan if value is None else value, *when) for name, value, *when in rows]


def has_known_schema(database: sqlite3.Connection) -> bool:
    """Whether this module knows the tables of a database."""
    return database.execute("select version_num from alembic_version").fetchall() == [(SCHEMA,)]


def _texts(database: sqlite3.Connection, table: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
    """Names and values in a table, by run. A join would read the table in another order than it is stored."""
    texts: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
    for run_id, name, value in database.execute(f"select run_uuid, key, value from {table}"):  # noqa: S608
        if run_id in texts:
            texts[run_id][sys.intern(name)] = value  # thousands of runs share the same few names
    return texts


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection within one transaction, so that all that is read is consistent.

    LedgerError where the database is damaged, or locked for long: MLflow's client would fail, too, but later.
    """
    try:
        uri = f"file:{quote(str(file.absolute()))}?mode=ro"
        database = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT)
        with contextlib.closing(database):
            database.execute("begin")
            if not has_known_schema(database):
                raise UnsupportedSchema
            yield database
    except sqlite3.Error as error:
        raise LedgerError(f"--tracking-uri: {file} cannot be read: {first_line(error)}") from error
