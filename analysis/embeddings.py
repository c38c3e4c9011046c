"""PCA and t-SNE of the embeddings that trials kept: a panel per arm, comparable with each other.

As a script: `python analysis/embeddings.py --space NAME` writes the figures as PNG and PDF.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from analysis.cli import parse_command_line
from analysis.plots.embeddings import draw, multiples
from analysis.plots.kept import class_names
from analysis.plots.projections import KINDS, SPLITS, read_rows, shown_seed
from analysis.plots.style import save
from analysis.trials import cells_of, groups_of
from study.ledger.ledger import Ledger


def write(
    trials: pd.DataFrame,
    ledger: Ledger,
    folder: Path,
    *,
    what: str = "h",
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Write a figure of each cell, and a page of each group of cells that differ in augmentations alone.

    The files are `embeddings-<split>-<cell>` and `embeddings-<split>-subsets-<group>`, as PNG and PDF; for z
    their names begin with `embeddings-z`. `say` gets a line on each, and on what cannot be drawn.
    """
    stem = "embeddings" if what == "h" else f"embeddings-{what}"
    written: list[Path] = []
    for name, label, part in _parts(trials):
        seed = shown_seed(part)
        if seed is None:
            say(f"{label}: no seed that every arm has finished")
            continue
        for split, images in SPLITS.items():
            try:
                rows = read_rows(part, seed, split, ledger, what=what)
            except OSError as error:  # artifacts may have been deleted to save space
                say(f"{label}: {error}")
                continue
            if not any(panels for _, panels in rows):
                say(f"{label}: no arm has kept {what}")
                continue
            names = class_names(part, ledger)
            figure = draw(rows[0][1], names) if len(rows) == 1 else multiples(rows)
            for path in save(figure, folder, f"{stem}-{split}-{name}"):
                say(f"wrote {path}: {label}, {images}, seed {seed}")
                written.append(path)
    return written


def _parts(trials: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """What gets a figure: name, label and trials of each cell, then of each group of cells."""
    cells = [(f"{number}", cell["cell_label"].iloc[0], cell) for number, cell in cells_of(trials).items()]
    groups = [
        (f"subsets-{number}", f"{group['group_label'].iloc[0]} · by augmentations", group)
        for number, group in groups_of(trials).items()
        if len(set(group["cell"])) > 1
    ]
    return cells + groups


def _add_what_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what",
        choices=list(KINDS),
        default="h",
        help="features h, or embeddings z of the arms with gamma > 0 (default: h)",
    )


def main(argv: Sequence[str] | None = None, prog: str = "analysis/embeddings.py") -> int:
    """Write the figures of a space; returns the exit code."""
    inputs = parse_command_line(
        "Embedding figures of a space.", argv, prog=prog, subfolder="figures", extend=_add_what_argument
    )
    write(inputs.trials, inputs.ledger, inputs.folder, what=inputs.args.what)
    return 0


if __name__ == "__main__":
    sys.exit(main())
