"""The figures of a report as files: drawn where they are not there yet, or have changed."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis.plots.style import DENSITY, save
from analysis.render.text import is_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure that was drawn.

    Attributes:
        name: of its files.
        caption: what it shows.
        alt: what it shows, for those who cannot see it.
        png: the file.
        pdf: the same for print.
        width: in CSS pixels.
    """

    name: str
    caption: str
    alt: str
    png: Path
    pdf: Path
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """A drawing that lacks what could not be read this time.

    Attributes:
        drawing: what there is.
        lacking: a sentence for its caption.
    """

    drawing: Drawing
    lacking: str


@dataclass(slots=True)
class Gallery:
    """Draws into a folder what is not there yet, or has changed.

    Attributes:
        folder: of the figures.
        known: digest of what each figure there was drawn from, and of its files.
        drawn: all figures of this report.
    """

    folder: Path
    known: dict[str, str] = field(default_factory=dict)
    drawn: list[Figure] = field(default_factory=list)

    def add(
        self,
        name: str,
        source: pd.DataFrame,
        draw: Callable[[], Drawing | Partial | None],
        caption: str,
        alt: str,
    ) -> list[Figure]:
        """The figure, drawn unless it is there; none where `draw` has nothing to draw.

        Args:
            name: of the files.
            source: the trials that it shows, or any numbers that it is drawn from.
            draw: makes it; what is partial is drawn again by the next report.
            caption: what it shows.
            alt: the same in few words.
        """
        digest = digest_of(source, caption)
        png, pdf = (self.folder / f"{name}.{ending}" for ending in ("png", "pdf"))
        if self.known.get(name) != f"{digest} {_content(png, pdf)}":
            drawing = draw()
            if isinstance(drawing, Partial):
                caption, digest, drawing = f"{caption} {drawing.lacking}", "", drawing.drawing
            if drawing is None:
                return []
            save(drawing, self.folder, name)
            self.known[name] = f"{digest} {_content(png, pdf)}"
        figure = Figure(name=name, caption=caption, alt=alt, png=png, pdf=pdf, width=_css_width(png))
        self.drawn.append(figure)
        return [figure]

    def sweep(self) -> None:
        """Remove figures of an earlier report that this one does not have."""
        names = {figure.name for figure in self.drawn}
        for name in filter(is_plain, self.known.keys() - names):  # the list is a file that others can write
            for ending in ("png", "pdf"):
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)
        self.known = {name: digest for name, digest in self.known.items() if name in names}


def _content(*paths: Path) -> str:
    """Of what is in files: another program, or a report that was interrupted, may have written them since."""
    if not all(path.exists() for path in paths):
        return "missing"
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _css_width(png: Path) -> int:
    from PIL import Image

    with Image.open(png) as image:
        return round(image.width * 100 / DENSITY)


def digest_of(source: pd.DataFrame, caption: str = "") -> str:
    """Of all that a rendering depends on: the state of trials, or other numbers, and our code."""
    state = source[["key", "status", "run_id", "changed"]] if "changed" in source else source
    return hashlib.sha256((state.to_csv(index=False) + caption + _code()).encode()).hexdigest()


@functools.cache
def _code() -> str:
    root = Path(__file__).parents[2]
    names = ["analysis/**/*", "search_spaces/*.py", "study/ledger/*.py", "trainables/*.py"]
    files = sorted(
        path for name in names for path in root.glob(name) if path.suffix in (".py", ".j2", ".csv")
    )
    return json.dumps([mpl.__version__, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)])
