"""The report of a space: one self-contained HTML file, its tables and figures beside it.

As a script: `python analysis/report.py --space NAME`.
"""

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from analysis import embeddings
from analysis.comparisons import comparisons, difference_caption, difference_table
from analysis.figures import accuracy_by_arm, save
from analysis.labels import METRICS, arm_text, difference_text
from analysis.tables import caption, cell_table, summarise, write_tables
from analysis.trials import cell_labels, load, parse_command_line
from search_spaces import Selection
from study.ledger import Ledger, TrialRecord
from trainables.trial import ARM_FIELDS, CELL_FIELDS, TrialConfig, format_value

REPORT = "report.html"
_STAMP = ".rendered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """What `render` did.

    Attributes:
        path: of the report.
        trials: one row a planned trial.
        files: everything rendered, the report first; empty where nothing had changed.
    """

    path: Path
    trials: pd.DataFrame
    files: tuple[Path, ...]


def render(
    selection: Selection,
    records: Mapping[str, TrialRecord],
    ledger: Ledger,
    folder: Path,
    *,
    force: bool = False,
) -> Rendered:
    """Render the report of a selection into `folder`, unless it is there and nothing has changed.

    Args:
        selection: the trials.
        records: what the ledger has of them, by key.
        ledger: where their artifacts are.
        folder: gets `report.html`, `trials.parquet`, `tables/` and `figures/`.
        force: render even if nothing has changed.
    """
    trials = load(selection, records)
    report, stamp = folder / REPORT, folder / _STAMP
    state = _state(trials)
    if not force and report.exists() and stamp.exists() and stamp.read_text() == state:
        return Rendered(path=report, trials=trials, files=())
    folder.mkdir(parents=True, exist_ok=True)
    summary, labels = summarise(trials), cell_labels(trials)
    compared = comparisons(trials)
    tables = write_tables(summary, compared, labels, folder / "tables")
    trials.to_parquet(folder / "trials.parquet", index=False)
    drawn: list[Path] = []
    cells = []
    for cell, label in labels.items():
        figures = _figures(trials[trials["cell"] == cell], ledger)
        for figure in figures:
            drawing = figure.pop("figure")
            figure["width"] = round(100 * drawing.get_figwidth())
            png, pdf = save(drawing, folder / "figures", f"{figure['name']}-{cell}")
            figure["png"] = "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode()
            drawn += [png, pdf]
        table = _table_html(cell_table(summary, cell))
        cells.append(
            {
                "label": label,
                "table": table,
                "caption": caption(summary, cell),
                "differences": _differences_html(difference_table(compared, cell)),
                "difference_caption": difference_caption(compared, cell),
                "figures": figures,
            }
        )
    report.write_text(_html(selection, records, ledger.experiment, trials, cells))
    stamp.write_text(state)
    return Rendered(path=report, trials=trials, files=(report, *tables, folder / "trials.parquet", *drawn))


def _state(trials: pd.DataFrame) -> str:
    """Digest of all that the report depends on: the trials, and the code that renders them."""
    digest = hashlib.sha256(trials[["key", "status", "run_id", "changed"]].to_csv(index=False).encode())
    room = Path(__file__).parent
    for path in sorted([*room.glob("*.py"), *room.glob("templates/*")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _figures(cell: pd.DataFrame, ledger: Ledger) -> list[dict[str, Any]]:
    """The figures of one cell with their names, captions and alternative texts."""
    if not (cell["status"] == "FINISHED").any():
        return []
    metrics = {name: METRICS[name] for name in ("test_acc", "test_augfull_acc")}
    figures = [
        {
            "name": "accuracy",
            "figure": accuracy_by_arm(cell, metrics),
            "caption": "Accuracy of every seed (grey, joined by seed) and mean over seeds (blue).",
            "alt": "Accuracy by arm",
        }
    ]
    seed = embeddings.shown_seed(cell)
    if seed is None:
        return figures
    for split, images in embeddings.SPLITS.items():
        panels = embeddings.read(cell, seed, split, ledger)
        figures.append(
            {
                "name": f"embeddings-{split}",
                "figure": embeddings.draw(panels),
                "caption": f"PCA and t-SNE of the features h of {len(panels[0].h)} {images}, seed {seed} (the"
                " lowest that every arm has finished), coloured by class. PCA panels are turned onto the"
                " first; t-SNE begins from the first panel's layout, perplexity"
                f" {embeddings.PERPLEXITY:.0f}.",
                "alt": f"PCA and t-SNE of {images}, a panel an arm",
            }
        )
    return figures


def _table_html(table: pd.DataFrame) -> dict[str, Any]:
    return {
        "arms": [arm_text(arm) for arm in table.columns],
        "rows": [(METRICS[str(metric)], list(row)) for metric, row in table.iterrows()],
    }


def _differences_html(table: pd.DataFrame) -> dict[str, Any] | None:
    if table.empty:
        return None
    rows = list(zip(map(difference_text, table.index), table.to_numpy().tolist(), strict=True))
    return {"columns": list(table.columns), "rows": rows}


def forget(folder: Path) -> None:
    """Make the next `render` into `folder` render again."""
    (folder / _STAMP).unlink(missing_ok=True)


def _html(
    selection: Selection,
    records: Mapping[str, TrialRecord],
    experiment: str,
    trials: pd.DataFrame,
    cells: list[dict[str, Any]],
) -> str:
    counts = trials["status"].value_counts()
    open_trials = trials[trials["status"] != "FINISHED"]
    siamese = [trial for trial in selection.trials if trial.gamma]
    fixed = _fixed(CELL_FIELDS, selection.trials)
    only_siamese = [name for name in ARM_FIELDS if name not in ("method", "gamma")]
    fixed |= {f"{name} (γ > 0)": value for name, value in _fixed(only_siamese, siamese).items()}
    tags = ("device", "threads", "version.torch", "version.ray", "version.study", "git.commit", "data.sha256")
    provenance = {tag: sorted({r.tags[tag] for r in records.values() if tag in r.tags}) for tag in tags}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    return environment.get_template("report.html.j2").render(
        space=selection.space,
        steps=selection.steps,
        planned=len(trials),
        finished=int(counts.get("FINISHED", 0)),
        open_trials=open_trials[["name", "status", "failure"]].to_dict("records"),
        cells=cells,
        fixed=fixed,
        provenance={tag: values for tag, values in provenance.items() if values},
        experiment=experiment,
        seconds=float(trials.get("train_seconds", pd.Series(dtype=float)).sum()),
    )


def _fixed(names: Sequence[str], trials: Sequence[TrialConfig]) -> dict[str, str]:
    """The fields that have one value in all trials."""
    return {
        name: format_value(getattr(trials[0], name))
        for name in names
        if len({getattr(trial, name) for trial in trials}) == 1
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Render the report of a space; returns the exit code."""
    selection, ledger, folder = parse_command_line("The report of a space.", argv)
    records = ledger.trials(trial.key for trial in selection.trials)
    rendered = render(selection, records, ledger, folder, force=True)
    for path in rendered.files:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
