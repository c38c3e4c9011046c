"""The report of a space: one self-contained HTML file, its tables and figures beside it.

As a script: `python analysis/report.py --space NAME`.
"""

import argparse
import base64
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from analysis.cells import cell_table, summarise
from analysis.comparisons import comparisons, difference_table
from analysis.findings import cell_findings, findings
from analysis.formats import Table, Ui, to_html, to_markdown
from analysis.overview import Effects, effects_of, groups_of, overview
from analysis.published import (
    Published,
    add_published_argument,
    published_findings,
    published_tables,
    read_published,
)
from analysis.sections import (
    CELLS_WITH_EMBEDDINGS,
    CELLS_WITH_FIGURES,
    PANELS,
    Figure,
    Gallery,
    cell_figures,
    digest_of,
    fixed_and_odd,
    group_figures,
    study_figures,
)
from analysis.tables import write_tables
from analysis.trials import FRAME, TAGS, cell_labels, finished, parse_command_line, write
from search_spaces import Selection
from study import store
from study.ledger import Ledger
from trainables.trial import ARM_FIELDS, CELL_FIELDS, TrialConfig, format_value

REPORT = "report.html"
MARKDOWN = "report.md"
OPEN_CELLS = 2
"""Most cells whose details are unfolded from the start."""
SHOWN_OPEN_TRIALS = 200
"""Trials without a result that a report lists one by one."""
_STAMP = ".rendered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What `render` did.

    Attributes:
        path: of the report.
        files: everything rendered, the report first; empty where nothing had changed.
        tables: all of the report; empty likewise.
    """

    path: Path
    files: tuple[Path, ...] = ()
    tables: tuple[Table, ...] = ()


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
    report, stamp = folder / REPORT, folder / _STAMP
    published = published or read_published()
    ui = ui or (store.shown(ledger.uri) if ledger.uri.startswith("http") else None)
    state = f"{digest_of(trials)} {published.name} {pd.util.hash_pandas_object(published.rows).sum()} {ui}"
    before = _before(stamp)
    if not force and report.exists() and before.get("state") == state:
        return Rendered(path=report)
    folder.mkdir(parents=True, exist_ok=True)
    links = Ui(address=ui.rstrip("/"), experiment_id=ledger.experiment_id) if ui else None
    gallery = Gallery(folder / "figures", known=dict(before.get("figures", {})))
    summary, compared = summarise(trials), comparisons(trials)
    against = published_tables(summary, trials, published)
    effects = {number: effects_of(group) for number, group in groups_of(trials)}
    several = overview(trials, summary, compared, effects)
    cells = _cells(trials, summary, compared, ledger, gallery)
    groups = _group_figures(trials, compared, effects, ledger, gallery)
    whole = study_figures(trials, compared, gallery)
    sentences = findings(trials, compared) + published_findings(summary, trials, published)
    tables = [*several, *against, *(table for cell in cells for table in cell["tables"])]
    content = {
        **_counts(trials),
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
        "fixed": _all_fixed(selection.trials),
        "notes": fixed_and_odd(trials),
        "provenance": _provenance(selection, trials),
        "linked": links is not None,
    }
    report.write_text(_html(content, links))
    (folder / MARKDOWN).write_text(_markdown(content, folder))
    written = write_tables(summary, compared, tables, folder / "tables")
    if not keep_frame:
        write(trials, ledger, folder / FRAME)
    gallery.sweep()
    stamp.write_text(json.dumps({"state": state, "figures": gallery.known}))
    drawn = [path for figure in gallery.drawn for path in (figure.png, figure.pdf)]
    files = (report, folder / MARKDOWN, *written, folder / FRAME, *drawn)
    return Rendered(path=report, files=files, tables=tuple(tables))


def forget(folder: Path) -> None:
    """Make the next `render` into `folder` render again; figures are kept."""
    before = _before(folder / _STAMP)
    (folder / _STAMP).write_text(json.dumps({**before, "state": None}))


def _before(stamp: Path) -> dict[str, Any]:
    """What the last rendering left; nothing where that cannot be read."""
    try:
        before = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}


def _cells(
    trials: pd.DataFrame, summary: pd.DataFrame, compared: pd.DataFrame, ledger: Ledger, gallery: Gallery
) -> list[dict[str, Any]]:
    """A section for each cell."""
    labels = cell_labels(trials)
    sections = []
    for number, label in labels.items():
        cell = trials[trials["cell"] == number]
        part = compared[compared["cell"] == number]
        difference = difference_table(part, f"differences-{number}", f"{label}: differences")
        sections.append(
            {
                "number": number,
                "label": label,
                "done": len(finished(cell)),
                "planned": len(cell),
                "findings": cell_findings(part) if len(labels) > 1 else [],
                "tables": [cell_table(summary, trials, number), *([difference] if difference else [])],
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
            group, number, compared, effects=effects[number], ledger=ledger, gallery=gallery, panels=panels
        )
        if shown:
            found.append((str(group["group_label"].iloc[0]), shown))
    return found


def _counts(trials: pd.DataFrame) -> dict[str, Any]:
    """What was planned and what is missing."""
    status = trials["status"].value_counts()
    open_trials = trials[trials["status"] != "FINISHED"]
    shown = open_trials[["name", "status", "failure"]].head(SHOWN_OPEN_TRIALS).to_dict("records")
    return {
        "planned": len(trials),
        "finished": int(status.get("FINISHED", 0)),
        "by_status": {
            name: int(status[key])
            for key, name in (
                ("FAILED", "failed"),
                ("KILLED", "interrupted"),
                ("RUNNING", "running"),
                ("MISSING", "not begun"),
            )
            if key in status
        },
        "open_trials": shown,
        "more_open": len(open_trials) - len(shown),
        "cells_planned": int(trials["cell"].nunique()),
        "arms_planned": int(trials["arm_label"].nunique()),
        "seeds_planned": int(trials["seed"].nunique()),
        "seconds": float(trials.get("train_seconds", pd.Series(dtype=float)).sum()),
    }


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


def _all_fixed(trials: Sequence[TrialConfig]) -> dict[str, str]:
    """The fields that have one value in all trials, or in all with γ > 0."""
    siamese = [trial for trial in trials if trial.gamma]
    fixed = _fixed(CELL_FIELDS, trials)
    only_siamese = [name for name in ARM_FIELDS if name not in ("method", "gamma")]
    return fixed | {f"{name} (γ > 0)": value for name, value in _fixed(only_siamese, siamese).items()}


def _fixed(names: Sequence[str], trials: Sequence[TrialConfig]) -> dict[str, str]:
    return {
        name: format_value(getattr(trials[0], name))
        for name in names
        if len({getattr(trial, name) for trial in trials}) == 1
    }


def _provenance(selection: Selection, trials: pd.DataFrame) -> dict[str, str]:
    """Where the numbers come from."""
    done = finished(trials)
    known = {tag: sorted(done[tag].dropna().unique()) for tag in TAGS if tag not in ("attempts", "git.dirty")}
    ended = pd.to_datetime(done["changed"], unit="ms", utc=True)
    days = sorted({f"{moment:%Y-%m-%d}" for moment in (ended.min(), ended.max()) if not pd.isna(moment)})
    typed = shlex.join(["python", *(store.shown(word) for word in sys.orig_argv[1:])])
    return {
        "selection": " → ".join(selection.steps),
        "trials ended": " to ".join(days),
        **{tag: ", ".join(values) for tag, values in known.items() if values},
        "report": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {typed}",
    }


def _html(content: Mapping[str, Any], ui: Ui | None) -> str:
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    environment.globals["table"] = lambda table: Markup(to_html(table, ui))  # noqa: S704  # escapes its texts
    environment.globals["picture"] = _picture
    environment.filters["code"] = _code
    return environment.get_template("report.html.j2").render(**content)


def _code(text: str) -> Markup:
    """Text with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(Markup.escape(text))))  # noqa: S704  # escaped


