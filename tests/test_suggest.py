"""Which configuration is suggested when, what the ledger answers, and what is stopped early."""

import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.trial import TrialState

from search_spaces import Parameter, Search, choice, loguniform, with_two_views
from study.cluster.trial_queue import Budget
from study.ledger.optuna_study import make_study
from study.ledger.records import PRUNED_TAG, TrialRecord
from study.ledger.search_state import SearchState, describe, load_search_state
from study.recording.events import CacheHit, Failed, Interrupted, Pruned, Succeeded
from study.search.asha import INTERMEDIATE_METRIC, PerMethodASHA
from study.search.optuna_queue import OptunaQueue
from study.search_session import can_choose_finalists
from trainables.trial import TrialConfig

FIXED = {"dataset": "digits", "val_fraction": 0.1, "backbone": "convnet", "augmentations": (), "epochs": 20}
SECRET = 0.123454321
"""Every test metric has this value here: it must come out nowhere."""


CE_ALONE = {"ce": {"method": "ce"}}
PARAMETERS = (
    Parameter("lr", loguniform(1e-3, 1.0)),
    Parameter("gamma", loguniform(1e-4, 1e-1), when=with_two_views),
)


def searching(**changes: Any) -> Search:
    return Search(**{"name": "s", "fixed": FIXED, "parameters": PARAMETERS, "trials": 4, **changes})


def config(method: str = "ce", **fields: Any) -> TrialConfig:
    more = {"gamma": 0.01} if method == "siamese" else {}
    return TrialConfig(**{**FIXED, "method": method, "seed": 0, "lr": 0.1, **more, **fields})


def record(trial: TrialConfig, status: str = "FINISHED", *, number: int = 0, **tags: str) -> TrialRecord:
    metrics = {
        "val_acc": trial.lr,
        "val_ece": 0.1,
        "train_seconds": 2.0,
        "test_acc": SECRET,
        "test_ece": SECRET,
    }
    return TrialRecord(
        key=trial.key,
        run_id=f"run of {trial.name}",
        status=status,
        params=trial.to_params(),
        tags={
            **({"search.s": str(number)} if number else {}),
            **{k.replace("_", "."): v for k, v in tags.items()},
        },
        metrics=metrics if status == "FINISHED" else {},
        changed=0,
    )


def standing_of(search: Search, *records: TrialRecord, digest: str | None = None) -> SearchState:
    return load_search_state(search, {record.key: record for record in records}, {"digits": digest})


def suggestions(found: SearchState, **options: Any) -> OptunaQueue:
    options = {"capacity": lambda: 2, **options}
    return OptunaQueue(found, lambda trial, tags: {"key": trial.key, "tags": dict(tags)}, **options)


def run_all(jobs: OptunaQueue) -> list[TrialConfig]:
    """Every trial ends with its lr as validation accuracy."""
    ran: list[TrialConfig] = []
    while isinstance(job := jobs.suggest(str(len(ran))), dict):
        ran.append(jobs.unfinished[job["key"]])
        jobs.end(Succeeded(ran[-1], {"val_acc": ran[-1].lr}))
        jobs.on_trial_complete(str(len(ran) - 1))
    return ran


def optunas(jobs: OptunaQueue, method: str) -> list[Any]:
    return jobs._methods[method]._study.trials


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_each_method_gets_as_many_distinct_configurations(sampler: str) -> None:
    ran = run_all(suggestions(standing_of(searching(trials=12)), sampler=sampler))
    assert len(ran) == len(set(ran)) == 24
    assert [trial.method for trial in ran] == ["ce", "siamese"] * 12
    assert all(trial.seed == 0 for trial in ran)


