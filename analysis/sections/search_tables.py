"""The tables of a search: its finalists, and every configuration that was tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.plots.search import METHOD_NAMES, OBJECTIVE_NAMES
from analysis.render.table import Entry, Table, to_latex, to_markdown
from analysis.render.text import METRICS, MINUS, NO_VALUE, arm_text, number_of, span, spread_text
from analysis.sections.cells import entry_of
from analysis.sections.differences import DIFFERENCE_COLUMNS, in_words
from analysis.stats.comparisons import TESTED
from analysis.stats.paired import common_seeds, compare
from analysis.trials import finished, load
from search_spaces import SPACES, Selection
from search_spaces.searches import SEED
from study.ledger.records import TrialRecord
from study.ledger.search_state import SearchState, SearchTrial
from trainables.trial import FIELDS, TrialConfig, format_value

SAME = (
    "dataset",
    "train_size",
    "unlabeled_size",
    "val_fraction",
    "backbone",
    "feature_dim",
    "epochs",
    "lr_schedule",
)
"""Fields that arms of another space take from the search, to stand beside its finalists."""


@dataclass(frozen=True)
class SearchStudy:
    """A search with what the ledger has of it."""

    found: SearchState
    records: Mapping[str, TrialRecord]

    @cached_property
    def labels(self) -> dict[str, str]:
        """The name of each finalist, by the key of its searched trial: `CE 1`."""
        return {
            member.config.key: f"{METHOD_NAMES[method]} {rank}"
            for method, members in self.found.finalists().items()
            for rank, member in enumerate(members, 1)
        }

    @cached_property
    def finals(self) -> pd.DataFrame:
        """The finalists' trials (as of `analysis.trials.load`) with their `label`; may be empty."""
        selection = self.found.final_selection()
        if not selection.trials:
            return pd.DataFrame(columns=["key", "status", "run_id", "changed", "label", "seed"])
        trials = load(selection, self.records)
        labels = {trial.key: self.labels[trial.replace(seed=SEED).key] for trial in selection.trials}
        return trials.assign(label=trials["key"].map(labels))

    @cached_property
    def beside(self) -> pd.DataFrame:
        """Finished trials of the space that is shown beside, with the same data and epochs."""
        space = self.found.search.beside
        if space is None:
            return pd.DataFrame()
        given = {**self.found.search.fixed, **self.found.search.assigned}
        same = {name: given[name] for name in SAME if name in given}
        trials = tuple(dict.fromkeys(trial.replace(**same) for trial in SPACES[space]()))
        there = tuple(trial for trial in trials if trial.key in self.records)
        if not there:
            return pd.DataFrame()
        return finished(load(Selection(space=space, trials=there, steps=()), self.records))

    @cached_property
    def members(self) -> list[SearchTrial]:
        """Searched trials, method by method."""
        return self.found.all

    def values(self, metric: str) -> pd.DataFrame:
        """Seeds × finalists, of the fresh seeds alone."""
        labels = list(self.labels.values())
        done = finished(self.finals)
        if metric not in done:
            return pd.DataFrame(columns=labels, dtype=float)
        wide = done.pivot_table(index="seed", columns="label", values=metric, aggfunc="first")
        return wide.reindex(columns=labels)


def final_tables(study: SearchStudy) -> list[Table]:
    """What is said of the finalists: results, differences, configurations, and others beside them."""
    if finished(study.finals).empty:
        return []
    tables = [_results(study)]
    tables += [table for table in (_differences(study), _beside(study)) if table]
    return [*tables, _configurations(study)]


def _results(study: SearchStudy) -> Table:
    labels = list(study.labels.values())
    objective = study.found.search.objectives[0]
    ranked = {member.config.key: member for members in study.found.finalists().values() for member in members}
    in_search = tuple(
        Entry(
            text=_objective_text(objective, (ranked[key].objectives or (np.nan,))[0]),
            runs=(ranked[key].run_id,),
        )
        for key in study.labels
    )
    rows = [(f"{OBJECTIVE_NAMES[objective]} in the search", in_search)]
    done = finished(study.finals)
    runs = {label: tuple(done.loc[done["label"] == label, "run_id"]) for label in labels}
    for metric, title in METRICS.items():
        values = study.values(metric)
        if values.notna().any().any():
            seeds = study.found.search.seeds
            rows.append((title, tuple(entry_of(values[label], seeds, runs[label]) for label in labels)))
    n = [int((done["label"] == label).sum()) for label in labels]
    spread = "mean ± standard deviation over" if max(n) > 2 else "values of"
    return Table(
        name="finalists",
        title="Finalists",
        corner="Accuracy (%)",
        columns=tuple(labels),
        rows=tuple(rows),
        caption=(
            f"Accuracy in %, {spread} n = {span(set(n))} fresh {'seed' if max(n) == 1 else 'seeds'} that the"
            " search never saw. The first row is one seed's value, by which the configuration was chosen:"
            " it is too good for that reason."
        ),
    )


