"""Ledgers that cannot be used are told in one line before anything begins, and stay as they are."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from study.cli.options import parser
from study.ledger import usable
from study.ledger.ledger import Ledger
from study.ledger.options import ledger_from
from study.ledger.sqlite_reader import SCHEMA
from study.ledger.storage_uri import storage_uri
from study.ledger.tracking_uri import LedgerError, sqlite_address, sqlite_file
from study.ledger.usable import check_database_writable, check_reachable


@pytest.fixture
def database(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


def sql(database: Path, *commands: str) -> None:
    with sqlite3.connect(database) as store:
        for command in commands:
            store.execute(command)
    store.close()


def cut_short(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: 2**18])


def of_another_program(database: Path) -> None:
    database.unlink()
    sql(database, "create table runs (a)")


def a_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


def a_pipe(database: Path) -> None:
    database.unlink()
    os.mkfifo(database)


def a_link_to_nothing(database: Path) -> None:
    database.unlink()
    database.symlink_to("nothing")


OLDER = "451aebb31d03"
"""The schema of MLflow 0.8.2."""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, "is damaged or cut short; put a copy back (database disk image is malformed)"),
        (lambda file: file.write_bytes(b""), "is empty; move it away, or put a copy back"),
        (lambda file: file.write_bytes(b"no" * 9999), "is no SQLite database, or a damaged one"),
        (of_another_program, "is a database, but not MLflow's"),
        (a_folder, "is no file but a folder"),
        (a_pipe, "is no file"),
        (a_link_to_nothing, "cannot be read (No such file or directory)"),
        (
            lambda file: sql(
                file, "update alembic_version set version_num = '451aebb31d03'", "drop table issues"
            ),
            f"was made by an older MLflow (schema {OLDER}); allowed: `mlflow db upgrade`",
        ),
        (
            lambda file: sql(file, "update alembic_version set version_num = 'f00d'"),
            "was made by another MLflow, probably a newer one (schema f00d)",
        ),
    ],
)
def test_a_database_that_cannot_be_used(
    database: Path, damage: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    damage(database)
    before = hashlib.sha256(database.read_bytes()).digest() if database.is_file() else None
    with pytest.raises(LedgerError) as told:
        check_reachable(f"sqlite:///{database}")
    assert str(told.value).startswith(f"--tracking-uri: {database} ")
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    if before is not None:
        assert hashlib.sha256(database.read_bytes()).digest() == before


def test_the_schema_that_is_read_here_is_the_installed_mlflows(database: Path) -> None:
    """Another MLflow may be installed, whose own latest schema its client reads."""
    known, latest = usable._installed_schemas()
    assert latest == {SCHEMA}
    assert {OLDER, SCHEMA} < known
    check_reachable(f"sqlite:///{database}")


def test_damage_that_shows_later_is_told_by_who_reads(database: Path) -> None:
    """MLflow's client would try for minutes."""
    content = bytearray(database.read_bytes())
    content[2 * 4096 :] = bytes(len(content) - 2 * 4096)
    database.write_bytes(content)
    ledger = Ledger(uri=f"sqlite:///{database}", experiment="test", artifact_root=database.parent)
    with pytest.raises(LedgerError, match=r"mlflow.db cannot be read: database disk image is malformed"):
        ledger.exists()


def test_a_locked_database_is_waited_for_and_that_is_said(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usable, "NOTICED", 0.1)
    said: list[str] = []
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("begin exclusive")
    monkeypatch.setattr(usable, "LOCKED", 0.3)
    for check in (lambda: check_reachable(f"sqlite:///{database}", said.append),) * 2:
        with pytest.raises(LedgerError, match=r"mlflow.db has been locked by another process for 0 s \(data"):
            check()
    monkeypatch.setattr(usable, "LOCKED", 30.0)
    release = threading.Timer(0.5, lambda: other.execute("rollback"))
    release.start()
    before = database.read_bytes()
    check_database_writable(database, said.append)
    release.join()
    assert database.read_bytes() == before
    assert said == [f"--tracking-uri: {database} is locked by another process: waiting"] * 3
    other.execute("begin immediate")  # who writes keeps no reader waiting
    began = time.monotonic()
    check_reachable(f"sqlite:///{database}", said.append)
    assert time.monotonic() - began < 1
    assert len(said) == 3
    other.close()


