"""The command line: make the ledger complete for a space, then render its report.

`python study/run.py --space NAME` trains with Ray Tune exactly the trials of the space that the ledger does
not have, and closes with the table, the report and what to type next. `--plan` only says what would run.

Exit codes: 0 the space is complete; 1 trials failed or are missing; 2 wrong usage; 130 Ctrl-C; 143 SIGTERM.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(ROOT)

from rich.console import Console

from search_spaces import SEARCHES, SPACES
from study import search_session, session
from study.cli import options
from study.cli.invocation import REPORTS, Call, check_before_anything_is_created, check_storage, understood
from study.cli.summary import again, closing, search_closing
from study.cluster import connection
from study.ledger import tracking_uri
from study.ledger.search_state import Standing
from study.ledger.search_state import describe as describe_search
from study.ledger.tracking_uri import LedgerError
from study.planning import forecast
from study.planning.plan import Plan, describe, make_plan
from study.recording.locks import LockHeld, driver_locks
from trainables import data
from trainables.datasets.sources import DataError
from trainables.redact import masked, plain

if TYPE_CHECKING:
    from analysis.render.files import Rendered
    from study.cluster.execute import Ending

SHOWN_CELLS = 4
"""Tables printed at the end; the report has them all."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, outside of training; there, Ray Tune is stopped in order."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study from its command line; returns the exit code."""
    parser = options.parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    gc.set_threshold(100_000, 20, 100)  # imports and thousands of trials make few cycles and many objects
    if args.list_spaces:
        for name, space in {**SPACES, **SEARCHES}.items():
            print(f"{name}: {(space.__doc__ or 'no description').splitlines()[0]}")
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    try:
        call = understood(args, console)
    except (ValueError, DataError) as error:
        parser.error(plain(masked(str(error))))
    try:
        tracking_uri.probe(call.ledger.uri)
        check_storage(call)
        if args.plan:
            if call.search is not None:
                lines = search_session.plan_lines(call, probe=args.probe)
            else:
                lines = session.prospect(call, call.selection, probe=args.probe).lines
            print("\n".join(lines))
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
    except (connection.ClusterError, DataError, LedgerError, LockHeld) as error:
        parser.error(plain(masked(str(error))))
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
    from study.recording.writer import log_waiting_bundles

    began = time.time()
    log_waiting_bundles(call.ledger, call.storage, say=call.say)
    if call.search is None:
        return _selection(call, began)
    try:
        found, ending = search_session.run_search(call, began)
    except LedgerError as error:
        return _silent(call, error, None)
    if not search_session.searched(call, found):
        if found.all and not (ending and ending.received):
            _render(call, None, describe_search(found), found)
        return search_closing(call, found, ending)
    return _selection(search_session.finals(call, found), began, found)


def _selection(call: Call, began: float, found: Standing | None = None) -> int:
    """Complete a selection of trials: those of a space, or of a search's finalists."""
    prospect = session.prospect(call, call.selection, refresh=found is None)
    for line in prospect.lines:
        call.say(line)
    plan, ending = prospect.plan, None
    lines = [*(describe_search(found) if found else ()), *describe(plan)]
    if prospect.to_run:
        call.ledger.check()
        expected = prospect.wall_seconds(call.grant.slots) if call.grant.slots else None
        started = time.monotonic()
        ending = session.train(call, prospect.to_run, prospect.forecast, began)
        if expected is not None and ending.complete:
            lines.append(forecast.compare(expected, time.monotonic() - started))
            call.say(lines[-1])
        try:
            now = {name: data.fingerprint(name, call.data_dir) for name in call.datasets}
            plan = make_plan(call.selection, call.ledger.trials(), now)
        except LedgerError as error:
            return _silent(call, error, ending)
    if plan.records and not (ending and ending.received):
        _render(call, plan, lines, found)
    return closing(call, plan, ending, found)


def _silent(call: Call, error: LedgerError, ending: "Ending | None") -> int:
    """The ledger does not say what it has; returns the exit code."""
    call.say(f"{error}\ngo on:    {again()}")
    return 128 + ending.received if ending and ending.received else 1


def _render(call: Call, plan: Plan | None, lines: Sequence[str], found: Standing | None) -> None:
    """Render the report, unless it is not wanted or cannot be."""
    if call.args.no_report:
        return
    try:
        if found is not None:
            _search_report(call, lines, found)
        elif plan is not None:
            _report(call, plan, lines)
    except (OSError, ValueError) as error:  # ValueError: trials of one cell on different data
        call.say(f"the report was not rendered: {error}")


def _report(call: Call, plan: Plan, lines: Sequence[str]) -> None:
    """Print the tables and render the report, unless nothing has changed since it was."""
    from analysis.render.table import to_terminal
    from analysis.report import render
    from analysis.sections.cells import cell_table
    from analysis.stats.summary import summarise
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
    _keep(call, rendered, lines)


def _search_report(call: Call, lines: Sequence[str], found: Standing) -> None:
    """Print the finalists' table and render the report of a search, unless nothing has changed."""
    from analysis.render.table import to_terminal
    from analysis.report import render_search

    with call.console.status("rendering the report"):
        rendered = render_search(found, call.ledger, REPORTS / found.search.name)
    for table in rendered.tables:
        call.console.print()
        call.console.print(to_terminal(table))
    _keep(call, rendered, lines)


def _keep(call: Call, rendered: "Rendered", lines: Sequence[str]) -> None:
    """Log a report to the ledger, if it is new, and say where it is."""
    from analysis.render.files import invalidate

    if rendered.files:
        # Figures are in the report, and single tables in the file of them all.
        kept = [path for path in rendered.files if path.parent.name not in ("figures", "latex")]
        files = {path.name: path.read_bytes() for path in kept} | {"plan.txt": "\n".join(lines).encode()}
        try:
            call.ledger.log_study(call.selection.space, files)
        except LedgerError as error:
            invalidate(rendered.path.parent)
            call.say(f"the report was not logged: {error}")
    state = "" if rendered.files else " (unchanged)"
    call.console.print(f"\nreport:   {rendered.path}{state}", soft_wrap=True)


if __name__ == "__main__":
    code = main()
    gc.freeze()  # or a last search for cycles among all objects takes a second
    sys.exit(code)
