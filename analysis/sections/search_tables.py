"""The tables of a search: its finalists, and every configuration that was tried."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.render.table import Entry, Table, entries
from analysis.render.text import NO_VALUE, arm_title, over_seeds, spread_text
from analysis.sections.cells import accuracy_rows
from analysis.sections.differences import difference_table
from analysis.stats.comparisons import TESTED
from analysis.stats.search import METHOD_TITLES, SearchStudy
from analysis.stats.summary import summarise
from analysis.trials import finished
from study.ledger.search_state import SearchTrial
from trainables.metrics import ACCURACIES, METRICS
from trainables.trial import FIELDS, format_value


def final_tables(study: SearchStudy) -> list[Table]:
    """The tables of the finalists: results, differences, others beside them, and configurations."""
    if finished(study.finals).empty:
        return []
    best = "the finalist of cross-entropy with the highest mean validation accuracy over the fresh seeds"
    note = f" Baseline: {best}."
    differences = difference_table(study.compared, "finalists-differences", "Finalists: differences", note)
    return [*filter(None, (_results(study), differences, _beside(study), _configurations(study)))]


def _results(study: SearchStudy) -> Table:
    objective = study.state.search.objectives[0]
    searched = tuple(
        Entry(text=_objective_text(objective, (member.objectives or (np.nan,))[0]), runs=(member.run_id,))
        for member in study.finalists.values()
    )
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
        " never saw. The first row is one seed's value, by which the configuration was chosen: it is too good"
        " for that reason.",
    )


def _objective_text(objective: str, value: float) -> str:
    if np.isnan(value):
        return NO_VALUE
    return f"{value:.1f} s" if METRICS[objective].unit == "s" else f"{100 * value:.1f}"


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
        texts = [spread_text(list(part[name].dropna())) if name in part else NO_VALUE for name in metrics]
        shown = tuple(Entry(text=text, runs=tuple(part["run_id"])) for text in texts)
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


def _parameters(study: SearchStudy, members: Sequence[SearchTrial]) -> pd.DataFrame:
    """What was suggested for each trial, as text: a column per parameter."""
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
    rows = []
    for member, values in zip(members, parameters.itertuples(index=False), strict=True):
        first, *others = _reached(member, objectives, stopped)
        shown = (Entry(text=first, runs=(member.run_id,)), *entries(*others, *values))
        rows.append((str(member.number), shown))
    return Table(
        name=f"searched-{method}",
        title=f"Searched configurations: {METHOD_TITLES[method]}",
        corner="No.",
        columns=(*(METRICS[name].axis for name in objectives), "epochs", *parameters),
        rows=tuple(rows),
        caption="Accuracies in %, of one seed each; in parentheses: when the trial was stopped.",
    )


def _reached(member: SearchTrial, objectives: Sequence[str], stopped: Mapping[str, float]) -> list[str]:
    """The objectives of a searched trial, and how far it was trained."""
    values = member.objectives or (np.nan,) * len(objectives)
    texts = [_objective_text(name, value) for name, value in zip(objectives, values, strict=True)]
    if member.state == "pruned" and objectives[0] == "val_acc":
        texts[0] = f"({100 * stopped[member.config.key]:.1f})"
    epochs = {"pruned": f"stopped after {member.epochs}", "finished": str(member.epochs)}
    return [*texts, epochs.get(member.state, member.state)]
