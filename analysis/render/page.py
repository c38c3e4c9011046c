"""A report as one self-contained HTML page."""

import base64
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from PIL import Image

from analysis.render.section import RenderedFigure, Report
from analysis.render.table import Ui
from trainables.redact import plain

DENSITY = 160
"""Pixels per inch of figures; on a page, an inch is 100 CSS pixels."""
TEMPLATES = Path(__file__).parent / "templates"
PANELS = "Panels"
"""The text in a PNG with the places of its panels: JSON, rows of left, top, right and bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of a figure: an address that contains it, and its size in CSS pixels."""

    source: str
    width: int
    height: int


def to_page(report: Report, ui: Ui | None) -> str:
    """The HTML of a report; its numbers are linked where MLflow's pages are known."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    environment.globals["ui"] = ui
    environment.globals["panels"] = _panels
    environment.filters["code"] = _with_code
    return plain(environment.get_template("page.html.j2").render(report=report))


def _unbroken(value: Any) -> Any:
    """Text whose lines do not break within `γ = 10⁻³`."""
    return value.replace("γ = ", "γ\u00a0=\u00a0") if isinstance(value, str) else value


def _with_code(text: str) -> Markup:
    """Escaped text, with what is between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704  # escaped


def _panels(figure: RenderedFigure) -> list[list[Panel]]:
    """The figure in rows of panels; whole where it says nothing of them."""
    with Image.open(figure.png, formats=["PNG"]) as image:
        width = round(image.width * 100 / DENSITY)
        scale = width / image.width
        rows = json.loads(image.info.get(PANELS, "[]"))
        if sum(map(len, rows)) < 2:
            size = width, round(scale * image.height)
            return [[Panel(_data_url(figure.png.read_bytes()), *size)]]
        return [[_cut(image, tuple(box), scale) for box in row] for row in rows]


def _cut(image: Image.Image, box: tuple[int, int, int, int], scale: float) -> Panel:
    with io.BytesIO() as png:
        # Unchanged: with a palette of few colours, rare ones, those of lines and marks, would turn grey.
        image.crop(box).save(png, "PNG")
        size = round(scale * (box[2] - box[0])), round(scale * (box[3] - box[1]))
        return Panel(_data_url(png.getvalue()), *size)


def _data_url(png: bytes) -> str:
    """An address that contains the picture."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
