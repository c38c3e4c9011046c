"""The report of a study, as a value."""

from dataclasses import replace

import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.render.section import RenderedFigure, Report, Section
from analysis.render.table import Table
from analysis.render.text import join_and, number_of
from analysis.sections.caveats import (
    fixed_section,
    open_section,
    provenance_section,
    status_warning,
    unread_warning,
)
from analysis.sections.cells import cell_sections
from analysis.sections.chance import chance_findings
from analysis.sections.confusions import confusion_section
from analysis.sections.costs import costs_section
from analysis.sections.figures import cell_figures, group_figures, omitted, study_figures
from analysis.sections.findings import apart_note, findings
from analysis.sections.front import front
from analysis.sections.generality import generality_tables
from analysis.sections.headline import headline
from analysis.sections.overview import overview
from analysis.sections.published import published_findings, published_tables
from analysis.sections.rules import rule_sentences
from analysis.sections.seeds_needed import seeds_section
from analysis.sections.tuning import tuning_section
from analysis.stats.published import Published, match_published
from analysis.stats.results import Results
from analysis.trials import cell_labels, cells_of, finished, groups_of
from search_spaces import SPACES, Selection
from study.ledger.ledger import Ledger
from trainables.catalogue import TERMS


def study_report(
    results: Results, selection: Selection, published: Published, ledger: Ledger, cache: FigureCache
) -> Report:
    """The report of a study, beside `published` numbers."""
    trials = results.trials
    matched = match_published(results.summary, trials, published)
    tables = tuple(published_tables(matched, trials, published))
    by_cell = cells_of(trials)
    figures = {n: cell_figures(cell, n, len(by_cell), ledger, cache) for n, cell in by_cell.items()}
    cells = [
        _with_details(
            section,
            generality_tables(results, number, label),
            confusion_section(trials, number, label, ledger, cache),
        )
        for section, (number, label) in zip(
            cell_sections(results, figures), cell_labels(trials).items(), strict=True
        )
    ]
    whole = tuple(study_figures(results, cache))
    sections = [
        *_results(results, cells, whole, ledger, cache),
        Section(
            id="published", title="Against published numbers", short_title="Published numbers", tables=tables
        ),
        tuning_section(trials),
        seeds_section(results),
        costs_section(trials),
        open_section(trials),
        replace(fixed_section(selection.trials, "Every trial"), folded=True),
        replace(provenance_section(selection, trials, ledger.experiment), folded=True),
    ]
    first = front(results, [table for section in sections for table in section.all_tables()], cache)
    sections = [section.without(first.tables) for section in sections]
    said = headline(results)
    return Report(
        kind="Study",
        name=selection.space,
        question=said.question,
        answers=said.answers,
        about=_about(selection),
        front=first,
        lead=_lead(trials),
        warnings=(*status_warning(trials), *unread_warning(ledger, trials)),
        findings=(
            *chance_findings(trials, ledger),
            *findings(results),
            *apart_note(trials),
            *rule_sentences(results.compared),
            *published_findings(matched, published),
        ),
        note=_note(trials),
        sections=tuple(section for section in sections if not section.is_empty),
    )


def _about(selection: Selection) -> str:
    """The first lines of the spaces' docstrings, and what was changed on the command line."""
    spaces = [SPACES[name] for name in selection.space.split("+") if name in SPACES]
    told = [(space.__doc__ or "").strip().partition("\n")[0] for space in spaces]
    changes = [step.rpartition(": ")[0] for step in selection.steps if step.startswith("--")]
    return " ".join([*filter(None, told), *([f"Here with {join_and(changes)}."] if changes else [])])


def _setting(trials: pd.DataFrame) -> str:
    """`digits · convnet · 60 epochs`, for what has few values."""
    names = [
        "/".join(map(str, values))
        for column in ("dataset", "backbone")
        if len(values := list(dict.fromkeys(trials[column]))) <= NAMED
    ]
    epochs = "/".join(str(int(value)) for value in dict.fromkeys(trials["epochs"]))
    return " · ".join([*names, f"{epochs} epochs"])


