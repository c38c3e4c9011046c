"""The report of a space: one self-contained HTML file, its tables and figures beside it.

As a script: `python analysis/report.py --space NAME`.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from analysis.plots.cache import Figure, Gallery, digest_of
from analysis.render.markdown import to_text
from analysis.render.page import MARKDOWN, REPORT, STAMP, Rendered, before, html, replace
from analysis.render.table import Ui
from analysis.sections.caveats import counts, going_with, held_fixed, oddities, provenance
from analysis.sections.cells import summarise
from analysis.sections.figures import (
    CELLS_WITH_EMBEDDINGS,
    CELLS_WITH_FIGURES,
    PANELS,
    cell_figures,
    group_figures,
    study_figures,
)
from analysis.sections.findings import cell_findings, findings
from analysis.sections.overview import groups_of, overview
from analysis.sections.search_report import render as render_search
from analysis.stats.comparisons import comparisons
from analysis.stats.factors import Effects, effects_of
from analysis.stats.published import (
    Published,
    add_published_argument,
    hold,
    published_findings,
    published_tables,
    read_published,
)
from analysis.tables import cell_tables, write_tables
from analysis.trials import FRAME, cell_labels, finished, parse_command_line, write
from search_spaces import Selection
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger

OPEN_CELLS = 2
"""Most cells whose details are unfolded from the start."""


def render(
    selection: Selection,
    trials: pd.DataFrame,
    ledger: Ledger,
    folder: Path,
    *,
    published: Published | None = None,
    ui: str | None = None,
    keep_frame: bool = False,
    force: bool = False,
) -> Rendered:
    """Render the report of a selection into `folder`, unless it is there and nothing has changed.

    Figures that have not changed are not drawn again.

    Args:
        selection: the trials.
        trials: what the ledger has of them, of `analysis.trials.load`.
        ledger: where their artifacts are.
        folder: gets `report.html`, `report.md`, `trials.parquet`, `tables/` and `figures/`.
        published: numbers to compare with; None: the thesis's.
        ui: address of MLflow's pages; None: that of the tracking server, if there is one.
        keep_frame: `trials.parquet` is there already, of these trials.
        force: render even if nothing has changed.
    """
    report, stamp = folder / REPORT, folder / STAMP
    published = published or read_published()
    ui = ui or (tracking_uri.redacted(ledger.uri) if ledger.uri.startswith("http") else None)
    state = f"{digest_of(trials)} {published.name} {pd.util.hash_pandas_object(published.rows).sum()} {ui}"
    known = before(stamp)
    if not force and report.exists() and known.get("state") == state:
        return Rendered(path=report)
    folder.mkdir(parents=True, exist_ok=True)
    links = Ui(address=ui.rstrip("/"), experiment_id=ledger.experiment_id) if ui else None
    gallery = Gallery(folder / "figures", known=dict(known.get("figures", {})))
    summary, compared = summarise(trials), comparisons(trials)
    held = hold(summary, trials, published)
    against = published_tables(held, trials, published)
    effects = {number: effects_of(group) for number, group in groups_of(trials)}
    several = overview(trials, summary, compared, effects)
    cells = _cells(trials, summary, compared, ledger, gallery)
    groups = _group_figures(trials, compared, effects, ledger, gallery)
    whole = study_figures(trials, compared, gallery)
    sentences = findings(trials, compared) + published_findings(held, published)
    tables = [*several, *against, *(table for cell in cells for table in cell["tables"])]
    content = {
        **counts(trials),
        "space": selection.space,
        "experiment": ledger.experiment,
        "findings": sentences,
        "overview": several,
        "published": against,
        "study_figures": whole,
        "group_figures": groups,
        "cells": cells,
        "open_cells": len(cells) <= OPEN_CELLS,
        "left_out": _left_out(cells),
        "fixed": held_fixed(selection.trials),
        "goes_with": going_with(selection.trials),
        "notes": oddities(trials),
        "provenance": provenance(selection, trials),
        "linked": links is not None,
    }
    replace(folder / MARKDOWN, to_text(content, folder))
    written = write_tables(summary, compared, tables, folder / "tables")
    if not keep_frame:
        write(trials, ledger, folder / FRAME)
    replace(report, html("report.html.j2", content, links))
    gallery.sweep()
    stamp.write_text(json.dumps({"state": state, "figures": gallery.known}))
    drawn = [path for figure in gallery.drawn for path in (figure.png, figure.pdf)]
    files = (report, folder / MARKDOWN, *written, folder / FRAME, *drawn)
    return Rendered(path=report, files=files, tables=tuple(tables))


def _cells(
    trials: pd.DataFrame, summary: pd.DataFrame, compared: pd.DataFrame, ledger: Ledger, gallery: Gallery
) -> list[dict[str, Any]]:
    """A section for each cell."""
    labels = cell_labels(trials)
    sections = []
    for number, label in labels.items():
        cell = trials[trials["cell"] == number]
        part = compared[compared["cell"] == number]
        sections.append(
            {
                "number": number,
                "label": label,
                "done": len(finished(cell)),
                "planned": len(cell),
                "findings": cell_findings(part) if len(labels) > 1 else [],
                "tables": cell_tables(summary, compared, trials, number),
                "figures": cell_figures(cell, number, len(labels), ledger, gallery),
            }
        )
    return sections


def _group_figures(
    trials: pd.DataFrame,
    compared: pd.DataFrame,
    effects: Mapping[int, Effects],
    ledger: Ledger,
    gallery: Gallery,
) -> list[tuple[str, list[Figure]]]:
    """For each group of cells that differ in their augmentations alone: its label and figures."""
    panels = int(trials.groupby("cell")["arm_label"].nunique().sum())
    found = []
    for number, group in groups_of(trials):
        shown = group_figures(
            trials,
            group,
            number,
            compared,
            effects=effects[number],
            ledger=ledger,
            gallery=gallery,
            panels=panels,
        )
        if shown:
            found.append((str(group["group_label"].iloc[0]), shown))
    return found


def _left_out(cells: Sequence[Mapping[str, Any]]) -> str | None:
    """What a large study's report does not draw, and how to see it."""
    number = len(cells)
    if number <= CELLS_WITH_EMBEDDINGS:
        return None
    if number > CELLS_WITH_FIGURES:
        what = f"figures of single cells (up to {CELLS_WITH_FIGURES} cells)"
    else:
        what = f"t-SNE of single cells (up to {CELLS_WITH_EMBEDDINGS} cells; PCA up to {PANELS} panels)"
    return (
        f"With {number} cells this report leaves out {what}. `python analysis/report.py` with `--only`"
        " has them for some cells, `python analysis/embeddings.py` the embeddings of all."
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_published_argument(parser)
    parser.add_argument(
        "--ui",
        metavar="URL",
        help="address of MLflow's pages that the report's links lead to, as http://127.0.0.1:5000 (default:"
        " the tracking server, if there is one)",
    )


def _check(args: argparse.Namespace) -> None:
    read_published(args.published)
    if args.ui is not None and not re.fullmatch(r"https?://[^\s\"'<>]+", args.ui):
        raise ValueError(f"--ui: got {args.ui!r}; allowed: an address that begins with http:// or https://")


def main(argv: Sequence[str] | None = None) -> int:
    """Render the report of a space; returns the exit code."""
    inputs = parse_command_line(
        "The report of a space.", argv, extend=_add_arguments, check=_check, searches=True
    )
    if inputs.found is not None:
        rendered = render_search(inputs.found, inputs.ledger, inputs.folder, ui=inputs.args.ui, force=True)
    else:
        rendered = render(
            inputs.selection,
            inputs.trials,
            inputs.ledger,
            inputs.folder,
            published=read_published(inputs.args.published),
            ui=inputs.args.ui,
            keep_frame=True,
            force=True,
        )
    for path in rendered.files:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
