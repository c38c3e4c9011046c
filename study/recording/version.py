"""Tags that say which code runs."""

import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_tags() -> dict[str, str]:
    """Versions of this project and of Ray, and the commit where this is a git checkout."""
    tags = {"version.study": version("siamese-barlow-twins"), "version.ray": version("ray")}
    try:
        status = str(bool(_git("status", "--porcelain"))).lower()
        return {**tags, "git.commit": _git("rev-parse", "HEAD").strip(), "git.dirty": status}
    except (OSError, subprocess.CalledProcessError):
        return tags  # an installed package: its version identifies it


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
