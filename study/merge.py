"""Take the trials of another ledger into this one: `python study/merge.py study.zip --output runs`.

A source is an archive that `study/export.py` wrote, the output folder of another study, or the address of an
MLflow store. Each trial counts once: what is finished replaces what is not, what is known is left, and what
contradicts (other data, other results, another version) is listed and left as it is here. The same command
again changes nothing; after an interruption it goes on.

Exit codes: 0; 1 something was left, in conflict or because it cannot be read; 2 wrong usage, or a driver is
at work; 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.options import CommandLine, add_ledger_arguments, ledger_from, path
from study.ledger.storage_uri import add_storage_argument, folder_of, storage_uri
from study.ledger.usable import check_reachable
from study.recording import stopping
from study.recording.locks import driver_locks
from trainables.redact import masked, plain

if TYPE_CHECKING:
    from study.transfer.comparing import Merge
    from study.transfer.merging import Outcome
    from study.transfer.origins import Origin

LISTED = 20
"""Conflicts that are listed one by one."""


def main(argv: Sequence[str] | None = None, prog: str = "study/merge.py") -> int:
    """Merge from the command line; returns the exit code."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    stopping.raise_on_sigterm()
    try:
        if args.verify is not None and args.verify < 0:
            raise ValueError(f"--verify: got {args.verify}; allowed: a number of trials, 0 for none")
        origins = [_open(source, args) for source in args.sources]
        if args.verify is not None:
            return max(_verify(origin, args) for origin in origins)
        ledger = ledger_from(args)
        check_reachable(ledger.uri)
        return max(_merge(origin, ledger, args) for origin in origins)
    except (ValueError, OSError) as error:
        parser.error(plain(masked(str(error))))
    except KeyboardInterrupt as stop:
        name, code = stopping.stopped_by(stop)
        _say(f"stopped by {name}: what is merged stays; the same command merges the rest")
        return code


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandLine(
        prog=prog,
        usage="%(prog)s SOURCE … [options]",
        description="Take the trials of other ledgers into one, each once.",
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="an archive (.zip), the output folder of another study, or an MLflow store's address",
    )
    parser.add_argument(
        "--from-experiment",
        metavar="NAME",
        help="the experiment in a source that is no archive (default: that of --experiment)",
    )
    parser.add_argument("--plan", action="store_true", help="say what would be merged, change nothing, exit")
    parser.add_argument(
        "--verify",
        metavar="K",
        type=int,
        help="merge nothing: check every digest, train K trials drawn at random again and compare, exit",
    )
    parser.add_argument("--wait", action="store_true", help="where a driver is at work, wait until it ends")
    add_ledger_arguments(parser)
    add_storage_argument(parser)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=path,
        default=Path("data"),
        help="datasets, for --verify (default: data)",
    )
    return parser


def _say(line: str) -> None:
    print(plain(masked(line)), flush=True)


def _open(source: str, args: argparse.Namespace) -> "Origin":
    """The study that a source names; ValueError where it names none."""
    from study.transfer.archive import Archive
    from study.transfer.origins import LedgerOrigin
    from trainables.storage.filesystem import Storage

    experiment, path = args.from_experiment or args.experiment, Path(source)
    if "://" in source or source.startswith("sqlite:"):
        tracking_uri.check_secrets(source)
        check_reachable(source)
        ledger = Ledger(uri=source, experiment=experiment, artifact_root=Path("mlartifacts").absolute())
        origin = LedgerOrigin(ledger)
    elif path.is_dir():
        output = path.absolute()
        ledger = Ledger(
            uri=tracking_uri.sqlite_address(output / "mlflow.db"),
            experiment=experiment,
            artifact_root=output / "mlartifacts",
        )
        if not (output / "mlflow.db").is_file():
            raise ValueError(f"SOURCE: {source} has no mlflow.db; allowed: the --output of a study")
        check_reachable(ledger.uri)
        origin = LedgerOrigin(ledger, Storage(folder_of(str(output), experiment)), title=source)
    elif path.is_file():
        return Archive(path)
    else:
        raise ValueError(f"SOURCE: there is no {source}; allowed: an archive, an output folder, an address")
    _ = origin.records  # LedgerError where there is none
    return origin


def _merge(origin: "Origin", ledger: Ledger, args: argparse.Namespace) -> int:
    """Merge one source; returns the exit code."""
    from study.transfer.merging import Outcome, carry_out, plan_merge
    from trainables.storage.filesystem import Storage

    _say(f"{origin.title}: {len(origin.records)} trials of the experiment {origin.experiment}")
    uri = storage_uri(args)
    if args.plan:
        merge, outcome = plan_merge(origin, ledger, Storage(uri)), Outcome()
    else:
        wait = _say if args.wait else None
        with driver_locks(ledger, args.output.absolute(), uri, wait=wait, on_lost=stopping.end):
            merge, outcome = carry_out(origin, ledger, Storage(uri), say=_say)
    _describe(merge, outcome)
    if not args.plan:
        trials = "1 trial" if outcome.written == 1 else f"{outcome.written} trials"
        _say(f"{trials} taken in; the report shows them once it is rendered again")
    return 1 if outcome.left or _conflicts(merge) else 0


def _conflicts(merge: "Merge") -> int:
    from study.transfer.comparing import Verdict

    return len(merge.of(Verdict.CONFLICT))


def _describe(merge: "Merge", outcome: "Outcome") -> None:
    """Say what becomes of the trials."""
    from study.transfer.comparing import Verdict

    for verdict in Verdict:
        if items := merge.of(verdict):
            _say(f"  {len(items):5}  {verdict.value}")
    if merge.waiting:
        what = "finished results that no driver has logged; the next study here logs them"
        _say(f"  {len(merge.waiting):5}  {what}")
    lines = [f"{item.record.name or item.record.key}: {item.reason}" for item in merge.of(Verdict.CONFLICT)]
    lines += outcome.left
    for line in lines[:LISTED]:
        _say(f"left: {line}")
    if len(lines) > LISTED:
        _say(f"… and {len(lines) - LISTED} more")


def _verify(origin: "Origin", args: argparse.Namespace) -> int:
    """Check one source; returns the exit code."""
    from study.transfer.verifying import damaged, sample, train_again

    lines = damaged(origin)
    for line in lines[:LISTED]:
        _say(f"damaged: {line}")
    if len(lines) > LISTED:
        _say(f"… and {len(lines) - LISTED} more")
    if not lines:
        _say(f"{origin.title}: {len(origin.records)} trials, every file is there and what it was")
    failed = bool(lines)
    for record in sample(origin, args.verify):
        check = train_again(origin, record, args.data_dir.absolute())
        _say(f"{'ok' if check.holds else 'FAILED'}  {record.name or record.key}: {check.text}")
        failed |= not check.holds
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
