"""The command line: make the ledger complete for a space, then render its report.

`python study/run.py --space NAME` trains with Ray Tune exactly the trials of the space that the ledger does
not have, and closes with the table, the report and what to type next. `--plan` only says what would run.

Exit codes: 0 the space is complete; 1 trials failed or are missing; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.
"""

import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(ROOT)

from rich.console import Console

from search_spaces import SPACES, tags
from study import cluster, forecast, options, store
from study.call import REPORTS, Call, check_before_anything_is_created, check_storage, understood
from study.closing import again, closing
from study.forecast import Forecast
from study.lock import LockHeld, driver_locks
from study.plan import Plan, describe, make_plan
from study.store import LedgerError
from study.version import code_tags
from trainables import data
from trainables.sources import DataError
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.execute import Ending
    from trainables.checkpoint import Bundle

LOGGING_PATIENCE = 600.0
"""Seconds that a silent ledger is waited for when all trials have ended; Ctrl-C waits no longer."""
SHOWN_CELLS = 4
"""Tables printed at the end; the report has them all."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, outside of training; there, Ray Tune is stopped in order."""


@dataclass(frozen=True, kw_only=True)
class _Prospect:
    """What would run, and how long it would take."""

    plan: Plan
    to_run: dict[TrialConfig, int]
    """Each with the epochs that are trained already."""
    forecast: Forecast
    lines: list[str]
    """For people."""

    def wall_seconds(self, slots: int) -> float | None:
        """Of all that would run, `slots` trials at once; None where a trial's time is not known."""
        expected = [self.forecast.seconds(trial, done) for trial, done in self.to_run.items()]
        known = [seconds for seconds in expected if seconds is not None]
        return forecast.wall_seconds(known, slots) if len(known) == len(expected) else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study from its command line; returns the exit code."""
    parser = options.parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    gc.set_threshold(100_000, 20, 100)  # imports and thousands of trials make few cycles and many objects
    if args.list_spaces:
        for name, space in SPACES.items():
            print(f"{name}: {(space.__doc__ or 'no description').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    try:
        call = understood(args, console)
    except (ValueError, DataError) as error:
        parser.error(str(error))
    try:
        store.probe(call.ledger.uri)
        check_storage(call)
        if args.plan:
            print("\n".join(_prospect(call, probe=args.probe).lines))
            return 0
        check_before_anything_is_created(call)
        with driver_locks(
            call.ledger,
            call.output,
            call.storage_uri,
            wait=call.say if args.wait else None,
            on_lost=partial(_end_without_lease, call),
        ):
            return _study(call)
    except (cluster.ClusterError, DataError, LedgerError, LockHeld) as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:
        number = signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT
        call.say(f"\nstopped by {number.name}\ngo on:    {again()}")
        return 128 + number


def _terminate(*_: object) -> None:
    raise _Terminated


def _end_without_lease(call: Call) -> None:
    """From the lease's own thread: another driver works on the experiment now."""
    call.lease_lost.set()
    try:
        call.say("another driver took this one for dead and works on the experiment now: this one ends")
    finally:  # also where nobody reads what we print
        os.kill(os.getpid(), signal.SIGTERM)


def _study(call: Call) -> int:
    """Run what is missing, render the report, say what to type next; returns the exit code."""
    from study.writer import log_waiting_bundles

    began = time.time()
    log_waiting_bundles(call.ledger, call.storage, say=call.say)
    prospect = _prospect(call, refresh=True)
    for line in prospect.lines:
        call.say(line)
    plan, ending = prospect.plan, None
    lines = describe(plan)
    if prospect.to_run:
        call.ledger.check()
        expected = prospect.wall_seconds(call.grant.slots) if call.grant.slots else None
        started = time.monotonic()
        ending = _train(call, prospect, began)
        if expected is not None and ending.complete:
            lines.append(forecast.compare(expected, time.monotonic() - started))
            call.say(lines[-1])
        try:
            now = {name: data.fingerprint(name, call.data_dir) for name in call.datasets}
            plan = make_plan(call.selection, call.ledger.trials(), now)
        except LedgerError as error:
            call.say(f"{error}\ngo on:    {again()}")
            return 128 + ending.received if ending.received else 1
    if plan.records and not (ending and ending.received) and not call.args.no_report:
        try:
            _report(call, plan, lines)
        except (OSError, ValueError) as error:  # ValueError: trials of one cell on different data
            call.say(f"the report was not rendered: {error}")
    return closing(call, plan, ending)


def _prospect(call: Call, *, refresh: bool = False, probe: bool = False) -> _Prospect:
    """Hold the selection against the ledger; with `probe`, measure what no finished trial tells."""
    from trainables.checkpoint import checkpoint_keys, saved_epoch

    records = call.ledger.trials()
    plan = make_plan(call.selection, records, _digests(call, refresh=refresh))
    saved = set(checkpoint_keys(call.storage))
    to_run = {
        trial: min(saved_epoch(call.storage, trial.key), trial.epochs) if trial.key in saved else 0
        for trial in plan.to_run(**call.again_which)
    }
    known = forecast.from_records(call.sizes, records.values(), call.grant, call.data_dir)
    lines = describe(plan, **call.again_which)
    if probe:
        lines += forecast.probe(known, list(to_run), call.grant, call.data_dir)
    lines += forecast.describe(known, to_run, call.grant, call.args.budget)
    return _Prospect(plan=plan, to_run=to_run, forecast=known, lines=lines)


