"""The files of a report: written whole, and what an earlier rendering left behind."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.render.section import RUNNING, STOPPED
from analysis.render.table import Table, to_latex, to_markdown
from analysis.render.text import is_plain, slug

REPORT = "report.html"
MARKDOWN = "report.md"
STAMP = ".rendered"
FOLDERS = ("figures", "tables", "tables/latex", "latex")
"""Folders of a report, of which tables and figures alone have theirs in `--out`."""
ADDRESS = re.compile(r"https?://[^\s\"'<>]+")
"""What may be the address of MLflow's pages."""
NO_UI = "none"
"""In place of such an address: forget the one that was given before."""
LATEX_BLOCK = 8
"""Tables in one file after which LaTeX should empty its pages: it fails where a hundred wait for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The report's path, and all files that were written, the report first: none if nothing had changed.

    `findings` are its answers, changed or not; of a search, `tables` are those of its finalists.
    """

    path: Path
    files: tuple[Path, ...] = ()
    tables: tuple[Table, ...] = ()
    findings: tuple[str, ...] = ()


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write a file whole or not at all: a truncated report looks like one that says less."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)  # not through a link
    draft.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(draft, path)


def refuse_links(folder: Path) -> None:
    """Raise ValueError where a folder of a report is a link: what lies there may be anybody's.

    Of files, the link is replaced.
    """
    for name in FOLDERS:
        if (path := folder / name).is_symlink():
            raise ValueError(
                f"--out: {path} is a link to {os.readlink(path)}, and a report overwrites what is in its"
                " folders; allowed: a folder, or none"
            )


def read_own(path: Path) -> str:
    """A file of a report; empty where there is none, or a link or pipe in its place."""
    return path.read_text(errors="replace") if path.is_file() and not path.is_symlink() else ""


def settle(folder: Path) -> None:
    """Let the report of a study that was stopped say so, and load itself no more; others stay as they are."""
    for name, mark in ((REPORT, '<p class="live">'), (MARKDOWN, "*")):
        path = folder / name
        text = read_own(path)
        running = re.compile(rf"({re.escape(mark)}){RUNNING} ([^·\n]*?)(, about [^·\n]* left)? ·")
        if running.search(text):
            settled = running.sub(rf"\1{STOPPED} \2 ·", text, count=1)
            write_atomic(path, re.sub(r'<meta http-equiv="refresh"[^>]*>\n', "", settled, count=1))


def read_stamp(folder: Path) -> dict[str, Any]:
    """What the last rendering recorded; empty if it cannot be read."""
    try:
        stamp = json.loads(read_own(folder / STAMP))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: Mapping[str, Any]) -> None:
    """Record what was rendered, for `read_stamp`."""
    write_atomic(folder / STAMP, json.dumps(stamp))


def address_of_ui(given: str | None, stamp: Mapping[str, Any]) -> str | None:
    """The address of MLflow's pages: the given one, else that of the last rendering; None: there is none."""
    if given is not None:
        return None if given == NO_UI else given
    known = stamp.get("ui")  # others could write the stamp
    return known if isinstance(known, str) and ADDRESS.fullmatch(known) else None


def invalidate(folder: Path) -> None:
    """Make the next rendering into `folder` render again; figures are kept."""
    write_stamp(folder, {**read_stamp(folder), "state": None})


def write_tables(frames: Mapping[str, pd.DataFrame], tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write frames as CSV, and all tables as `tables.md`, `tables.tex` and `latex/<name>.tex`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        write_atomic(folder / name, frame.to_csv(index=False))
    study = slug(folder.absolute().parent.name)
    latex = {table.name: to_latex(table, study) for table in tables}
    blocks = [list(latex.values())[i : i + LATEX_BLOCK] for i in range(0, len(latex), LATEX_BLOCK)]
    write_atomic(folder / "tables.md", "\n".join(map(to_markdown, tables)))
    write_atomic(folder / "tables.tex", "\n\\clearpage\n".join("\n".join(block) for block in blocks))
    written = [folder / name for name in (*frames, "tables.md", "tables.tex")]
    return written + _write_single(latex, folder / "latex")


def _write_single(latex: Mapping[str, str], folder: Path) -> list[Path]:
    """One file per table; those of an earlier selection are removed, but nobody else's."""
    folder.mkdir(exist_ok=True)
    ours = folder / ".tables"
    for name in read_own(ours).split():
        if name not in latex and is_plain(name):
            (folder / f"{name}.tex").unlink(missing_ok=True)
    write_atomic(ours, "\n".join(latex))
    paths = [folder / f"{name}.tex" for name in latex]
    for path, text in zip(paths, latex.values(), strict=True):
        write_atomic(path, text)
    return paths
