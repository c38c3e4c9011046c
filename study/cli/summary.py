"""What people read at the end of a call: what is missing, where to look, what to type next."""

import shlex
import sys
from typing import TYPE_CHECKING

from study.cli.invocation import Call
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.search_state import Standing
from study.planning.plan import Plan

if TYPE_CHECKING:
    from study.cluster.execute import Ending


def search_closing(call: Call, found: Standing, ending: "Ending | None") -> int:
    """Say what a search that is not complete lacks; returns the exit code."""
    lines = _where_to_look(call.ledger) if found.all else []
    reason = ending.reason if ending else None
    received = ending.received if ending else None
    if received:
        reason = f"stopped by {received.name}"
    total = found.search.trials * len(found.members)
    if found.missing:
        missing = f"{found.missing} of {total} configurations are missing"
        lines += [f"{reason}: {missing}" if reason else missing, f"go on:    {again()}"]
    else:
        more = again("--trials", str(2 * found.search.trials))
        lines += ["no configuration was trained to its end: there are no finalists", f"more:     {more}"]
    for line in [*_failed(found), *lines]:
        call.say(line)
    return 128 + received if received else 1


def _failed(found: Standing) -> list[str]:
    """What happened to searched trials that have no result."""
    lines = []
    if diverged := found.count("diverged"):
        lines.append(f"diverged: {diverged} configurations (their loss was not finite)")
    if failed := found.count("failed"):
        lines.append(f"failed:   {failed} searched trials; again: {again('--retry-failed')}")
    return lines


def closing(call: Call, plan: Plan, ending: "Ending | None", found: Standing | None = None) -> int:
    """Say what is missing and what to type next; returns the exit code.

    Args:
        call: of the command line.
        plan: as it is at the end.
        ending: why training ended early, if it did.
        found: the search whose finalists the plan has.
    """
    done, failed, stale = len(plan.done), len(plan.failed), len(plan.stale)
    total = len(plan.selection.trials) - stale
    missing = total - done - failed
    lines = _where_to_look(call.ledger) if plan.records else []
    received, reason = (ending.received, ending.reason) if ending else (None, None)
    if received:
        reason = f"stopped by {received.name}"
    if reason and (missing or received):
        lines.append(f"{reason}: {missing} of {total} trials are missing")
    elif missing:
        lines.append(f"{missing} of {total} trials are missing")
    for trial in plan.failed:
        lines.append(
            f"failed:   {trial.name}: {plan.records[trial.key].tags.get('failure', 'unknown reason')}"
        )
    if missing:
        lines.append(f"go on:    {again()}")
    if failed:
        lines.append(f"again:    {again('--retry-failed')}")
    if stale:
        lines.append(f"stale:    the data of {stale} trials have changed since they were trained")
        lines.append(f"again:    {again('--rerun-stale')}")
    if found is not None:
        lines += _failed(found)
        if plan.complete:
            more = again("--trials", str(2 * found.search.trials))
            searched = f"{len(found.all)} configurations searched, {done} trials of finalists"
            lines.append(f"complete: {searched}. More: {more}")
    elif plan.complete:
        seeds = len({trial.seed for trial in plan.selection.trials})
        lines.append(f"complete: {done} trials. More seeds: {again('--seeds', str(2 * seeds))}")
    for line in lines:
        call.say(line)
    if received:
        return 128 + received
    return 0 if plan.complete and not (found and found.count("failed")) else 1


def _where_to_look(ledger: Ledger) -> list[str]:
    """How to open the experiment in MLflow's UI."""
    address = tracking_uri.redacted(ledger.uri)
    page = f"/#/experiments/{ledger.experiment_id}/runs?workflowType=machine_learning"
    if address.startswith("http"):
        return [f"compare:  {address.rstrip('/')}{page}"]
    command = shlex.join(["mlflow", "ui", "--backend-store-uri", address])
    return [f"compare:  {command}", f"          then http://127.0.0.1:5000{page}"]


def again(*changes: str) -> str:
    """The command that was typed, with an option replaced or added: `--flag`, or `--option`, `value`."""
    typed = ["python", *sys.orig_argv[1:]]
    if changes and changes[0] in typed:
        at = typed.index(changes[0])
        del typed[at : at + len(changes)]
    return tracking_uri.redacted(shlex.join([*typed, *changes]))
