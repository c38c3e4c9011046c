"""The first page of a report: its differences in one figure, and its main table."""

import functools
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.differences import differences, shown_families
from analysis.render.section import RenderedFigure, Section
from analysis.render.table import Table
from analysis.render.text import arm_title, number_of, points_text, span
from analysis.sections.headline import by_importance, pooled_sets
from analysis.sections.rules import bounds_note
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
    names = by_importance(list(dict.fromkeys(tested["baseline"])))
    if len(set(tested["cell"])) <= 1:
        return differences_figure({_title(n): tested[tested["baseline"] == n] for n in names}, cache)
    families = {}
    for name in names:
        cells = tested.loc[tested["baseline"] == name, "cell"].nunique()
        sets = pooled_sets(results, name, cells)
        for title, part in sets.items():
            families[f"{_title(name)}{f' · {title}' if len(sets) > 1 else ''}"] = part
    return differences_figure(families, cache, cells=tested)


def differences_figure(
    families: Mapping[str, pd.DataFrame], cache: FigureCache, *, cells: pd.DataFrame | None = None
) -> list[RenderedFigure]:
    """Every difference with its intervals; none without results.

    `families` are rows of comparisons by title: of one cell, or pooled over `cells`.
    """
    known = {title: rows[rows["n"] > 0].reset_index(drop=True) for title, rows in families.items()}
    shown, left = shown_families({title: rows for title, rows in known.items() if len(rows)}, LINES)
    if not shown:
        return []
    # A baseline with several sets of cells has several lines for one arm: its dots would be those of all.
    dots = None if cells is None or len(shown) > len(set(cells["baseline"])) else cells[cells["n"] > 0]
    whole = pd.concat([rows.assign(family=title) for title, rows in shown.items()])
    return cache.add(
        "differences",
        pd.concat([whole, *([] if dots is None else [dots])]),
        functools.partial(differences, shown, dots),
        _caption(whole, left, dots=dots is not None),
        "Differences in test accuracy with their intervals",
    )


def _title(baseline: str) -> str:
    name, _, value = baseline.partition("=")
    if value and " " not in baseline:
        return f"Against {name} = {value}"
    return f"Against {arm_title(baseline)}"


def _caption(known: pd.DataFrame, left: int, *, dots: bool) -> str:
    margins = set(known["margin"].dropna())
    text = (
        f"Difference in test accuracy, paired by seed, n = {span(set(known['n']))}:"
        " mean, 95 % interval (thick), interval after Holm's adjustment (thin, and in brackets). Filled: the"
        " adjusted interval allows a verdict. Empty: no difference is shown."
    )
    text += bounds_note(known)
    if "cells" in known:
        text += f" Mean over {span(set(known['cells']))} cells within each seed"
        text += "; small grey dots: single cells." if dots else "."
    if len(margins) == 1:
        text += f" Shaded: differences below the declared margin of {points_text(margins.pop())}."
    if left:
        more = number_of(left, "comparison")
        text += f" {more} with smaller differences, or other baselines, are in the tables."
    return text