def _lead(trials: pd.DataFrame) -> str:
    cells, arms = trials["cell"].nunique(), trials.groupby("cell")["arm_label"].nunique().max()
    extent = ", ".join(
        number_of(int(count), noun)
        for count, noun in ((cells, "cell"), (arms, "arm"), (trials["seed"].nunique(), "seed"))
    )
    seconds = float(trials["train_seconds"].sum()) if "train_seconds" in trials else 0.0
    time = f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.0f} hours"
    done = f"{len(finished(trials))} of {len(trials)} planned trials finished"
    return f"{done} · {extent} · {_setting(trials)} · {time} of training in all"


NAMED = 3
"""Most datasets or backbones that are named at the top."""
_METHODS = {
    "ce": "CE: one view, cross-entropy alone.",
    "unsupervised": "Without labels: the term alone, then a linear classifier of the frozen features.",
    "fixmatch": "FixMatch: cross-entropy of a weakly augmented view; γ weighs that of a strong one, with the"
    " confident predictions on the weak one as labels.",
}


def _note(trials: pd.DataFrame) -> str:
    siamese = trials[trials["method"] == "siamese"]
    terms = [TERMS[term].title for term in dict.fromkeys(siamese.loc[siamese["gamma"] > 0, "term"])]
    term = f"{terms[0]} term" if len(terms) == 1 else "consistency term"
    methods = [text for method, text in _METHODS.items() if (trials["method"] == method).any()]
    drawn = (trials["fold"] == "seed").any() or trials["data_seed"].notna().any()
    alike = "tested on these same images" if drawn else "trained and tested on these same images"
    if len(siamese):
        beside = "beside the cross-entropies of two views; γ = 0 is the control without it."
        weight = f"γ: weight of the {term} {beside}"
        methods.insert(1 if methods and methods[0].startswith("CE") else 0, weight)
    return (
        f"{' '.join(methods)} Cell: everything equal but arm and seed. Seeds are"
        " replicates: arms are compared seed by seed, and intervals over seeds speak for new seeds,"
        f" {alike}. A Holm-adjusted interval excludes zero exactly where the adjusted p is at most"
        " 0.05: it says which arms differ, not that several intervals hold at once."
    )


def _with_details(cell: Section, generality: tuple[Table, ...], confusions: tuple[Section, ...]) -> Section:
    """The section of a cell with what its intervals speak for and the confusions of classes, both folded."""
    fold = Section(title="New seeds and new images", folded=True, tables=generality, headed=False)
    return replace(cell, parts=(*cell.parts, *((fold,) if generality else ()), *confusions))


def _results(
    results: Results,
    cells: list[Section],
    whole: tuple[RenderedFigure, ...],
    ledger: Ledger,
    cache: FigureCache,
) -> list[Section]:
    """The sections of cells, and of several together; `whole` are the figures of the whole study."""
    if len(cells) > 1:
        return [
            _overview(results, whole, ledger, cache),
            Section(id="cells", title="Cells", parts=tuple(cells)),
        ]
    (cell,) = cells  # figures of the whole study are its own
    choice = tuple(
        Section(title=table.title, folded=True, tables=(table,), headed=False) for table in overview(results)
    )
    return [
        replace(
            cell,
            id="cells",
            short_title="Results",
            figures=cell.figures + whole,
            parts=(*cell.parts, *choice),
        )
    ]


def _overview(
    results: Results, whole: tuple[RenderedFigure, ...], ledger: Ledger, cache: FigureCache
) -> Section:
    """What concerns several cells, with the figures of the `whole` study."""
    parts = [
        Section(
            title=str(group["group_label"].iloc[0]),
            figures=tuple(group_figures(results, group, number, ledger, cache)),
        )
        for number, group in groups_of(results.trials).items()
    ]
    parts.append(Section(title="The whole study", figures=whole))
    return Section(
        id="overview",
        title="Overview",
        tables=tuple(overview(results)),
        parts=tuple(part for part in parts if not part.is_empty),
        notes=omitted(results.trials["cell"].nunique()),
    )
