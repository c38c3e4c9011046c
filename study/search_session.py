"""Runs a search: first the configurations to search, then the finalists with fresh seeds."""

import dataclasses
import itertools
import sys
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from search_spaces.own import described
from search_spaces.search_design import SEED
from study.cli.invocation import Invocation
from study.cluster import connection
from study.ledger.search_state import SearchState, describe, load_search_state
from study.planning import forecast, weights
from study.planning.forecast import format_duration
from study.planning.plan import folded, seeds_lines
from study.session import study_plan
from study.session.study_plan import StudyPlan
from study.session.study_run import Driver, StudyRun
from trainables import data
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.cluster.execute import GracefulStop
    from study.cluster.trial_queue import Job, MakeJob
    from study.search.optuna_queue import OptunaQueue


def finalists_ready(state: SearchState, exhausted: Collection[str] = ()) -> bool:
    """Whether the finalists can begin: every method has all configurations that it can have.

    `exhausted` methods have fewer than requested.
    """
    for method, members in state.members.items():
        ended = sum(member.ended for member in members)
        if ended < (len(members) if method in exhausted else state.search.trials):
            return False
    return bool(state.final_selection().trials)


def can_choose_finalists(state: SearchState) -> bool:
    """Whether every method has finished as many configurations as it has finalists."""
    return all(len(best) == state.search.finalists for best in state.finalists().values())


def plan_search(invocation: Invocation, *, refresh: bool = False) -> StudyPlan[SearchState]:
    """Compare the search with the ledger; `refresh` as in `study_plan.plan_study`."""
    assert invocation.search is not None  # noqa: S101  # for the type checker: the caller has checked
    records = invocation.ledger.trials()
    digests = study_plan.source_digests(invocation, refresh=refresh)
    state = load_search_state(invocation.search, records, digests)
    retry = invocation.args.retry_failed
    again = ("half-done", "failed") if retry else ("half-done",)
    again_members = [member.without(again) for member in state.all if member.state in again]
    to_run = study_plan.trained_epochs(
        invocation, [trial for member in again_members for trial in member.missing()]
    )
    # Earlier invocations may have suggested configurations that this one has not drawn.
    sizes = {**invocation.sizes, **data.check(list(to_run), invocation.data_dir)}
    expected = forecast.from_records(sizes, records.values(), invocation.allocation, invocation.data_dir)
    likely = _likely_trials(state, to_run)
    finalists = _likely_finalists(state) if state.missing else ()
    lines = study_plan.forecast_lines(invocation, expected, likely, finalists, measure=invocation.args.probe)
    if lines and invocation.scheduler == "asha":
        lines.append("  (each to its last epoch: stopping early takes less)")
    trials = [trial for member in state.all for trial in member.trials.values()]
    finished = [records[trial.config.key] for trial in trials if trial.state == "finished"]
    to_keep = [trial for trial, _ in likely]
    lines += weights.describe(invocation.args, to_keep, finished, invocation.data_dir)
    return StudyPlan(
        state=state,
        to_run=to_run,
        forecast=expected,
        records=records,
        lines=[*described(), *describe(state, retry_failed=retry), *lines],
    )


def _likely_trials(state: SearchState, to_run: Mapping[TrialConfig, int]) -> list[tuple[TrialConfig, int]]:
    """What will be trained: the trials to resume, and random ones in place of future suggestions."""
    trials = list(to_run.items())
    for method, members in state.members.items():
        random_trials = itertools.cycle(state.search.draw_of(method))
        count = max(0, state.search.trials - len(members)) * state.search.seeds_per_configuration
        trials += [(trial, 0) for trial in itertools.islice(random_trials, count)]
    return trials


def _likely_finalists(state: SearchState) -> list[TrialConfig]:
    """As many trials as finalists will have, of random configurations."""
    search = state.search
    number = search.finalists * search.seeds
    return [
        trial
        for method in state.members
        for trial in itertools.islice(itertools.cycle(search.draw_of(method)), number)
    ]


