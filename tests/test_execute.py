"""Which job is handed out when; what Tune does with them is tested through the command line."""

import time

from study.execute import Budget, _Jobs
from trainables.trial import TrialConfig

LONG = 1000.0


def trial(seed: int) -> TrialConfig:
    return TrialConfig(dataset="digits", backbone="convnet", augmentations=(), method="ce", seed=seed)


def jobs(seeds: int, budget: Budget | None = None) -> _Jobs:
    trials = [trial(seed) for seed in range(seeds)]
    return _Jobs([(config, {"key": config.key, "seed": config.seed}) for config in trials], budget)


def budget(seconds: float, needed: dict[int, float | None]) -> Budget:
    return Budget(
        deadline=time.time() + seconds, seconds=lambda config: needed.get(config.seed, 1.0), shown="a while"
    )


def test_all_in_order_and_then_no_more() -> None:
    queue = jobs(2)
    assert [queue.suggest(name)["seed"] for name in "ab"] == [0, 1]
    assert queue.suggest("c") is None  # one of them may come back
    queue.on_trial_complete("a")
    assert queue.suggest("c") is None
    queue.on_trial_complete("b", error=True)
    assert queue.suggest("c") == "FINISHED"


def test_one_that_comes_back_is_the_next() -> None:
    queue = jobs(3)
    first = queue.suggest("a")
    queue.again({**first, "request": {"gpu": 0.5}})
    queue.on_trial_complete("a")
    assert queue.suggest("b") == {**first, "request": {"gpu": 0.5}}
    assert queue.suggest("c")["seed"] == 1


def test_a_budget_begins_what_fits_and_what_is_not_known() -> None:
    limit = budget(100, {0: LONG, 2: None})
    queue = jobs(4, limit)
    assert [queue.suggest(name)["seed"] for name in "abc"] == [1, 2, 3]
    assert queue.suggest("d") is None
    for name in "abc":
        queue.on_trial_complete(name)
    assert queue.suggest("d") == "FINISHED"
    assert queue.left == 1


def test_a_job_knows_until_when_it_may_begin() -> None:
    """It may wait long for resources after it was handed out."""
    limit = budget(100, {0: 30})
    handed_out = jobs(1, limit).suggest("a")
    assert handed_out["latest_start"] == limit.deadline - 30


def test_what_turns_out_to_be_faster_is_begun_after_all() -> None:
    needed: dict[int, float | None] = {1: LONG}
    queue = jobs(2, budget(100, needed))
    assert queue.suggest("a")["seed"] == 0
    assert queue.suggest("b") is None
    needed[1] = 10
    assert queue.suggest("b")["seed"] == 1
