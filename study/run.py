"""The command line: make the ledger complete for a space, then render its report.

`python study/run.py --space NAME` trains with Ray Tune exactly the trials of the space that the ledger does
not have, and closes with the verdict, the report and what to type next. `--plan` only says what would run.

Exit codes: 0 the space is complete; 1 trials failed or are missing; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM;
138 SIGUSR1.
"""

import gc
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # import this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console

from study import search_session
from study.cli import options
from study.cli.invocation import Invocation, parse_invocation
from study.cli.notify import restart_without_addresses, telling
from study.cli.output import unfailing_output
from study.cli.summary import print_search_summary, print_summary, report_lines, rerun_command
from study.cli.welcome import listing, welcome
from study.cluster.connection import ClusterError
from study.ledger.search_state import SearchState
from study.ledger.search_state import describe as describe_search
from study.ledger.seed_plans import (
    adopt_seed_plans,
    check_margin,
    declare_seed_plans,
    plan_of_finalists,
    plans_at_look,
    read_seed_plans,
)
from study.ledger.tracking_uri import LedgerError
from study.ledger.usable import check_reachable
from study.planning.forecast import compare, describe_time
from study.planning.plan import Plan, describe, folded, make_plan, seeds_lines
from study.recording import stopping
from study.recording.holders import LockHeld
from study.recording.locks import driver_locks
from study.session import study_plan
from study.session.study_run import Driver, StudyRun
from trainables.datasets.sources import DataError
from trainables.extensions.files import loaded

if TYPE_CHECKING:
    from analysis.render.files import Rendered
    from analysis.stats.verdicts import SeedSchedule
    from study.cluster.execute import GracefulStop

SHOWN_CELLS = 4
"""Tables printed at the end; the report has them all."""


def main(argv: Sequence[str] | None = None, prog: str = "study/run.py") -> int:
    """Run a study from its command line; returns the exit code."""
    parser = options.parser(prog)
    given = sys.argv[1:] if argv is None else argv
    if not given:
        print(welcome(prog))
        return 0
    args = parser.parse_args(given)
    restart_without_addresses(args.notify)
    # Imports, and plans of thousands of trials, create many objects and few cycles.
    gc.set_threshold(100_000, 20, 100)
    if args.list_spaces:
        print(listing())
        return 0
    stopping.raise_on_sigterm()
    try:
        invocation = parse_invocation(args, Console(highlight=False))
    except (ValueError, DataError) as error:
        parser.error(str(error))
    try:
        check_reachable(invocation.ledger.uri, invocation.say)
        invocation.check_storage()
        if args.plan:
            if invocation.search is None:
                lines = _plan_lines(invocation)
            else:
                lines = search_session.plan_lines(invocation)
            print("\n".join(folded(lines)))
            return 0
        invocation.check_before_anything_is_created()
        with unfailing_output():
            return _locked_study(invocation)
    except (ClusterError, DataError, LedgerError, LockHeld) as error:
        parser.error(str(error))
    except KeyboardInterrupt as stop:
        name, code = stopping.stopped_by(stop)
        invocation.say(f"\nstopped by {name}\nresume:   {rerun_command()}")
        return code


def _locked_study(invocation: Invocation) -> int:
    """Run the study as the only driver; returns the exit code."""
    lease_lost = threading.Event()

    def end_without_lease() -> None:
        lease_lost.set()
        try:
            invocation.say(
                "another driver took this one for dead and works on the experiment now: this one ends"
            )
        finally:  # even if nobody reads what we print
            stopping.end()

    wait = invocation.say if invocation.args.wait else None
    locks = driver_locks(
        invocation.ledger, invocation.output, invocation.storage_uri, wait=wait, on_lost=end_without_lease
    )
    with locks, telling(invocation.notifier):
        invocation.ledger.arrange_pages()
        driver = Driver.of(invocation, lease_lost)
        try:
            return _study(invocation, driver)
        finally:
            if driver.live.begun:  # the last report may have replaced its page
                from analysis.render.files import settle

                settle(invocation.report_folder)