def _picture(figure: Figure) -> str:
    """The figure as an address that holds all of it."""
    # As it is: a palette of few colours makes the rare ones, which lines and marks have, grey.
    return "data:image/png;base64," + base64.b64encode(figure.png.read_bytes()).decode()


def _markdown(content: Mapping[str, Any], folder: Path) -> str:
    """The report as text, with its figures as links."""

    def figure(shown: Figure) -> str:
        return f"![{shown.alt}]({shown.png.relative_to(folder)})\n\n{shown.caption}\n"

    lines = [f"# Study {content['space']}\n"]
    missing = content["planned"] - content["finished"]
    if missing:
        states = ", ".join(f"{count} {name}" for name, count in content["by_status"].items())
        lines.append(f"**Incomplete: {missing} of {content['planned']} trials have no result** ({states}).\n")
    lines.append(f"{content['finished']} of {content['planned']} planned trials finished.\n")
    lines.append("\n".join(f"- {sentence}" for sentence in content["findings"]) + "\n")
    lines += [to_markdown(table) for table in [*content["overview"], *content["published"]]]
    lines += [figure(shown) for shown in content["study_figures"]]
    for label, shown in content["group_figures"]:
        lines += [f"## {label}\n", *map(figure, shown)]
    for cell in content["cells"]:
        lines += [f"## {cell['label']}\n", *(f"- {sentence}" for sentence in cell["findings"]), ""]
        lines += [*map(to_markdown, cell["tables"]), *map(figure, cell["figures"])]
    lines.append("## Held fixed\n")
    lines += [f"- {name}: {value}" for name, value in content["fixed"].items()]
    lines.append("\n## Where this comes from\n")
    lines += [f"- {name}: {value}" for name, value in content["provenance"].items()]
    lines += [f"- {note}" for note in content["notes"]]
    return "\n".join(lines) + "\n"


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
    inputs = parse_command_line("The report of a space.", argv, extend=_add_arguments, check=_check)
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
