"""Tables of mean ± standard deviation over seeds: for the terminal, Markdown, LaTeX and CSV.

As a script: `python analysis/tables.py --space NAME` prints the tables and writes them as files.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis.comparisons import comparisons, difference_caption, difference_table
from analysis.labels import METRICS, MINUS, NO_VALUE, arm_latex, arm_text, difference_latex, difference_text
from analysis.trials import cell_labels, finished, load, parse_command_line
from trainables.trial import FIELDS


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the finished seeds, in full precision.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × metric with `cell, dataset, backbone, augmentations, arm, arm_label, gamma,
        metric, n, planned, mean, std, values, run_ids`. Fractions; `std` with ddof = 1, NaN for one seed;
        `values` by seed; lists as text with spaces between.
    """
    metrics = [*METRICS, *(name for name in trials.columns if name not in {*_DESCRIPTION, *METRICS})]
    trials = trials.reindex(columns=[*trials.columns, *(name for name in METRICS if name not in trials)])
    rows = []
    for (cell, label), planned in trials.groupby(["cell", "arm_label"], sort=False):
        done = finished(planned).sort_values("seed")
        first = planned.iloc[0]
        for metric in metrics:
            values = done[metric].dropna()
            rows.append(
                {
                    "cell": cell,
                    **{name: first[name] for name in ("dataset", "backbone", "augmentations", "arm")},
                    "arm_label": label,
                    "gamma": first["gamma"],
                    "metric": metric,
                    "n": len(values),
                    "planned": len(planned),
                    "mean": values.mean(),
                    "std": values.std(ddof=1),
                    "values": " ".join(repr(float(value)) for value in values),
                    "run_ids": " ".join(done.loc[values.index, "run_id"]),
                }
            )
    return pd.DataFrame(rows)


def cell_table(summary: pd.DataFrame, cell: int) -> pd.DataFrame:
    """One cell as people read it: rows are accuracies, columns arms, entries in per cent.

    Entries are `mean ± SD` over n >= 3 seeds, both values for two, the value for one. Where fewer seeds
    are finished than planned, the entry says how many.
    """
    part = summary[(summary["cell"] == cell) & summary["metric"].isin(list(METRICS))]
    texts = part.apply(_entry, axis=1)
    table = part.assign(text=texts).pivot_table(
        index="metric", columns="arm_label", values="text", aggfunc="first", sort=False
    )
    arms = list(dict.fromkeys(part["arm_label"]))
    known = set(part.loc[part["n"] > 0, "metric"]) or {"test_acc"}
    if "rrc" in part["augmentations"].iloc[0].split("+"):
        known.discard("test_augcrop_acc")  # the same images as under the cell's own augmentations
    rows = [name for name in METRICS if name in known]
    return table.reindex(index=rows, columns=arms)


def caption(summary: pd.DataFrame, cell: int) -> str:
    """What stands under a cell's table."""
    part = summary[summary["cell"] == cell]
    counts = part.groupby("arm_label", sort=False)[["n", "planned"]].max()
    seeds = sorted(set(counts["n"]))
    spread = "mean ± standard deviation over" if seeds[-1] > 2 else "values of"
    n = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    text = f"Accuracy in %, {spread} n = {n} {'seed' if n == '1' else 'seeds'}."
    missing = int((counts["planned"] - counts["n"]).sum())
    return text + (f" {missing} of {int(counts['planned'].sum())} trials are missing." if missing else "")


def to_terminal(table: pd.DataFrame, title: str, caption: str) -> Table:
    """A cell's table for rich."""
    view = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    view.add_column("Accuracy (%)")
    for arm in table.columns:
        view.add_column(arm_text(arm), justify="right")
    for metric, row in table.iterrows():
        view.add_row(METRICS[str(metric)], *row)
    return view


def to_markdown(table: pd.DataFrame, title: str, caption: str) -> str:
    """A cell's table in Markdown."""
    view = table.rename(index=METRICS, columns=arm_text)
    view.index.name = "Accuracy (%)"
    align = ("left", *("right" for _ in view.columns))
    return f"### {title}\n\n{view.to_markdown(colalign=align)}\n\n{caption}\n"


