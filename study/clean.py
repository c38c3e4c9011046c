"""Remove what a study no longer needs; never finished work.

`python study/clean.py` says what there is; `python study/clean.py leftovers tune` deletes these two.

Exit codes: 0; 2 wrong usage, or a driver is at work.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from study.ledger.ledger import Ledger
from study.ledger.options import CommandLine, add_ledger_arguments, ledger_from
from study.ledger.records import DATA_TAG, TrialRecord
from study.ledger.storage_uri import add_storage_argument, storage_uri
from study.ledger.tracking_uri import LedgerError
from study.ledger.usable import check_reachable
from study.recording.holders import LockHeld
from study.recording.locks import driver_locks
from study.recording.notes import DEAD_AFTER, drivers_at_work
from trainables.node import NOTES
from trainables.redact import masked
from trainables.trial import nearest

if TYPE_CHECKING:
    from trainables.storage.filesystem import Storage

KINDS = {
    "leftovers": "what is left of trials that the ledger has finished; damaged and half-written files",
    "tune": "Ray Tune's own files, which nothing is ever read from",
    "stale": "runs on data that have changed since; `mlflow runs restore` brings one back until `mlflow gc`",
    "unfinished": "saved states of trials that are not finished, which then begin again from epoch 1",
}


Waste = tuple[str, Callable[[], None]]
"""What could be deleted of one kind, as `3 files, 1.2 MB`; and what deletes it."""


def find(ledger: Ledger, storage: "Storage", output: Path, *, shared: bool = False) -> dict[str, Waste]:
    """What could be deleted of each of `KINDS`; `output` is the absolute folder with Tune's files.

    What a storage has of trials that the ledger does not know is another ledger's where it may be `shared`.
    """
    from trainables.storage.bundles import bundle_keys
    from trainables.storage.checkpoints import DAMAGED, checkpoint_keys

    known = ledger.trials()
    records = {key: record for key, record in known.items() if record.status == "FINISHED"}
    leftovers: dict[str, int] = {}
    unfinished: dict[str, int] = {}
    for key in checkpoint_keys(storage):
        if shared and key not in known:
            continue
        for name, size in storage.sizes(f"checkpoints/{key}").items():
            useless = key in records or name.startswith(".") or name.endswith(DAMAGED)
            (leftovers if useless else unfinished)[f"checkpoints/{key}/{name}"] = size
    bundles = {f"{key}.zip" for key in bundle_keys(storage)}
    for name, size in storage.sizes("results").items():
        # A result that is not in the ledger is finished work: the next invocation of run.py logs it.
        if name not in bundles or _is_logged(storage, name.removesuffix(".zip"), records):
            leftovers[f"results/{name}"] = size
    # Left by killed drivers on clusters: while we hold the lock, none is at work.
    leftovers |= {f"{NOTES}/{name}": size for name, size in storage.sizes(NOTES).items()}
    tune = output / "ray"
    tune_files = [path.stat().st_size for path in tune.rglob("*") if path.is_file()]
    stale = ledger.stale_runs()
    return {
        "leftovers": (_amount(leftovers.values()), lambda: _delete(storage, leftovers)),
        "tune": (_amount(tune_files), lambda: shutil.rmtree(tune, ignore_errors=True)),
        "stale": (f"{len(stale)} runs", lambda: ledger.delete_runs(stale)),
        "unfinished": (_amount(unfinished.values()), lambda: _delete(storage, unfinished)),
    }


def _is_logged(storage: "Storage", key: str, finished: Mapping[str, TrialRecord]) -> bool:
    """Whether the ledger has the result that waits under a key, trained on the same data."""
    from trainables.storage.bundles import CodeNotLoaded, read_bundle

    if key not in finished:
        return False
    try:
        return read_bundle(storage, key).tags.get(DATA_TAG) == finished[key].tags.get(DATA_TAG)
    except CodeNotLoaded:
        return False
    except ValueError:  # damaged
        return True


def _amount(sizes: Collection[int]) -> str:
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def _delete(storage: "Storage", names: Collection[str]) -> None:
    """Delete files, and the folders that they leave empty."""
    for name in names:
        storage.delete(name)
    for folder in {name.rpartition("/")[0] for name in names} - {"results"}:
        if not storage.sizes(folder):
            storage.delete_folder(folder)


def main(argv: Sequence[str] | None = None, prog: str = "study/clean.py") -> int:
    """Clean up from the command line; returns the exit code."""
    parser = CommandLine(
        prog=prog,
        usage="%(prog)s [KIND …] [options]",
        description="Say what a study no longer needs, and delete what is named; never finished work.",
        epilog="\n".join(f"{name}: {meaning}." for name, meaning in KINDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", metavar="KIND", nargs="*", help=f"to delete: {', '.join(KINDS)}")
    add_ledger_arguments(parser)
    add_storage_argument(parser)
    args = parser.parse_args(argv)
    for kind in args.kinds:
        if kind not in KINDS:
            parser.error(f"KIND: got {kind!r}{nearest(kind, KINDS)}; allowed: {', '.join(KINDS)}")
    output = args.output.absolute()
    if not output.exists():
        parser.error(f"--output: {args.output} does not exist")
    try:
        from trainables.storage.filesystem import Storage

        where = storage_uri(args)
        ledger, storage = ledger_from(args), Storage(where)
        check_reachable(ledger.uri)
        _ = ledger.experiment_id  # LedgerError where there is none
        if not args.kinds:
            for name, (amount, _) in find(ledger, storage, output, shared="://" in where).items():
                print(f"{name:10}  {amount:>20}  {KINDS[name]}")
            command = f"python {prog}" if prog.endswith(".py") else prog
            print(f"\nnothing is deleted; {command} KIND … deletes what is named")
            return 0
        with driver_locks(ledger, output, where):
            if "://" in where and (others := drivers_at_work(storage)):
                raise LockHeld(
                    f"--storage: {masked(where)} is in use by {', '.join(others)}, maybe with another ledger;"
                    f" after its end, or {DEAD_AFTER / 60:g} min after it was killed, the same command works"
                )
            waste = find(ledger, storage, output, shared="://" in where)
            for name in dict.fromkeys(args.kinds):
                amount, delete = waste[name]
                delete()
                print(f"deleted: {name}, {amount}")
    except (LedgerError, LockHeld, OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
