"""Measure finished trials again, without training: `python study/measure.py --space NAME --metric NAME`.

Computes metrics that trials lack from what their runs keep (weights with `study/run.py --keep weights`,
predictions always) and logs them under the same runs, each once. Says which trials lack what it takes.

Exit codes: 0 every selected trial has the metrics that it can have; 1 some lack one; 2 wrong usage; 130
Ctrl-C; 143 SIGTERM.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from search_spaces import add_selection_arguments, search_from, selection_from
from study.ledger.ledger import Ledger
from study.ledger.options import CommandLine, add_ledger_arguments, ledger_from, path
from study.ledger.search_state import load_search_state
from study.ledger.tracking_uri import LedgerError
from study.ledger.usable import check_reachable
from study.planning.measurement import Measurement, Task, describe, make_measurement, parse_metrics
from study.recording import stopping
from study.recording.holders import LockHeld
from study.recording.locks import driver_locks
from trainables import data, tried
from trainables.machine import device_name
from trainables.metrics import METRICS
from trainables.redact import first_line, masked, plain


def main(argv: Sequence[str] | None = None, prog: str = "study/measure.py") -> int:
    """Measure from the command line; returns the exit code."""
    parser = _parser(prog)
    args = parser.parse_args(argv)
    stopping.raise_on_sigterm()
    try:
        search_from(args) or selection_from(args)  # loads files of your own, or says what is wrong
        tried.check()
        names = parse_metrics(args.metric)
        ledger = ledger_from(args)
        check_reachable(ledger.uri)
        _ = ledger.experiment_id  # LedgerError where there is none
        if args.plan:
            found = _measurement(args, ledger, names)
            counts = Counter(n for task in found.tasks for names in task.names.values() for n in names)
            _say(*describe(found, counts, verb="to measure"))
            return 0
        wait = _say if args.wait else None
        output = args.output.absolute()
        with driver_locks(ledger, output, str(output), wait=wait, on_lost=stopping.end):
            found = _measurement(args, ledger, names)
            measured = _measure(found, ledger, args.data_dir.absolute())
        _say(*describe(found, measured))
    except (LockHeld, ValueError) as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:
        name, code = stopping.stopped_by(stop)
        _say(f"stopped by {name}: what is measured is logged; the same command measures the rest")
        return code
    return 1 if found.lacking else 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = CommandLine(
        prog=prog,
        usage="%(prog)s --space NAME --metric NAME [options]",
        description="Measure finished trials again, without training, from what their runs keep.",
    )
    add_selection_arguments(parser)
    known = ", ".join(name for name, metric in METRICS.items() if metric.measured_from)
    parser.add_argument("--metric", metavar="NAME[,NAME]", required=True, help=f"what to measure: {known}")
    parser.add_argument("--force", action="store_true", help="measure also what the ledger has, and compare")
    parser.add_argument("--plan", action="store_true", help="say what would be measured, log nothing, exit")
    parser.add_argument(
        "--wait", action="store_true", help="where a driver works on the same experiment, wait until it ends"
    )
    add_ledger_arguments(parser)
    parser.add_argument(
        "--data-dir", metavar="DIR", type=path, default=Path("data"), help="datasets (default: data)"
    )
    return parser


def _say(*lines: str) -> None:
    for line in lines:
        print(plain(masked(line)), flush=True)


def _measurement(args: argparse.Namespace, ledger: Ledger, names: Sequence[str]) -> Measurement:
    """Compare the selected trials with the ledger."""
    records, search = ledger.trials(), search_from(args)
    if search is None:
        selection = selection_from(args)
        if selection.seeds is not None and selection.seeds.is_range:  # which need not take all of its trials
            begun = tuple(trial for trial in selection.trials if trial.key in records)
            selection = dataclasses.replace(selection, trials=begun)
    else:
        selection = load_search_state(search, records, {}).final_selection()
        if not selection.trials:
            raise ValueError(f"--space {search.name}: the search has no finalists yet")
    folder = args.data_dir.absolute()

    @functools.cache
    def digest_of(dataset: str) -> str | None:
        # As the data are prepared here: where their images have changed since, trials on the old ones can
        # still be measured.
        known = data.fingerprint(dataset, folder)
        return known if known or args.plan else data.prepare(dataset, folder, progress=True)

    return make_measurement(selection, records, names, digest_of, force=args.force)


def _measure(found: Measurement, ledger: Ledger, data_dir: Path) -> Counter[str]:
    """Measure and log what there is to measure; returns how many trials were, by metric.

    What turns out not to be measurable is noted in `found`.
    """
    measured: Counter[str] = Counter()
    if not found.tasks:
        return measured
    from trainables.remeasure import device_here

    device = device_here()
    for number, task in enumerate(found.tasks, 1):
        values: dict[str, float] = {}
        for artifact, names in task.names.items():
            try:
                values |= _values(task, artifact, ledger, data_dir, device)
            except LedgerError:
                raise
            except (OSError, ValueError, ArithmeticError, RuntimeError) as error:  # of one trial
                found.lack(task.trial, names, f"failed: {first_line(error)}")
        _log(task, values, ledger, device)
        measured.update(values.keys())
        outcome = ", ".join(_changed(task, name, value) for name, value in values.items())
        width = len(str(len(found.tasks)))
        _say(f"[{number:{width}}/{len(found.tasks)}] {task.trial.name}  {outcome or 'FAILED'}")
    return measured


def _values(task: Task, artifact: str, ledger: Ledger, data_dir: Path, device: str) -> dict[str, float]:
    """The metrics of a task that an artifact gives."""
    from trainables.remeasure import remeasure

    threads = task.record.tags.get("threads", "")
    with ledger.artifacts.borrowed(task.record.run_id, artifact) as path:
        return remeasure(
            task.trial,
            path,
            task.names[artifact],
            data_dir=data_dir,
            device=device,
            threads=int(threads) if threads.isdigit() else 1,
        )


def _log(task: Task, values: dict[str, float], ledger: Ledger, device: str) -> None:
    """Log the values that the run does not have."""
    logged = task.record.metrics
    new = {name: value for name, value in values.items() if logged.get(name) != value}
    if new:
        versions = f"torch {version('torch')}, study {version('siamese-barlow-twins')}"
        how = f"from {', '.join(task.names)} on {device_name(device)}, {versions}"
        ledger.add_measured(task.record.run_id, new, how, int(time.time() * 1000))


def _changed(task: Task, name: str, value: float) -> str:
    """A metric for people, with what the ledger had where that differs."""
    before = task.record.metrics.get(name)
    if before is None:
        return f"{name} {value:.6g}"
    return f"{name} {value:.6g} as logged" if before == value else f"{name} {value!r}, {before!r} was logged"


if __name__ == "__main__":
    sys.exit(main())
