"""Whether a ledger can be used at all, asked before anything begins: nothing is created or changed.

MLflow's client would retry for minutes where a file cannot be opened, bring a database of an older version up
to date without asking, and add its tables to a database of another program.
"""

import contextlib
import importlib.util
import re
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from study.ledger.sqlite_reader import SCHEMA
from study.ledger.tracking_uri import PORTS, LedgerError, redacted, sqlite_file
from trainables.redact import first_line

TIMEOUT = 5
"""Seconds to wait for a server."""
NOTICED = 2.0
"""Seconds after which people are told that a database is locked."""
LOCKED = 60.0
"""Seconds to wait for a database that another process has locked: a transaction of MLflow's takes less."""
REVISION = re.compile(r"^(down_)?revision\s*=\s*['\"](\w+)['\"]", re.MULTILINE)
"""In MLflow's files, one a schema: what it is called, and from which one it goes on."""


def tell(line: str) -> None:
    """A line for people, beside results."""
    print(line, file=sys.stderr, flush=True)


def check_reachable(uri: str, say: Callable[[str], object] = tell) -> None:
    """Raise LedgerError unless the address is supported, and its server answers or its file can be read.

    A server has 5 s. It waits for a locked file, and `say`s so.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        file = sqlite_file(uri)
        if file is not None and (file.exists() or file.is_symlink()):
            _check_readable(file, say)
        return
    if scheme not in PORTS:
        raise LedgerError(
            f"--tracking-uri: got {redacted(uri)!r}; allowed: sqlite:///FILE, a database or an http(s)"
            " address (MLflow's file store is not supported)"
        )
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port or PORTS[scheme]
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        raise LedgerError(
            f"--tracking-uri: nothing answers at {host}:{port} ({error.strerror or error})"
        ) from None
    except ValueError:  # whose message may contain a part of the password
        raise LedgerError(f"--tracking-uri: got {redacted(uri)!r}; allowed: SCHEME://HOST:PORT/…") from None


def check_database_writable(file: Path, say: Callable[[str], object] = tell) -> None:
    """Raise LedgerError unless a transaction that writes can begin in an existing database of MLflow."""
    with _opened(file, "rw", say) as database:
        ((version,),) = database.execute("pragma user_version").fetchall()
        database.execute(f"pragma user_version = {version}")  # only a write tells that a file is read-only


def _check_readable(file: Path, say: Callable[[str], object]) -> None:
    """Raise LedgerError unless a file is a database that the installed MLflow uses as it is."""
    where = f"--tracking-uri: {file}"
    if file.exists() and not file.is_file():  # a pipe would block whoever opens it
        raise LedgerError(f"{where} is no file{' but a folder' if file.is_dir() else ''}")
    try:
        with file.open("rb") as content:
            empty = not content.read(1)
    except OSError as error:
        raise LedgerError(f"{where} cannot be read ({error.strerror or error})") from None
    if empty:
        raise LedgerError(f"{where} is empty; move it away, or put a copy back that holds the ledger")
    with _opened(file, "ro", say) as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
        if not {"alembic_version", "runs"} <= tables:
            raise LedgerError(
                f"{where} is a database, but not MLflow's; allowed: another name for the ledger"
            )
        schemas = {name for (name,) in database.execute("select version_num from alembic_version")}
    _check_schema(where, schemas)


def _check_schema(where: str, schemas: set[str]) -> None:
    """Raise LedgerError unless the schema is that of the installed MLflow."""
    if schemas == {SCHEMA}:
        return
    known, latest = _installed_schemas()
    if schemas <= latest:
        return  # of another MLflow than this project was tested with: its client reads it
    name = ", ".join(sorted(schemas)) or "none"
    if schemas <= known:
        raise LedgerError(
            f"{where} was made by an older MLflow (schema {name}); allowed: `mlflow db upgrade` with its"
            " address, after making a copy"
        )
    raise LedgerError(
        f"{where} was made by another MLflow, probably a newer one (schema {name}); allowed: that MLflow,"
        " installed here"
    )


def _installed_schemas() -> tuple[set[str], set[str]]:
    """The schemas that the installed MLflow knows, and the latest; importing it would take seconds."""
    found = importlib.util.find_spec("mlflow")
    folders = found.submodule_search_locations or [] if found else []
    names: dict[bool, set[str]] = {False: set(), True: set()}
    for folder in folders:
        for file in Path(folder, "store/db_migrations/versions").glob("*.py"):
            for is_previous, name in REVISION.findall(file.read_text()):
                names[bool(is_previous)].add(name)
    return names[False], names[False] - names[True]


@contextlib.contextmanager
def _opened(file: Path, mode: str, say: Callable[[str], object]) -> Iterator[sqlite3.Connection]:
    """A connection within a transaction that reads (`ro`) or could write (`rw`) and that changes nothing.

    LedgerError where the database is damaged or stays locked.
    """
    where = f"--tracking-uri: {file}"
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    try:
        with contextlib.closing(
            sqlite3.connect(address, uri=True, timeout=NOTICED, isolation_level=None)
        ) as database:
            _begin(database, mode, lambda: say(f"{where} is locked by another process: waiting"))
            yield database
            database.rollback()
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # its lowest byte is the kind of error
        reason = {
            sqlite3.SQLITE_BUSY: f"has been locked by another process for {LOCKED:.0f} s",
            sqlite3.SQLITE_LOCKED: f"has been locked by another process for {LOCKED:.0f} s",
            sqlite3.SQLITE_READONLY: "cannot be written",
            sqlite3.SQLITE_NOTADB: "is no SQLite database, or a damaged one",
            sqlite3.SQLITE_CORRUPT: "is damaged or cut short; put a copy back",
        }.get(code, "cannot be used")
        raise LedgerError(f"{where} {reason} ({first_line(error)})") from None


def _begin(database: sqlite3.Connection, mode: str, on_waiting: Callable[[], object]) -> None:
    """Begin a transaction, and read: only then a lock, or damage, shows."""
    kind, look = "begin immediate" if mode == "rw" else "begin", "select count(*) from sqlite_master"
    try:
        database.execute(kind)
        database.execute(look)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        on_waiting()
        database.execute(f"pragma busy_timeout = {round(1000 * (LOCKED - NOTICED))}")
        if not database.in_transaction:
            database.execute(kind)
        database.execute(look)
