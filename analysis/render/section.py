"""A report as a value: what it says, independent of how it is rendered."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from analysis.render.table import Table

RUNNING, STOPPED = "running:", "stopped; before that:"
"""How the first line of a report begins while the study runs, and after it was stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedFigure:
    """A figure as PNG and PDF beside it, which may still be written; `alt` is for those who cannot see it.

    A `photo` keeps its colours on a dark page.
    """

    caption: str
    alt: str
    png: Path
    photo: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of a report: paragraphs, findings, tables, facts, figures, parts, items, notes, in this order.

    Attributes:
        title: its heading; empty: none.
        id: the anchor that the navigation leads to; empty: not in the navigation.
        short_title: its title in the navigation, if different.
        findings: sentences that the comparisons allow.
        headed: whether its tables have headings. In Markdown, which cannot fold, all have.
        parts: sections within this one.
        items: a list of remarks.
        notes: remarks in small print; text between backticks is code.
        folded: whether it is closed at first; None: it cannot be folded.
        extent: how much there is of it, beside the title if it can be folded.
    """

    title: str = ""
    id: str = ""
    short_title: str = ""
    paragraphs: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    headed: bool = True
    facts: tuple[tuple[str, str], ...] = ()
    parts: "tuple[Section, ...]" = ()
    figures: tuple[RenderedFigure, ...] = ()
    items: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool | None = None
    extent: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but headings and notes."""
        contents = (self.paragraphs, self.findings, self.tables, self.facts, self.figures, self.items)
        return not any(contents) and all(part.is_empty for part in self.parts)

    def without(self, tables: Collection[Table]) -> "Section":
        """The section without tables that stand elsewhere in the report."""
        return replace(
            self,
            tables=tuple(table for table in self.tables if table not in tables),
            parts=tuple(part.without(tables) for part in self.parts),
        )

    def all_tables(self) -> Iterator[Table]:
        """The tables of the section and of its parts."""
        yield from self.tables
        for part in self.parts:
            yield from part.all_tables()


@dataclass(frozen=True, kw_only=True, slots=True)
class Live:
    """What the report of a study says of itself while the study runs.

    `progress` is how far it is and `left` how long it will take, for people (empty: not known); `refresh`,
    after how many seconds its page loads itself again.
    """

    progress: str
    left: str
    rendered: datetime
    refresh: int

    @property
    def banner(self) -> str:
        """The first line of the report."""
        return (
            f"{RUNNING} {self.progress}{f', {self.left}' if self.left else ''} · rendered"
            f" {self.rendered:%Y-%m-%d %H:%M} UTC · without PCA and t-SNE, which the last report has"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A whole report: of a `Study` or a `Search` (`kind`), by the `name` of its space.

    `about` says what the space is, in the words of who wrote it, and how the selection differs from it.
    `question` and `answers` come first, then `front`: one figure and one table. `lead` is its extent in a
    sentence, `warnings` say what is missing, `note` explains the terms. `live` is there while it runs.
    """

    kind: str
    name: str
    question: str
    answers: tuple[str, ...]
    about: str = ""
    front: Section
    lead: str
    warnings: tuple[str, ...]
    findings: tuple[str, ...]
    note: str
    sections: tuple[Section, ...]
    live: Live | None = None

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in order."""
        return tuple(table for section in (self.front, *self.sections) for table in section.all_tables())
