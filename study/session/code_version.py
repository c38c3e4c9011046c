"""Which code a study runs, so that each trial can be traced to it: commit, uncommitted changes, packages.

Trials get tags; the files that they name are kept once, by the run of the space.
"""

import functools
import hashlib
import io
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from study import ROOT

KEPT = ("analysis", "search_spaces", "study", "trainables", "pyproject.toml", "constraints.txt")
"""What of the checkout makes a result: data and outputs may lie beside it."""
LARGEST = 50 * 2**20
"""Bytes of changes that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeVersion:
    """Tags for the runs of trials, and files by name that the tags refer to."""

    tags: Mapping[str, str]
    files: Mapping[str, bytes]


@functools.cache
def code_version() -> CodeVersion:
    """The code as it lies on this machine now.

    `source.sha256` is the digest of what trains (`trainables/`): trials with equal ones were trained by the
    same code, whatever the commit. `source.kept` names a patch against the commit, or, for an installed
    package, an archive of the source; `environment` names the list of all installed packages.
    """
    from trainables.node import source_digest

    tags = {
        "version.study": version("siamese-barlow-twins"),
        "version.ray": version("ray"),
        "source.sha256": source_digest(),
    }
    environment = _environment()
    files = {f"environment-{_digest(environment)}.txt": environment}
    tags["environment"] = next(iter(files))
    try:
        tags |= {
            "git.commit": _git("rev-parse", "HEAD").decode().strip(),
            "git.dirty": str(bool(_git("status", "--porcelain"))).lower(),
        }
        kept = _changes()
        name = f"code-{_digest(kept)}.patch"
    except (OSError, subprocess.CalledProcessError):  # an installed package
        kept = _source()
        name = f"code-{_digest(kept)}.zip"
    if 0 < len(kept) <= LARGEST:
        tags["source.kept"] = name
        files[name] = kept
    return CodeVersion(tags=tags, files=files)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _git(*arguments: str, **variables: str) -> bytes:
    command = ["git", "-C", str(ROOT), *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def _changes() -> bytes:
    """What differs from the commit, new files included, as a patch for `git apply`; empty: nothing.

    Collected in an index and a store of objects of its own: the checkout is not touched.
    """
    with tempfile.TemporaryDirectory(prefix="study-code-") as scratch:
        objects = _git("rev-parse", "--path-format=absolute", "--git-path", "objects").decode().strip()
        apart = {
            "GIT_INDEX_FILE": str(Path(scratch, "index")),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        present = [name for name in KEPT if (ROOT / name).exists()]
        _git("read-tree", "HEAD", **apart)
        _git("add", "--all", "--", *present, **apart)
        return _git("diff", "--cached", "--binary", "--no-ext-diff", "HEAD", "--", *present, **apart)


def _source() -> bytes:
    """The source of the packages, as an archive of which equal source gives equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for room in KEPT:
            for path in sorted((ROOT / room).rglob("*.py")):
                name = path.relative_to(ROOT).as_posix()
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _environment() -> bytes:
    """Python and all installed packages with their versions, as `pip freeze` writes them."""
    # By the names of their folders: reading the metadata of each takes half a second.
    folders = (path.stem for place in sys.path for path in Path(place).glob("*.dist-info"))
    lines = {f"{name}=={number}" for name, _, number in (folder.rpartition("-") for folder in folders)}
    head = f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    return "\n".join([head, *sorted(lines, key=str.lower), ""]).encode()
