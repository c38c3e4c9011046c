"""Which code runs."""

import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_tags() -> dict[str, str]:
    """Which code runs: version of this project and of Ray, and its commit where it lies in a git checkout."""
    known = {"version.study": version("siamese-barlow-twins"), "version.ray": version("ray")}
    try:
        commit = _git("rev-parse", "HEAD").strip()
        known |= {"git.commit": commit, "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.CalledProcessError):
        return known  # installed from a package: the version says it
    return known


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