def to_latex(table: pd.DataFrame, title: str, caption: str) -> str:
    """A cell's table for `\\input` (package booktabs)."""
    return _styled(table.map(_latex_entry).rename(index=METRICS, columns=arm_latex), title, caption)


def _styled(view: pd.DataFrame, title: str, caption: str) -> str:
    """A table of LaTeX text."""
    # Styler wants unique names and does not escape: ours hold mathematics of our own making.
    view = view.rename(columns=lambda name: name.replace(" %", r" \%"))
    view.index.name = view.columns.name = None
    return view.style.to_latex(
        hrules=True,
        column_format="l" + "r" * len(view.columns),
        caption=_latex_text(f"{title}. {caption}"),
        position="htbp",
        position_float="centering",
    )


def write_tables(
    summary: pd.DataFrame, compared: pd.DataFrame, labels: dict[int, str], folder: Path
) -> list[Path]:
    """Write `summary.csv`, `paired.csv`, `tables.md` and `tables.tex` into `folder`.

    Args:
        summary: of `summarise`.
        compared: of `analysis.comparisons.comparisons`.
        labels: of the cells.
        folder: made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    markdown, latex = [], []
    for cell, title in labels.items():
        table, below = cell_table(summary, cell), caption(summary, cell)
        markdown.append(to_markdown(table, title, below))
        latex.append(to_latex(table, title, below))
        differences = difference_table(compared, cell)
        if not differences.empty:
            below = difference_caption(compared, cell)
            align = ("left", *("right" for _ in differences.columns))
            named = differences.rename(index=difference_text)
            markdown.append(f"{named.to_markdown(colalign=align, disable_numparse=True)}\n\n{below}\n")
            latex.append(_styled(differences.rename(index=difference_latex).map(_latex_entry), title, below))
    paths = [folder / name for name in ("summary.csv", "paired.csv", "tables.md", "tables.tex")]
    summary.to_csv(paths[0], index=False)
    compared.to_csv(paths[1], index=False)
    paths[2].write_text("\n".join(markdown))
    paths[3].write_text("\n".join(latex))
    return paths


_DESCRIPTION = {
    "key",
    "name",
    "status",
    "run_id",
    "changed",
    "failure",
    "cell",
    "cell_label",
    "arm",
    "arm_label",
    *FIELDS,
}


def _entry(row: pd.Series) -> str:
    values = [100 * float(value) for value in row["values"].split()]
    if not values:
        text = NO_VALUE
    elif len(values) <= 2:
        text = " / ".join(f"{value:.1f}" for value in values)
    else:
        text = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
    return text if row["n"] == row["planned"] else f"{text} ({row['n']} of {row['planned']})"


def _latex_entry(entry: str) -> str:
    for plain, escaped in (("±", r"$\pm$"), (NO_VALUE, "--"), (MINUS, "$-$"), ("<", "$<$")):
        entry = entry.replace(plain, escaped)
    return entry


def _latex_text(text: str) -> str:
    for plain, escaped in (
        ("_", r"\_"),
        ("%", r"\%"),
        ("±", r"$\pm$"),
        ("·", r"$\cdot$"),
        ("–", "--"),
        ("γ", r"$\gamma$"),
        (MINUS, "$-$"),
    ):
        text = text.replace(plain, escaped)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of a space and write them; returns the exit code."""
    selection, ledger, folder = parse_command_line("Tables of a space.", argv, subfolder="tables")
    trials = load(selection, ledger.trials(trial.key for trial in selection.trials))
    summary, labels = summarise(trials), cell_labels(trials)
    console = Console()
    for cell, title in labels.items():
        console.print(to_terminal(cell_table(summary, cell), title, caption(summary, cell)))
    for path in write_tables(summary, comparisons(trials), labels, folder):
        console.print(f"wrote {path}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
