"""Which job is handed out when; what Tune does with them is tested through the command line."""

import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.cluster import execute, lost_workers
from study.cluster.execute import GracefulStop, TuneCallback
from study.cluster.lost_workers import KernelKills, missing_module, why_lost
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


def test_what_is_kept_for_later_is_no_time_of_this_queue() -> None:
    limit = replace(budget(100, {0: 30, 1: 60}), kept=lambda: 50.0)
    queue = jobs(2, limit)
    assert queue.suggest("a")["latest_start"] == limit.deadline - 80
    assert queue.suggest("b") is None
    queue.on_trial_complete("a")
    assert queue.suggest("b") == "FINISHED"
    assert queue.pending == 1


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
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2, kills=KernelKills())
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
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2, kills=KernelKills())
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
    events = TuneCallback(queue, told.append, GracefulStop(), attempts=2, kills=KernelKills())
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
    stop, before = GracefulStop(), signal.getsignal(signal.SIGUSR1)
    callback = TuneCallback(jobs(1), print, stop, attempts=1, kills=KernelKills())
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
    assert signal.getsignal(signal.SIGUSR1) is before


DIED = """Failure # 1 (occurred at 2026-11-25_22-16-14)
The actor died unexpectedly before finishing this task.
	class_name: wrap_function.<locals>.ImplicitFunc
	actor_id: d2a94315b4bb7fb4ac482d3f01000000
	pid: 23678
	ip: 192.0.2.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. Some causes include: (1) \
the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called.
"""
MONITOR = """Failure # 1 (occurred at 2026-11-25_22-08-11)
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, \
ID: 899773f2950c7) was 5.65GB used / 23.54GB limit (0.240124)
OOM kill reason: Memory usage 5983592448B exceeded threshold of 505530208B (2.0% of 25276510208B limit)
Refer to the documentation on how to address the out of memory issue.
"""
NODE = """Failure # 2 (occurred at 2026-11-25_22-08-11)
The actor died unexpectedly before finishing this task.
	ip: 192.0.2.3
The actor is dead because its node has died. Node Id: 899773, the actor's node was terminated unexpectedly.
"""
LACKING = """Failure # 1 (occurred at 2026-11-25_22-25-49)
The actor died unexpectedly before finishing this task.
	pid: 2306
	ip: 192.0.2.3
The actor is dead because its worker process has died. Traceback (most recent
RuntimeError: The actor with name ImplicitFunc failed to import on the worker.
ModuleNotFoundError: No module named 'torch'

During handling of the above exception, another exception occurred:
"""
"""What Tune wrote of workers that were lost, shortened."""
KERNEL = """6,1,1,-;oom-kill:constraint=CONSTRAINT_MEMCG,task=ray::ImplicitFu,pid=23678,uid=0
3,1,2,-;Memory cgroup out of memory: Killed process 23678 (ray::ImplicitFu) total-vm:6014604kB, \
anon-rss:421696kB, file-rss:334324kB
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """What the kernel says, and what it counts: five kills."""
    messages, counts = tmp_path / "kmsg", tmp_path / "vmstat"
    monkeypatch.setattr(lost_workers, "KERNEL_LOG", messages)
    monkeypatch.setattr(lost_workers, "KERNEL_COUNTS", counts)
    counts.write_text("pgfault 7\noom_kill 5\n")
    return messages, counts


@pytest.mark.parametrize(
    ("text", "log", "kills", "said"),
    [
        (
            MONITOR,
            "",
            0,
            "its process was ended for lack of memory: 5.65GB of 23.54GB were in use; fewer",
        ),
        (
            DIED,
            KERNEL,
            1,
            "the kernel killed its process for lack of memory, of which it had 0.4 GB; fewer",
        ),
        (DIED, "", 1, "while the kernel of this machine killed one for lack of memory (there are "),
        (
            DIED,
            "",
            0,
            "its process died; if `dmesg` on its node says `Out of memory`, fewer trials at once",
        ),
        (DIED.replace("192.0.2.2", "192.0.2.3"), KERNEL, 1, "its process died; if `dmesg` on its node"),
        (MONITOR + NODE, KERNEL, 1, "its node was lost"),
        ("Failure # 1 (occurred)\nValueError: no", "", 0, "ValueError: no"),
        ("", "", 0, "its process was lost"),
    ],
)
def test_a_worker_that_was_lost_for_lack_of_memory_says_so(
    text: str, log: str, kills: int, said: str, kernel: tuple[Path, Path]
) -> None:
    messages, counts = kernel
    messages.write_text(log)
    before = KernelKills("192.0.2.2")
    counts.write_text(f"pgfault 9\noom_kill {5 + kills}\n")
    found = why_lost(text, before)
    assert said in found
    assert "\n" not in found
    counts.unlink()
    assert KernelKills().since() == 0  # another kernel


def test_what_a_node_lacks_is_found_with_the_node() -> None:
    assert missing_module(LACKING) == ("ModuleNotFoundError: No module named 'torch'", "192.0.2.3")
    assert missing_module(LACKING + NODE) is None
    assert missing_module(DIED) is None


class Tried:
    """A trial as Tune hands it to callbacks."""

    def __init__(self, job: dict[str, Any], folder: Path, text: str = "") -> None:
        self.config = job
        self.run_metadata = SimpleNamespace(num_failures=2)
        self.error_file = str(folder / "error.txt")
        Path(self.error_file).write_text(text)
        self.moved: list[Any] = []

    def update_resources(self, factory: Any) -> None:
        self.moved.append(factory)


def queue_of_one() -> tuple[TrialQueue, dict[str, Any]]:
    queue = TrialQueue([(trial(0), {"key": trial(0).key, "request": {"cpu": 1.0, "gpu": 0.0}})])
    return queue, queue.suggest("a")


def test_losses_before_an_epoch_that_is_new_do_not_count(tmp_path: Path) -> None:
    queue, job = queue_of_one()
    told: list[Any] = []
    callback = TuneCallback(queue, told.append, GracefulStop(), attempts=3, kills=KernelKills())
    lost = Tried(job, tmp_path, NODE)

    def failures(result: dict[str, Any]) -> int:
        lost.run_metadata.num_failures = 2
        callback.on_trial_result(0, [], lost, result)
        return lost.run_metadata.num_failures

    rows = [{"epoch": epoch} for epoch in range(1, 6)]
    assert failures({"row": rows[0]}) == 0
    assert failures({"resumed": rows[:1], "notes": []}) == 2
    assert failures({"row": rows[0]}) == 2  # trained again
    assert failures({"row": rows[1]}) == 0
    assert failures({"resumed": rows, "notes": []}) == 0  # saved, but its report was lost
    assert failures({"resumed": [], "notes": ["damaged"]}) == 2
    callback.on_trial_recover(0, [], lost)
    assert told[-1].reason == "its node was lost; starting again"
    callback.on_trial_error(0, [], lost)
    assert told[-1].reason == "after 3 attempts: its node was lost"


def test_a_node_that_cannot_run_trials_gets_no_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trial goes on elsewhere, and nothing counts as a failure; without another node the study stops."""
    here = {"NodeID": "good", "Alive": True, "NodeManagerAddress": "192.0.2.2", "Resources": {"CPU": 1.0}}
    bad = {**here, "NodeID": "bad", "NodeManagerAddress": "192.0.2.3"}
    dead = {**here, "NodeID": "dead", "Alive": False}
    monkeypatch.setattr(execute.ray, "nodes", lambda: [here, bad, dead])
    queue, job = queue_of_one()
    told: list[Any] = []
    stop = GracefulStop()
    callback = TuneCallback(queue, told.append, stop, attempts=3, kills=KernelKills())
    lost = Tried(job, tmp_path, LACKING)
    callback.on_trial_recover(0, [], lost)
    line = "node 192.0.2.3 cannot run a trial: ModuleNotFoundError: No module named 'torch'; no more trials"
    assert told[-1].reason.startswith(line)
    assert lost.run_metadata.num_failures == 0
    assert queue.avoided == ["bad"]
    assert lost.moved[0]._kwargs == {"bundle_label_selector": [{"ray.io/node-id": "!in(bad)"}]}

    for give_back in (
        lambda: callback.on_trial_result(0, [], lost, {"unfit": "other code", "node": "bad"}),
        lambda: callback.on_trial_error(0, [], lost),
    ):
        give_back()
        queue.on_trial_complete("a")
        assert queue.suggest("a") == {**job, "avoided": ["bad"]}
    assert len(told) == 1  # once for each node

    stops: list[str] = []
    monkeypatch.setattr(stop, "request", stops.append)
    callback.on_trial_result(0, [], lost, {"unfit": "no GPU", "node": "good"})
    assert stops == ["no GPU"]
    callback.on_trial_result(0, [], lost, {"storage_away": "the storage was away for 300 s: no answer"})
    assert stops[1:] == ["the storage was away for 300 s: no answer"]
    assert len(told) == 1
