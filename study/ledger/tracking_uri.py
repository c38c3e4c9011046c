"""Addresses of the ledger's store: which are supported, and a database that is created safely."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from trainables.redact import masked

TIMEOUT = 5
"""Seconds to wait for a server."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Supported servers with their default ports."""


class LedgerError(ValueError):
    """The ledger cannot be used as asked; the message says what was given and what is allowed."""


def check_reachable(uri: str) -> None:
    """Raise LedgerError unless the address is supported and answers within 5 s."""
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
        socket.create_connection((host, port), timeout=TIMEOUT).close()
    except OSError as error:
        raise LedgerError(
            f"--tracking-uri: nothing answers at {host}:{port} ({error.strerror or error})"
        ) from None
    except ValueError:  # whose message may contain a part of the password
        raise LedgerError(f"--tracking-uri: got {redacted(uri)!r}; allowed: SCHEME://HOST:PORT/…") from None


def redacted(uri: str) -> str:
    """The address without its password, even where that contains characters that end an address."""
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
    """Create MLflow's database under a temporary name, so that being killed half-way breaks nothing.

    A separate process does it: all connections end with it, and the migrations do not block other threads for
    seconds. Only the holder of the lock calls this, so leftovers of an earlier attempt can be deleted.
    """
    scratch = file.with_name(f".{file.name}.creating")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    draft = scratch / file.name
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments(max_results=1)"
    command = [sys.executable, "-c", code, f"sqlite:///{draft}"]
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
