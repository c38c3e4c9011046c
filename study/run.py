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

from search_spaces import SPACES, add_selection_arguments, selection_from
from study import cluster
from study.ledger import Ledger, LedgerError, add_ledger_arguments, check_writable, ledger_from
from study.lock import LockHeld, driver_lock
from study.plan import Plan, describe, make_plan

REPORTS = Path("reports")
SHOWN_CELLS = 4
"""Tables printed at the end; the report has them all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study from its command line; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    if args.list_spaces:
        for name, space in SPACES.items():
            print(f"{name}: {(space.__doc__ or '').splitlines()[0]}")
        return 0
    try:
        selection = selection_from(args)
        resources = cluster.Resources(
            cpus=args.cpus_per_trial, gpus=args.gpus_per_trial, max_concurrent=args.max_concurrent
        )
    except ValueError as error:
        parser.error(str(error))
    ledger = ledger_from(args)
    try:
        ledger.probe()
        if args.plan:
            print("\n".join(describe(make_plan(selection, ledger), retry_failed=args.retry_failed)))
            return 0
        check_writable("--output", args.output)
        check_writable("--data-dir", args.data_dir)
        check_writable("reports", REPORTS)
        ledger.check_writable()
        ledger.exists()  # a store that cannot be read is told before anything is created
        cluster.check(args.address, resources)
        with driver_lock(args.output.absolute()):
            return _study(args, make_plan(selection, ledger), resources, ledger, console)
    except (cluster.ClusterError, LedgerError, LockHeld) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print(f"\nstopped. go on: {_again()}", markup=False, soft_wrap=True)
        return 128 + signal.SIGINT


def _study(
    args: argparse.Namespace, plan: Plan, resources: cluster.Resources, ledger: Ledger, console: Console
) -> int:
    """Run what is missing, render the report, say what to type next; returns the exit code."""
    for line in describe(plan, retry_failed=args.retry_failed):
        console.print(line, markup=False, soft_wrap=True)
    stopped = None
    if plan.to_run(retry_failed=args.retry_failed):
        stopped = _train(args, plan, resources, ledger, console)
        plan = make_plan(plan.selection, ledger)
    if stopped is None and plan.records:
        _report(plan, ledger, console)
    return _closing(plan, ledger, console, stopped)


def _train(
    args: argparse.Namespace, plan: Plan, resources: cluster.Resources, ledger: Ledger, console: Console
) -> signal.Signals | None:
    """Train what is missing; returns the signal that stopped it early, None where none did."""
    from study.console import Progress
    from study.writer import EpochDone, Event, Failed, LedgerWriter, Started, Succeeded
    from trainables import data
    from trainables.checkpoint import Storage, bundle_keys

    output, data_dir = args.output.absolute(), args.data_dir.absolute()
    trials = plan.to_run(retry_failed=args.retry_failed)
    storage = Storage(output)
    progress = Progress(trials, console)
    writer = LedgerWriter(
        ledger,
        storage,
        {"space": plan.selection.space, **_code_tags()},
        on_finished=lambda bundle: progress.finished(bundle.config, bundle.result.metrics),
        on_trouble=progress.note,
    )

    def on_event(event: Event) -> None:
        match event:
            case Started(config):
                progress.started(config)
            case EpochDone(config, row):
                progress.epoch(config, row)
            case Succeeded(config):
                progress.trained(config)
            case Failed(config, reason):
                progress.failed(config, reason)
        writer.put(event)

    # A bundle that is there was trained by a driver that died before the ledger had it.
    trained = set(bundle_keys(storage))
    to_train = [trial for trial in trials if trial.key not in trained]
    errands: list[Callable[[], object]] = [partial(importlib.import_module, "study.execute")]
    errands += [partial(data.prepare, name, data_dir) for name in dict.fromkeys(t.dataset for t in to_train)]
    stopped = None
    with progress:
        try:
            for trial in trials:
                if trial.key in trained:
                    on_event(Succeeded(trial))
            if to_train:
                with cluster.session(args.address, meanwhile=errands):
                    from study.execute import execute
                    from trainables.tune import job

                    jobs = [(trial, job(trial, data_dir=data_dir, storage=str(output))) for trial in to_train]
                    stopped = execute(jobs, resources, output / "ray", on_event)
        finally:
            writer.close(patience=10 if stopped else 60)
            if writer.lost:
                progress.note(
                    f"the ledger did not answer in the end: results wait in {output / 'results'},"
                    " and the same command will log them"
                )
    return stopped


def _report(plan: Plan, ledger: Ledger, console: Console) -> None:
    """Print the tables and render the report, unless nothing has changed since it was."""
    from analysis.report import render
    from analysis.tables import caption, cell_table, summarise, to_terminal
    from analysis.trials import cell_labels

    folder = REPORTS / plan.selection.space
    with console.status("rendering the report"):
        rendered = render(plan.selection, ledger, folder)
    summary = summarise(rendered.trials)
    labels = cell_labels(rendered.trials)
    for cell, title in list(labels.items())[:SHOWN_CELLS]:
        console.print()
        console.print(to_terminal(cell_table(summary, cell), title, caption(summary, cell)))
    if len(labels) > SHOWN_CELLS:
        console.print(f"… and {len(labels) - SHOWN_CELLS} more cells in the report")
    if rendered.files:
        ledger.log_files(
            ledger.study_run(plan.selection.space), {rendered.path.name: rendered.path.read_bytes()}
        )
    state = "" if rendered.files else " (unchanged)"
    console.print(f"\nreport:   {rendered.path}{state}", soft_wrap=True)


def _closing(plan: Plan, ledger: Ledger, console: Console, stopped: signal.Signals | None) -> int:
    """Say what is missing and what to type next; returns the exit code."""
    missing = len(plan.selection.trials) - len(plan.done)
    lines = []
    if plan.records:
        server = ledger.shown_uri if ledger.uri.startswith("http") else "http://127.0.0.1:5000"
        page = f"{server}/#/experiments/{ledger.experiment_id}/runs?workflowType=machine_learning"
        if ledger.uri.startswith("http"):
            lines.append(f"compare:  {page}")
        else:
            lines.append(f"compare:  mlflow ui --backend-store-uri {shlex.quote(ledger.shown_uri)}")
            lines.append(f"          then {page}")
    if stopped is not None:
        lines.append(
            f"stopped by {stopped.name}: {missing} of {len(plan.selection.trials)} trials are missing"
        )
        lines.append(f"go on:    {_again()}")
    elif plan.failed:
        lines.append(f"{len(plan.failed)} trials failed:")
        lines += [
            f"  {t.name}: {plan.records[t.key].tags.get('failure', 'unknown reason')}" for t in plan.failed
        ]
        lines.append(f"again:    {_again()} --retry-failed")
    elif missing:
        lines.append(f"{missing} of {len(plan.selection.trials)} trials are missing")
        lines.append(f"go on:    {_again()}")
    else:
        seeds = len({trial.seed for trial in plan.selection.trials})
        lines.append(f"complete: {len(plan.done)} trials. More seeds: {_again(seeds=2 * seeds)}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    if stopped is not None:
        return 128 + stopped
    return 0 if plan.complete else 1


def _again(seeds: int | None = None) -> str:
    """The command that was typed, or the same with another number of seeds."""
    typed = ["python", *sys.orig_argv[1:]]
    if seeds is not None:
        if "--seeds" in typed:
            at = typed.index("--seeds")
            typed[at : at + 2] = []
        typed += ["--seeds", str(seeds)]
    return shlex.join(typed)


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
    group.add_argument("--max-concurrent", metavar="N", type=int, help="trials at once (default: what fits)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
