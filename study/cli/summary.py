"""The last lines of an invocation: what is missing, where to look, what to type next."""

import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.seeds import FEWEST
from study.cli.invocation import Invocation
from study.ledger import pages, tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.search_state import SearchState
from study.planning.plan import Plan

if TYPE_CHECKING:
    from study.cluster.execute import GracefulStop


def report_lines(findings: Sequence[str], path: Path, *, new: bool, width: int | None) -> list[str]:
    """What a report says and where it is: as a path, and as an address that terminals open.

    Sentences are wrapped at `width`; None: not at all.
    """
    lines = [line for text in findings for line in (textwrap.wrap(text, width - 10) if width else [text])]
    verdict = [f"{'          ' if number else 'verdict:  '}{line}" for number, line in enumerate(lines)]
    path = path.absolute()
    return [*verdict, f"report:   {path}{'' if new else ' (unchanged)'}", f"          {path.as_uri()}"]


def print_search_summary(
    invocation: Invocation, state: SearchState, stop: "GracefulStop | None", report: Sequence[str]
) -> int:
    """Print the lines on the `report` and what an incomplete search lacks; returns the exit code."""
    lines = [*report, *(ui_hint(invocation.ledger) if state.all else []), *_search_failures(state)]
    total = state.search.trials * len(state.members)
    if state.missing:
        said = _because(stop, f"{state.missing} of {total} configurations are missing")
        lines += [said, f"resume:   {rerun_command()}"]
    else:
        said = "no configuration was trained to its end: there are no finalists"
        lines += [said, f"more:     {rerun_command('--trials', str(2 * state.search.trials))}"]
    counts = {"configurations": total, "missing": state.missing, "failed": state.count("failed")}
    return _print(invocation, lines, stop, complete=False, said=said, counts=counts)


def print_summary(
    invocation: Invocation,
    plan: Plan,
    stop: "GracefulStop | None",
    report: Sequence[str],
    *,
    state: SearchState | None = None,
    outcome: str | None = None,
    cut: "GracefulStop | None" = None,
) -> int:
    """Print what is missing of the final `plan`, and what to type next; returns the exit code.

    `stop` is why training ended early, `report` are its lines, `state` is that of the search whose finalists
    are planned, `outcome` says which cells of a range of seeds are decided, `cut` why the search ended before
    all its configurations did.
    """
    done, stale = len(plan.done), len(plan.stale)
    total = len(plan.selection.trials) - stale
    missing = total - done - len(plan.failed)
    lines = []
    complete = plan.complete and cut is None
    if complete:
        searched = f"{len(state.all)} configurations searched, " if state else ""
        of_finalists = " of finalists" if state else ""
        lines.append(f"complete: {searched}{done} trials{of_finalists}{f', {outcome}' if outcome else ''}")
    lines += [*report, *(ui_hint(invocation.ledger) if plan.records else [])]
    if missing or (stop and stop.received):
        lines.append(_because(stop, f"{missing} of {total} trials are missing"))
    for trial in plan.failed:
        reason = plan.records[trial.key].tags.get("failure", "unknown reason")
        lines.append(f"failed:   {trial.name}: {reason}")
    if state and cut:
        count = f"{state.missing} of {state.search.trials * len(state.members)} configurations are missing"
        lines.append(f"{_because(cut, count)}; {done} trials of finalists among the others finished")
    if missing or cut:
        lines.append(f"resume:   {rerun_command()}")
    if plan.failed:
        lines.append(f"retry:    {rerun_command('--retry-failed')}")
    if stale:
        lines.append(f"stale:    the data of {stale} trials have changed since they were trained")
        lines.append(f"rerun:    {rerun_command('--rerun-stale')}")
    if state is not None:
        lines += _search_failures(state)
    if complete and state is not None:
        lines.append(f"next:     {rerun_command('--trials', str(2 * state.search.trials))}")
    elif complete and outcome is None and not _seeds_are_set(invocation):
        seeds = len({trial.seed for trial in plan.selection.trials})
        lines.append(f"next:     {rerun_command('--seeds', str(max(2 * seeds, FEWEST)))}")
        lines.append(
            "          (further looks widen intervals; in a new study a range costs less:"
            f" --seeds {max(seeds, FEWEST)}..{4 * max(seeds, FEWEST)} --until decided)"
        )
    complete = complete and not (state and state.count("failed"))
    said = f"{done} of {total} trials finished" + (f", {outcome}" if outcome else "")
    said += f", {len(plan.failed)} failed" if plan.failed else ""
    said = _because(stop or cut, said) if missing or cut else said
    counts = {"trials": total, "finished": done, "missing": missing, "failed": len(plan.failed)}
    return _print(invocation, lines, stop, complete=complete, said=said, counts=counts)


def _seeds_are_set(invocation: Invocation) -> bool:
    """Whether `--only` or `--set` say which seeds there are, so that `--seeds` would add none."""
    given = (*invocation.args.only, *invocation.args.assign)
    return any(condition.startswith("seed=") for condition in given)


def _because(stop: "GracefulStop | None", missing: str) -> str:
    if stop is None or not stop.requested:
        return missing
    return f"{f'stopped by {stop.received.name}' if stop.received else stop.reason}: {missing}"


def _print(
    invocation: Invocation,
    lines: Sequence[str],
    stop: "GracefulStop | None",
    *,
    complete: bool,
    said: str,
    counts: Mapping[str, int],
) -> int:
    """Print the lines, and send to those who do not see them what is `said`."""
    for line in lines:
        invocation.say(line)
    event = "stopped" if stop and stop.received else "complete" if complete else "incomplete"
    page = experiment_page(invocation.ledger)
    invocation.notifier.ended(event, f"{said}.", *([page] if page else []), **counts)
    if stop and stop.received:
        return 128 + stop.received
    return 0 if complete else 1


def _search_failures(state: SearchState) -> list[str]:
    """What happened to searched trials without a result."""
    lines = []
    if diverged := state.count("diverged"):
        lines.append(f"diverged: {diverged} configurations (their loss was not finite)")
    if failed := state.count("failed"):
        lines.append(f"failed:   {failed} searched trials; retry: {rerun_command('--retry-failed')}")
    return lines


def ui_hint(ledger: Ledger) -> list[str]:
    """How to open the experiment in MLflow's UI."""
    if page := experiment_page(ledger):
        return [f"compare:  {page}"]
    command = shlex.join(["mlflow", "ui", "--backend-store-uri", tracking_uri.redacted(ledger.uri)])
    page = pages.view_page(ledger.experiment_id, pages.TRIALS)
    return [f"compare:  {command}", f"          then http://127.0.0.1:5000/{page}"]


def experiment_page(ledger: Ledger) -> str | None:
    """The address of the experiment on a tracking server; None for a ledger that is a file or a database."""
    address = tracking_uri.redacted(ledger.uri)
    if not address.startswith("http"):
        return None
    return f"{address.rstrip('/')}/{pages.view_page(ledger.experiment_id, pages.TRIALS)}"


def rerun_command(*changes: str) -> str:
    """The command as typed, with an option replaced or added: `--flag`, or `--option`, `value`."""
    typed = ["python", *sys.orig_argv[1:]]
    if len(typed) > 1 and Path(typed[1]).name == "study" and Path(typed[1]).is_file():
        typed[:2] = ["study"]  # the console script
    if changes and changes[0] in typed:
        at = typed.index(changes[0])
        del typed[at : at + len(changes)]
    return tracking_uri.redacted(shlex.join([*typed, *changes]))
