"""The figures of a report as files: drawn if they are missing or have changed."""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.plots.drawing import Drawing, Task
from analysis.render.section import RenderedFigure
from analysis.render.text import is_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Partial:
    """A figure without something that could not be read this time, and a sentence on it for the caption."""

    figure: Figure
    lacking: str


@dataclass(slots=True)
class FigureCache:
    """Draws figures into a folder if they are missing or have changed.

    `known` has a digest of what each figure there was drawn from and of its files; `drawn`, all figures of
    this report. `measured` has numbers that take the artifacts of many trials, with such a digest. A `quick`
    report, which another one will follow soon, leaves out figures that take long. `drawing` writes the files:
    without other processes at once, else until `finish`.
    """

    folder: Path
    known: dict[str, str] = field(default_factory=dict)
    drawn: list[RenderedFigure] = field(default_factory=list)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    quick: bool = False
    drawing: Drawing = field(default_factory=Drawing)
    _asked: set[str] = field(default_factory=set)
    _begun: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        source: pd.DataFrame,
        draw: Callable[[], Figure | Partial | None],
        caption: str,
        alt: str,
        *,
        anywhere: bool = False,
    ) -> list[RenderedFigure]:
        """The figure, drawn unless it exists already; empty if `draw` has nothing to draw.

        `source` has the trials that it shows, or any numbers that it is drawn from; `alt` is the caption in
        few words. A partial figure is drawn again by the next report. What takes long and always gives a
        figure may be drawn `anywhere`, in another process, if `draw` can be pickled.
        """
        digest = digest_of(source, caption)
        png, pdf = (self.folder / f"{name}.{ending}" for ending in ("png", "pdf"))
        if self.known.get(name) != f"{digest} {_content(png, pdf)}":
            self.drawing.begin()
            figure: Any = draw if anywhere else draw()
            if isinstance(figure, Partial):
                caption, digest, figure = f"{caption} {figure.lacking}", "", figure.figure
            if figure is None:
                return []
            self.drawing.add(Task(figure, self.folder, name), long=anywhere)
            self._begun[name] = digest
        self.drawn.append(RenderedFigure(caption=caption, alt=alt, png=png))
        return self.drawn[-1:]

    def finish(self) -> None:
        """Wait until all figures are written. Until then, only what each shows is known."""
        self.drawing.finish()
        for name, digest in self._begun.items():
            png, pdf = (self.folder / f"{name}.{ending}" for ending in ("png", "pdf"))
            self.known[name] = f"{digest} {_content(png, pdf)}"

    def numbers(
        self, name: str, source: pd.DataFrame, compute: Callable[[], tuple[list[dict[str, Any]], bool]]
    ) -> list[dict[str, Any]]:
        """Rows of numbers that are computed from these trials, unless they are known already.

        `compute` returns them, and whether they are whole: others are computed again by the next report.
        """
        self._asked.add(name)
        digest = digest_of(source)
        known = self.measured.get(name, {})
        if known.get("digest") != digest:
            rows, whole = compute()
            known = self.measured[name] = {"digest": digest if whole else "", "rows": rows}
        return list(known["rows"])

    def prune(self) -> None:
        """Remove figures of an earlier report that this one does not have, and forget such numbers.

        After a quick report they stay: the next one may have them again.
        """
        if self.quick:
            return
        self.measured = {name: known for name, known in self.measured.items() if name in self._asked}
        names = {figure.png.stem for figure in self.drawn}
        for name in filter(is_plain, self.known.keys() - names):  # others could write the list
            for ending in ("png", "pdf"):
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)
        self.known = {name: digest for name, digest in self.known.items() if name in names}


def _content(*paths: Path) -> str:
    """Digest of files: another program, or an interrupted report, may have written them since."""
    if not all(path.is_file() and not path.is_symlink() for path in paths):
        return "missing"
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def digest_of(source: pd.DataFrame, caption: str = "") -> str:
    """Digest of all that a rendering depends on: the state of trials, or other numbers, and our code."""
    state, numbers = source, b""
    if "changed" in source:
        state = source[["key", "status", "run_id", "changed"]]
        if state["changed"].dtype == float:  # where other trials of the study have not ended
            state = state.astype({"changed": "Int64"})
        # A metric that was measured later changes no state of its run.
        floats = source.drop(columns="changed").select_dtypes("float")
        numbers = repr(list(source.columns)).encode() + floats.to_numpy().tobytes()
    text = state.to_csv(index=False) + caption + _code()
    return hashlib.sha256(text.encode() + numbers).hexdigest()


@functools.cache
def _code() -> str:
    root = Path(__file__).parents[2]
    names = ["analysis/**/*", "search_spaces/*.py", "study/ledger/*.py", "trainables/*.py"]
    files = sorted(
        path for name in names for path in root.glob(name) if path.suffix in (".py", ".j2", ".csv")
    )
    return json.dumps([mpl.__version__, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)])
