"""Where the ledger's store is: addresses that can be used, and a database that is made safely."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from trainables.redact import masked

PROBE_SECONDS = 5
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Kinds of servers with the port that each listens at unless the address says otherwise."""


class LedgerError(ValueError):
    """The ledger cannot be used as asked; the message says what was given and what is allowed."""


def probe(uri: str) -> None:
    """Raise LedgerError unless the address can be used and answers; waits 5 s at most."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        return
    if scheme not in PORTS:
        raise LedgerError(
            f"--tracking-uri: got {redacted(uri)!r}; allowed: sqlite:///FILE, a database or an http(s)"
            " address (MLflow's file store is not supported)"
        )
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port or PORTS[scheme]
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise LedgerError(
            f"--tracking-uri: nothing answers at {host}:{port} ({error.strerror or error})"
        ) from None
    except ValueError:  # what it says may hold a part of a password
        raise LedgerError(f"--tracking-uri: got {redacted(uri)!r}; allowed: SCHEME://HOST:PORT/…") from None


def redacted(uri: str) -> str:
    """The address without its password, for messages; a password may hold what ends an address in a text."""
    text = masked(uri)
    try:
        password = urlsplit(uri).password
    except ValueError:
        return text
    return text.replace(password, "***") if password else text


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, None for other addresses."""
    return Path(uri.partition(":///")[2].partition("?")[0]) if uri.startswith("sqlite") else None


def create_sqlite(file: Path) -> None:
    """Create MLflow's database under a temporary name: one killed half-way through bricks nothing.

    In a process of its own: its end closes every connection, and seconds of migrations do not hold up
    the driver's other threads. Only the holder of the lock calls this, so what is left of an earlier
    attempt is nobody's.
    """
    scratch = file.with_name(f".{file.name}.creating")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    draft = scratch / file.name
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
    command = [sys.executable, "-c", code, f"sqlite:///{draft}"]
    made = subprocess.run(command, check=False, capture_output=True, text=True)
    if made.returncode:
        reason = made.stderr.strip().splitlines()[-1:] or [f"exit code {made.returncode}"]
        raise LedgerError(f"--tracking-uri: {file} could not be created: {reason[0]}")
    os.replace(draft, file)
    shutil.rmtree(scratch)


def check_writable(option: str, folder: Path) -> None:
    """Raise LedgerError unless `folder` can be written, or made where it does not exist; leaves no trace."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise LedgerError(
            f"{option}: got {str(folder)!r}, but {nearest} cannot be written ({error.strerror})"
        ) from None
