"""Tables of a study: for the terminal, Markdown, LaTeX and CSV.

As a script: `python analysis/tables.py --space NAME` prints the tables and writes them as files.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd
from rich.console import Console

from analysis.render.table import Table, to_latex, to_markdown, to_terminal
from analysis.render.text import is_plain
from analysis.sections.cells import cell_table, summarise
from analysis.sections.differences import difference_table
from analysis.sections.overview import overview
from analysis.stats.comparisons import comparisons
from analysis.stats.published import add_published_argument, hold, published_tables, read_published
from analysis.trials import cell_labels, parse_command_line

LATEX_BLOCK = 8
"""Tables in one file after which LaTeX is told to empty its pages."""


def cell_tables(
    summary: pd.DataFrame, compared: pd.DataFrame, trials: pd.DataFrame, cell: int
) -> list[Table]:
    """The tables of one cell: its accuracies and, where anything is compared, the differences.

    Args:
        summary: of `analysis.sections.cells.summarise`.
        compared: of `analysis.stats.comparisons.comparisons`.
        trials: of which both are.
        cell: its number.
    """
    part = compared[compared["cell"] == cell]
    title = f"{cell_labels(trials)[cell]}: differences"
    difference = difference_table(part, f"differences-{cell}", title)
    return [cell_table(summary, trials, cell), *([difference] if difference else [])]


def write_tables(
    summary: pd.DataFrame, compared: pd.DataFrame, tables: Sequence[Table], folder: Path
) -> list[Path]:
    """Write `summary.csv`, `paired.csv`, `tables.md`, `tables.tex` and `latex/<name>.tex` into `folder`.

    Args:
        summary: of `summarise`.
        compared: of `analysis.stats.comparisons.comparisons`.
        tables: in their order.
        folder: made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("summary.csv", "paired.csv", "tables.md", "tables.tex")]
    summary.to_csv(paths[0], index=False)
    compared.to_csv(paths[1], index=False)
    paths[2].write_text("\n".join(map(to_markdown, tables)))
    latex = {table.name: to_latex(table) for table in tables}
    # LaTeX gives up where a hundred tables wait for a page.
    blocks = [list(latex.values())[i : i + LATEX_BLOCK] for i in range(0, len(latex), LATEX_BLOCK)]
    paths[3].write_text("\n\\clearpage\n".join("\n".join(block) for block in blocks))
    return paths + _write_single(latex, folder / "latex")


def _write_single(latex: Mapping[str, str], folder: Path) -> list[Path]:
    """A file a table; those that we wrote for an earlier selection are removed, and nobody else's."""
    folder.mkdir(exist_ok=True)
    ours = folder / ".tables"
    for name in ours.read_text().split() if ours.exists() else ():
        if name not in latex and is_plain(name):
            (folder / f"{name}.tex").unlink(missing_ok=True)
    ours.write_text("\n".join(latex))
    paths = [folder / f"{name}.tex" for name in latex]
    for path, text in zip(paths, latex.values(), strict=True):
        path.write_text(text)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of a space and write them; returns the exit code."""
    inputs = parse_command_line(
        "Tables of a space.",
        argv,
        subfolder="tables",
        extend=add_published_argument,
        check=lambda args: read_published(args.published),
    )
    trials = inputs.trials
    summary, compared = summarise(trials), comparisons(trials)
    published = read_published(inputs.args.published)
    tables = overview(trials, summary, compared)
    for cell in cell_labels(trials):
        tables += cell_tables(summary, compared, trials, cell)
    tables += published_tables(hold(summary, trials, published), trials, published)
    console = Console()
    for table in tables:
        console.print(to_terminal(table))
        console.print()
    for path in write_tables(summary, compared, tables, inputs.folder):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