def _objective_text(objective: str, value: float) -> str:
    if np.isnan(value):
        return NO_VALUE
    return f"{value:.1f} s" if objective == "train_seconds" else f"{100 * value:.1f}"


def baseline_of(study: SearchStudy) -> str | None:
    """The finalist of cross-entropy that does best on validation images over the fresh seeds."""
    alone = [label for key, label in study.labels.items() if _method_of(study, key) == "ce"]
    values = study.values("val_acc").reindex(columns=alone)
    whole = values.dropna(axis="columns", how="all")
    return None if whole.empty else str(whole.mean().idxmax())


def _method_of(study: SearchStudy, key: str) -> str:
    return next(member.config.method for member in study.members if member.config.key == key)


def compared(study: SearchStudy) -> tuple[pd.DataFrame, str, list[int]] | None:
    """Finalists of two views against the baseline, on test images; the baseline; and the seeds left out."""
    baseline = baseline_of(study)
    others = [label for key, label in study.labels.items() if _method_of(study, key) == "siamese"]
    if baseline is None or not others:
        return None
    values, dropped = common_seeds(study.values(TESTED)[[baseline, *others]], drop=True)
    if values.empty or values[baseline].isna().all():
        return None
    return compare(values, dict.fromkeys(others, baseline)), baseline, dropped


def _differences(study: SearchStudy) -> Table | None:
    found = compared(study)
    if found is None:
        return None
    table, baseline, dropped = found
    there = table[table["n"] > 0]
    if there.empty:
        return None
    rows = tuple(
        (f"{label} {MINUS} {baseline}", tuple(Entry(text=text) for text in in_words(row)))
        for label, row in zip(table.index, table.to_dict("records"), strict=True)
    )
    n, floor = int(there["n"].max()), float(there["p_floor"].min())
    without = (
        f" Left out, as not every finalist has them: seeds {', '.join(map(str, dropped))}." if dropped else ""
    )
    return Table(
        name="finalists-differences",
        title="Finalists: differences",
        corner="Test accuracy (points)",
        columns=DIFFERENCE_COLUMNS,
        rows=rows,
        caption=(
            f"Paired by seed, n = {n}; t-test and its 95 % interval, adjusted after Holm over"
            f" {number_of(len(table), 'comparison')}. Baseline: the finalist of cross-entropy with the"
            " highest mean validation accuracy over the fresh seeds. Exact sign-flip p-values are not"
            f" adjusted; with {number_of(n, 'seed')} they are {floor:.2g} at least.{without}"
        ),
    )


def _beside(study: SearchStudy) -> Table | None:
    """Finalists and the arms of another space, by validation and test accuracy."""
    if study.beside.empty or "val_acc" not in study.beside:
        return None
    space = str(study.found.search.beside)
    rows = []
    done = finished(study.finals)
    for label in study.labels.values():
        part = done[done["label"] == label]
        rows.append((label, part))
    for arm, part in study.beside.groupby("arm_label", sort=False):
        rows.append((f"{space}: {arm_text(str(arm))}", part))
    entries = tuple(
        (
            title,
            (
                *(
                    Entry(
                        text=spread_text(list(part[metric].dropna())) if metric in part else NO_VALUE,
                        runs=tuple(part["run_id"]),
                    )
                    for metric in ("val_acc", TESTED)
                ),
                Entry(text=str(len(part))),
            ),
        )
        for title, part in rows
    )
    given = {**study.found.search.fixed, **study.found.search.assigned}
    return Table(
        name="finalists-beside",
        title=f"Beside the arms of {space}",
        corner="Accuracy (%)",
        columns=(METRICS["val_acc"], METRICS[TESTED], "n"),
        rows=entries,
        caption=(
            f"Mean ± standard deviation over n seeds. The arms of {space} have the same data and"
            f" {given.get('epochs', 'as many')} epochs, but other seeds: not paired, and no test is made."
        ),
    )


