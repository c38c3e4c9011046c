"""Reading trials straight from MLflow's SQLite database, many times faster than through its client.

MLflow's client takes 3 s to be imported and a millisecond a run. A call that has nothing to do, and a plan,
only read: here they take tenths of seconds, for thousands of trials. Only databases of the one schema that
this module knows are read; of any other, and of servers, the client is asked, as it is for all that is
written.
"""

import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

SCHEMA = "dc11669786a5"
"""Alembic's name of the schema of MLflow 3.17."""
PATIENCE = 10.0
"""Seconds that a database in which somebody writes is waited for."""
WORKSPACE = "default"
TRIALS = """
    select run.run_uuid, run.status, run.start_time, run.end_time from runs run
    join tags kind on kind.run_uuid = run.run_uuid and kind.key = 'kind' and kind.value = 'trial'
    where run.experiment_id = ? and run.lifecycle_stage = 'active'
    order by run.start_time desc, run.run_uuid
"""
"""The runs of trials, in the order in which MLflow's client gives them."""


class Experiment(NamedTuple):
    """An experiment as the database has it."""

    id: str
    deleted: bool
    created: int
    """ms since 1970."""


@dataclass(slots=True)
class QuickRun:
    """The run of a trial."""

    run_id: str
    status: str
    changed: int
    """ms since 1970."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the names that were asked for."""


class NotQuick(Exception):
    """The database is none that can be read here; nothing need be wrong with it."""


def find_experiment(file: Path, name: str) -> Experiment | None:
    """The experiment of that name, None where there is none; NotQuick where the client has to be asked."""
    with _reading(file) as database:
        found = database.execute(
            "select experiment_id, lifecycle_stage, creation_time from experiments"
            " where name = ? and workspace = ?",
            (name, WORKSPACE),
        ).fetchone()
    return None if found is None else Experiment(str(found[0]), found[1] == "deleted", int(found[2] or 0))


def trials(file: Path, experiment_id: str, prefix: str) -> list[QuickRun]:
    """The trials of an experiment, all as of one moment.

    Args:
        file: the database.
        experiment_id: of the experiment.
        prefix: of the names of metrics that are wanted.

    Raises:
        NotQuick: the client has to be asked.
    """
    with _reading(file) as database:
        runs = {
            run_id: QuickRun(run_id, status, int(ended or started or 0))
            for run_id, status, started, ended in database.execute(TRIALS, (experiment_id,))
        }
        # A set of its own, not a join: the tables are read in the order in which they lie.
        for table in ("params", "tags"):
            for run_id, name, value in database.execute(f"select run_uuid, key, value from {table}"):  # noqa: S608
                run = runs.get(run_id)
                if run is not None:
                    # The same few names, for thousands of runs: once in memory.
                    getattr(run, table)[sys.intern(name)] = value
        for run_id, name, value, is_nan in database.execute(
            "select run_uuid, key, value, is_nan from latest_metrics where substr(key, 1, ?) = ?",
            (len(prefix), prefix),
        ):
            run = runs.get(run_id)
            if run is not None:
                run.metrics[sys.intern(name)] = float("nan") if is_nan else value
    return list(runs.values())


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, within one transaction: what is read fits together."""
    try:
        database = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True, timeout=PATIENCE)
        with contextlib.closing(database):
            database.execute("begin")
            if database.execute("select version_num from alembic_version").fetchall() != [(SCHEMA,)]:
                raise NotQuick
            yield database
    except sqlite3.Error as error:
        raise NotQuick from error
