"""The report of a search, as a value: what was tried, what mattered, and the finalists with fresh seeds.

Test images have no part in what it shows of searched trials: only finalists, whose seeds the search never
saw, are compared on them.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.search import history, pareto, shares, slices
from analysis.render.section import RenderedFigure, Report, Section
from analysis.render.table import Table
from analysis.render.text import join_and, number_of
from analysis.sections.caveats import fixed_section, provenance_section
from analysis.sections.findings import cell_findings
from analysis.sections.rules import rule_sentences
from analysis.sections.search_tables import searched_table
from analysis.stats.importances import FEWEST, importances
from analysis.stats.search import METHOD_TITLES, SearchStudy, members_frame, pareto_front
from analysis.trials import finished, load
from search_spaces import Selection
from study.ledger.search_state import STATES, SearchTrial
from trainables.metrics import METRICS

NOTE = (
    "CE: one view, cross-entropy alone. Siamese: cross-entropies of two views and the consistency term. Each"
    " method was searched separately with the same number of configurations, by validation images alone; its"
    " best configurations were then trained again with fresh seeds, and only these are compared on test"
    " images."
)
_STATES = {"finished": "to the last epoch", "pruned": "stopped early"}


def search_report(
    study: SearchStudy, tables: list[Table], stopped: Mapping[str, float], experiment: str, cache: FigureCache
) -> Report:
    """The report of a search, with the `tables` of the finalists.

    `stopped` is the validation accuracy when a trial was stopped early, by key.
    """
    search, final = study.state.search, study.state.final_selection()
    figures, notes = _figures(study, stopped, cache)
    configs = tuple(member.config for member in study.state.all)
    searched_count, final_count = number_of(len(configs), "searched configuration"), len(study.finals)
    step = f"{searched_count}, {number_of(final_count, 'trial')} of finalists"
    selection = Selection(space=search.name, trials=configs + final.trials, steps=(step,))
    folds = [
        Section(
            title=table.title,
            folded=True,
            extent=f"{len(table.rows)} configurations",
            tables=(table,),
            headed=False,
        )
        for table in (searched_table(study, method, stopped) for method in study.state.members)
    ]
    sections = [
        Section(id="finals", title="Finalists", tables=tuple(tables)),
        Section(id="search", title="The search", figures=tuple(figures), notes=tuple(notes)),
        Section(id="searched", title="Searched configurations", parts=tuple(folds)),
        fixed_section(configs, "Every searched trial"),
        provenance_section(selection, load(selection, study.records), experiment),
    ]
    return Report(
        kind="Search",
        name=search.name,
        lead=_lead(study),
        warnings=tuple(_warnings(study)),
        findings=tuple(search_findings(study)),
        note=NOTE,
        sections=tuple(section for section in sections if section.notes or not section.is_empty),
    )


def _figures(
    study: SearchStudy, stopped: Mapping[str, float], cache: FigureCache
) -> tuple[list[RenderedFigure], list[str]]:
    """The figures, and notes on what cannot be drawn."""
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
    notes = [
        f"Importances of {METHOD_TITLES[method]} are not shown: it has"
        f" {number_of(study.state.count('finished', method=method), 'finished trial')}, and it takes {FEWEST}"
        " with different values."
        for method in tables
        if method not in known
    ]
    if known:
        shown += _importance_figures(study, frame, known, cache)
    return shown + _pareto_figure(study, frame, cache), notes


def _importance_figures(
    study: SearchStudy, frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame], cache: FigureCache
) -> list[RenderedFigure]:
    first = study.state.search.objectives[0]
    counted = [f"{study.state.count('finished', method=name)} of {METHOD_TITLES[name]}" for name in tables]
    panels = {}
    for method, table in tables.items():
        suggested = [study.state.search.recall(member.config) or {} for member in study.state.members[method]]
        ranges = {name: allowed for values in suggested for name, (_, allowed) in values.items()}
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


def _lead(study: SearchStudy) -> str:
    state = study.state
    objectives = [METRICS[name].axis.lower() for name in state.search.objectives]
    counts = {name: state.count(name) for name in STATES}
    states = ", ".join(f"{count} {_STATES.get(name, name)}" for name, count in counts.items() if count)
    lead = (
        f"{len(study.state.all)} of {state.search.trials * len(state.members)} configurations searched by"
        f" {join_and(objectives)} ({states})"
    )
    # Before the first final trial has ended, the finalists may still change.
    if finished(study.finals).empty:
        return lead
    finalists = number_of(len(study.finalists), "finalist")
    return f"{lead} · {finalists} × {number_of(state.search.seeds, 'fresh seed')}"


def _warnings(study: SearchStudy) -> list[str]:
    missing, planned = study.state.missing, study.state.search.trials * len(study.state.members)
    done, finals = len(finished(study.finals)), len(study.finals)
    warnings = []
    if missing:
        warnings.append(f"This search is incomplete: {missing} of {planned} configurations have not ended.")
    if 0 < done < finals:
        warnings.append(
            f"{finals - done} of {finals} finalists' trials have no result. The results below do not cover"
            " them."
        )
    return warnings


def search_findings(study: SearchStudy) -> list[str]:
    """What the finalists show, and what stopping early saved."""
    if not study.compared.empty and (study.compared["n"] > 0).any():
        sentences = cell_findings(study.compared, seed="fresh seed") + rule_sentences(study.compared)
    elif len(finished(study.finals)):
        sentences = ["No finalist has results for the same fresh seeds as another one: nothing is compared."]
    else:
        sentences = ["No finalist has been trained with fresh seeds yet: nothing is compared."]
    pruned, diverged = study.state.count("pruned"), study.state.count("diverged")
    if pruned:
        trained = sum(map(_epochs, study.state.all))
        whole = sum(member.config.epochs for member in study.state.all if _epochs(member))
        sentences.append(
            f"Stopping {pruned} of {len(study.state.all)} configurations early took the search {trained:,}"
            f" epochs instead of {whole:,} ({trained / whole:.0%})."
        )
    if diverged:
        sentences.append(f"{number_of(diverged, 'configuration')} diverged: the loss was not finite.")
    return sentences


def _epochs(member: SearchTrial) -> int:
    """The epochs that a trial was trained; 0 for a failed one, of which they are not known."""
    return member.epochs if member.state in ("finished", "pruned") else 0
