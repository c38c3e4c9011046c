"""The command line: make the ledger complete for a space, then render its report.

`python study/run.py --space NAME` trains with Ray Tune exactly the trials of the space that the ledger does
not have, and closes with the table, the report and what to type next. `--plan` only says what would run.

Exit codes: 0 the space is complete; 1 trials failed or are missing; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.
"""

import argparse
import importlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(ROOT)

from rich.console import Console

from search_spaces import SPACES, Selection, add_selection_arguments, selection_from, tags
from study import cluster, store
from study.ledger import Ledger, add_ledger_arguments, ledger_from
from study.lock import LockHeld, driver_lock
from study.plan import Plan, describe, make_plan
from study.store import LedgerError
from trainables import backbones, data
from trainables.sources import DataError

REPORTS = Path("reports")
SHOWN_CELLS = 4
"""Tables printed at the end; the report has them all."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, outside of training; there, Ray Tune is stopped in order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study from its command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    if args.list_spaces:
        for name, space in SPACES.items():
            print(f"{name}: {(space.__doc__ or 'no description').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    try:
        selection = selection_from(args)
        resources = cluster.Resources(
            cpus=args.cpus_per_trial, gpus=args.gpus_per_trial, max_concurrent=args.max_concurrent
        )
        if args.max_failures < 0:
            raise ValueError(f"--max-failures: got {args.max_failures}; allowed: an integer >= 0")
        data.check(selection.trials, args.data_dir)
        backbones.check(selection.trials, args.data_dir)
    except (ValueError, DataError) as error:
        parser.error(str(error))
    try:
        ledger = ledger_from(args)
        store.probe(ledger.uri)
        if args.plan:
            plan = make_plan(selection, ledger, _digests(args, selection))
            print("\n".join(describe(plan, **_again_which(args))))
            return 0
        _check_before_anything_is_created(args, selection, resources, ledger)
        say = partial(console.print, markup=False, soft_wrap=True) if args.wait else None
        with driver_lock(args.output.absolute(), wait=say):
            return _study(args, selection, resources, ledger, console)
    except (cluster.ClusterError, DataError, LedgerError, LockHeld) as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT
        console.print(f"\nstopped by {number.name}\ngo on:    {_again()}", markup=False, soft_wrap=True)
        return 128 + number


def _terminate(*_: object) -> None:
    raise _Terminated


def _check_before_anything_is_created(
    args: argparse.Namespace, selection: Selection, resources: cluster.Resources, ledger: Ledger
) -> None:
    """Raise LedgerError or ClusterError for what could never work."""
    folders = [("--output", args.output), ("reports", REPORTS)]
    if not all(data.fingerprint(name, args.data_dir) for name in _datasets(selection)):
        folders.append(("--data-dir", args.data_dir))  # else it may be a shared folder, only for reading
    for option, folder in folders:
        store.check_writable(option, folder)
    database = store.sqlite_file(ledger.uri)
    if database is not None:
        store.check_writable("--tracking-uri", database.parent)
    ledger.exists()  # a store that cannot be read is told here
    cluster.check(args.address, resources)


def _study(
    args: argparse.Namespace,
    selection: Selection,
    resources: cluster.Resources,
    ledger: Ledger,
    console: Console,
) -> int:
    """Run what is missing, render the report, say what to type next; returns the exit code."""
    if any((args.output / folder).exists() for folder in ("results", "checkpoints")):
        from study.writer import log_waiting_bundles

        log_waiting_bundles(ledger, args.output.absolute(), say=partial(console.print, markup=False))
    plan = make_plan(selection, ledger, _digests(args, selection, refresh=True))
    for line in describe(plan, **_again_which(args)):
        console.print(line, markup=False, soft_wrap=True)
    stopped = None
    if plan.to_run(**_again_which(args)):
        stopped = _train(args, plan, resources, ledger, console)
        try:
            now = {name: data.fingerprint(name, args.data_dir) for name in _datasets(selection)}
            plan = make_plan(selection, ledger, now)
        except LedgerError as error:
            console.print(f"{error}\ngo on:    {_again()}", markup=False, soft_wrap=True)
            return 128 + stopped if stopped else 1
    if stopped is None and plan.records:
        _report(plan, ledger, console)
    return _closing(plan, ledger, console, stopped)


def _again_which(args: argparse.Namespace) -> dict[str, bool]:
    """Which trials that have ended are to be run again."""
    return {"retry_failed": args.retry_failed, "rerun_stale": args.rerun_stale}


def _datasets(selection: Selection) -> list[str]:
    return list(dict.fromkeys(trial.dataset for trial in selection.trials))


def _digests(
    args: argparse.Namespace, selection: Selection, *, refresh: bool = False
) -> dict[str, str | None]:
    """The digest of each dataset as it is at hand.

    None where it is not prepared, or its images have changed since; with `refresh`, these are prepared again.
    """
    digests = {}
    for name in _datasets(selection):
        digests[name] = data.fingerprint(name, args.data_dir, look_at_source=True)
        if digests[name] is None and refresh and data.fingerprint(name, args.data_dir) is not None:
            digests[name] = data.prepare(name, args.data_dir, look_at_source=True, progress=True)
    return digests


def _train(
    args: argparse.Namespace, plan: Plan, resources: cluster.Resources, ledger: Ledger, console: Console
) -> signal.Signals | None:
    """Train what is missing; returns the signal that stopped it early, None where none did."""
    from study.console import Progress
    from study.writer import Event, LedgerWriter
    from trainables.checkpoint import Storage

    output, data_dir = args.output.absolute(), args.data_dir.absolute()
    trials = plan.to_run(**_again_which(args))
    code = _code_tags()
    progress = Progress(trials, console)
    writer = LedgerWriter(
        ledger,
        Storage(output),
        on_finished=progress.finished,
        on_lost=progress.failed,
        on_trouble=progress.note,
    )

    def on_event(event: Event) -> None:
        progress.on(event)
        writer.put(event)

    datasets = list(dict.fromkeys(trial.dataset for trial in trials))
    for name in datasets:
        if name not in data.EMBEDDED:
            data.prepare(name, data_dir, progress=True)
    errands: list[Callable[[], object]] = [partial(importlib.import_module, "study.execute")]
    errands += [partial(data.prepare, name, data_dir) for name in datasets if name in data.EMBEDDED]
    patience = 2.0  # where an error or a second Ctrl-C ends this at once
    with progress:
        try:
            with cluster.session(args.address, meanwhile=errands):
                from study.execute import execute
                from trainables.tune import job

                jobs = []
                for trial in trials:
                    labels = {**tags(plan.selection.space, trial), **code}
                    jobs.append((trial, job(trial, data_dir=data_dir, storage=str(output), tags=labels)))
                request = cluster.request(resources, args.address)
                stopped = execute(
                    jobs,
                    request,
                    output / "ray",
                    on_event,
                    max_failures=args.max_failures,
                    max_concurrent=resources.max_concurrent,
                )
            patience = 10.0 if stopped else 60.0
        finally:
            writer.close(patience)
            if writer.lost:
                waiting = output / "results"
                progress.note(f"the ledger does not answer: results wait in {waiting} for the next call")
    return stopped


def _report(plan: Plan, ledger: Ledger, console: Console) -> None:
    """Print the tables and render the report, unless nothing has changed since it was."""
    from analysis.report import forget, render
    from analysis.tables import caption, cell_table, summarise, to_terminal
    from analysis.trials import cell_labels

    folder = REPORTS / plan.selection.space
    # What was trained on other data is missing here, never averaged with the rest.
    stale = {trial.key for trial in plan.stale}
    records = {key: record for key, record in plan.records.items() if key not in stale}
    with console.status("rendering the report"):
        rendered = render(plan.selection, records, ledger, folder)
    summary = summarise(rendered.trials)
    labels = cell_labels(rendered.trials)
    for cell, title in list(labels.items())[:SHOWN_CELLS]:
        console.print()
        console.print(to_terminal(cell_table(summary, cell), title, caption(summary, cell)))
    if len(labels) > SHOWN_CELLS:
        console.print(f"… and {len(labels) - SHOWN_CELLS} more cells in the report")
    if rendered.files:
        files = {
            rendered.path.name: rendered.path.read_bytes(),
            "plan.txt": "\n".join(describe(plan)).encode(),
        }
        try:
            ledger.log_study(plan.selection.space, files)
        except LedgerError as error:
            forget(folder)
            console.print(f"the report was not logged: {error}", markup=False, soft_wrap=True)
    state = "" if rendered.files else " (unchanged)"
    console.print(f"\nreport:   {rendered.path}{state}", soft_wrap=True)


def _closing(plan: Plan, ledger: Ledger, console: Console, stopped: signal.Signals | None) -> int:
    """Say what is missing and what to type next; returns the exit code."""
    done, failed, stale = len(plan.done), len(plan.failed), len(plan.stale)
    total = len(plan.selection.trials) - stale
    lines = _where_to_look(ledger) if plan.records else []
    if stopped is not None:
        lines.append(f"stopped by {stopped.name}: {total - done} of {total} trials are missing")
    elif total - done - failed:
        lines.append(f"{total - done - failed} of {total} trials are missing")
    for trial in plan.failed:
        lines.append(
            f"failed:   {trial.name}: {plan.records[trial.key].tags.get('failure', 'unknown reason')}"
        )
    if total - done - failed:
        lines.append(f"go on:    {_again()}")
    if failed:
        lines.append(f"again:    {_again('--retry-failed')}")
    if stale:
        lines.append(f"stale:    the data of {stale} trials have changed since they were trained")
        lines.append(f"again:    {_again('--rerun-stale')}")
    if plan.complete:
        seeds = len({trial.seed for trial in plan.selection.trials})
        lines.append(f"complete: {done} trials. More seeds: {_again('--seeds', str(2 * seeds))}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    if stopped is not None:
        return 128 + stopped
    return 0 if plan.complete else 1


def _where_to_look(ledger: Ledger) -> list[str]:
    """How to open the experiment in MLflow's UI."""
    address = store.shown(ledger.uri)
    page = f"/#/experiments/{ledger.experiment_id}/runs?workflowType=machine_learning"
    if address.startswith("http"):
        return [f"compare:  {address.rstrip('/')}{page}"]
    command = shlex.join(["mlflow", "ui", "--backend-store-uri", address])
    return [f"compare:  {command}", f"          then http://127.0.0.1:5000{page}"]


