"""Passwords in addresses and files: refused where other users could read them."""

import contextlib
import os
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

from trainables.redact import masked

OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO


def has_secret(uri: str) -> bool:
    """Whether an address contains a password, or what looks like one."""
    if masked(uri) != uri:
        return True
    try:  # `masked` ends an address at quotes and spaces, which a password may contain
        return urlsplit(uri).password is not None
    except ValueError:
        return True


def is_on_command_line(value: str, variable: str) -> bool:
    """Whether a value was typed, and not taken from the environment: all users can read command lines."""
    return value != os.environ.get(variable) or any(value in word for word in sys.argv[1:])


def check_mode(file: Path) -> None:
    """Raise ValueError where other users may read a file with a secret; it may be missing."""
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & OTHER_USERS:
            raise ValueError(f"{file} holds a password: got mode {mode:04o}; allowed: chmod 600 {file}")


def check_tracking(uri: str) -> None:
    """Raise ValueError where other users can read a password of the tracking store."""
    if has_secret(uri) and is_on_command_line(uri, "MLFLOW_TRACKING_URI"):
        raise ValueError(
            "--tracking-uri: got a password on the command line, where all users of this machine can read it;"
            " allowed: the address with its password in MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and"
            " MLFLOW_TRACKING_PASSWORD, ~/.mlflow/credentials, for PostgreSQL ~/.pgpass"
        )
    if uri.startswith("http") and "MLFLOW_TRACKING_PASSWORD" not in os.environ:
        try:
            check_mode(Path.home() / ".mlflow" / "credentials")  # MLflow reads it
        except ValueError as error:
            raise ValueError(f"--tracking-uri: {error}") from None


def check_storage(uri: str) -> None:
    """Raise ValueError for keys in the address, which is copied into Ray's files on all nodes."""
    if "://" in uri and has_secret(uri):
        raise ValueError(
            f"--storage: got {masked(uri)!r}, an address with a password or key; allowed: without, and"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the role of the machine"
        )
