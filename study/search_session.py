"""Running a search: first what is to be searched, then the finalists with fresh seeds."""

import dataclasses
import itertools
from typing import TYPE_CHECKING

from study import session
from study.cli.invocation import Call
from study.ledger.search_state import Standing, describe, standing
from study.planning import forecast
from study.planning.forecast import Forecast
from trainables import data
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.cluster.execute import Ending


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a search would still train.

    Attributes:
        standing: how far it is.
        begun: members that are gone on with, each with the epochs that are trained already.
        forecast: of trials like those that it will suggest.
        lines: for people.
    """

    standing: Standing
    begun: dict[TrialConfig, int]
    forecast: Forecast
    lines: list[str]


def outlook(call: Call, *, refresh: bool = False, probe: bool = False) -> Outlook:
    """Hold the call's search against the ledger; `probe` and `refresh` as of `session.prospect`."""
    assert call.search is not None  # noqa: S101  # for the type checker: the caller has looked
    records = call.ledger.trials()
    found = standing(call.search, records, session.digests(call, refresh=refresh))
    retry = call.args.retry_failed
    again = ("half-done", "failed") if retry else ("half-done",)
    begun = session.trained_already(call, [member.config for member in found.all if member.state in again])
    call.sizes.update(data.check(begun, call.data_dir))  # the call knows only what it has drawn itself
    known = forecast.from_records(call.sizes, records.values(), call.grant, call.data_dir)
    lines = describe(found, retry_failed=retry)
    expected = _expected(found, begun)
    if probe:
        lines += forecast.probe(known, [trial for trial, _ in expected], call.grant, call.data_dir)
    told = forecast.describe(known, expected, call.grant, call.args.budget)
    if told and call.args.scheduler == "asha":
        told.append("  (each to its last epoch: stopping early takes less)")
    return Outlook(standing=found, begun=begun, forecast=known, lines=[*lines, *told])


def _expected(found: Standing, begun: dict[TrialConfig, int]) -> list[tuple[TrialConfig, int]]:
    """What will be trained: trials that have begun, and others like those that will be suggested."""
    trials = list(begun.items())
    drawn = found.search.draw()
    for method, members in found.members.items():
        like = itertools.cycle([trial for trial in drawn if trial.method == method])
        trials += [
            (trial, 0) for trial, _ in zip(like, range(found.search.trials - len(members)), strict=False)
        ]
    return trials


def finals(call: Call, found: Standing) -> Call:
    """The call for the second stage: the finalists with their fresh seeds."""
    selection = found.final_selection()
    sizes = data.check(selection.trials, call.data_dir) if selection.trials else {}
    return dataclasses.replace(call, selection=selection, sizes={**call.sizes, **sizes})


def plan_lines(call: Call, *, probe: bool = False) -> list[str]:
    """What `--plan` says of a search."""
    ahead = outlook(call, probe=probe)
    lines, found = ahead.lines, ahead.standing
    if found.missing or not found.final_selection().trials:
        search = found.search
        configurations = search.finalists * len(search.methods)
        number = configurations * search.seeds
        return [
            *lines,
            f"then: the best {search.finalists} of each method x {search.seeds} fresh seeds,"
            f" {number} trials at most",
        ]
    return [*lines, *session.prospect(finals(call, found), finals(call, found).selection).lines]


def run_search(call: Call, began: float) -> "tuple[Standing, Ending | None]":
    """Train what the search lacks; returns how far it is then, and why it ended early, if it did."""
    ahead = outlook(call, refresh=True)
    for line in ahead.lines:
        call.say(line)
    failed = ahead.standing.count("failed") if call.args.retry_failed else 0
    if not ahead.standing.missing + failed:
        return ahead.standing, None
    call.ledger.check()
    ending = session.train(call, ahead.begun, ahead.forecast, began, ahead.standing)
    now = {name: data.fingerprint(name, call.data_dir) for name in call.datasets}
    assert call.search is not None  # noqa: S101
    return standing(call.search, call.ledger.trials(), now), ending


def searched(call: Call, found: Standing) -> bool:
    """Whether the finalists can begin: no method lacks a configuration that it could still have."""
    lacking = [
        method
        for method, members in found.members.items()
        if sum(member.ended for member in members) < found.search.trials
        and not (method in call.exhausted and all(member.ended for member in members))
    ]
    return not lacking and bool(found.final_selection().trials)
