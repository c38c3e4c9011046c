"""One table, five ways to read it: in a terminal, Markdown, LaTeX, CSV and HTML."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from analysis.render.text import latex
from study.ledger.pages import metric_page, run_page

MOST_COLUMNS = 7
"""Columns that a page has room for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """The content of one cell of a table, the MLflow runs that it was computed from, and their metric."""

    text: str
    bold: bool = False
    runs: tuple[str, ...] = ()
    metric: str = "test_acc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table as people read it.

    The name is that of its LaTeX label, unique in a report; `corner` is the title of the first column, which
    has the titles of the rows; the caption says what the numbers are, with n.
    """

    name: str
    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    caption: str

    def frame(self) -> pd.DataFrame:
        """The texts alone."""
        return pd.DataFrame(
            [[entry.text for entry in entries] for _, entries in self.rows],
            index=pd.Index([title for title, _ in self.rows], name=self.corner),
            columns=list(self.columns),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ui:
    """The address of MLflow's pages (without a closing slash), and the experiment that is linked to."""

    address: str
    experiment_id: str

    def link(self, runs: Sequence[str], metric: str) -> str:
        """The page of a run; of several, what each has of a final metric."""
        if len(runs) == 1:
            return f"{self.address}/{run_page(self.experiment_id, runs[0])}"
        return f"{self.address}/{metric_page(self.experiment_id, runs, metric)}"


def readable(table: Table) -> Table:
    """The table, turned round where it has too many columns for a page, and fewer rows than columns."""
    if len(table.columns) <= MOST_COLUMNS or len(table.rows) >= len(table.columns):
        return table
    rows = zip(table.columns, zip(*(entries for _, entries in table.rows), strict=True), strict=True)
    return dataclasses.replace(
        table, columns=tuple(title for title, _ in table.rows), rows=tuple((name, row) for name, row in rows)
    )


def entries(*texts: str) -> tuple[Entry, ...]:
    """Entries of plain text."""
    return tuple(Entry(text=text) for text in texts)


def to_terminal(table: Table) -> RichTable:
    """The table for rich."""
    # As Text: brackets in a plain string would be markup.
    view = RichTable(
        title=Text(table.title, style="table.title"),
        caption=Text(table.caption, style="table.caption"),
        title_justify="left",
        caption_justify="left",
    )
    view.add_column(Text(table.corner), overflow="fold")
    for column in table.columns:
        view.add_column(Text(column), justify="right")
    for title, entries in table.rows:
        cells = (Text(entry.text, style="bold" if entry.bold else "") for entry in entries)
        view.add_row(Text(title), *cells)
    return view


def to_markdown(table: Table, level: int = 3) -> str:
    """The table in Markdown, under a heading of this level."""
    frame = table.frame()
    frame[:] = [[f"**{e.text}**" if e.bold else e.text for e in entries] for _, entries in table.rows]
    align = ("left", *("right" for _ in table.columns))
    text = frame.to_markdown(colalign=align, disable_numparse=True)
    return f"{'#' * level} {table.title}\n\n{text}\n\n{table.caption}\n"


def to_latex(table: Table, study: str = "") -> str:
    r"""The table for `\input` (package booktabs), with `\label{tab:<study>:<name>}`.

    Without the study, tables of two studies in one paper would have one label.
    """

    def line(title: str, *entries: Entry) -> str:
        texts = (rf"\textbf{{{latex(e.text)}}}" if e.bold else latex(e.text) for e in entries)
        return " & ".join([latex(title), *texts]) + r" \\"

    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{latex(f'{table.title}. {table.caption}')}}}",
        rf"\label{{tab:{f'{study}:' if study else ''}{table.name}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        *(r"\toprule", line(table.corner, *entries(*table.columns)), r"\midrule"),
        *(line(title, *row) for title, row in table.rows),
        *(r"\bottomrule", r"\end{tabular}", r"\end{table}"),
    ]
    return "\n".join(lines) + "\n"
