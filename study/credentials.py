"""Passwords and tokens: where they may stand, and who may read them."""

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

OTHERS = stat.S_IRWXG | stat.S_IRWXO
SECRET_WORDS = ("password", "passwd", "secret", "token", "sslkey")


def secret_of(uri: str) -> str | None:
    """The password within an address; None where there is none."""
    try:
        parts = urlsplit(uri)
        if parts.password:
            return parts.password
    except ValueError:
        return None
    for name, value in parse_qsl(parts.query):
        if value and any(word in name.lower() for word in SECRET_WORDS):
            return value
    return None


def is_typed(value: str, variable: str) -> bool:
    """Whether a value stands on the command line, where all users of the machine can read it."""
    return value != os.environ.get(variable) or any(value in word for word in sys.argv[1:])


def check_mode(file: Path) -> None:
    """Raise PermissionError where others than its owner may read a file with a secret; it may be missing."""
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & OTHERS:
            raise PermissionError(
                f"{file} holds a password and has mode {mode:04o}; allowed: 0600, `chmod 600 {file}`"
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
            descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as text:
                text.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)  # whole or not at all, and only one of two drivers
            draft.unlink()