READ_ONLY = """
import os, sys
from pathlib import Path
from study.ledger.usable import check_database_writable, check_reachable
os.setgid(65534)
os.setuid(65534)
file = Path(sys.argv[1])
check_reachable(f"sqlite:///{file}")
for check in (
    lambda: check_database_writable(file),
    lambda: check_reachable(f"sqlite:///{file.parent}/unreadable.db"),
):
    try:
        check()
    except ValueError as error:
        print(error)
"""


def test_a_database_of_somebody_else(empty_store: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may become somebody else, and root may write what is read-only")
    with tempfile.TemporaryDirectory() as name:  # others see nothing in folders of tests
        folder = Path(name)
        folder.chmod(0o755)
        for copy, mode in (("mlflow.db", 0o444), ("unreadable.db", 0o600)):
            shutil.copy(empty_store, folder / copy)
            (folder / copy).chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, folder / "mlflow.db"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "unreadable.db"]
    assert done.stdout.splitlines() == [
        f"--tracking-uri: {folder}/mlflow.db cannot be written (attempt to write a readonly database)",
        f"--tracking-uri: {folder}/unreadable.db cannot be read (Permission denied)",
    ], done.stderr


@pytest.mark.parametrize(
    "uri", ["sqlite:///", "sqlite://", "sqlite:x.db", "sqlite:///:memory:", "sqlite:///file:x?uri=true"]
)
def test_addresses_that_name_no_file(uri: str) -> None:
    """A database in memory would be lost with all results."""
    with pytest.raises(LedgerError, match=r"got '.*', which names no file; allowed: sqlite:///FILE"):
        ledger_from(parser().parse_args(["--tracking-uri", uri]))


@pytest.mark.parametrize("name", ["", "  ", "a" * 501])
def test_names_of_experiments(name: str) -> None:
    with pytest.raises(LedgerError, match=r"--experiment: got .*; allowed: a name of 1 to 500 characters"):
        ledger_from(parser().parse_args(["--experiment", name]))
    longest = parser().parse_args(["--experiment", "é" * 42])
    assert len(Path(storage_uri(longest)).name) == 252
    with pytest.raises(ValueError, match="--experiment: got a name of 258 characters as that of a folder"):
        storage_uri(parser().parse_args(["--experiment", "é" * 43]))


ODD = "a%20b #c?d é%"


def test_any_path_has_an_address(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It means the same file to SQLAlchemy, MLflow and us; nobody makes a folder spelt as in the address."""
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    for typed in ([], ["--tracking-uri", sqlite_address(folder / "mlflow.db")]):
        ledger = ledger_from(parser().parse_args([*typed, "--output", str(folder), "--experiment", "test"]))
        assert sqlite_file(ledger.uri) == folder / "mlflow.db"
        check_reachable(ledger.uri)
        assert ledger.exists()
        run_id = ledger.client.create_run(ledger.experiment_id).info.run_id
        ledger.log_files(run_id, {"report.html": b"<html>"})
        assert ledger.artifact(run_id, "report.html").read_bytes() == b"<html>"
    assert len(ledger.client.search_runs([ledger.experiment_id])) == 2
    assert [path.name for path in tmp_path.iterdir()] == [ODD]
    for plain in ("/a b/é+&=@:~/mlflow.db", "runs/mlflow.db"):
        assert sqlite_address(Path(plain)) == f"sqlite:///{plain}"
        assert sqlite_file(f"sqlite:///{plain}") == Path(plain)
    assert sqlite_file("sqlite:////a%20b/mlflow.db?timeout=9") == Path("/a b/mlflow.db")