def _again(*changes: str) -> str:
    """The command that was typed, with an option replaced or added: `--flag`, or `--option`, `value`."""
    typed = ["python", *sys.orig_argv[1:]]
    if changes and changes[0] in typed:
        at = typed.index(changes[0])
        del typed[at : at + len(changes)]
    return shlex.join([*typed, *changes])


def _code_tags() -> dict[str, str]:
    """Which code runs: version of this project and of Ray, and its commit where it lies in a git checkout."""
    tags = {"version.study": version("siamese-barlow-twins"), "version.ray": version("ray")}
    try:
        commit = _git("rev-parse", "HEAD").strip()
        tags |= {"git.commit": commit, "git.dirty": str(bool(_git("status", "--porcelain"))).lower()}
    except (OSError, subprocess.CalledProcessError):
        return tags  # installed from a package: the version says it
    return tags


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="study/run.py",
        description="Train what is missing of a space, then render its report.",
        allow_abbrev=False,
    )
    add_selection_arguments(parser)
    parser.add_argument("--list-spaces", action="store_true", help="name the search spaces and exit")
    parser.add_argument("--plan", action="store_true", help="say what would run, create nothing, exit")
    parser.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    parser.add_argument(
        "--rerun-stale", action="store_true", help="run trials again whose data have changed since"
    )
    parser.add_argument(
        "--wait", action="store_true", help="where another driver works on --output, wait until it has ended"
    )
    add_ledger_arguments(parser)
    parser.add_argument(
        "--data-dir", metavar="DIR", type=Path, default=Path("data"), help="datasets (default: data)"
    )
    group = parser.add_argument_group("where it runs")
    group.add_argument(
        "--address",
        metavar="ADDR",
        default=os.environ.get("RAY_ADDRESS"),
        help="Ray cluster (default: RAY_ADDRESS, else a Ray of its own on this machine)",
    )
    group.add_argument(
        "--cpus-per-trial", metavar="F", type=float, default=1.0, help="CPUs and threads a trial (default: 1)"
    )
    group.add_argument(
        "--gpus-per-trial", metavar="F", type=float, help="GPUs a trial, 0.25 packs four (default: 1 if any)"
    )
    group.add_argument(
        "--max-failures",
        metavar="N",
        type=int,
        default=2,
        help="how often a trial whose process is lost is started again (default: 2)",
    )
    group.add_argument("--max-concurrent", metavar="N", type=int, help="trials at once (default: what fits)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
