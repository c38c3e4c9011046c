"""The report of a search: what was tried, what mattered, and the finalists compared with fresh seeds.

Of searched trials it shows nothing that was measured on test images: only finalists, which the search never
saw with these seeds, are held against each other there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.plots.cache import Figure, Gallery, digest_of
from analysis.plots.search import METHOD_NAMES, OBJECTIVE_NAMES, history, pareto, shares, slices
from analysis.render.markdown import search_text
from analysis.render.page import MARKDOWN, REPORT, STAMP, Rendered, before, html, replace
from analysis.render.table import Ui
from analysis.render.text import interval, joined, number_of, points
from analysis.sections.caveats import held_fixed, oddities, provenance
from analysis.sections.search_tables import (
    SearchStudy,
    compared,
    final_tables,
    members_frame,
    searched_table,
    write_search_tables,
)
from analysis.stats.comparisons import claimed
from analysis.stats.importances import FEWEST as FEWEST_FINISHED
from analysis.stats.importances import importances
from analysis.stats.paired import FEWEST
from analysis.trials import MixedData, finished, load
from search_spaces import Selection
from search_spaces.searches import Range
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.records import DATA_TAG
from study.ledger.search_state import SearchState, SearchTrial
from trainables.metrics import OBJECTIVES

CURVE = "val/acc"


def render(
    found: SearchState, ledger: Ledger, folder: Path, *, ui: str | None = None, force: bool = False
) -> Rendered:
    """Render the report of a search into `folder`, unless it is there and nothing has changed.

    Args:
        found: how far the search is.
        ledger: where its trials are.
        folder: gets `report.html`, `report.md`, `searched.csv`, `tables/` and `figures/`.
        ui: address of MLflow's pages; None: that of the tracking server, if there is one.
        force: render even if nothing has changed.

    Returns:
        What was rendered; its tables are there also where nothing has changed.

    Raises:
        MixedData: searched trials were trained on different data.
    """
    study = SearchStudy(found, ledger.trials())
    _check_data(study)
    ui = ui or (tracking_uri.redacted(ledger.uri) if ledger.uri.startswith("http") else None)
    links = Ui(address=ui.rstrip("/"), experiment_id=ledger.experiment_id) if ui else None
    tables = final_tables(study)
    report, stamp = folder / REPORT, folder / STAMP
    state = f"{digest_of(_state(study))} {ui}"
    known = before(stamp)
    if not force and report.exists() and known.get("state") == state:
        return Rendered(path=report, tables=tuple(tables))
    folder.mkdir(parents=True, exist_ok=True)
    gallery = Gallery(folder / "figures", known=dict(known.get("figures", {})))
    stopped = _stopped(study, ledger)
    figures, notes = _figures(study, stopped, gallery)
    searched = {method: searched_table(study, method, stopped) for method in found.members}
    everything = [member.config for member in study.members]
    content: dict[str, Any] = {
        **_counts(study),
        "space": found.search.name,
        "experiment": ledger.experiment,
        "findings": _findings(study),
        "tables": tables,
        "figures": figures,
        "figure_notes": notes,
        "searched": searched,
        "fixed": held_fixed(everything),
        "provenance": _provenance(study),
        "notes": _notes(study),
        "linked": links is not None,
    }
    replace(folder / MARKDOWN, search_text(content, folder))
    written = write_search_tables([*tables, *searched.values()], study, stopped, folder)
    replace(report, html("search.html.j2", content, links))
    gallery.sweep()
    stamp.write_text(json.dumps({"state": state, "figures": gallery.known}))
    drawn = [path for figure in gallery.drawn for path in (figure.png, figure.pdf)]
    return Rendered(path=report, files=(report, folder / MARKDOWN, *written, *drawn), tables=tuple(tables))


def _check_data(study: SearchStudy) -> None:
    digests = {study.records[member.config.key].tags.get(DATA_TAG) for member in study.members} - {None}
    if len(digests) > 1:
        raise MixedData(
            f"search {study.found.search.name}: its trials were trained on different data"
            f" ({', '.join(sorted(map(str, digests)))}); `python study/run.py` searches on the data at hand"
        )


def _state(study: SearchStudy) -> pd.DataFrame:
    """All that the report depends on."""
    rows = [(m.config.key, m.state, m.run_id, f"{m.number} {m.objectives}") for m in study.members]
    frames = [pd.DataFrame(rows, columns=["key", "status", "run_id", "changed"])]
    frames += [
        frame[["key", "status", "run_id", "changed"]] for frame in (study.finals, study.beside) if len(frame)
    ]
    frames += [pd.DataFrame([(repr(study.found.search.objectives), "", "", "")], columns=frames[0].columns)]
    return pd.concat(frames).astype(str)


def _counts(study: SearchStudy) -> dict[str, Any]:
    found = study.found
    full = sum(member.config.epochs for member in study.members if _epochs(member))
    return {
        "searched_count": len(study.members),
        "states": {
            state: found.count(state) for state in ("finished", "pruned", "diverged", "failed", "half-done")
        },
        "planned": found.search.trials * len(found.members),
        "epochs_run": sum(_epochs(member) for member in study.members),
        "epochs_full": full,
        # Before the first of them has ended, who they are may still change.
        "finals_planned": len(study.finals) if len(finished(study.finals)) else 0,
        "finals_done": len(finished(study.finals)),
        "finalists": len(study.labels),
        "seeds": found.search.seeds,
        "objectives": joined([OBJECTIVE_NAMES[name].lower() for name in found.search.objectives]),
    }


def _epochs(member: SearchTrial) -> int:
    """Epochs that a member was trained: of one that has failed they are not known."""
    return member.epochs if member.state in ("finished", "pruned") else 0


def _stopped(study: SearchStudy, ledger: Ledger) -> dict[str, float]:
    """Validation accuracy of each trial that was stopped early, at that epoch, by key."""
    stopped = {}
    for member in study.members:
        if member.state == "pruned":
            stopped[member.config.key] = ledger.history(member.run_id, CURVE).get(member.epochs, np.nan)
    return stopped


def _figures(
    study: SearchStudy, stopped: Mapping[str, float], gallery: Gallery
) -> tuple[list[Figure], list[str]]:
    """The figures of the search, and what cannot be drawn."""
    search, frame = study.found.search, members_frame(study, stopped)
    if frame.empty:
        return [], []
    first = search.objectives[0]
    highest = OBJECTIVES[first] == "maximize"
    shown = gallery.add(
        "search-history",
        frame,
        lambda: history(frame, first, highest=highest),
        f"{OBJECTIVE_NAMES[first]} of each configuration in the order of suggestion, one seed each, and the"
        " best so far.",
        "Optimisation history",
    )
    found, lacking = {}, []
    for method, members in study.found.members.items():
        table = importances(search, members)
        if table is None:
            count = study.found.count("finished", method=method)
            lacking.append(
                f"Importances of {METHOD_NAMES[method]} are not shown: it has"
                f" {number_of(count, 'finished trial')}, and it takes {FEWEST_FINISHED} with different"
                " values."
            )
        else:
            found[method] = table
    if found:
        counted = joined([f"{study.found.count('finished', method=m)} of {METHOD_NAMES[m]}" for m in found])
        shown += gallery.add(
            "search-importances",
            frame,
            lambda: shares(found),
            f"Share of the variance of {OBJECTIVE_NAMES[first].lower()} that each parameter explains by"
            f" itself: functional ANOVA over trials that reached their last epoch ({counted}). Lines: 10 % to"
            " 90 % over trials drawn with replacement; where they are long the order says little. Parameters"
            " that only some trials have are left out.",
            "Importances of parameters",
        )
        panels = {}
        for method, table in found.items():
            ranges = _ranges(study, method)
            panels[method] = (
                frame[frame["method"] == method],
                [(name, ranges[name]) for name in list(table.index)[:2]],
            )
        shown += gallery.add(
            "search-slices",
            frame,
            lambda: slices(panels, first),
            f"{OBJECTIVE_NAMES[first]} against the two parameters with the largest shares, and over both at"
            " once (between trials, where they are enough, colour is interpolated). The others vary, too.",
            "Slices and contour of the two most important parameters",
        )
    done = frame.dropna(subset=list(search.objectives))
    other = search.objectives[1] if len(search.objectives) > 1 else "train_seconds"
    if len(search.objectives) == 1 and first != "train_seconds":
        seconds = {key: record.metrics.get(other, np.nan) for key, record in study.records.items()}
        done = done.assign(**{other: done["key"].map(seconds)}).dropna(subset=[other])
    if len(done) > 1 and other in done:
        pair = search.replace(objectives=(other, first))
        points_ = list(done[[other, first]].itertuples(index=False, name=None))
        front = [not any(pair.better(b, a) for b in points_) for a in points_]
        shown += gallery.add(
            "search-pareto",
            done,
            lambda: pareto(done, other, first, front),
            f"{OBJECTIVE_NAMES[first]} against {OBJECTIVE_NAMES[other].lower()} of the searched trials that"
            " reached their last epoch, one seed each, and the Pareto front of both methods together.",
            "Pareto front",
        )
    return shown, lacking


def _ranges(study: SearchStudy, method: str) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for member in study.found.members[method]:
        found |= {
            name: allowed for name, (_, allowed) in (study.found.search.recall(member.config) or {}).items()
        }
    return found


def _findings(study: SearchStudy) -> list[str]:
    counts = _counts(study)
    states = counts["states"]
    sentences = []
    found = compared(study)
    if found is not None:
        sentences += _compared_sentences(*found[:2])
    elif counts["finals_done"]:
        sentences.append(
            "No finalist has results for the same fresh seeds as another one: nothing is compared."
        )
    else:
        sentences.append("No finalist has been trained with fresh seeds yet: nothing is compared.")
    if states["pruned"]:
        part = counts["epochs_run"] / counts["epochs_full"]
        sentences.append(
            f"Stopping {states['pruned']} of {counts['searched_count']} configurations early took the search"
            f" {counts['epochs_run']:,} epochs instead of {counts['epochs_full']:,} ({part:.0%})."
        )
    if states["diverged"]:
        sentences.append(
            f"{number_of(states['diverged'], 'configuration')} diverged: the loss was not finite."
        )
    return sentences


def _compared_sentences(table: pd.DataFrame, baseline: str) -> list[str]:
    there = table[table["n"] > 0]
    if there.empty:
        return [f"No finalist has results for the same fresh seeds as {baseline}: nothing is compared."]
    n = int(there["n"].max())
    if n < FEWEST:
        return [
            f"Against {baseline} nothing can be shown with {number_of(n, 'fresh seed')}; it takes {FEWEST}."
        ]
    sure = there[claimed(there)]
    sentences = [
        f"{label} has a {'higher' if row['delta'] > 0 else 'lower'} test accuracy than {baseline}:"
        f" {points(row['delta'])} points (adjusted 95 % interval"
        f" {interval(row['delta_low_holm'], row['delta_high_holm'])}, n = {int(row['n'])} fresh seeds)."
        for label, row in sure.to_dict("index").items()
    ]
    rest = [str(label) for label in there.index if label not in sure.index]
    if rest:
        sentences.append(
            f"No difference in test accuracy to {baseline} is shown for {joined(rest)} (n = {n} fresh seeds)."
        )
    return sentences


def _provenance(study: SearchStudy) -> dict[str, str]:
    found = study.found
    kept = tuple(member.config for member in study.members) + found.final_selection().trials
    searched = number_of(len(study.members), "searched configuration")
    steps = (f"{searched}, {number_of(len(study.finals), 'trial')} of finalists",)
    selection = Selection(space=found.search.name, trials=kept, steps=steps)
    return provenance(selection, load(selection, study.records))


def _notes(study: SearchStudy) -> list[str]:
    kept = tuple(member.config for member in study.members) + study.found.final_selection().trials
    return oddities(load(Selection(space=study.found.search.name, trials=kept, steps=()), study.records))
