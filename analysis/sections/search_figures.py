"""The figures of a search, with their captions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.search import history, pareto, shares, slices
from analysis.render.section import RenderedFigure
from analysis.render.text import join_and, number_of
from analysis.stats.importances import FEWEST, importances
from analysis.stats.search import METHOD_TITLES, SearchStudy, members_frame, pareto_front
from search_spaces.searches import Range
from trainables.metrics import METRICS


def search_figures(
    study: SearchStudy, stopped: Mapping[str, float], cache: FigureCache
) -> tuple[list[RenderedFigure], list[str]]:
    """The figures, and notes on what cannot be drawn.

    Args:
        study: the search.
        stopped: validation accuracy when a trial was stopped early, by key.
        cache: draws the figures.
    """
    frame = members_frame(study, stopped)
    if frame.empty:
        return [], []
    first = study.state.search.objectives[0]
    shown = cache.add(
        "search-history",
        frame,
        lambda: history(frame, first),
        f"{METRICS[first].axis} of each configuration in the order of suggestion, one seed each, and the best"
        " so far.",
        "Optimisation history",
    )
    tables = {
        method: importances(study.state.search, members) for method, members in study.state.members.items()
    }
    known = {method: table for method, table in tables.items() if table is not None}
    notes = [_too_few(study, method) for method in tables if method not in known]
    if known:
        shown += _importance_figures(study, frame, known, cache)
    return shown + _pareto_figure(study, frame, cache), notes


def _too_few(study: SearchStudy, method: str) -> str:
    count = number_of(study.state.count("finished", method=method), "finished trial")
    return (
        f"Importances of {METHOD_TITLES[method]} are not shown: it has {count}, and it takes {FEWEST} with"
        " different values."
    )


def _importance_figures(
    study: SearchStudy, frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame], cache: FigureCache
) -> list[RenderedFigure]:
    first = study.state.search.objectives[0]
    counted = [f"{study.state.count('finished', method=name)} of {METHOD_TITLES[name]}" for name in tables]
    panels = {}
    for method, table in tables.items():
        ranges = _ranges(study, method)
        parameters = [(str(name), ranges[str(name)]) for name in table.index[:2]]
        panels[method] = frame[frame["method"] == method], parameters
    return [
        *cache.add(
            "search-importances",
            frame,
            lambda: shares(tables),
            f"Share of the variance of {METRICS[first].axis.lower()} that each parameter explains by itself:"
            f" functional ANOVA over trials that reached their last epoch ({join_and(counted)}). Lines: 10 %"
            " to 90 % over trials drawn with replacement; if they are long, the order says little. Parameters"
            " that only some trials have are left out.",
            "Importances of parameters",
        ),
        *cache.add(
            "search-slices",
            frame,
            lambda: slices(panels, first),
            f"{METRICS[first].axis} against the two parameters with the largest shares, and over both at"
            " once (between trials, if there are enough, colour is interpolated). The others vary, too.",
            "Slices and contour of the two most important parameters",
        ),
    ]


def _ranges(study: SearchStudy, method: str) -> dict[str, Range]:
    suggested = [study.state.search.recall(member.config) or {} for member in study.state.members[method]]
    return {name: allowed for values in suggested for name, (_, allowed) in values.items()}


def _pareto_figure(study: SearchStudy, frame: pd.DataFrame, cache: FigureCache) -> list[RenderedFigure]:
    """The first objective against the second, or against time if there is only one."""
    first, *others = study.state.search.objectives
    other = others[0] if others else "train_seconds"
    if other not in frame and other != first:
        seconds = {key: record.metrics.get(other, np.nan) for key, record in study.records.items()}
        frame = frame.assign(**{other: frame["key"].map(seconds)})
    done = frame.dropna(subset=list(dict.fromkeys([first, *others, other])))
    if len(done) < 2 or other == first:
        return []
    front = pareto_front(study, done, (other, first))
    return cache.add(
        "search-pareto",
        done,
        lambda: pareto(done, other, first, front),
        f"{METRICS[first].axis} against {METRICS[other].axis.lower()} of the searched trials that"
        " reached their last epoch, one seed each, and the Pareto front of both methods together.",
        "Pareto front",
    )
