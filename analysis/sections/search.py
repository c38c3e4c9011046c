"""The report of a search, as a value: what was tried, what mattered, and the finalists with fresh seeds.

Test images have no part in what it shows of searched trials: only finalists, whose seeds the search never
saw, are compared on them.
"""

from collections.abc import Mapping

from analysis.plots.cache import FigureCache
from analysis.render.section import Report, Section
from analysis.render.table import Table
from analysis.render.text import join_and, number_of
from analysis.sections.caveats import fixed_section, provenance_section
from analysis.sections.findings import cell_findings
from analysis.sections.search_figures import search_figures
from analysis.sections.search_tables import searched_table
from analysis.stats.search import SearchStudy
from analysis.trials import finished, load
from search_spaces import Selection
from study.ledger.search_state import STATES, Member
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
    """The report of a search.

    Args:
        study: the search.
        tables: those of the finalists.
        stopped: validation accuracy when a trial was stopped early, by key.
        experiment: the ledger's.
        cache: draws the figures.
    """
    search, final = study.state.search, study.state.final_selection()
    figures, notes = search_figures(study, stopped, cache)
    searched = [searched_table(study, method, stopped) for method in study.state.members]
    configs = tuple(member.config for member in study.members)
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
        for table in searched
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


def _lead(study: SearchStudy) -> str:
    state = study.state
    objectives = [METRICS[name].axis.lower() for name in state.search.objectives]
    counts = {name: state.count(name) for name in STATES}
    states = ", ".join(f"{count} {_STATES.get(name, name)}" for name, count in counts.items() if count)
    lead = (
        f"{len(study.members)} of {state.search.trials * len(state.members)} configurations searched by"
        f" {join_and(objectives)} ({states})"
    )
    # Before the first final trial has ended, the finalists may still change.
    if finished(study.finals).empty:
        return lead
    finalists = number_of(len(study.finalists), "finalist")
    return f"{lead} · {finalists} × {number_of(state.search.seeds, 'fresh seed')}"


def _warnings(study: SearchStudy) -> list[str]:
    missing, planned = study.state.missing, study.state.search.trials * len(study.state.members)
    warnings = []
    if missing:
        warnings.append(f"This search is incomplete: {missing} of {planned} configurations have not ended.")
    done = len(finished(study.finals))
    if 0 < done < len(study.finals):
        warnings.append(
            f"{len(study.finals) - done} of {len(study.finals)} finalists' trials have no result. Nothing"
            " below speaks for them."
        )
    return warnings


def search_findings(study: SearchStudy) -> list[str]:
    """What the finalists show, and what stopping early saved."""
    if not study.compared.empty and (study.compared["n"] > 0).any():
        sentences = cell_findings(study.compared, seed="fresh seed")
    elif len(finished(study.finals)):
        sentences = ["No finalist has results for the same fresh seeds as another one: nothing is compared."]
    else:
        sentences = ["No finalist has been trained with fresh seeds yet: nothing is compared."]
    pruned, diverged = study.state.count("pruned"), study.state.count("diverged")
    if pruned:
        trained = sum(map(_epochs, study.members))
        whole = sum(member.config.epochs for member in study.members if _epochs(member))
        sentences.append(
            f"Stopping {pruned} of {len(study.members)} configurations early took the search {trained:,}"
            f" epochs instead of {whole:,} ({trained / whole:.0%})."
        )
    if diverged:
        sentences.append(f"{number_of(diverged, 'configuration')} diverged: the loss was not finite.")
    return sentences


def _epochs(member: Member) -> int:
    """The epochs that a trial was trained; 0 for a failed one, of which they are not known."""
    return member.epochs if member.state in ("finished", "pruned") else 0
