"""The report of a search, as a value: what was tried, what mattered, and the finalists with fresh seeds.

Test images have no part in what it shows of searched trials: only finalists, whose seeds the search never
saw, are compared on them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.search import history, pareto, shares, slices
from analysis.render.section import RenderedFigure, Report, Section
from analysis.render.table import Table
from analysis.render.text import join_and, number_of
from analysis.sections.caveats import fixed_section, provenance_section
from analysis.sections.findings import cell_findings
from analysis.sections.front import differences_figure
from analysis.sections.headline import OPEN, answer
from analysis.sections.rules import rule_sentences
from analysis.sections.search_tables import searched_table
from analysis.stats.comparisons import TESTED
from analysis.stats.importances import FEWEST, importances
from analysis.stats.search import (
    SearchStudy,
    mean_of_runs,
    members_frame,
    method_title,
    pareto_front,
)
from analysis.trials import finished, load
from search_spaces import Selection
from search_spaces.search_design import BASELINE_AND_PAIRS
from study.ledger.search_members import STATES, Member
from trainables.metrics import METRICS
from trainables.trial import format_value

NOTE = (
    "Each method was searched separately with the same number of configurations, by validation images alone;"
    " its best configurations were then trained again with fresh seeds, and only these are compared on test"
    " images."
)
KNOWN = {
    "ce": "one view, cross-entropy alone",
    "siamese": "cross-entropies of two views and the consistency term",
}
"""The methods of a search that names none, in words."""
_STATES = {"finished": "to the last epoch", "pruned": "stopped early"}


def search_report(
    study: SearchStudy, tables: list[Table], stopped: Mapping[str, float], experiment: str, cache: FigureCache
) -> Report:
    """The report of a search, with the `tables` of the finalists.

    `stopped` is the validation accuracy when a trial was stopped early, by key.
    """
    search, final = study.state.search, study.state.final_selection()
    figures, notes = _figures(study, stopped, cache)
    configs = tuple(trial.config for member in study.state.all for trial in member.trials.values())
    searched_count = number_of(len(study.state.all), "searched configuration") + _each(study)
    step = f"{searched_count}, {number_of(len(study.finals), 'trial')} of finalists"
    selection = Selection(space=search.name, trials=configs + final.trials, steps=(step,))
    folds = [
        Section(
            title=table.title,
            folded=True,
            extent=f"{len(table.rows)} configurations",
            tables=(table,),
            headed=False,
        )
        for table in (
            searched_table(study, method, stopped) for method, own in study.state.members.items() if own
        )
    ]
    sections = [
        Section(id="finals", title="Finalists", tables=tuple(tables)),
        Section(id="search", title="The search", figures=tuple(figures), notes=tuple(notes)),
        Section(id="searched", title="Searched configurations", parts=tuple(folds)),
        replace(fixed_section(configs, "Every searched trial"), folded=True),
        replace(provenance_section(selection, load(selection, study.records), experiment), folded=True),
    ]
    families = {f"Against {name}": family for name, family in _families(study).items()}
    first = Section(
        tables=tuple(tables[:1]), headed=False, figures=tuple(differences_figure(families, cache))
    )
    sections = [section.without(first.tables) for section in sections]
    return Report(
        kind="Search",
        name=search.name,
        question="Which method is best when each has equally many tries?",
        answers=_answers(study),
        front=first,
        lead=_lead(study),
        warnings=tuple(_warnings(study)),
        findings=tuple(search_findings(study)),
        note=_note(study),
        sections=tuple(section for section in sections if section.notes or not section.is_empty),
    )


def _families(study: SearchStudy) -> dict[str, pd.DataFrame]:
    """The finalists' comparisons in test accuracy, by title of their baseline."""
    if study.compared.empty:
        return {}
    tested = study.compared[study.compared["metric"] == TESTED]
    return {str(name): family for name, family in tested.groupby("baseline_label", sort=False)}


def _answers(study: SearchStudy) -> tuple[str, ...]:
    """What the finalists answer, a sentence for each baseline."""
    known = [family for family in _families(study).values() if (family["n"] > 0).any()]
    if not known:
        return (f"{OPEN} no finalists have been compared with fresh seeds.",)
    return tuple(answer(family, "", seed="fresh seed") for family in known)


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
        f"{METRICS[first].axis} of each configuration in the order of suggestion, {_seeds_of(study)}, and the"
        f" best so far.{_error_bars(study)}",
        "Optimisation history",
    )
    tables = {
        method: importances(study.state.search, members) for method, members in study.state.members.items()
    }
    known = {method: table for method, table in tables.items() if table is not None}
    unit = _unit(study)
    notes = [
        f"Importances of {method_title(method)} are not shown: it has"
        f" {number_of(study.state.count('finished', method=method), f'finished {unit}')},"
        f" and it takes {FEWEST} with different values."
        for method in tables
        if method not in known
    ]
    if known:
        shown += _importance_figures(study, frame, known, cache)
    return shown + _pareto_figure(study, frame, cache), notes