def test_the_same_search_suggests_the_same_and_another_seed_another() -> None:
    first, again, other = (
        run_all(suggestions(standing_of(searching(trials=8)), seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    assert not set(first) & set(other)


def test_no_more_is_suggested_than_there_are_places() -> None:
    """What is suggested before it can begin knows less than it could."""
    jobs = suggestions(standing_of(searching()))
    first = jobs.suggest("a")
    assert jobs.suggest("b")
    assert jobs.suggest("c") is None
    jobs.end(Succeeded(jobs.unfinished[first["key"]], {"val_acc": 0.5}))
    jobs.on_trial_complete("a")
    assert isinstance(jobs.suggest("c"), dict)


def test_tags_make_a_trial_a_member_and_count_on() -> None:
    search = searching()
    jobs = suggestions(standing_of(search, record(config(), number=7)))
    found = [jobs.suggest(name) for name in "ab"]  # the other method first: it has none
    assert [jobs.unfinished[job["key"]].method for job in found] == ["siamese", "ce"]
    assert [job["tags"] for job in found] == [
        {"stage": "search", "search.s": "1"},
        {"stage": "search", "search.s": "8"},
    ]


def test_members_are_told_to_optuna_and_count() -> None:
    search = searching()
    members = [
        record(config(lr=0.5), number=1),
        record(config(lr=0.2), "KILLED", number=2, **{PRUNED_TAG: "6"}),
        record(config(lr=0.9), "FAILED", number=3, failure="NonFiniteLoss: train/ce is nan in epoch 2 of 20"),
    ]
    found = standing_of(search, *members)
    assert [member.state for member in found.members["ce"]] == ["finished", "pruned", "diverged"]
    assert found.missing == 5
    histories = {members[1].key: {3: 0.3, 6: 0.4, 7: 0.9}}
    jobs = suggestions(found, histories=histories)
    told = optunas(jobs, "ce")
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert told[0].value == 0.5
    # Nothing of what another study trained after it was stopped; and nothing at all of what diverged.
    assert told[1].intermediate_values == {3: 0.3, 6: 0.4}
    assert told[2].intermediate_values == {}
    ran = run_all(jobs)
    assert [trial.method for trial in ran].count("ce") == 1
    assert not {record.key for record in members} & {trial.key for trial in ran}


def test_half_done_ones_are_run_first_under_their_number() -> None:
    half = record(config("siamese", lr=0.3), "KILLED", number=5)
    jobs = suggestions(standing_of(searching(), record(config("siamese"), number=4), half))
    job = jobs.suggest("a")
    assert job["key"] == half.key
    assert job["tags"]["search.s"] == "5"
    assert len(run_all(jobs)) == 6  # 4 of ce, 2 of siamese beside the two known ones


def test_failed_ones_are_run_again_on_request_only() -> None:
    failed = record(config(lr=0.3), "FAILED", number=1, failure="OSError: no room")
    diverged = record(config(lr=0.4), "FAILED", number=2, failure="NonFiniteLoss: train/ce is inf")
    found = standing_of(searching(), failed, diverged)
    assert failed.key not in {trial.key for trial in run_all(suggestions(found))}
    again = run_all(suggestions(found, retry_failed=True))
    assert again[0].key == failed.key
    assert diverged.key not in {trial.key for trial in again}
    assert "ce: 1 diverged, 1 failed; to search: 3" in describe(found, retry_failed=True)[1]
    assert "ce: 1 diverged, 1 failed; to search: 2" in describe(found)[1]


FEW = (Parameter("batch_size", choice(25, 50)), Parameter("lr_schedule", choice("constant", "cosine")))


def test_a_trial_that_the_ledger_has_is_answered_and_not_run() -> None:
    search = searching(parameters=FEW, methods=CE_ALONE)
    known = record(config(lr=0.01, batch_size=25, lr_schedule="cosine"))
    told: list[CacheHit] = []
    jobs = suggestions(standing_of(search, known), on_cache_hit=told.append)
    ran = run_all(jobs)
    assert len(ran) == 3
    assert known.key not in {trial.key for trial in ran}
    (found,) = told
    assert (found.config.key, found.run_id) == (known.key, known.run_id)
    assert found.tags.keys() == {"stage", "search.s"}
    assert sorted([found.tags["search.s"], "1", "2", "3"])[:1] == ["1"]


def test_a_search_without_more_configurations_ends() -> None:
    jobs = suggestions(standing_of(searching(parameters=FEW, methods=CE_ALONE, trials=9)))
    assert len(set(run_all(jobs))) == 4
    assert jobs.exhausted == {"ce"}


def test_methods_that_share_a_field_are_searched_and_ranked_apart() -> None:
    methods = {"control": {"method": "siamese", "gamma": 0.0}, "siamese": {"method": "siamese"}}
    search = searching(methods=methods, trials=3)
    ran = run_all(suggestions(standing_of(search)))
    assert [search.method_of(trial) for trial in ran] == ["control", "siamese"] * 3
    known = [
        record(config("siamese", lr=lr, gamma=gamma), number=1) for lr, gamma in ((0.2, 0.0), (0.5, 0.01))
    ]
    found = standing_of(search, *known)
    assert {m: [t.config.lr for t in ranked] for m, ranked in found.finalists().items()} == {
        "control": [0.2],
        "siamese": [0.5],
    }
    halving = PerMethodASHA(search)
    for made in known:
        halving.replay(
            made.key, str(search.method_of(TrialConfig.from_params(made.params))), flat(0.9).items()
        )
    assert outcome(halving, config("siamese", lr=0.3, gamma=0.0), flat(0.8)) == 4
    alone = PerMethodASHA(search)
    alone.replay(known[1].key, "siamese", flat(0.9).items())
    assert outcome(alone, config("siamese", lr=0.3, gamma=0.0), flat(0.8)) is None  # the first control


def test_no_method_gets_a_trial_that_is_anothers() -> None:
    """Both can suggest γ = 0: the first method has it, the other one does with fewer configurations."""
    methods = {"control": {"method": "siamese", "gamma": 0.0}, "any": {"method": "siamese"}}
    weights = (Parameter("gamma", choice(0.0, 0.1, 0.2)),)
    search = searching(methods=methods, parameters=weights, trials=3)
    jobs = suggestions(standing_of(search))
    ran = run_all(jobs)
    assert sorted((str(search.method_of(trial)), trial.gamma) for trial in ran) == [
        ("any", 0.1),
        ("any", 0.2),
        ("control", 0.0),
    ]
    assert jobs.exhausted == {"control", "any"}


def test_how_trials_end_is_told() -> None:
    jobs = suggestions(standing_of(searching(methods=CE_ALONE, trials=4)), capacity=lambda: 4)
    trials = [jobs.unfinished[jobs.suggest(name)["key"]] for name in "abcd"]
    jobs.record_epochs(
        trials[1], [{"epoch": 1, INTERMEDIATE_METRIC: 0.2}, {"epoch": 2, INTERMEDIATE_METRIC: 0.3}]
    )
    jobs.end(Succeeded(trials[0], {"val_acc": 0.8, "val_ece": 0.1}))
    jobs.end(Pruned(trials[1], {"epoch": 2, INTERMEDIATE_METRIC: 0.3}))
    jobs.end(Failed(trials[2], "NonFiniteLoss: train/ce is nan", ""))
    jobs.end(Failed(trials[3], "OSError: no such file", ""))
    first, second, third, fourth = optunas(jobs, "ce")
    assert (first.state, first.value) == (TrialState.COMPLETE, 0.8)
    assert (second.state, second.intermediate_values) == (TrialState.PRUNED, {1: 0.2, 2: 0.3})
    assert (third.state, third.intermediate_values) == (TrialState.PRUNED, {})
    assert fourth.state == TrialState.FAIL


def test_an_interrupted_trial_is_told_nothing_of() -> None:
    jobs = suggestions(standing_of(searching(methods=CE_ALONE)))
    trial = jobs.unfinished[jobs.suggest("a")["key"]]
    jobs.end(Interrupted(trial))
    assert [trial.state for trial in optunas(jobs, "ce")] == [TrialState.RUNNING]


def test_several_objectives_and_their_front() -> None:
    search = searching(methods=CE_ALONE, objectives=("val_acc", "train_seconds"), trials=3)
    jobs = suggestions(standing_of(search))
    ended = 0
    while isinstance(job := jobs.suggest(str(ended)), dict):
        trial = jobs.unfinished[job["key"]]
        jobs.end(Succeeded(trial, {"val_acc": trial.lr, "train_seconds": 10 * trial.lr}))
        jobs.on_trial_complete(str(ended))
        ended += 1
    told = optunas(jobs, "ce")
    assert [len(trial.values) for trial in told] == [2, 2, 2]
    quick, slow = config(lr=0.1), config(lr=0.5)
    dominated = config(lr=0.05)
    found = standing_of(
        search,
        *(record(trial, number=i) for i, trial in enumerate((dominated, quick, slow), 1)),
    )
    # As long in training and less accurate than both.
    assert [member.config for member in found.ranked("ce")] == [slow, quick, dominated]
    assert make_study(search, "x", found.members["ce"], {}).best_trials[0].values[0] == 0.5


def test_nothing_of_a_test_metric_can_be_read_by_the_searcher() -> None:
    search = searching(objectives=("val_acc", "val_ece"))
    found = standing_of(
        search,
        record(config(), number=1),
        record(config("siamese"), number=1),
        record(config(lr=0.7)),  # of another space
    )
    assert found.reusable
    jobs = suggestions(found)
    run_all(jobs)
    seen = repr(found) + repr([optunas(jobs, method) for method in jobs._methods])
    assert "0.7" in seen
    assert str(SECRET) not in seen
    assert "test" not in seen


def test_members_beyond_the_asked_for_and_stale_ones_do_not_count() -> None:
    records = [record(config(lr=lr), number=i, data_sha256="new") for i, lr in enumerate((0.1, 0.2, 0.3), 1)]
    old = record(config(lr=0.9), number=9, data_sha256="old")
    found = standing_of(searching(trials=2), *records, old, digest="new")
    assert [member.number for member in found.members["ce"]] == [1, 2]
    assert found.stale == 1
    assert found.last_numbers["ce"] == 9
    assert [member.config.lr for member in found.ranked("ce")] == [0.2, 0.1]
    assert found.missing == 2  # of siamese


def test_a_budget_begins_nothing_that_does_not_fit() -> None:
    budget = Budget(deadline=time.time() + 10, seconds=lambda trial: 100.0, text="a while")
    jobs = suggestions(standing_of(searching()), budget=budget)
    assert jobs.suggest("a") == "FINISHED"
    assert jobs.pending == 1  # and no second one is made up


def test_a_budget_has_finalists_once_each_method_has_enough() -> None:
    of_ce = [record(config(lr=lr), number=i) for i, lr in enumerate((0.1, 0.2), 1)]
    of_siamese = record(config(method="siamese", gamma=0.01), number=1)
    one = searching(finalists=1)
    assert not can_choose_finalists(standing_of(one, *of_ce))
    assert can_choose_finalists(standing_of(one, *of_ce, of_siamese))
    assert not can_choose_finalists(standing_of(searching(finalists=2), *of_ce, of_siamese))


def tunes(trial: TrialConfig) -> SimpleNamespace:
    return SimpleNamespace(config={"key": trial.key, "params": trial.to_params()}, trial_id=object())


def row(epoch: int, value: float) -> dict[str, Any]:
    return {"row/epoch": epoch, f"row/{INTERMEDIATE_METRIC}": value}


def outcome(halving: PerMethodASHA, trial: TrialConfig, curve: Mapping[int, float]) -> int | None:
    """The epoch at which a trial is stopped; None: never."""
    of_tune = tunes(trial)
    halving.on_trial_add(None, of_tune)
    for epoch, value in curve.items():
        if halving.on_trial_result(None, of_tune, row(epoch, value)) == "STOP":
            return epoch
    return None


def flat(value: float, epochs: int = 20) -> dict[int, float]:
    return dict.fromkeys(range(1, epochs + 1), value)


def test_the_worse_half_is_stopped_and_methods_do_not_compete() -> None:
    halving = PerMethodASHA(searching())
    assert outcome(halving, config(lr=0.1), flat(0.5)) is None
    assert outcome(halving, config("siamese", lr=0.1), flat(0.2)) is None  # the first of its method
    assert outcome(halving, config(lr=0.2), flat(0.4)) == 4  # 20 % of 20 epochs
    assert outcome(halving, config(lr=0.3), flat(0.6)) is None


@pytest.mark.parametrize("epochs", [1, 2, 7, 20, 60, 100])
def test_trials_are_stopped_at_rungs_and_nowhere_else(epochs: int) -> None:
    halving = PerMethodASHA(searching(fixed={**FIXED, "epochs": epochs}))
    rungs = [epoch for epoch, _ in reversed(halving._schedulers["ce"]._brackets[0]._rungs)]
    assert rungs == [*halving.rungs]
    # Each is worse from one epoch on than all before, so that the first rung after it stops it.
    for last_good in range(epochs):
        curve = {
            epoch: 0.9 if epoch <= last_good else 0.5 / (last_good + 1) for epoch in range(1, epochs + 1)
        }
        stopped = outcome(halving, config(lr=0.1 + 0.001 * last_good, epochs=epochs), curve)
        assert stopped in {None, *rungs}


def test_a_trial_that_comes_to_its_last_epoch_is_evaluated() -> None:
    halving = PerMethodASHA(searching())
    assert outcome(halving, config(lr=0.1), flat(0.9)) is None
    good_then_bad = {**flat(0.95, 19), 20: 0.0}
    assert outcome(halving, config(lr=0.2), good_then_bad) is None
    one_epoch = PerMethodASHA(searching(fixed={**FIXED, "epochs": 1}))
    for lr in (0.1, 0.2, 0.3):
        assert outcome(one_epoch, config(lr=lr, epochs=1), {1: 1 - lr}) is None


def test_stored_histories_count_at_every_rung() -> None:
    """Ray's scheduler alone would enter a resumed trial at its highest rung only."""
    halving = PerMethodASHA(searching())
    known = config(lr=0.1)
    halving.replay(known.key, "ce", flat(0.5).items())
    assert outcome(halving, config(lr=0.2), flat(0.4)) == 4
    resumed = config(lr=0.3)
    of_tune = tunes(resumed)
    halving.on_trial_add(None, of_tune)
    rows = [{"epoch": epoch, INTERMEDIATE_METRIC: 0.9} for epoch in range(1, 7)]
    assert halving.on_trial_result(None, of_tune, {"resumed": rows, "notes": []}) == "CONTINUE"
    assert halving.on_trial_result(None, of_tune, row(7, 0.9)) == "CONTINUE"
    # Half of those that came by the first rung are better, but only with the resumed one.
    assert outcome(halving, config(lr=0.4), flat(0.47)) == 4


def test_a_second_attempt_is_the_same_trial() -> None:
    halving = PerMethodASHA(searching())
    assert outcome(halving, config(lr=0.1), flat(0.5, 5)) is None
    assert outcome(halving, config(lr=0.1), flat(0.5)) is None  # it does not lose against itself
    assert outcome(halving, config(lr=0.2), flat(0.49)) == 4
