"""Pages of results: how they are written, and what an earlier rendering left."""

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.plots.cache import Figure
from analysis.render.table import Table, Ui, to_html

REPORT = "report.html"
MARKDOWN = "report.md"
STAMP = ".rendered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What `render` did.

    Attributes:
        path: of the report.
        files: everything rendered, the report first; empty where nothing had changed.
        tables: all of the report; empty likewise.
    """

    path: Path
    files: tuple[Path, ...] = ()
    tables: tuple[Table, ...] = ()


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: a report that was cut off looks like one that says less."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, path)


def forget(folder: Path) -> None:
    """Make the next `render` into `folder` render again; figures are kept."""
    known = before(folder / STAMP)
    (folder / STAMP).write_text(json.dumps({**known, "state": None}))


def before(stamp: Path) -> dict[str, Any]:
    """What the last rendering left; nothing where that cannot be read."""
    try:
        known = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def html(template: str, content: Mapping[str, Any], ui: Ui | None) -> str:
    """The page that a template makes of its content."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    environment.globals["table"] = lambda table: Markup(to_html(table, ui))  # noqa: S704  # escapes its texts
    environment.globals["picture"] = _picture
    environment.filters["code"] = _code
    return environment.get_template(template).render(**content)


def _code(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704  # escaped


def _picture(figure: Figure) -> str:
    """The figure as an address that holds all of it."""
    # As it is: a palette of few colours makes the rare ones, which lines and marks have, grey.
    return "data:image/png;base64," + base64.b64encode(figure.png.read_bytes()).decode()