def _importance_figures(
    study: SearchStudy, frame: pd.DataFrame, tables: Mapping[str, pd.DataFrame], cache: FigureCache
) -> list[RenderedFigure]:
    first, unit = study.state.search.objectives[0], _unit(study)
    counted = [f"{study.state.count('finished', method=name)} of {method_title(name)}" for name in tables]
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
            f" functional ANOVA over {unit}s that reached their last epoch ({join_and(counted)}). Lines: 10 %"
            f" to 90 % over {unit}s drawn with replacement; if they are long, the order says little."
            f" Parameters that only some {unit}s have are left out.",
            "Importances of parameters",
        ),
        *cache.add(
            "search-slices",
            frame,
            lambda: slices(panels, first),
            f"{METRICS[first].axis} against the two parameters with the largest shares, and over both at"
            f" once (between {unit}s, if there are enough, colour is interpolated). The others vary,"
            " too.",
            "Slices and contour of the two most important parameters",
        ),
    ]


def _pareto_figure(study: SearchStudy, frame: pd.DataFrame, cache: FigureCache) -> list[RenderedFigure]:
    """The first objective against the second, or against time if there is only one."""
    first, *others = study.state.search.objectives
    other = others[0] if others else "train_seconds"
    if other not in frame and other != first:
        frame = frame.assign(**{other: frame["key"].map(mean_of_runs(study, other))})
    done = frame.dropna(subset=list(dict.fromkeys([first, *others, other])))
    if len(done) < 2 or other == first:
        return []
    front = pareto_front(study, done, (other, first))
    return cache.add(
        "search-pareto",
        done,
        lambda: pareto(done, other, first, front),
        f"{METRICS[first].axis} against {METRICS[other].axis.lower()} of the searched {_unit(study)}s that"
        f" reached their last epoch, {_seeds_of(study)}, and the Pareto front of"
        f" {'both' if len(study.state.members) == 2 else 'all'} methods together.",
        "Pareto front",
    )


def _note(study: SearchStudy) -> str:
    """What the methods are, and how they were searched."""
    methods = study.state.search.methods
    words = [f"{method_title(name)}: {_in_words(name, row)}." for name, row in methods.items()]
    note = " ".join([*words, NOTE])
    if study.state.search.seeds_per_configuration > 1:
        note += (
            " A configuration was trained with its first seed and, if that one was not stopped early, with"
            " the others: the mean counts."
        )
    return note


def _in_words(method: str, row: Mapping[str, Any]) -> str:
    if row == BASELINE_AND_PAIRS.get(method):
        return KNOWN[method]
    return ", ".join(f"{name} {format_value(value)}" for name, value in row.items())


def _unit(study: SearchStudy) -> str:
    """What has one value: a trial, or a configuration with its mean over seeds."""
    return "trial" if study.state.search.seeds_per_configuration == 1 else "configuration"


def _seeds_of(study: SearchStudy) -> str:
    """What a value was computed from, for captions."""
    seeds = study.state.search.seeds_per_configuration
    return "one seed each" if seeds == 1 else f"mean of {seeds} seeds each"


def _error_bars(study: SearchStudy) -> str:
    return (
        " Bars: ± one standard error of the mean." if study.state.search.seeds_per_configuration > 1 else ""
    )


def _each(study: SearchStudy) -> str:
    """`, 3 seeds each`; empty for one."""
    seeds = study.state.search.seeds_per_configuration
    return f", {seeds} seeds each" if seeds > 1 else ""


def _lead(study: SearchStudy) -> str:
    state = study.state
    objectives = [METRICS[name].axis.lower() for name in state.search.objectives]
    counts = {name: state.count(name) for name in STATES}
    states = ", ".join(f"{count} {_STATES.get(name, name)}" for name, count in counts.items() if count)
    lead = (
        f"{len(study.state.all)} of {state.search.trials * len(state.members)} configurations searched by"
        f" {join_and(objectives)}{_each(study)} ({states})"
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
    """What the finalists show, by which rule, and what stopping early saved."""
    if not study.compared.empty and (study.compared["n"] > 0).any():
        sentences = cell_findings(study.compared, seed="fresh seed")
    elif len(finished(study.finals)):
        sentences = ["No finalist has results for the same fresh seeds as another one: nothing is compared."]
    else:
        sentences = ["No finalist has been trained with fresh seeds yet: nothing is compared."]
    return sentences + search_notes(study)


def search_notes(study: SearchStudy) -> list[str]:
    """By which rule finalists are compared, and what stopping early saved."""
    sentences = rule_sentences(study.compared) if len(study.compared) else []
    pruned, diverged = study.state.count("pruned"), study.state.count("diverged")
    trained = sum(map(_epochs, study.state.all))
    if pruned and trained:
        seeds = study.state.search.seeds_per_configuration
        whole = sum(seeds * member.config.epochs for member in study.state.all if _epochs(member))
        sentences.append(
            f"Stopping {pruned} of {len(study.state.all)} configurations early took the search {trained:,}"
            f" epochs instead of {whole:,} ({trained / whole:.0%})."
        )
    if diverged:
        sentences.append(f"{number_of(diverged, 'configuration')} diverged: the loss was not finite.")
    return sentences


def _epochs(member: Member) -> int:
    """The epochs that a configuration was trained; 0 for a failed one, of which they are not known."""
    if member.state not in ("finished", "pruned"):
        return 0
    return sum(trial.epochs for trial in member.trials.values())
