"""The command `study`: `study run --space NAME` is `python study/run.py --space NAME`, and so for the others.

`python -m study` is the same where the package is not installed.
"""

import argparse
import gc
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from study.ledger.options import CommandLine
from trainables.setting import nearest

COMMANDS = {
    "run": ("study.run", "train what is missing of a space, then render its report"),
    "report": ("analysis.report", "the report of a space again, from the ledger"),
    "tables": ("analysis.tables", "its tables alone"),
    "embeddings": ("analysis.embeddings", "its PCA and t-SNE figures alone"),
    "measure": ("study.measure", "compute metrics that finished trials lack, without training"),
    "export": ("study.export", "write a study, with all that its trials keep, as one file"),
    "merge": ("study.merge", "take the trials of an export or another ledger into this one, each once"),
    "clean": ("study.clean", "say what a study no longer needs, and delete what is named"),
}
"""The module of each command, whose `main` it calls, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in COMMANDS:
        module, _ = COMMANDS[name]
        code: int = importlib.import_module(module).main(rest, prog=f"study {name}")
        gc.freeze()  # otherwise a last search for cycles takes a second
        return code
    return _help_or_error(name)


def _help_or_error(name: str) -> NoReturn:
    """Say which commands there are, or that there is none of this name."""
    lines = [f"  {command:<11} {does}" for command, (_, does) in COMMANDS.items()]
    lines += ["", "study run shows the spaces; study COMMAND --help lists the options of a command."]
    parser = CommandLine(
        prog="study",
        usage="%(prog)s COMMAND [options]",
        description="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args([name] if name.startswith("-") else [])  # ends after --help and --version
    parser.error(f"got {name!r}{nearest(name, COMMANDS)}; allowed: {', '.join(COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
