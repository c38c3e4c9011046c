"""Passwords and tokens: where they may stand, and who may read them."""

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

from trainables.redact import masked

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def has_secret(uri: str) -> bool:
    """Whether an address holds a password, or what looks like one."""
    if masked(uri) != uri:
        return True
    try:  # quotes and spaces, which end an address within a text, do not end one that stands for itself
        return urlsplit(uri).password is not None
    except ValueError:
        return True


def is_typed(value: str, variable: str) -> bool:
    """Whether a value stands on the command line, where all users of the machine can read it."""
    return value != os.environ.get(variable) or any(value in word for word in sys.argv[1:])


def check_mode(file: Path) -> None:
    """Raise ValueError where others than its owner may read a file with a secret; it may be missing."""
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & OTHERS:
            raise ValueError(f"{file} holds a password: got mode {mode:04o}; allowed: chmod 600 {file}")


def check_tracking(uri: str) -> None:
    """Raise ValueError where a password of the tracking store can be read by others."""
    if has_secret(uri) and is_typed(uri, "MLFLOW_TRACKING_URI"):
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
    """Raise ValueError for keys in the address: it goes into Ray's and Tune's files, on all nodes."""
    if "://" in uri and has_secret(uri):
        raise ValueError(
            f"--storage: got {masked(uri)!r}, an address with a password or key; allowed: without, and"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the role of the machine"
        )


def guard_ray_token(*, create: bool) -> None:
    """See to it that Ray's token is for its owner alone. Ray itself makes a file that all may read.

    Args:
        create: make one where there is none, as a Ray of one's own is about to start.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # a home that cannot be written is for Ray to complain of
        if file.exists():
            if stat.S_IMODE(file.stat().st_mode) & OTHERS:
                file.chmod(0o600)
            return
        if create and not named:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
            try:
                _write_secret(draft, secrets.token_hex(32))
                try:
                    os.link(draft, file)  # whole or not at all, and only one of two drivers
                except FileExistsError:
                    return
                except OSError:  # a home without hard links
                    _write_secret(file, secrets.token_hex(32))
            finally:
                draft.unlink(missing_ok=True)


def _write_secret(file: Path, text: str) -> None:
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