def _study(invocation: Invocation, driver: Driver) -> int:
    """Run what is missing, render the report, print the summary; returns the exit code."""
    from study.recording.writer import log_waiting_bundles

    if old := invocation.ledger.bring_artifacts_along():
        invocation.say(f"{invocation.output} was moved or copied from {old.parent}: new artifacts go here")
    log_waiting_bundles(invocation.ledger, invocation.storage, say=invocation.say)
    if invocation.search is None:
        return _complete_selection(invocation, driver)
    try:
        state, stop, ready = search_session.run_search(invocation, driver)
    except LedgerError as error:
        return _report_silent_ledger(invocation, error, None)
    if ready:
        finals = search_session.with_finalists(invocation, state)
        return _complete_selection(finals, driver, state, stop if stop and stop.out_of_budget else None)
    show = state.all and not (stop and stop.received)
    report = _report(invocation, describe_search(state), state) if show else []
    return print_search_summary(invocation, state, stop, report)


def _complete_selection(
    invocation: Invocation,
    driver: Driver,
    state: SearchState | None = None,
    cut: "GracefulStop | None" = None,
) -> int:
    """Train what is missing of the selection.

    `state` is that of the search whose finalists it has; `cut` says why the search ended early.
    """
    whole = invocation
    if state is None:
        read_records = partial(study_plan.records_in_use, invocation)
        plans = adopt_seed_plans(invocation.ledger, invocation.selection, read_records)
        check_margin(invocation.selection, plans)
    if schedule := _schedule(invocation, declare=True):
        invocation = replace(invocation, selection=schedule.selection)
    preview = study_plan.plan_study(invocation, refresh=state is None)
    total, *others = preview.lines
    ranges = study_plan.range_lines(invocation, preview, schedule.most) if schedule else ()
    for line in folded([total, *ranges, *others]):
        invocation.say(line)
    plan, stop = preview.state, None
    lines = [*(describe_search(state) if state else ()), *describe(plan)]
    if to_run := preview.to_run:
        expected = preview.wall_seconds(invocation.allocation.slots)
        started = time.monotonic()
        epochs = sum(trial.epochs for trial in to_run)
        run = StudyRun(invocation, preview, driver, trials=len(to_run), epochs=epochs)
        # What is planned, before anybody can look at a part of it.
        planned = plan_of_finalists(state.search) if state else whole.selection.seed_plans
        driver.live.declare = partial(declare_seed_plans, whole.ledger, whole.selection, {}, planned)
        stop, _ = run.train(run.growing_queue(schedule) if schedule else run.fixed_queue)
        if expected is not None and not stop.requested and not schedule:
            lines.append(compare(expected, time.monotonic() - started))
            invocation.say(lines[-1])
        try:
            if schedule := _schedule(whole, declare=True):
                invocation = replace(invocation, selection=schedule.selection)
            plan = make_plan(invocation.selection, invocation.ledger.trials(), invocation.current_digests())
        except LedgerError as error:
            return _report_silent_ledger(invocation, error, stop)
    show = plan.records and not (stop and stop.received)
    report = _report(invocation, lines, state or plan) if show else []
    outcome = schedule.outcome if schedule else None
    return print_summary(invocation, plan, stop, report, state=state, outcome=outcome, cut=cut)


def _schedule(invocation: Invocation, *, declare: bool) -> "SeedSchedule | None":
    """How many seeds each cell takes, for a range; `declare` records it before anything is looked at."""
    selection, ledger = invocation.selection, invocation.ledger
    if selection.seeds is None or not selection.seeds.is_range:
        return None
    from analysis.stats.verdicts import SeedSchedule, planned_steps

    records = study_plan.records_in_use(invocation)
    selection = replace(selection, seeds=planned_steps(selection, invocation.allocation.slots))
    if declare:
        ledger.open()
        plans = declare_seed_plans(ledger, selection, records)
    else:
        plans = {**selection.seed_plans, **read_seed_plans(ledger, selection.space)}
    return SeedSchedule(selection, records, plans)


