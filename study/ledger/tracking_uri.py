"""Addresses of the ledger's store: which are supported, where passwords may be, and a safe new database."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import url2pathname

from trainables.redact import masked

PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Supported servers with their default ports."""
OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO
SPECIAL = frozenset("%?#")
"""Characters that mean something in an address."""


class LedgerError(ValueError):
    """The ledger cannot be used as asked; the message says what was given and what is allowed."""


def redacted(uri: str) -> str:
    """The address without its password, even where that contains characters that end an address."""
    text = masked(uri)
    try:
        password = urlsplit(uri).password
    except ValueError:
        return text
    return text.replace(password, "***") if password else text


def has_secret(uri: str) -> bool:
    """Whether an address contains a password, or what looks like one."""
    if masked(uri) != uri:
        return True
    try:  # `masked` ends an address at quotes and spaces, which a password may contain
        return urlsplit(uri).password is not None
    except ValueError:
        return True


def check_secrets(uri: str) -> None:
    """Raise LedgerError where other users can read a password of the store."""
    typed = uri != os.environ.get("MLFLOW_TRACKING_URI") or any(uri in word for word in sys.argv[1:])
    if typed and has_secret(uri):
        raise LedgerError(
            "--tracking-uri: got a password on the command line, where all users of this machine can read it;"
            " allowed: the address with its password in MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, ~/.mlflow/credentials, for PostgreSQL ~/.pgpass"
        )
    if not uri.startswith("http") or "MLFLOW_TRACKING_PASSWORD" in os.environ:
        return
    file = Path.home() / ".mlflow" / "credentials"  # MLflow reads it
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & OTHER_USERS:
            raise LedgerError(
                f"--tracking-uri: {file} holds a password: got mode {mode:04o}; allowed: chmod 600 {file}"
            )


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, None for other addresses; the inverse of `sqlite_address`.

    LedgerError for a SQLite address that names no file: a database in memory would be lost at the end.
    """
    if not uri.startswith("sqlite"):
        return None
    _, mark, rest = uri.partition(":///")
    path, _, settings = rest.partition("?")
    file = unquote(path)
    if not mark or file in ("", ":memory:") or file.startswith("file:") or "uri" in parse_qs(settings):
        raise LedgerError(f"--tracking-uri: got {uri!r}, which names no file; allowed: sqlite:///FILE")
    return Path(file)


def sqlite_address(file: Path) -> str:
    """The address of a SQLite file, which SQLAlchemy (from 2.1 on) and `sqlite_file` decode.

    What need not be quoted is not. With `sqlite:///`, MLflow would make the folder that a quoted path spells;
    the longer name of the driver keeps it from doing so.
    """
    path = str(file)
    if SPECIAL.isdisjoint(path):
        return f"sqlite:///{path}"
    return f"sqlite+pysqlite:///{quote(path)}"


def local_folder(address: str) -> Path | None:
    """The folder of an artifact address on this machine; None for one that is elsewhere."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path) if parts.scheme else address)


def create_sqlite(file: Path) -> None:
    """Create MLflow's database under a temporary name, so that being killed half-way breaks nothing.

    A separate process does it: all connections end with it, and the migrations do not block other threads for
    seconds. Only the holder of the lock calls this, so leftovers of an earlier attempt can be deleted.
    """
    scratch = file.with_name(f".{file.name}.creating")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    draft = scratch / file.name
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
    command = [sys.executable, "-c", code, sqlite_address(draft)]
    created = subprocess.run(command, check=False, capture_output=True, text=True)
    if created.returncode:
        reason = created.stderr.strip().splitlines()[-1:] or [f"exit code {created.returncode}"]
        raise LedgerError(f"--tracking-uri: {file} could not be created: {reason[0]}")
    os.replace(draft, file)
    shutil.rmtree(scratch)


def check_writable(option: str, folder: Path) -> None:
    """Raise LedgerError unless `folder` can be written or created; leaves no trace."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise LedgerError(
            f"{option}: got {str(folder)!r}, but {nearest} cannot be written ({error.strerror})"
        ) from None
