"""Several seeds for each configuration of a search: what is trained when, and what the searcher is told."""

import itertools
import random
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any

import pytest
from optuna.trial import TrialState
from test_suggest import CE_ALONE, config, flat, optunas, outcome, record, searching, standing_of, suggestions
from test_suggest import row as epoch_row
from test_suggest import tunes as of_tune

from search_spaces import Search
from study.ledger.optuna_study import STANDARD_ERRORS, make_study
from study.ledger.records import PRUNED_TAG, TrialRecord
from study.ledger.search_state import describe, load_search_state
from study.recording.events import CacheHit, Event, Failed, Interrupted, Pruned, Succeeded
from study.search.asha import INTERMEDIATE_METRIC, PerMethodASHA
from study.search.optuna_queue import OptunaQueue
from trainables.trial import TrialConfig

PLACES = itertools.count()
"""Ids that Tune would give to trials."""


def three_seeds(**changes: Any) -> Search:
    return searching(**{"methods": CE_ALONE, "seeds_per_configuration": 3, "trials": 2, **changes})


def of_seed(seed: int, value: float, *, lr: float = 0.1, number: int = 0, **about: Any) -> TrialRecord:
    """A finished trial of a configuration, with this validation accuracy."""
    made = record(config(lr=lr, seed=seed), number=number, **about)
    return made if not made.metrics else TrialRecord(**{**fields(made), "metrics": {"val_acc": value}})


def fields(made: TrialRecord) -> dict[str, Any]:
    return {name: getattr(made, name) for name in TrialRecord.__dataclass_fields__}


def handed_out(jobs: OptunaQueue, count: int) -> list[TrialConfig]:
    """The next trials, which then run."""
    taken = []
    while len(taken) < count and isinstance(job := jobs.suggest(f"{next(PLACES)}"), dict):
        taken.append(jobs.unfinished[job["key"]])
    return taken


def end(jobs: OptunaQueue, event: Event) -> None:
    """A running trial has ended."""
    jobs.end(event)
    (place,) = [name for name, job in jobs._running.items() if job["key"] == event.config.key]
    jobs.on_trial_complete(place)


def test_the_first_seed_is_trained_first_and_then_the_others_before_another_configuration() -> None:
    jobs = suggestions(standing_of(three_seeds()), capacity=lambda: 1)
    ran = []
    while taken := handed_out(jobs, 1):
        ran += taken
        end(jobs, Succeeded(taken[0], {"val_acc": taken[0].seed / 10}))
    assert [trial.seed for trial in ran] == [0, 1, 2, 0, 1, 2]
    first, second = (trial.replace(seed=0) for trial in (ran[0], ran[3]))
    assert first != second
    assert ran == [c.replace(seed=seed) for c in (first, second) for seed in range(3)]


def test_the_searcher_is_told_the_mean_and_gets_the_standard_error() -> None:
    jobs = suggestions(standing_of(three_seeds(trials=1)), capacity=lambda: 3)
    values = (0.5, 0.6, 0.8)
    (first,) = handed_out(jobs, 3)
    end(jobs, Succeeded(first, {"val_acc": values[0]}))
    assert [trial.state for trial in optunas(jobs, "ce")] == [TrialState.RUNNING]
    for trial in handed_out(jobs, 3)[::-1]:  # in any order
        end(jobs, Succeeded(trial, {"val_acc": values[trial.seed]}))
    (told,) = optunas(jobs, "ce")
    assert told.value == pytest.approx(fmean(values))
    assert told.user_attrs == {STANDARD_ERRORS: [pytest.approx(stdev(values) / 3**0.5)]}
    one_seed = suggestions(standing_of(searching(methods=CE_ALONE, trials=1)))
    (only,) = handed_out(one_seed, 1)
    end(one_seed, Succeeded(only, {"val_acc": 0.5}))
    assert (optunas(one_seed, "ce")[0].value, optunas(one_seed, "ce")[0].user_attrs) == (0.5, {})