def _plan_lines(invocation: Invocation) -> list[str]:
    """What `--plan` prints."""
    check_margin(invocation.selection, read_seed_plans(invocation.ledger, invocation.selection.space))
    schedule = _schedule(invocation, declare=False)
    wanted = replace(invocation, selection=schedule.selection) if schedule else invocation
    plan = study_plan.plan_study(wanted, measure=invocation.args.probe)
    if schedule:  # verdicts decide how many seeds there are
        outcome = [] if plan.to_run else [schedule.outcome]
        total, *others = plan.lines
        return [total, *study_plan.range_lines(invocation, plan, schedule.most), *others, *outcome]
    from analysis.sections.planned_power import power_lines

    cost = partial(describe_time, plan.forecast, slots=invocation.allocation.slots)
    trials = invocation.selection.trials
    return [*plan.lines, *power_lines(trials, plan.records.values(), cost), *seeds_lines(trials)]


def _report_silent_ledger(invocation: Invocation, error: LedgerError, stop: "GracefulStop | None") -> int:
    invocation.say(f"{error}\nresume:   {rerun_command()}")
    invocation.notifier.ended("failed", str(error))
    return 128 + stop.received if stop and stop.received else 1


def _report(invocation: Invocation, lines: Sequence[str], state: Plan | SearchState) -> list[str]:
    """Print the tables; render the report and log it, unless it is unwanted or nothing has changed.

    Returns what it says in a few lines, and where it is.
    """
    if invocation.args.no_report:
        return []
    from analysis.render.table import to_terminal
    from analysis.report import render_search

    console = invocation.console
    try:
        with console.status("rendering the report"):
            if isinstance(state, Plan):
                rendered, hidden = _render_study(invocation, state)
            else:
                rendered, hidden = render_search(state, invocation.ledger, invocation.report_folder), 0
        invocation.notifier.answers = rendered.findings
        for table in rendered.tables:
            console.print()
            console.print(to_terminal(table))
        if hidden:
            console.print(f"… and {hidden} more cells in the report")
        console.print()
        not_logged = _log_report(invocation, rendered, lines)
    except (OSError, ValueError) as error:  # ValueError: trials of one cell on different data
        return [f"the report was not rendered: {error}"]
    width = max(console.width, 40) if console.is_terminal else None
    new = bool(rendered.files)
    return [*report_lines(rendered.findings, rendered.path, new=new, width=width), *not_logged]


def _render_study(invocation: Invocation, plan: Plan) -> "tuple[Rendered, int]":
    """The report with the tables to print and what to say of them, and the number of other cells."""
    from analysis.report import render
    from analysis.sections.cells import cell_table
    from analysis.sections.rules import rule_sentences
    from analysis.stats.comparisons import comparisons
    from analysis.stats.summary import summarise
    from analysis.trials import cell_labels, load

    # Trials on other data are missing here, never averaged with the rest.
    stale = {trial.key for trial in plan.stale}
    records = {key: record for key, record in plan.records.items() if key not in stale}
    ledger = invocation.ledger
    trials = load(plan.selection, records, plans_at_look(ledger, plan.selection, records))
    rendered = render(plan.selection, trials, ledger, invocation.report_folder)
    labels = list(cell_labels(trials))
    shown = trials[trials["cell"].isin(labels[:SHOWN_CELLS])]
    summary, compared = summarise(shown), comparisons(shown)
    return replace(
        rendered,
        tables=tuple(cell_table(summary, shown, cell) for cell in labels[:SHOWN_CELLS]),
        findings=(*rendered.findings, *rule_sentences(compared)),
    ), max(0, len(labels) - SHOWN_CELLS)


def _log_report(invocation: Invocation, rendered: "Rendered", lines: Sequence[str]) -> list[str]:
    """Log a report to the ledger, if it is new; returns why that was not possible."""
    from analysis.render.files import invalidate

    if not rendered.files:
        return []
    # Figures are in the report, and single tables in the file with all of them.
    logged = [path for path in rendered.files if path.parent.name not in ("figures", "latex")]
    files = {path.name: path.read_bytes() for path in logged} | {"plan.txt": "\n".join(lines).encode()}
    files |= {file.name: file.source.encode() for file in loaded()}
    try:
        invocation.ledger.log_study(invocation.selection.space, files)
    except LedgerError as error:
        invalidate(rendered.path.parent)
        return [f"the report was not logged: {error}"]
    return []


if __name__ == "__main__":
    code = main()
    gc.freeze()  # otherwise a last search for cycles takes a second
    sys.exit(code)
