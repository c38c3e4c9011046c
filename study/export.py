"""Export a study as one file: `python study/export.py study.zip`.

The archive has all trials of an experiment with their metrics and artifacts, saved states of those that are
not finished (unless `--lean`), the reports, own files, versions of code, packages and data, and a digest of
every member. `study/merge.py` takes it into another ledger. Nothing of the ledger is changed; a study may be
running.

Exit codes: 0; 1 something could not be read, and is not in the archive; 2 wrong usage.
"""

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from search_spaces import add_selection_arguments, search_from, selection_from
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.options import CommandLine, add_ledger_arguments, ledger_from, path
from study.ledger.search_state import load_search_state
from study.ledger.storage_uri import add_storage_argument, storage_uri
from study.ledger.usable import check_reachable
from study.transfer.exporting import export
from trainables.redact import masked, plain

LISTED = 10
"""Lines that say what could not be read."""


def main(argv: Sequence[str] | None = None, prog: str = "study/export.py") -> int:
    """Export from the command line; returns the exit code."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    try:
        file: Path = args.file.absolute()
        _check_target(file)
        from study.transfer.crate import Publication
        from study.transfer.origins import LedgerOrigin
        from trainables.storage.filesystem import Storage

        ledger = ledger_from(args)
        check_reachable(ledger.uri)
        _ = ledger.experiment_id  # LedgerError where there is none
        origin = LedgerOrigin(ledger, Storage(storage_uri(args)))
        keys = None if args.space is None else _keys(args, ledger)
        publication = Publication(
            title=args.title or f"Study {args.experiment}", authors=args.author, license=args.license
        )
        digest, unread = export(
            origin,
            file,
            publication,
            chosen=lambda record: keys is None or record.key in keys,
            lean=args.lean,
            say=_say,
        )
    except (ValueError, OSError) as error:
        parser.error(plain(masked(str(error))))
    for line in unread[:LISTED]:
        _say(f"not in the archive: {line}")
    if len(unread) > LISTED:
        _say(f"… and {len(unread) - LISTED} more")
    _say(f"{args.file}: {file.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")
    return 1 if unread else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandLine(
        prog=prog,
        usage="%(prog)s FILE [options]",
        description="Export an experiment, or the trials of a space, as one file.",
    )
    parser.add_argument("file", metavar="FILE", type=path, help="the archive, such as study.zip")
    parser.add_argument(
        "--lean",
        action="store_true",
        help="without features, images, weights, tracebacks and saved states, and of predictions the classes"
        " alone: enough for all tables, not for PCA and t-SNE",
    )
    group = parser.add_argument_group("what the archive says of itself")
    group.add_argument("--title", metavar="TEXT", default="", help="title (default: the experiment's name)")
    group.add_argument(
        "--author",
        metavar="NAME",
        action="append",
        default=[],
        help="an author, or 'Name <https://orcid.org/…>'; may be repeated",
    )
    group.add_argument(
        "--license", metavar="NAME", default="", help="an SPDX name such as CC-BY-4.0, or an address"
    )
    add_selection_arguments(parser)
    add_ledger_arguments(parser)
    add_storage_argument(parser)
    return parser


def _check_target(file: Path) -> None:
    """Raise ValueError unless the archive can be written without destroying something else."""
    if file.suffix != ".zip":
        raise ValueError(f"FILE: got {str(file)!r}; allowed: a name that ends in .zip")
    if file.exists() and not (file.is_file() and zipfile.is_zipfile(file)):
        raise ValueError(f"FILE: {file} exists and is no archive; allowed: another name")
    tracking_uri.check_writable("FILE", file.parent)
    if not file.parent.is_dir():
        raise ValueError(f"FILE: there is no folder {file.parent}")


def _keys(args: argparse.Namespace, ledger: Ledger) -> set[str]:
    """Keys of the selected trials; of a search, those of its configurations and finalists."""
    search = search_from(args)
    if search is None:
        return {trial.key for trial in selection_from(args).trials}
    state = load_search_state(search, ledger.trials(), {})
    searched = {trial.config.key for member in state.all for trial in member.trials.values()}
    return searched | {trial.key for trial in state.final_selection().trials}


def _say(line: str) -> None:
    print(plain(masked(line)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
