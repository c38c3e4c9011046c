"""The first page of a report: its differences in one figure, and its main table."""

import functools
from collections.abc import Sequence

import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.differences import differences, shown_families
from analysis.render.section import RenderedFigure, Section
from analysis.render.table import Table
from analysis.render.text import arm_title, number_of, span
from analysis.sections.headline import by_importance
from analysis.stats.comparisons import TESTED
from analysis.stats.results import Results

LINES = 40
"""Most comparisons in the first figure."""
MAIN_TABLES = ("groups", "subsets-", "cell-")
"""Which table a report begins with: the first of these that it has."""


def front(results: Results, tables: Sequence[Table], cache: FigureCache) -> Section:
    """The figure and the table that answer the question, before all details; empty without results."""
    return Section(
        tables=tuple(main_table(tables)),
        headed=False,
        figures=tuple(_figure(results, cache)),
    )


def main_table(tables: Sequence[Table]) -> list[Table]:
    """The table that sums a study up; empty if there is none."""
    for start in MAIN_TABLES:
        if found := [table for table in tables if table.name.startswith(start)]:
            return found[:1]
    return []


def _figure(results: Results, cache: FigureCache) -> list[RenderedFigure]:
    tested = results.compared[results.compared["metric"] == TESTED]
    cells = tested["cell"].nunique()
    if cells <= 1:
        return differences_figure(tested, cache)
    if len(results.pooled) != 1:
        return []  # arms differ from cell to cell: nothing to average
    # A mean over some of the cells would look like one over all.
    whole = results.pooled[0]
    return differences_figure(whole[whole["cells"] == cells], cache, cells=tested)


def differences_figure(
    compared: pd.DataFrame, cache: FigureCache, *, cells: pd.DataFrame | None = None
) -> list[RenderedFigure]:
    """Every difference of one cell, or pooled over `cells`, with its intervals; none without results."""
    known = compared[compared["n"] > 0]
    if known.empty:
        return []
    names = by_importance(list(dict.fromkeys(known["baseline"])))
    families = {_title(name): known[known["baseline"] == name] for name in names}
    shown, left = shown_families(families, LINES)
    source = pd.concat([known, *([] if cells is None else [cells])])
    dots = None if cells is None else cells[cells["n"] > 0]
    return cache.add(
        "differences",
        source,
        functools.partial(differences, shown, dots),
        _caption(known, left, 0 if cells is None else cells["cell"].nunique()),
        "Differences in test accuracy with their intervals",
    )


def _title(baseline: str) -> str:
    name, _, value = baseline.partition("=")
    if value and " " not in baseline:
        return f"Against {name} = {value}"
    return f"Against {arm_title(baseline)}"


def _caption(known: pd.DataFrame, left: int, cells: int) -> str:
    margins = set(known["margin"].dropna())
    text = (
        f"Difference in test accuracy, paired by seed, n = {span(set(known['n']))}:"
        " mean, 95 % interval (thick), interval after Holm's adjustment (thin, and in brackets). Filled: the"
        " adjusted interval allows a verdict. Empty: no difference is shown."
    )
    if cells:
        text += f" Mean over {cells} cells within each seed; small grey dots: single cells."
    if len(margins) == 1:
        text += f" Shaded: differences below the declared margin of {margins.pop():g} points."
    if left:
        text += f" {number_of(left, 'comparison')} with smaller differences, or other baselines, are in the tables."
    return text
