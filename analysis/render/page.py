"""A report as one self-contained HTML page."""

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.render.section import RenderedFigure, Report
from analysis.render.table import Ui

TEMPLATES = Path(__file__).parent / "templates"


def to_page(report: Report, ui: Ui | None) -> str:
    """The HTML of a report; its numbers are linked where MLflow's pages are known."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["ui"] = ui
    environment.globals["picture"] = _data_url
    environment.filters["code"] = _with_code
    return environment.get_template("page.html.j2").render(report=report)


def _with_code(text: str) -> Markup:
    """Escaped text, with what is between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704  # escaped


def _data_url(figure: RenderedFigure) -> str:
    """The figure as an address that contains it."""
    # Unchanged: with a palette of few colours, rare ones, those of lines and marks, would turn grey.
    return "data:image/png;base64," + base64.b64encode(figure.png.read_bytes()).decode()
