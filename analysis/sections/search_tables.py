"""The tables of a search: its finalists, and every configuration that was tried."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.render.table import Entry, Table, entries
from analysis.render.text import NO_VALUE, arm_title, over_seeds, spread_text
from analysis.sections.cells import accuracy_rows
from analysis.sections.differences import difference_table
from analysis.stats.comparisons import TESTED
from analysis.stats.search import SearchStudy, finished_seeds, method_title
from analysis.stats.summary import summarise
from analysis.trials import finished
from study.ledger.search_members import Member
from trainables.metrics import ACCURACIES, METRICS
from trainables.trial import FIELDS, format_value


def final_tables(study: SearchStudy) -> list[Table]:
    """The tables of the finalists: results, differences, others beside them, and configurations."""
    if finished(study.finals).empty:
        return []
    best = "the finalist of cross-entropy with the highest mean validation accuracy over the fresh seeds"
    note = f" Baseline: {best}."
    if study.control:
        note += f" Control: {study.control}, chosen likewise among the finalists with γ = 0."
    differences = difference_table(study.compared, "finalists-differences", "Finalists: differences", note)
    return [*filter(None, (_results(study), differences, _beside(study), _configurations(study)))]


def _results(study: SearchStudy) -> Table:
    objective = study.state.search.objectives[0]
    searched = tuple(
        Entry(text=_objective_texts(member, (objective,))[0], runs=member.run_ids, metric=objective)
        for member in study.finalists.values()
    )
    seeds = study.state.search.seeds_per_configuration
    source = "one seed's value" if seeds == 1 else f"the mean of {seeds} seeds ± its standard error"
    summary = summarise(study.finals).assign(best=False)
    measured = set(summary.loc[summary["n"] > 0, "metric"])
    n = set(summary.loc[summary["metric"] == TESTED, "finished"])
    return Table(
        name="finalists",
        title="Finalists",
        corner="Accuracy (%)",
        columns=tuple(study.finalists),
        rows=(
            (f"{METRICS[objective].axis} in the search", searched),
            *accuracy_rows(summary[summary["metric"].isin(measured)]),
        ),
        caption=f"Accuracy in %, {over_seeds(n)} fresh {'seed' if max(n) == 1 else 'seeds'} that the search"
        f" never saw. The first row is {source}, by which the configuration was chosen: it is too good"
        " for that reason.",
    )


def _objective_texts(member: Member, objectives: Sequence[str]) -> list[str]:
    """`95.1`, `95.1 ± 0.4` (mean ± standard error), `8.2 s ± 0.1 s`, or `–`, for the first objectives."""
    nothing = (np.nan,) * len(objectives)
    shown = zip(objectives, member.objectives or nothing, member.errors or nothing, strict=False)
    return [_objective_text(name, value, error) for name, value, error in shown]


def _objective_text(objective: str, value: float, error: float) -> str:
    if np.isnan(value):
        return NO_VALUE
    seconds = METRICS[objective].unit == "s"
    known = [number for number in (value, error) if not np.isnan(number)]
    return " ± ".join(f"{number:.1f} s" if seconds else f"{100 * number:.1f}" for number in known)


def _beside(study: SearchStudy) -> Table | None:
    """Finalists and the arms of another space, by validation and test accuracy."""
    if study.beside.empty or "val_acc" not in study.beside:
        return None
    space, done = study.state.search.beside, finished(study.finals)
    trials = {label: done[done["arm_label"] == label] for label in study.finalists}
    for arm, part in study.beside.groupby("arm_label", sort=False):
        trials[f"{space}: {arm_title(str(arm))}"] = part
    metrics = ("val_acc", TESTED)
    rows = []
    for title, part in trials.items():
        texts = {n: spread_text(list(part[n].dropna())) if n in part else NO_VALUE for n in metrics}
        shown = tuple(Entry(text=t, runs=tuple(part["run_id"]), metric=n) for n, t in texts.items())
        rows.append((title, (*shown, Entry(text=str(len(part))))))
    return Table(
        name="finalists-beside",
        title=f"Beside the arms of {space}",
        corner="Accuracy (%)",
        columns=(*(ACCURACIES[name] for name in metrics), "n"),
        rows=tuple(rows),
        caption=f"Mean ± standard deviation over n seeds. The arms of {space} have the same data and"
        f" {study.given.get('epochs', 'as many')} epochs, but other seeds: not paired, and not tested.",
    )


def _configurations(study: SearchStudy) -> Table:
    parameters = _parameters(study, list(study.finalists.values()))
    return Table(
        name="finalists-configurations",
        title="Configurations of the finalists",
        corner="Parameter",
        columns=tuple(study.finalists),
        rows=tuple((str(name), entries(*texts)) for name, texts in parameters.items()),
        caption=f"What was searched; {NO_VALUE} where it has no meaning. All else was fixed.",
    )


def _parameters(study: SearchStudy, members: Sequence[Member]) -> pd.DataFrame:
    """What was suggested for each configuration, as text: a column per parameter."""
    suggested = [study.state.search.recall(member.config) or {} for member in members]
    rows = [
        {name: f"{v:g}" if isinstance(v, float) else format_value(v) for name, (v, _) in values.items()}
        for values in suggested
    ]
    known = [name for name in FIELDS if any(name in row for row in rows)]
    return pd.DataFrame(rows, columns=known).fillna(NO_VALUE)


def searched_table(study: SearchStudy, method: str, stopped: Mapping[str, float]) -> Table:
    """Every configuration of a method, the best first."""
    ranked = study.state.ranked(method)
    members = [*ranked, *(member for member in study.state.members[method] if member not in ranked)]
    parameters = _parameters(study, members)
    objectives = study.state.search.objectives
    several = study.state.search.seeds_per_configuration > 1
    rows = []
    for member, values in zip(members, parameters.itertuples(index=False), strict=True):
        first, *others = _reached(member, objectives, stopped)
        seeds = [str(finished_seeds(member))] if several else []
        shown = (
            Entry(text=first, runs=member.run_ids, metric=objectives[0]),
            *entries(*others, *seeds, *values),
        )
        rows.append((str(member.number), shown))
    of_seeds = "mean ± standard error over n seeds" if several else "of one seed each"
    return Table(
        name=f"searched-{method}",
        title=f"Searched configurations: {method_title(method)}",
        corner="No.",
        columns=(
            *(METRICS[name].axis for name in objectives),
            *("epochs", "n")[: 1 + several],
            *parameters,
        ),
        rows=tuple(rows),
        caption=f"Accuracies in %, {of_seeds}; in parentheses: when the trial was stopped.",
    )


def _reached(member: Member, objectives: Sequence[str], stopped: Mapping[str, float]) -> list[str]:
    """The objectives of a searched configuration, and how far it was trained."""
    texts = _objective_texts(member, objectives)
    if member.state == "pruned" and objectives[0] == "val_acc":
        texts[0] = f"({100 * stopped[member.config.key]:.1f})"
    epochs = {"pruned": f"stopped after {member.epochs}", "finished": str(member.epochs)}
    return [*texts, epochs.get(member.state, member.state)]