def _configurations(study: SearchStudy) -> Table:
    asked = {key: study.found.search.recall(_config_of(study, key)) or {} for key in study.labels}
    names = [name for name in FIELDS if any(name in parameters for parameters in asked.values())]
    rows = tuple(
        (
            name,
            tuple(
                Entry(text=_value_text(asked[key][name][0]) if name in asked[key] else NO_VALUE)
                for key in study.labels
            ),
        )
        for name in names
    )
    return Table(
        name="finalists-configurations",
        title="Configurations of the finalists",
        corner="Parameter",
        columns=tuple(study.labels.values()),
        rows=rows,
        caption=f"What was searched; {NO_VALUE} where it has no meaning. All else was held fixed.",
    )


def _config_of(study: SearchStudy, key: str) -> TrialConfig:
    return next(member.config for member in study.members if member.config.key == key)


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else format_value(value)


def members_frame(study: SearchStudy, stopped: Mapping[str, float]) -> pd.DataFrame:
    """One row a searched trial: what it was, how it ended, and every parameter; nothing of test images."""
    rows = []
    for member in study.members:
        asked = study.found.search.recall(member.config) or {}
        values = member.objectives or (np.nan,) * len(study.found.search.objectives)
        rows.append(
            {
                "method": member.config.method,
                "number": member.number,
                "state": member.state,
                "epochs": member.epochs if member.state in ("finished", "pruned") else np.nan,
                "value": values[0],
                "stopped": stopped.get(member.config.key, np.nan),
                **dict(zip(study.found.search.objectives, values, strict=True)),
                **{name: value for name, (value, _) in asked.items()},
                "key": member.config.key,
                "run_id": member.run_id,
            }
        )
    return pd.DataFrame(rows)


def searched_table(study: SearchStudy, method: str, stopped: Mapping[str, float]) -> Table:
    """Every configuration of a method, the best first."""
    members = study.found.members[method]
    ranked = study.found.ranked(method)
    order = [*ranked, *(m for m in members if m not in ranked)]
    asked = {m.config.key: study.found.search.recall(m.config) or {} for m in members}
    names = [name for name in FIELDS if any(name in parameters for parameters in asked.values())]
    objectives = study.found.search.objectives
    rows = []
    for member in order:
        key = member.config.key
        values = [
            _objective_text(name, value)
            for name, value in zip(objectives, member.objectives or (np.nan,) * len(objectives), strict=True)
        ]
        if member.state == "pruned":
            values[0] = f"({100 * stopped[key]:.1f})" if objectives[0] == "val_acc" else values[0]
        how = {"pruned": f"stopped after {member.epochs}", "finished": str(member.epochs)}.get(
            member.state, member.state
        )
        parameters = [_value_text(asked[key][name][0]) if name in asked[key] else NO_VALUE for name in names]
        rows.append(
            (
                str(member.number),
                (
                    Entry(text=values[0], runs=(member.run_id,)),
                    *(Entry(text=text) for text in (*values[1:], how, *parameters)),
                ),
            )
        )
    return Table(
        name=f"searched-{method}",
        title=f"Searched configurations: {METHOD_NAMES[method]}",
        corner="No.",
        columns=(*(OBJECTIVE_NAMES[name] for name in objectives), "epochs", *names),
        rows=tuple(rows),
        caption="Accuracies in %, of one seed each; in parentheses: when the trial was stopped.",
    )


def write_search_tables(
    tables: Sequence[Table], study: SearchStudy, stopped: Mapping[str, float], folder: Path
) -> list[Path]:
    """Write `tables/tables.md`, `tables/latex/<name>.tex` and `searched.csv`."""
    latex = folder / "tables" / "latex"
    latex.mkdir(parents=True, exist_ok=True)
    paths = [folder / "tables" / "tables.md", folder / "searched.csv"]
    paths[0].write_text("\n".join(map(to_markdown, tables)))
    members_frame(study, stopped).drop(columns="value", errors="ignore").to_csv(paths[1], index=False)
    for table in tables:
        paths.append(latex / f"{table.name}.tex")
        paths[-1].write_text(to_latex(table))
    return paths
