"""The report of a space: one self-contained HTML file, with its tables and figures beside it.

As a script: `python analysis/report.py --space NAME`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd

from analysis.cli import add_published_argument, parse_command_line
from analysis.plots.cache import FigureCache, digest_of
from analysis.plots.drawing import Drawing, others_here
from analysis.render import files
from analysis.render.markdown import to_text
from analysis.render.page import to_page
from analysis.render.section import Live, Report
from analysis.render.table import Ui
from analysis.sections.figures import embedding_figures, settled_cells
from analysis.sections.generality import over_images
from analysis.sections.search import search_notes, search_report
from analysis.sections.search_tables import final_tables
from analysis.sections.study import study_report
from analysis.stats.published import Published, read_published
from analysis.stats.results import Results
from analysis.stats.search import SearchStudy, members_frame
from analysis.trials import FRAME, MixedData, write
from search_spaces import Selection
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.records import DATA_TAG, TrialRecord
from study.ledger.search_state import SearchState
from study.ledger.seed_plans import FINALISTS, plan_of_finalists, plans_at_look, plans_so_far


def render(
    selection: Selection,
    trials: pd.DataFrame,
    ledger: Ledger,
    folder: Path,
    *,
    published: Published | None = None,
    ui: str | None = None,
    force: bool = False,
    live: Live | None = None,
) -> files.Rendered:
    """Render the report of a study into `folder`, unless it exists and nothing has changed.

    The folder gets `report.html`, `report.md`, `trials.parquet` (the frame of `analysis.trials.load`),
    `tables/` and `figures/`. Results are compared with `published` ones, by default those of the thesis, and
    linked to MLflow's pages at the address `ui`: by default the one that an earlier report in this folder was
    given, else the tracking server, if there is one; `files.NO_UI` forgets it.
    With `live` the report is one of a study that still runs: it says so, and is always rendered.
    """
    numbers = published or read_published()

    def build(cache: FigureCache) -> tuple[Report, list[Path]]:
        results = Results(trials, over_images(trials, ledger, cache))
        report = study_report(results, selection, numbers, ledger, cache)
        written = files.write_tables(results.frames, report.tables, folder / "tables")
        write(trials, folder / FRAME)
        return report, [*written, folder / FRAME]

    state = f"{digest_of(trials)} {numbers.name} {digest_of(numbers.rows)}"
    return _publish(build, state, ledger, folder, ui=ui, force=force, live=live)


def draw_ahead(trials: pd.DataFrame, ledger: Ledger, folder: Path) -> None:
    """Draw what takes longest, PCA and t-SNE, as far as it is settled: `render` finds it in the folder.

    Raises:
        ValueError: a folder of the report is a link.
    """
    files.refuse_links(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, cell in settled_cells(trials).items():
        stamp = files.read_stamp(folder)
        cache = FigureCache(folder / "figures", known=dict(stamp.get("figures", {})))
        embedding_figures(cell, number, ledger, cache)
        cache.finish()
        files.write_stamp(folder, {**stamp, "figures": cache.known})


def render_search(
    state: SearchState,
    ledger: Ledger,
    folder: Path,
    *,
    records: Mapping[str, TrialRecord] | None = None,
    ui: str | None = None,
    force: bool = False,
    live: Live | None = None,
) -> files.Rendered:
    """Render the report of a search into `folder`, with `searched.csv`; arguments as for `render`.

    `records` are those of the ledger by key, if they were read already. A look at finalists is recorded
    unless it is `live`: then the driver has recorded it.

    Raises:
        MixedData: searched trials were trained on different data.
    """
    study = _search_study(state, ledger, ledger.trials() if records is None else records, record=not live)
    trials = [trial for member in state.all for trial in member.trials.values()]
    digests = {study.records[trial.config.key].tags.get(DATA_TAG) for trial in trials} - {None}
    if len(digests) > 1:
        raise MixedData(
            f"search {state.search.name}: its trials were trained on different data"
            f" ({', '.join(sorted(map(str, digests)))}); `python study/run.py` searches on the data at hand"
        )
    tables = final_tables(study)

    def build(cache: FigureCache) -> tuple[Report, list[Path]]:
        stopped = {
            member.config.key: ledger.history(member.run_ids[0], "val/acc").get(member.epochs, np.nan)
            for member in state.all
            if member.state == "pruned"
        }
        report = search_report(study, tables, stopped, ledger.experiment, cache)
        searched = members_frame(study, stopped).drop(columns="value", errors="ignore")
        files.write_atomic(folder / "searched.csv", searched.to_csv(index=False))
        return report, [*files.write_tables({}, report.tables, folder / "tables"), folder / "searched.csv"]

    rendered = _publish(build, _digest(study), ledger, folder, ui=ui, force=force, live=live)
    return replace(rendered, tables=tuple(tables), findings=(*rendered.findings, *search_notes(study)))


def _publish(
    build: Callable[[FigureCache], tuple[Report, list[Path]]],
    state: str,
    ledger: Ledger,
    folder: Path,
    *,
    ui: str | None,
    force: bool,
    live: Live | None,
) -> files.Rendered:
    """Build a report and write it, unless it exists in this `state`: a digest of what it depends on but `ui`.

    `build` makes the report, and writes the files beside it, which it returns. `ui` is remembered for later
    reports in the folder.
    """
    page, text, stamp = folder / files.REPORT, folder / files.MARKDOWN, files.read_stamp(folder)
    remembered = files.address_of_ui(ui, stamp)
    address = remembered or (tracking_uri.redacted(ledger.uri) if ledger.uri.startswith("http") else None)
    links = Ui(address=address.rstrip("/"), experiment_id=ledger.experiment_id) if address else None
    state = f"{state} {address}"
    if not (force or live) and page.exists() and stamp.get("state") == state:
        return files.Rendered(path=page, findings=tuple(stamp.get("answers", ())))
    files.refuse_links(folder)
    folder.mkdir(parents=True, exist_ok=True)
    known, measured = (dict(stamp.get(name, {})) for name in ("figures", "measured"))
    # While a study runs, its trials need the cores.
    with Drawing(0 if live else others_here()) as drawing:
        cache = FigureCache(
            folder / "figures", known=known, measured=measured, quick=live is not None, drawing=drawing
        )
        if not known:
            drawing.begin()
        report, written = build(cache)
        cache.finish()
    report = replace(report, live=live)
    files.write_atomic(text, to_text(report, folder))
    files.write_atomic(page, to_page(report, links))
    cache.prune()
    rendered = {"answers": report.answers, "figures": cache.known, "measured": cache.measured}
    # Whatever comes after a live report is rendered.
    files.write_stamp(folder, {**rendered, "ui": remembered, "state": None if live else state})
    drawn = [path for figure in cache.drawn for path in (figure.png, figure.png.with_suffix(".pdf"))]
    return files.Rendered(path=page, files=(page, text, *written, *drawn), findings=report.answers)


def _search_study(
    state: SearchState, ledger: Ledger, records: Mapping[str, TrialRecord], *, record: bool
) -> SearchStudy:
    """The search with its finalists, whose fresh seeds are declared at the first look at them."""
    selection = state.final_selection()
    if not any(trial.key in records for trial in selection.trials):
        return SearchStudy(state, records)
    own = plan_of_finalists(state.search)
    plans = plans_at_look(ledger, selection, records, own) if record else plans_so_far(ledger, selection, own)
    return SearchStudy(state, records, plans[FINALISTS])


def _digest(study: SearchStudy) -> str:
    """Digest of all that the report of a search depends on."""
    rows = [
        (trial.config.key, trial.state, trial.run_id, f"{member.number} {trial.objectives}")
        for member in study.state.all
        for trial in member.trials.values()
    ]
    searched = pd.DataFrame(rows, columns=["key", "status", "run_id", "changed"])
    source = pd.concat([searched, *(frame for frame in (study.finals, study.beside) if len(frame))])
    search = study.state.search
    several = f" {search.seeds_per_configuration} seeds" if search.seeds_per_configuration > 1 else ""
    return digest_of(source, repr(search.objectives) + several)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_published_argument(parser)
    parser.add_argument(
        "--ui",
        metavar="URL",
        help="address of MLflow's pages that the report's links lead to, as http://127.0.0.1:5000; later"
        " reports in the folder keep it, 'none' removes it (default: the tracking server, if there is one)",
    )


def _check(args: argparse.Namespace) -> None:
    read_published(args.published)
    if args.ui is not None and args.ui != files.NO_UI and not files.ADDRESS.fullmatch(args.ui):
        raise ValueError(
            f"--ui: got {args.ui!r}; allowed: an address that begins with http:// or https://, or none"
        )


def main(argv: Sequence[str] | None = None, prog: str = "analysis/report.py") -> int:
    """Render the report of a space; returns the exit code."""
    inputs = parse_command_line(
        "The report of a space.", argv, prog=prog, extend=_add_arguments, check=_check, searches=True
    )
    where, ui = (inputs.ledger, inputs.folder), inputs.args.ui
    if inputs.search is not None:
        rendered = render_search(inputs.search, *where, ui=ui, force=True)
    else:
        published = read_published(inputs.args.published)
        rendered = render(inputs.selection, inputs.trials, *where, published=published, ui=ui, force=True)
    for path in rendered.files[1:]:
        print(f"wrote {path}")
    for line in rendered.findings:
        print(line)
    print(f"wrote {rendered.path}\n{rendered.path.absolute().as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
