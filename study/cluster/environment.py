"""What in the environment keeps Ray from starting.

Found before Ray is imported, which would answer with a traceback, or with a crash of the whole process.
"""

import os
import pkgutil
import re
import resource
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from study.cluster.ray_internals import MAX_PENDING_TRIALS, TUNE_SETTINGS
from trainables.redact import first_line, masked

AUTH_MODES = ("token", "disabled", "k8s")
HOOK = "RAY_RUNTIME_ENV_HOOK"
TEXTS = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR", HOOK)
"""Variables of Ray that its import does not parse."""
BY_RAY = ("RAY_CLIENT_MODE", "RAY_USAGE_STATS_ENABLED")
"""Ray sets these in processes that import it, and processes that these start inherit them."""
PATIENCE = 60.0
"""Seconds for Ray to be imported by a process of its own."""
ADDRESS_SPACE = 8 * 10**9
"""Bytes of addresses that each of Ray's processes may need."""
OPEN_FILES = 256
"""Files that local Ray must be able to open at once."""
ROOM = 2**20
"""Bytes without which Ray cannot start; its logs take more."""
SOCKET_NAME = 107
"""Bytes that the name of a Unix socket may have."""
LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest name that Ray gives a socket in its temporary folder."""


def trouble(environment: Mapping[str, str], *, local: bool) -> str | None:
    """What was found that Ray cannot work with, and what to do; `local`: it is to start on this machine."""
    found = _token(environment) or _pending(environment) or _hook(environment) or _parsed(environment)
    if found or not local:
        return found
    return _limits() or _folder(environment)


def temporary_folder(environment: Mapping[str, str]) -> tuple[str, Path]:
    """Where Ray makes its folder `ray`, with the variable that says so (one that may, where none does)."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in environment:
            return name, Path(environment[name])
    return "RAY_TMPDIR", Path("/tmp")  # noqa: S108  # Ray's own default


def _token(environment: Mapping[str, str]) -> str | None:
    mode = environment.get("RAY_AUTH_MODE", "token")
    if mode.lower() not in AUTH_MODES:
        return f"RAY_AUTH_MODE: got {mode!r}; allowed: {', '.join(AUTH_MODES)}"
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    if mode.lower() != "token" or not path or environment.get("RAY_AUTH_TOKEN"):
        return None
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            wrong = "which is no regular file"
        elif Path(path).read_bytes().strip():
            return None
        else:
            wrong = "which is empty"
    except (OSError, ValueError) as error:
        wrong = f"which cannot be read ({getattr(error, 'strerror', None) or error})"
    return (
        f"RAY_AUTH_TOKEN_PATH: got {path!r}, {wrong}; allowed: a file with the token of the cluster; without"
        " the variable, local Ray gets a token by itself"
    )


def _pending(environment: Mapping[str, str]) -> str | None:
    given = environment.get(MAX_PENDING_TRIALS, "auto")
    if given == "auto" or (given.isdecimal() and int(given)):
        return None
    return f"{MAX_PENDING_TRIALS}: got {given!r}; allowed: auto, or an integer >= 1"


def _hook(environment: Mapping[str, str]) -> str | None:
    given = environment.get(HOOK)
    if given is None:
        return None
    try:
        if callable(pkgutil.resolve_name(given)):
            return None
        wrong = "it is no function"
    except Exception as error:  # whatever importing a module raises
        wrong = first_line(error)
    return f"{HOOK}: got {given!r} ({wrong}); allowed: MODULE.FUNCTION that can be imported"


def _parsed(environment: Mapping[str, str]) -> str | None:
    """What of Ray's own settings keeps it from being imported: a process that tries it may crash."""
    known = {
        *TEXTS,
        *BY_RAY,
        *TUNE_SETTINGS,
        MAX_PENDING_TRIALS,
    }  # the study sets these itself, or has looked at them
    settings = sorted(name for name in environment if re.match("RAY_|TUNE_", name) and name not in known)
    if not settings or _importable(environment):
        return None
    rest = {name: value for name, value in environment.items() if name not in settings}
    for name in settings:
        if not _importable({**rest, name: environment[name]}):
            return f"{name}: got {masked(environment[name])!r}, with which Ray does not start; leave it out"
    return None


def _importable(environment: Mapping[str, str]) -> bool:
    command = [sys.executable, "-c", "import ray"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode == 0


def _limits() -> str | None:
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY and addresses < ADDRESS_SPACE:
        return (
            f"the address space of a process is limited to {addresses / 1e9:.1f} GB (ulimit -v); Ray and"
            f" PyTorch take {ADDRESS_SPACE / 1e9:g} GB, most of which is never memory: ulimit -v unlimited"
        )
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        return f"a process may open {files} files (ulimit -n); Ray takes {OPEN_FILES}: ulimit -n {most}"
    return None


def _folder(environment: Mapping[str, str]) -> str | None:
    """What is wrong with the folder in which Ray makes its own."""
    name, folder = temporary_folder(environment)
    instead = "a folder that you can write to with a short path, such as RAY_TMPDIR=$HOME/ray"
    if len(os.fsencode(folder.absolute())) + len(LONGEST_SOCKET) > SOCKET_NAME:
        most = SOCKET_NAME - len(LONGEST_SOCKET)
        return f"{name}: got {str(folder)!r}, too long for Ray's sockets; allowed: at most {most} bytes"
    made = folder / "ray"
    there = next(path for path in (made, *made.parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        if shutil.disk_usage(there).free >= ROOM:
            return None
        return f"there is no room for Ray's files in {there}; allowed: {instead}"
    try:
        whose = f"which belongs to user {there.owner()}"
    except (KeyError, OSError):
        whose = "which belongs to another user"
    if not there.is_dir():
        whose = "which is no folder"
    return f"Ray's folder {made} cannot be made or written in {there}, {whose}; allowed: {instead}"