def test_all_runs_of_a_configuration_have_its_number() -> None:
    tags = []

    def job(trial: TrialConfig, extra: dict[str, str]) -> dict[str, str]:
        tags.append((trial.seed, dict(extra)))
        return {"key": trial.key}

    jobs = OptunaQueue(standing_of(three_seeds()), job, capacity=lambda: 1)
    while taken := handed_out(jobs, 1):
        end(jobs, Succeeded(taken[0], {"val_acc": 0.5}))
    expected = [
        (seed, {"stage": "search", "search.s": str(number)}) for number in (1, 2) for seed in range(3)
    ]
    assert tags == expected


ENDS: dict[str, Callable[[TrialConfig], Event]] = {
    "pruned": lambda trial: Pruned(trial, {"epoch": 4, INTERMEDIATE_METRIC: 0.1}),
    "diverged": lambda trial: Failed(trial, "NonFiniteLoss: train/ce is nan", ""),
    "failed": lambda trial: Failed(trial, "OSError: no room", ""),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_first_seed_without_a_result_ends_its_configuration(how: str) -> None:
    forgone: list[TrialConfig] = []
    jobs = suggestions(standing_of(three_seeds()), capacity=lambda: 1, on_forgone=forgone.extend)
    (first,) = handed_out(jobs, 1)
    end(jobs, ENDS[how](first))
    assert forgone == [first.replace(seed=1), first.replace(seed=2)]
    (second,) = handed_out(jobs, 1)
    assert (second.seed, second != first) == (0, True)
    assert optunas(jobs, "ce")[0].state == (TrialState.FAIL if how == "failed" else TrialState.PRUNED)


@pytest.mark.parametrize("how", ["diverged", "failed"])
def test_another_seed_without_a_result_leaves_no_mean(how: str) -> None:
    """The remaining seeds are trained all the same: half a set of seeds is never averaged."""
    jobs = suggestions(standing_of(three_seeds(trials=1)), capacity=lambda: 1)
    for make in (
        lambda t: Succeeded(t, {"val_acc": 0.9}),
        ENDS[how],
        lambda t: Succeeded(t, {"val_acc": 0.9}),
    ):
        (trial,) = handed_out(jobs, 1)
        end(jobs, make(trial))
    assert trial.seed == 2
    (told,) = optunas(jobs, "ce")
    assert (told.state, told.values) == (TrialState.FAIL if how == "failed" else TrialState.PRUNED, None)
    failure = "OSError: x" if how == "failed" else "NonFiniteLoss: x"
    found = standing_of(
        three_seeds(trials=1),
        of_seed(0, 0.9, number=1),
        of_seed(1, 0.0, number=1, status="FAILED", failure=failure),
        of_seed(2, 0.9, number=1),
    )
    (member,) = found.members["ce"]
    assert (member.state, member.objectives, member.errors) == (how, None, None)
    assert found.ranked("ce") == []
    again = suggestions(found, capacity=lambda: 3, retry_failed=True)
    assert [t.seed for t in handed_out(again, 3)] == ([1] if how == "failed" else [])


def test_the_scheduler_stops_first_seeds_alone() -> None:
    halving = PerMethodASHA(three_seeds())
    assert outcome(halving, config(lr=0.1), flat(0.9)) is None
    assert outcome(halving, config(lr=0.2), flat(0.1)) == 4
    assert outcome(halving, config(lr=0.1, seed=1), flat(0.1)) is None
    # Nor do other seeds take part in the comparison.
    assert outcome(halving, config(lr=0.1, seed=2), flat(0.99)) is None
    assert outcome(halving, config(lr=0.3), flat(0.91)) is None
    resumed = of_tune(config(lr=0.1, seed=1))
    assert halving.on_trial_result(None, resumed, {"resumed": [{"epoch": 4, INTERMEDIATE_METRIC: 0.0}]})
    assert halving.on_trial_result(None, resumed, epoch_row(8, 0.0)) == "CONTINUE"


def test_more_seeds_train_the_missing_ones_only_and_before_all_else() -> None:
    known = [
        of_seed(0, 0.5, number=1),
        of_seed(0, 0.1, lr=0.2, number=2, status="KILLED", **{PRUNED_TAG: "4"}),
    ]
    assert standing_of(three_seeds(seeds_per_configuration=1), *known).missing == 0
    found = standing_of(three_seeds(), *known)
    assert [member.state for member in found.members["ce"]] == ["half-done", "pruned"]
    assert found.missing == 1
    assert describe(found) == [
        "search s: 2 configurations of each of ce, 3 seeds each, by val_acc",
        "  ce: 1 pruned, 1 half-done; to search: 1",
    ]
    jobs = suggestions(found, capacity=lambda: 9)
    assert handed_out(jobs, 9) == [config(lr=0.1, seed=1), config(lr=0.1, seed=2)]


def test_fewer_seeds_count_the_first_ones() -> None:
    known = [of_seed(seed, value, number=1) for seed, value in enumerate((0.5, 0.7, 0.9))]
    for seeds, mean in ((3, 0.7), (2, 0.6), (1, 0.5)):
        search = three_seeds(seeds_per_configuration=seeds, trials=1)
        found = standing_of(search, *known)
        (member,) = found.members["ce"]
        assert member.objectives == (pytest.approx(mean),)
        assert (member.errors is None) == (seeds == 1)
        # The search saw seeds 0 to 2: finalists are never judged by one of them.
        assert [trial.seed for trial in found.final_selection().trials] == [3, 4, 5]
        assert handed_out(suggestions(found), 1) == []


def test_finalists_are_ranked_by_the_mean_and_their_seeds_follow_the_searched_ones() -> None:
    lucky = [of_seed(seed, value, lr=0.1, number=1) for seed, value in enumerate((0.9, 0.5, 0.5))]
    steady = [of_seed(seed, 0.7, lr=0.2, number=2) for seed in range(3)]
    found = standing_of(three_seeds(finalists=1, seeds=2), *lucky, *steady)
    assert [member.config.lr for member in found.ranked("ce")] == [0.2, 0.1]
    assert [(t.lr, t.seed) for t in found.final_selection().trials] == [(0.2, 3), (0.2, 4)]
    one = standing_of(three_seeds(finalists=1, seeds_per_configuration=1), lucky[0], steady[0])
    assert [(t.lr, t.seed) for t in one.final_selection().trials] == [(0.1, 1), (0.1, 2), (0.1, 3)]


def test_seeds_that_the_ledger_has_are_taken() -> None:
    """As those of a finalist, when its search is repeated with more seeds."""
    hits: list[CacheHit] = []
    known = [of_seed(0, 0.3, number=1), of_seed(1, 0.5), of_seed(2, 0.4, status="KILLED")]
    jobs = suggestions(standing_of(three_seeds(trials=1), *known), on_cache_hit=hits.append)
    assert handed_out(jobs, 2) == [config(seed=2)]  # half-done: it is resumed
    assert [(hit.config, hit.run_id) for hit in hits] == [(config(seed=1), known[1].run_id)]
    assert hits[0].tags == {"stage": "search", "search.s": "1"}
    end(jobs, Succeeded(config(seed=2), {"val_acc": 0.7}))
    assert optunas(jobs, "ce")[0].value == pytest.approx(0.5)


def test_a_study_from_the_ledger_has_means_and_errors() -> None:
    known = [of_seed(seed, value, number=1) for seed, value in enumerate((0.5, 0.6, 0.8))]
    search = three_seeds()
    (told,) = make_study(search, "x", standing_of(search, *known).members["ce"], {}).trials
    assert told.value == pytest.approx(1.9 / 3)
    assert told.user_attrs == {STANDARD_ERRORS: [pytest.approx(stdev((0.5, 0.6, 0.8)) / 3**0.5)]}


class Ledger:
    """What a ledger would have of trials that run, end and are interrupted; `trained` as often as it was."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.records: dict[str, TrialRecord] = {}
        self.trained: list[TrialConfig] = []

    def log(self, trial: TrialConfig, status: str, number: str, value: float = 0.0, **tags: str) -> None:
        made = record(trial, status, number=int(number), **tags)
        metrics = {"val_acc": value} if status == "FINISHED" else {}
        self.records[trial.key] = TrialRecord(**{**fields(made), "metrics": metrics})

    def tag(self, hit: CacheHit) -> None:
        known = self.records[hit.config.key]
        self.records[known.key] = TrialRecord(**{**fields(known), "tags": {**known.tags, **hit.tags}})

    def session(self, search: Search, dice: random.Random, until: float) -> bool:
        """Train with `search` until a kill, which comes with probability `until` after each event."""
        state = load_search_state(search, self.records, {})
        jobs = OptunaQueue(
            state,
            lambda trial, tags: {"key": trial.key, "tags": dict(tags)},
            sampler="random",
            on_cache_hit=self.tag,
            capacity=lambda: 3,
        )
        running: dict[str, tuple[TrialConfig, dict[str, str]]] = {}
        begun = 0
        while True:
            while isinstance(job := jobs.suggest(f"t{begun}"), dict):
                trial = jobs.unfinished[job["key"]]
                assert self.records.get(trial.key) is None or self.records[trial.key].status == "RUNNING"
                running[f"t{begun}"] = trial, job["tags"]
                self.log(trial, "RUNNING", job["tags"]["search.s"])
                begun += 1
            if dice.random() < until:
                return False
            if not running:
                return True
            place = dice.choice(sorted(running))
            trial, tags = running.pop(place)
            self.finish(jobs, trial, tags["search.s"], dice)
            jobs.on_trial_complete(place)

    def finish(self, jobs: OptunaQueue, trial: TrialConfig, number: str, dice: random.Random) -> None:
        """Let a trial end by chance; only first seeds can be stopped early."""
        self.trained.append(trial)
        kind = dice.random()
        if kind < 0.1:
            self.log(trial, "FAILED", number, failure="NonFiniteLoss: nan")
            jobs.end(ENDS["diverged"](trial))
        elif kind < 0.2:
            self.log(trial, "FAILED", number, failure="OSError: no")
            jobs.end(ENDS["failed"](trial))
        elif kind < 0.5 and trial.seed == 0:
            self.log(trial, "KILLED", number, **{PRUNED_TAG: "4"})
            jobs.end(ENDS["pruned"](trial))
        else:
            self.log(trial, "FINISHED", number, value=kind)
            jobs.end(Succeeded(trial, {"val_acc": kind}))


@pytest.mark.parametrize("chance", range(25))
def test_whatever_ends_and_is_killed_when_nothing_is_trained_twice(chance: int) -> None:
    """Sessions with 1 to 3 seeds follow on each other after kills; the last one comes to its end."""
    dice = random.Random(chance)  # noqa: S311  # nothing is secret here
    search = searching(trials=5, seeds_per_configuration=3)
    ledger = Ledger(search)
    for _ in range(4):
        ledger.session(search.replace(seeds_per_configuration=dice.choice((1, 2, 3))), dice, 0.15)
    assert ledger.session(search, dice, 0.0)
    assert len(ledger.trained) == len(set(ledger.trained))
    final = load_search_state(search, ledger.records, {})
    assert final.missing == 0
    for members in final.members.values():
        assert len({member.number for member in members}) == len(members) == 5
        for member in members:
            own = [trial for trial in ledger.trained if trial.replace(seed=0) == member.config]
            assert own[0].seed == 0  # before all others
            stopped = member.trials[0].state != "finished"
            assert sorted(trial.seed for trial in own) == ([0] if stopped else [0, 1, 2])
    assert {record.status for record in ledger.records.values()} <= {"FINISHED", "FAILED", "KILLED"}


def test_an_interrupted_seed_is_told_nothing_of() -> None:
    jobs = suggestions(standing_of(three_seeds(trials=1)), capacity=lambda: 3)
    (first,) = handed_out(jobs, 1)
    end(jobs, Succeeded(first, {"val_acc": 0.5}))
    others: Sequence[TrialConfig] = handed_out(jobs, 3)
    for trial in others:
        end(jobs, Interrupted(trial))
    assert [trial.state for trial in optunas(jobs, "ce")] == [TrialState.RUNNING]
