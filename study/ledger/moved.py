"""An output folder that was renamed or copied.

MLflow keeps the absolute address of each run's artifacts, and of the folder where new runs get theirs. Both
name the old folder still.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from study.ledger.sqlite_reader import BUSY_TIMEOUT, has_known_schema
from study.ledger.tracking_uri import local_folder

RUNS = """
    select run.run_uuid, run.artifact_uri, run.status = 'FINISHED' and kind.value = 'trial' from runs run
    left join tags kind on kind.run_uuid = run.run_uuid and kind.key = 'kind' where run.experiment_id = ?
"""


def bring_along(database: Path, experiment_id: str, root: Path) -> Path | None:
    """Let an experiment in a local database have its artifacts in `root`, where the database was moved.

    Only for the driver that holds the lock. All addresses change in one transaction. Those of finished trials
    stay where their files did not come along. Nothing changes for a folder that somebody chose (see
    `_was_moved`), or where the schema is not known.

    Returns:
        The old folder; None if the experiment was not moved.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY_TIMEOUT, isolation_level=None)) as store:
        if not has_known_schema(store):
            return None
        old = _location(store, experiment_id)
        if old is None or not _was_moved(old, root, database):
            return None
        store.execute("begin immediate")
        update = "update experiments set artifact_location = ? where experiment_id = ?"
        store.execute(update, (root.as_uri(), experiment_id))
        for run_id, address, is_finished_trial in store.execute(RUNS, (experiment_id,)).fetchall():
            folder = local_folder(address)
            if folder is None or not folder.is_relative_to(old):
                continue
            new = root / folder.relative_to(old)
            if new.is_dir() or not (is_finished_trial and folder.is_dir()):
                store.execute("update runs set artifact_uri = ? where run_uuid = ?", (new.as_uri(), run_id))
        store.execute("commit")
    return old


def _location(store: sqlite3.Connection, experiment_id: str) -> Path | None:
    """The folder where new runs of an experiment get their artifacts; None if it is not on this machine."""
    query = "select artifact_location from experiments where experiment_id = ?"
    ((address,),) = store.execute(query, (experiment_id,)).fetchall()
    return local_folder(address)


def _was_moved(old: Path, root: Path, database: Path) -> bool:
    """Whether artifacts in `old` are those of an output whose database is now beside `root`.

    Then `old` has the name that this project gives, and is gone, or lies beside the database that this one
    was copied from. Any other folder was somebody's choice.
    """
    if not _same(database.parent, root.parent) or old.name != root.name or _same(old, root):
        return False
    return not old.exists() or (old.parent / database.name).exists()


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one, or lead to one folder."""
    return one == other or (one.exists() and other.exists() and os.path.samefile(one, other))