def _digests(call: Call, *, refresh: bool = False) -> dict[str, str | None]:
    """The digest of each dataset as it is at hand.

    None where it is not prepared, or its images have changed since; with `refresh`, these are prepared again.
    """
    digests = {}
    for name in call.datasets:
        digests[name] = data.fingerprint(name, call.data_dir, look_at_source=True)
        if digests[name] is None and refresh and data.fingerprint(name, call.data_dir) is not None:
            digests[name] = data.prepare(name, call.data_dir, look_at_source=True, progress=True)
    return digests


def _train(call: Call, prospect: _Prospect, began: float) -> "Ending":
    """Train what is missing, by a budget that counts from `began`; returns why it ended early, if it did."""
    from study.console import Progress
    from study.writer import EpochDone, Event, LedgerWriter

    trials = list(prospect.to_run)
    code = code_tags()
    progress = Progress(trials, call.console)

    def on_finished(bundle: "Bundle") -> None:
        progress.finished(bundle)
        size = call.sizes.get(bundle.config)
        if size is not None:
            seconds = (bundle.result.metrics[f"{part}_seconds"] for part in ("train", "evaluate"))
            prospect.forecast.learn(bundle.config, size, *seconds)

    writer = LedgerWriter(
        call.ledger,
        call.storage,
        on_finished=on_finished,
        on_lost=progress.failed,
        on_trouble=progress.note,
        may_write=lambda: not call.lease_lost.is_set(),
    )

    def on_event(event: Event) -> None:
        progress.on(event)
        writer.put(event)
        if isinstance(event, EpochDone):
            prospect.to_run[event.config] = int(event.row["epoch"])

    datasets = list(dict.fromkeys(trial.dataset for trial in trials))
    for name in datasets:
        if name not in data.EMBEDDED:
            data.prepare(name, call.data_dir, progress=True)
    errands: list[Callable[[], object]] = [partial(importlib.import_module, "study.execute")]
    errands += [partial(data.prepare, name, call.data_dir) for name in datasets if name in data.EMBEDDED]
    patience = 2.0  # where an error or a second Ctrl-C ends this at once
    with progress:
        try:
            with cluster.session(call.args.address, meanwhile=errands):
                from study.execute import Budget, execute
                from trainables.tune import job

                request = cluster.request(call.resources, call.args.address)
                jobs = [
                    job(
                        trial,
                        data_dir=call.data_dir,
                        storage=call.storage_uri,
                        tags={**tags(call.selection.space, trial), **code},
                        request=request,
                    )
                    for trial in trials
                ]
                budget = None
                if call.args.budget is not None:
                    budget = Budget(
                        deadline=began + call.args.budget,
                        seconds=lambda trial: prospect.forecast.seconds(trial, prospect.to_run[trial]),
                        shown=forecast.shown(call.args.budget),
                    )
                ending = execute(
                    list(zip(trials, jobs, strict=True)),
                    call.output / "ray",
                    on_event,
                    max_failures=call.args.max_failures,
                    max_concurrent=call.resources.max_concurrent,
                    budget=budget,
                )
            patience = LOGGING_PATIENCE if ending.complete else 10.0
        finally:
            writer.close(patience)
            if writer.lost and not call.lease_lost.is_set():
                waiting = f"{store.shown(call.storage_uri)}/results"
                progress.note(f"the ledger does not answer: results wait in {waiting} for the next call")
    return ending


def _report(call: Call, plan: Plan, lines: Sequence[str]) -> None:
    """Print the tables and render the report, unless nothing has changed since it was."""
    from analysis.cells import cell_table, summarise
    from analysis.formats import to_terminal
    from analysis.report import forget, render
    from analysis.trials import cell_labels, load

    ledger, console = call.ledger, call.console
    folder = REPORTS / plan.selection.space
    # What was trained on other data is missing here, never averaged with the rest.
    stale = {trial.key for trial in plan.stale}
    records = {key: record for key, record in plan.records.items() if key not in stale}
    with console.status("rendering the report"):
        trials = load(plan.selection, records)
        rendered = render(plan.selection, trials, ledger, folder)
    labels = cell_labels(trials)
    shown = trials[trials["cell"].isin(list(labels)[:SHOWN_CELLS])]
    summary = summarise(shown)
    for cell in list(labels)[:SHOWN_CELLS]:
        console.print()
        console.print(to_terminal(cell_table(summary, shown, cell)))
    if len(labels) > SHOWN_CELLS:
        console.print(f"… and {len(labels) - SHOWN_CELLS} more cells in the report")
    if rendered.files:
        # Figures are in the report, and single tables in the file of them all.
        kept = [path for path in rendered.files if path.parent.name not in ("figures", "latex")]
        files = {path.name: path.read_bytes() for path in kept} | {"plan.txt": "\n".join(lines).encode()}
        try:
            ledger.log_study(plan.selection.space, files)
        except LedgerError as error:
            forget(folder)
            call.say(f"the report was not logged: {error}")
    state = "" if rendered.files else " (unchanged)"
    console.print(f"\nreport:   {rendered.path}{state}", soft_wrap=True)


if __name__ == "__main__":
    code = main()
    gc.freeze()  # or a last search for cycles among all objects takes a second
    sys.exit(code)