def with_finalists(invocation: Invocation, state: SearchState) -> Invocation:
    """The invocation for the second stage: its selection is the finalists with their fresh seeds."""
    selection = state.final_selection()
    sizes = data.check(selection.trials, invocation.data_dir) if selection.trials else {}
    return dataclasses.replace(invocation, selection=selection, sizes=sizes)


def plan_lines(invocation: Invocation) -> list[str]:
    """What `--plan` prints for a search."""
    plan = plan_search(invocation)
    state, search = plan.state, plan.state.search
    if state.missing or not state.final_selection().trials:
        number = search.finalists * len(search.methods) * search.seeds
        best = f"then: the best {search.finalists} of each method x {search.seeds} fresh seeds,"
        return [*plan.lines, f"{best} {number} trials at most"]
    finals = with_finalists(invocation, state)
    return [*plan.lines, *study_plan.plan_study(finals).lines, *seeds_lines(finals.selection.trials)]


def run_search(invocation: Invocation, driver: Driver) -> "tuple[SearchState, GracefulStop | None, bool]":
    """Train what the search lacks.

    Returns its state, why training ended, and whether the finalists can begin: once all configurations have
    ended, or when what is left of the budget was kept for them.
    """
    plan = plan_search(invocation, refresh=True)
    for line in folded(plan.lines):
        invocation.say(line)
    state, search = plan.state, plan.state.search
    failed = state.count("failed") if invocation.args.retry_failed else 0
    if not state.missing + failed:
        return state, None, finalists_ready(state)
    new = search.trials * len(state.members) - len(state.all)
    trials = len(plan.to_run) + new * search.seeds_per_configuration
    epochs = trials * max(trial.epochs for trial in search.draw())
    run = StudyRun(invocation, plan, driver, trials=trials, epochs=epochs)
    stop, queue = run.train(partial(search_queue, run, state))
    state = load_search_state(search, invocation.ledger.trials(), invocation.current_digests())
    ready = finalists_ready(state, queue.exhausted)
    if not ready and stop.out_of_budget and (kept := queue.budget.kept() if queue.budget else 0.0):
        ready = can_choose_finalists(state)
        if ready:
            invocation.say(
                f"{state.missing} configurations are missing; {format_duration(kept)} of the budget are for"
                " the finalists among the others"
            )
    return state, stop, ready


def search_queue(
    run: StudyRun, state: SearchState, make_job: "MakeJob", request: Mapping[str, float]
) -> "OptunaQueue":
    """The queue of a search; see `session.MakeQueue`."""
    from study.search.asha import INTERMEDIATE_METRIC, PerMethodASHA
    from study.search.optuna_queue import OptunaQueue

    invocation = run.invocation
    histories = {
        member.config.key: invocation.ledger.history(member.trials[SEED].run_id, INTERMEDIATE_METRIC)
        for member in state.all
        if SEED in member.trials
    }
    scheduler = PerMethodASHA(state.search) if invocation.scheduler == "asha" else None
    if scheduler:
        for member in state.all:
            history = histories.get(member.config.key, {})
            scheduler.replay(member.config.key, member.method, history.items())

    def job(trial: TrialConfig, extra: Mapping[str, str]) -> "Job":
        return make_job(trial, extra, save_at=scheduler.rungs if scheduler and trial.seed == SEED else ())

    budget = run.budget
    if budget is not None:
        kept = partial(
            forecast.kept_for_finalists,
            run.forecast,
            _likely_finalists(state),
            invocation.allocation.slots,
            invocation.args.budget,
        )
        budget = dataclasses.replace(budget, kept=kept)
    limit = invocation.resources.max_concurrent or sys.maxsize
    return OptunaQueue(
        state,
        job,
        sampler=invocation.sampler,
        histories=histories,
        on_cache_hit=run.on_event,
        budget=budget,
        capacity=lambda: min(connection.capacity(request, invocation.args.address), limit),
        scheduler=scheduler,
        retry_failed=invocation.args.retry_failed,
        on_forgone=run.forgo,
    )
