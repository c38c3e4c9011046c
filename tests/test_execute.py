"""Which job is handed out when; what Tune does with them is tested through the command line."""

import signal
import time
from typing import Any

import pytest

from study.cluster.execute import GracefulStop, TuneCallback
from study.cluster.trial_queue import Budget, TrialQueue
from study.recording.events import Failed, Interrupted, Retrying
from study.recording.stopping import Terminated, stopped_by
from trainables.trial import TrialConfig

LONG = 1000.0


def trial(seed: int) -> TrialConfig:
    return TrialConfig(dataset="digits", backbone="convnet", augmentations=(), method="ce", seed=seed)


def jobs(seeds: int, budget: Budget | None = None) -> TrialQueue:
    trials = [trial(seed) for seed in range(seeds)]
    return TrialQueue([(config, {"key": config.key, "seed": config.seed}) for config in trials], budget)


def budget(seconds: float, needed: dict[int, float | None]) -> Budget:
    return Budget(
        deadline=time.time() + seconds, seconds=lambda config: needed.get(config.seed, 1.0), text="a while"
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
    queue.requeue({**first, "request": {"gpu": 0.5}})
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
    assert queue.pending == 1


def test_what_came_too_late_is_not_handed_out_again_at_once() -> None:
    """A worker's clock may be ahead of the driver's."""
    needed: dict[int, float | None] = {0: 30}
    queue = jobs(1, budget(100, needed))
    job = queue.suggest("a")
    queue.postpone(job)
    queue.on_trial_complete("a")
    assert queue.suggest("b") == "FINISHED"
    assert queue.pending == 1
    needed[0] = 20
    assert queue.suggest("c")["key"] == job["key"]


def test_no_more_at_once_than_asked_for() -> None:
    trials = [trial(seed) for seed in range(3)]
    queue = TrialQueue([(t, {"key": t.key}) for t in trials], capacity=lambda: 2)
    assert queue.suggest("a")
    assert queue.suggest("b")
    assert queue.suggest("c") is None
    queue.on_trial_complete("a")
    assert queue.suggest("c")["key"] == trials[2].key


def test_what_has_ended_is_not_begun_again() -> None:
    queue = jobs(1)
    job = queue.suggest("a")
    queue.requeue(job)
    queue.end(Interrupted(trial(0)))
    queue.on_trial_complete("a")
    assert queue.suggest("b") == "FINISHED"


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


class Aborted:
    """A trial that Tune has given up without a word."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "ERROR"


def test_what_tune_gives_up_without_a_word_is_begun_again_and_then_fails() -> None:
    queue, told = jobs(2), []
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2)
    first = queue.suggest("a")
    events.on_step_end(0, [Aborted("a")])
    assert queue.suggest("b") == first
    events.on_step_end(1, [Aborted("a"), Aborted("b")])
    assert [type(event).__name__ for event in told] == ["Retrying", "Failed"]
    assert told[1].reason == "after 2 attempts: no worker could be used again"
    assert queue.suggest("c")["seed"] == 1
    queue.on_trial_complete("c")
    assert queue.suggest("d") == "FINISHED"


class Running:
    """A trial of Tune's, as its callbacks see it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def test_a_share_that_is_too_small_is_doubled_up_to_a_whole_gpu_and_a_failure_is_final() -> None:
    queue, told = TrialQueue([(trial(0), {"key": trial(0).key, "request": {"gpu": 0.3}})]), []
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2)
    shares = []
    for name in "abc":
        job = queue.suggest(name)
        shares.append(job["request"]["gpu"])
        events.on_trial_result(0, [], Running(job), {"out_of_memory": "it is full", "traceback": ""})
        queue.on_trial_complete(name)
    assert shares == [0.3, 0.6, 1.0]
    failed = Failed(trial(0), "a whole GPU has not enough memory: it is full", "")
    assert [type(event) for event in told] == [Retrying] * 2 + [Failed]
    assert told[-1] == failed
    assert queue.suggest("d") == "FINISHED"

    queue, told = jobs(2), []
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2)
    job = queue.suggest("a")
    events.on_trial_result(0, [], Running(job), {"failure": "NonFiniteLoss: x", "traceback": "where"})
    assert told == [Failed(trial(0), "NonFiniteLoss: x", "where")]
    assert queue.suggest("b")["seed"] == 1  # not the first one again


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGUSR1, Terminated)],
)
def test_a_signal_that_cannot_stop_in_order_says_which_it_was(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    """Before Tune has set its handler: the exit code tells one from the other."""
    stop = GracefulStop()
    with stop, pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(number)
    assert caught.type is raised
    assert stop.received is number
    assert stopped_by(caught.value) == (number.name, 128 + number)


def test_sigusr1_stops_in_order_however_often_and_the_second_sigterm_at_once() -> None:
    """Batch systems send SIGUSR1 beside SIGTERM, in any order."""
    asked: list[int] = []
    stop = GracefulStop()
    callback = TuneCallback(jobs(1), print, stop, attempts=1)
    with stop:
        signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))  # as Tune does
        callback.setup()
        for number in (signal.SIGUSR1, signal.SIGUSR1):
            signal.raise_signal(number)
            assert (stop.received, asked) == (signal.SIGUSR1, [signal.SIGUSR1])
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        assert stop.received is signal.SIGTERM
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
