"""Tables of a study: for the terminal, Markdown, LaTeX and CSV.

As a script: `python analysis/tables.py --space NAME` prints the tables and writes them as files.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from analysis.cli import add_published_argument, parse_command_line
from analysis.render.files import write_tables
from analysis.render.table import to_terminal
from analysis.sections.cells import cell_tables
from analysis.sections.confusions import confusion_tables
from analysis.sections.costs import costs_section
from analysis.sections.generality import generality_tables, over_images
from analysis.sections.overview import overview
from analysis.sections.published import published_tables
from analysis.sections.seeds_needed import seeds_section
from analysis.stats.published import match_published, read_published
from analysis.stats.results import Results
from analysis.trials import cell_labels


def main(argv: Sequence[str] | None = None, prog: str = "analysis/tables.py") -> int:
    """Print the tables of a space and write them; returns the exit code."""
    inputs = parse_command_line(
        "Tables of a space.",
        argv,
        prog=prog,
        subfolder="tables",
        extend=add_published_argument,
        check=lambda args: read_published(args.published),
    )
    trials, published = inputs.trials, read_published(inputs.args.published)
    results = Results(trials, over_images(trials, inputs.ledger))
    tables = overview(results)
    for cell, label in cell_labels(trials).items():
        tables += [*cell_tables(results, cell), *generality_tables(results, cell, label)]
        tables += confusion_tables(trials, cell, label, inputs.ledger)
    tables += [*seeds_section(results).tables, *costs_section(trials).tables]
    tables += published_tables(match_published(results.summary, trials, published), trials, published)
    console = Console()
    for table in tables:
        console.print(to_terminal(table))
        console.print()
    for path in write_tables(results.frames, tables, inputs.folder):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
