"""Ray Tune runs the missing trials.

Import this module after `ray_internals.configure_tune`.
"""

import errno
import os
import signal
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from study.cluster import nodes, ray_internals
from study.cluster.lost_workers import KernelKills, missing_module, why_lost
from study.cluster.trial_queue import Job, TrialQueue
from study.recording import events
from study.recording.events import Event
from study.recording.stopping import ASKED, Terminated
from trainables.trial import TrialConfig
from trainables.tune import resources, run_job


def execute(
    queue: TrialQueue, tune_dir: Path, on_event: Callable[[Event], None], *, max_failures: int
) -> "GracefulStop":
    """Run all trials of the queue with Ray Tune, within a `ray_connection`, in the main thread.

    Ends when all have ended, or after the first Ctrl-C, SIGTERM or SIGUSR1, a full disk, or the end of the
    queue's budget; the result says why. Trials that have begun and not ended by then are Interrupted.

    `tune_dir` is an absolute folder for Tune's own files. `on_event` is called in this thread and must return
    at once. A trial whose process is lost is restarted from its last saved state; at most `max_failures`
    times without an epoch that no attempt had reached before.
    """
    ray_internals.keep_worker_environment()
    ray_internals.without_counting_callbacks()
    stop = GracefulStop()
    kills = KernelKills(ray.util.get_node_ip_address())
    callback = TuneCallback(queue, on_event, stop, attempts=max_failures + 1, kills=kills)
    tuner = tune.Tuner(
        tune.with_resources(run_job, resources),
        tune_config=tune.TuneConfig(
            search_alg=queue,
            scheduler=queue.scheduler,
            num_samples=-1,  # until the queue returns FINISHED
            reuse_actors=True,  # a new process for each trial would spend seconds on importing PyTorch
            trial_dirname_creator=lambda trial: f"{trial.config['key']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(tune_dir),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    )
    try:
        with stop:
            tuner.fit()
    except Exception as error:
        if os.strerror(errno.ENOSPC) not in str(error):  # Ray's own folder may be on the full disk, too
            raise
        stop.reason = stop.reason or f"there is no room for Ray's files: {str(error).splitlines()[-1]}"
    finally:
        callback.interrupt_rest()
    if queue.budget is not None and not stop.requested and queue.pending:
        stop.reason = f"the budget of {queue.budget.text} has no room for the rest"
        stop.out_of_budget = True
    return stop


@dataclass
class GracefulStop:
    """Within this context the first Ctrl-C or SIGTERM lets Tune end in order, the second one ends it at once.

    SIGUSR1 lets it end in order, too, and never at once: batch systems send it beside SIGTERM. Afterwards it
    says why a study stopped before all its trials ended: the signal, or a reason in words for people;
    `out_of_budget` where no running trial was stopped. Enter it after Ray has started, which sets its own
    handler for SIGTERM.
    """

    received: signal.Signals | None = None
    reason: str | None = None
    out_of_budget: bool = False
    _previous: dict[signal.Signals, Any] = field(default_factory=dict)
    _end_tune_loop: Callable[[], None] | None = None

    def __enter__(self) -> None:
        """Set the handlers."""
        for number in (signal.SIGINT, *ASKED):
            self._previous[number] = signal.signal(number, self._handle)

    def tune_has_begun(self) -> None:
        """Take over the handler of SIGUSR1 that Tune has set, which is how its loop is ended."""
        self._end_tune_loop = ray_internals.tune_loop_ender()
        signal.signal(signal.SIGUSR1, self._handle)

    def __exit__(self, *error: object) -> None:
        """Restore the handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether the study should stop, or has stopped early."""
        return self.received is not None or self.reason is not None

    def request(self, reason: str) -> None:
        """Stop in order, for this reason unless there is one already."""
        if not self.requested:
            self.reason = reason
            if self._end_tune_loop:
                self._end_tune_loop()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        if number == signal.SIGUSR1 and self.received:
            return
        first = self.received in (None, signal.SIGUSR1)
        self.received = signal.Signals(number)
        if first and self._end_tune_loop:
            self._end_tune_loop()
        else:
            raise Terminated(number) if number in ASKED else KeyboardInterrupt


class TuneCallback(tune.Callback):
    """Turns what Tune reports into events, and requests a stop where necessary."""

    def __init__(
        self,
        queue: TrialQueue,
        on_event: Callable[[Event], None],
        stop: GracefulStop,
        *,
        attempts: int,
        kills: KernelKills,
    ) -> None:
        """Arguments as in `execute`; `kills` tells what was lost for lack of memory."""
        self._queue = queue
        self._on_event = on_event
        self._stop = stop
        self._attempts = attempts
        self._kills = kills
        self._reached: dict[str, int] = {}  # epochs, by the key of the trial
        self._dropped: dict[str, int] = {}
        self._started: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks for a restore that never happens; ours hold threads."""
        return {}

    def setup(self, *args: Any, **info: Any) -> None:
        """Tune has set its handlers, and is about to start its loop."""
        self._stop.tune_has_begun()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Stop at the end of the budget; find trials that Tune has given up without calling anybody."""
        budget = self._queue.budget
        if budget is not None and time.time() > budget.deadline:
            self._stop.request(f"the budget of {budget.text} is used up")
        if self._stop.requested:
            return
        for trial in trials:
            if trial.status not in ("ERROR", "TERMINATED") or not (job := self._queue.drop(trial.trial_id)):
                continue
            # Tune gave it up because an actor could not be reused.
            config = self._queue.unfinished[job["key"]]
            count = self._dropped[config.key] = self._dropped.get(config.key, 0) + 1
            if count < self._attempts:
                self._queue.requeue(job)
                self._on_event(events.Retrying(config, "its worker was still busy, starting again"))
            else:
                self._end(events.Failed(config, f"after {count} attempts: no worker could be used again", ""))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """Turn a worker's report (see `trainables.tune`) into an event."""
        config = self._queue.unfinished.get(trial.config["key"])
        if config is None:
            return  # it has ended: a process that Tune took for lost may still report
        if "started" in result:
            self._started.add(config.key)
            self._on_event(events.Started(config, result["started"], result["started_at"]))
        elif "resumed" in result:
            self._count_epochs(config, trial, result["resumed"])
            self._on_event(events.Resumed(config, result["resumed"], result["notes"]))
        elif "noted" in result:
            self._on_event(events.Noted(config, result["noted"], result["tags"]))
        elif "row" in result:
            self._count_epochs(config, trial, [result["row"]])
            self._on_event(events.EpochDone(config, result["row"]))
            if result.get("done"):  # the scheduler has already decided
                self._end(events.Pruned(config, result["row"]))
        else:
            self._take_ending(config, trial.config, result)

    def _count_epochs(self, config: TrialConfig, trial: Any, rows: Sequence[Mapping[str, float]]) -> None:
        """Take note of epochs; a new one, that no attempt had reached, makes up for earlier losses."""
        self._queue.record_epochs(config, rows)
        epoch = int(rows[-1]["epoch"]) if rows else 0
        if epoch > self._reached.get(config.key, 0):
            self._reached[config.key] = epoch
            ray_internals.forgive_failures(trial)

    def _take_ending(self, config: TrialConfig, job: Job, result: Mapping[str, Any]) -> None:
        """Act on one of `trainables.tune.ENDINGS`."""
        if "bundle" in result:
            self._end(events.Succeeded(config, result["objectives"], result.get("tested")))
        elif "late" in result:
            self._queue.postpone(job)
        elif "unfit" in result:
            if self._set_aside(config, job, [result["node"]], result["unfit"]):
                self._queue.requeue(job)
        elif "out_of_memory" in result:
            self._enlarge(config, job, result["out_of_memory"], result["traceback"])
        elif "disk_full" in result:
            self._stop.request(f"there is no room for results: {result['disk_full']}")
        elif "storage_away" in result:
            self._stop.request(result["storage_away"])
        elif "failure" in result:
            self._end(events.Failed(config, result["failure"], result["traceback"]))

    def _enlarge(self, config: TrialConfig, job: Job, reason: str, traceback: str) -> None:
        """Retry a trial with twice its share of a GPU, up to a whole one."""
        share = job["request"]["gpu"]
        if share >= 1:
            self._end(events.Failed(config, f"a whole GPU has not enough memory: {reason}", traceback))
            return
        larger = min(1.0, 2 * share)
        self._queue.requeue({**job, "request": {**job["request"], "gpu": larger}})
        line = f"{share:g} GPU has not enough memory, retrying with {larger:g}"
        self._on_event(events.Retrying(config, line))

    def _set_aside(self, config: TrialConfig, job: Job, ids: Sequence[str], reason: str) -> bool:
        """Give unfit nodes no more trials; False where no other node can run this one: the study stops."""
        new = [node for node in ids if node not in self._queue.avoided]
        if not nodes.fit_without([*self._queue.avoided, *new], job["request"]):
            self._stop.request(reason)
            return False
        self._queue.avoided += new
        if new:
            self._on_event(events.Retrying(config, f"{reason}; no more trials there, starts again elsewhere"))
        return True

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker was lost, and Tune will start its trial again."""
        config = self._queue.unfinished.get(trial.config["key"])
        if config is None:
            return
        text = _failures(trial)
        if self._lacks_a_module(config, trial, text):
            ray_internals.forgive_failures(trial)
            trial.update_resources(resources({**trial.config, "avoided": self._queue.avoided}))
        elif not self._stop.requested:
            self._on_event(events.Retrying(config, f"{why_lost(text, self._kills)}; starting again"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed in every attempt."""
        config = self._queue.unfinished.get(trial.config["key"])
        if config is None:
            return
        text = _failures(trial)
        if self._lacks_a_module(config, trial, text):
            self._queue.requeue(trial.config)
        elif not self._stop.requested:
            reason = f"after {self._attempts} attempts: {why_lost(text, self._kills)}"
            self._end(events.Failed(config, reason, text))

    def _lacks_a_module(self, config: TrialConfig, trial: Any, text: str) -> bool:
        """Whether a node could not import the code, and another one can run the trial."""
        if not (missing := missing_module(text)):
            return False
        error, address = missing
        ids, reason = nodes.ids_at(address), f"node {address} cannot run a trial: {error}"
        return self._set_aside(config, trial.config, ids, reason)

    def interrupt_rest(self) -> None:
        """Report all trials that have begun and not ended as Interrupted."""
        for config in list(self._queue.unfinished.values()):
            if config.key in self._started:
                self._end(events.Interrupted(config))

    def _end(self, event: Event) -> None:
        self._queue.end(event)
        self._on_event(event)


def _failures(trial: Any) -> str:
    """What Tune has gathered of the failures of a trial."""
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text() if path and path.exists() else ""
