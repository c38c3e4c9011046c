"""Ray Tune runs the trials that are missing."""

import errno
import logging
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when Tune is imported or set up. No logger callbacks of Tune's own: the ledger is ours. No periodic
# snapshots of its state: nothing is ever restored from them.
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
# Trials that wait for resources: enough that an autoscaler sees them, few enough to stay cheap.
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "8")
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints tables even with verbose=0
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # _StopSignals has its own

from ray import tune
from ray.tune.schedulers import TrialScheduler

from study.cluster.trial_queue import Budget, Jobs
from study.recording.events import (
    EpochDone,
    Event,
    Failed,
    Interrupted,
    Pruned,
    Repeated,
    Resumed,
    Started,
    Succeeded,
)
from trainables.trial import TrialConfig
from trainables.tune import resources, run_job

# It complains at length where its own files cannot be written; nobody reads them.
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
# Tune gives its workers an environment of their own, for another library's sake (PyTorch Lightning) and to
# hand on AWS keys: on their command line, where all users of the machine can read them. Without it they are
# the processes that Ray has already started, seconds sooner. Nodes have keys of their own, or a role.
for _name in ("DEFAULT_ENV_VARS", "ENV_VARS_TO_PROPAGATE"):
    getattr(sys.modules.get("ray.tune.execution.class_cache"), _name, set()).clear()


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a study ended before all of its trials had; nothing where they had.

    Attributes:
        received: the signal that stopped it.
        reason: what stopped it where no signal did, in words for people.
    """

    received: signal.Signals | None = None
    reason: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all trials have ended."""
        return self.received is None and self.reason is None


def execute(
    jobs: Jobs,
    tune_dir: Path,
    on_event: Callable[[Event], None],
    *,
    max_failures: int,
    budget: Budget | None = None,
    scheduler: TrialScheduler | None = None,
) -> Ending:
    """Run all jobs with Ray Tune; to be called within a `cluster.session`, in the main thread.

    Ends when all have ended, or after the first Ctrl-C or SIGTERM, a full disk, or the end of the budget:
    what has begun and not ended then is Interrupted.

    Args:
        jobs: hands out the trials.
        tune_dir: absolute folder for Tune's own files.
        on_event: gets what happens, in the calling thread; must return at once.
        max_failures: how often a trial whose process is lost is started again, from its last saved state.
        budget: ends the study when it is used up; None: no limit.
        scheduler: may stop trials early; None: none is stopped.
    """
    stop = _Stop()
    callback = _Events(jobs, on_event, stop, attempts=max_failures + 1, budget=budget)
    tuner = tune.Tuner(
        tune.with_resources(run_job, resources),
        tune_config=tune.TuneConfig(
            search_alg=jobs,
            scheduler=scheduler,
            num_samples=-1,  # until the queue says that it is over
            reuse_actors=True,  # a fresh process a trial costs seconds to import PyTorch
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
    if budget is not None and stop.received is None and stop.reason is None and jobs.left:
        stop.reason = f"the budget of {budget.shown} has no room for the rest"
    return Ending(stop.received, stop.reason)


class _Stop:
    """Within this context Tune can be stopped in order, and the first Ctrl-C or SIGTERM does so.

    The second signal stops at once. Entered after Ray has started, which sets its own handler for SIGTERM.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def ask(self, reason: str) -> None:
        """Stop in order, for this reason unless there is one already."""
        if self.reason is None and self.received is None:
            self.reason = reason
            _end_tune()

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        first = self.received is None
        self.received = signal.Signals(number)
        if not (first and _end_tune()):
            raise KeyboardInterrupt


def _end_tune() -> bool:
    """Let Tune end its loop, which it does on SIGUSR1 once it has set its handler for it."""
    ready = callable(signal.getsignal(signal.SIGUSR1))
    if ready:
        signal.raise_signal(signal.SIGUSR1)
    return ready


class _Events(tune.Callback):
    """Turns what Tune reports into events, and ends the study where that is called for."""

    def __init__(
        self,
        jobs: Jobs,
        on_event: Callable[[Event], None],
        stop: _Stop,
        *,
        attempts: int,
        budget: Budget | None,
    ) -> None:
        self._jobs = jobs
        self._attempts = attempts
        self._aborted: dict[str, int] = {}
        self._started: set[str] = set()
        self._on_event = on_event
        self._stop = stop
        self._budget = budget

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens; ours hold threads

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._budget is not None and time.time() > self._budget.deadline:
            self._stop.ask(f"the budget of {self._budget.shown} is used up")
        if self._stop.received or self._stop.reason:
            return
        for trial in trials:
            if trial.trial_id in self._jobs.handed_out and trial.status in ("ERROR", "TERMINATED"):
                self._aborted_by_tune(trial)

    def _aborted_by_tune(self, trial: Any) -> None:
        """Tune tells nobody of a trial that it gives up because an actor could not be used again."""
        job = self._jobs.handed_out.pop(trial.trial_id)
        config = self._jobs.open.get(job["key"])
        if config is None:
            return
        count = self._aborted[config.key] = self._aborted.get(config.key, 0) + 1
        if count < self._attempts:
            self._jobs.again(job)
            self._on_event(Repeated(config, "its worker was still busy, begins again"))
        else:
            self._end(Failed(config, f"after {count} attempts: no worker could be used again", ""))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        config = self._jobs.open.get(trial.config["key"])
        if config is None:
            return  # ended before: a process that Tune took for lost may still report
        if "started" in result:
            self._started.add(config.key)
            self._on_event(Started(config, result["started"], result["started_at"]))
        elif "resumed" in result:
            self._jobs.trained(config, result["resumed"])
            self._on_event(Resumed(config, result["resumed"], result["notes"]))
        elif "row" in result:
            self._jobs.trained(config, [result["row"]])
            self._on_event(EpochDone(config, result["row"]))
            if result.get("done"):  # the scheduler has decided before us
                self._end(Pruned(config, result["row"]))
        elif "bundle" in result:
            self._end(Succeeded(config, result["objectives"]))
        elif "late" in result:
            self._jobs.late(trial.config)
        elif "unfit" in result:
            self._stop.ask(result["unfit"])
        elif "out_of_memory" in result:
            self._enlarge(config, trial.config, result["out_of_memory"], result["traceback"])
        elif "disk_full" in result:
            self._stop.ask(f"there is no room for results: {result['disk_full']}")
        elif "failure" in result:
            self._end(Failed(config, result["failure"], result["traceback"]))

    def _enlarge(self, config: TrialConfig, job: dict[str, Any], reason: str, traceback: str) -> None:
        """Run a trial again with twice its share of a GPU, and up to a whole one."""
        share = job["request"]["gpu"]
        if share >= 1:
            self._end(Failed(config, f"a whole GPU has not enough memory: {reason}", traceback))
            return
        request = {**job["request"], "gpu": min(1.0, 2 * share)}
        self._jobs.again({**job, "request": request})
        self._on_event(
            Repeated(config, f"{share:g} GPU has not enough memory, goes on with {request['gpu']:g}")
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = self._jobs.open.get(trial.config["key"])
        if config is None:
            return
        path = Path(trial.error_file) if trial.error_file else None
        text = path.read_text() if path and path.exists() else ""
        last = text.strip().splitlines()[-1:] or ["its process was lost"]
        self._end(Failed(config, f"after {self._attempts} attempts: {last[0]}", text))

    def interrupt_rest(self) -> None:
        """Tell of all that began and neither succeeded nor failed."""
        for config in list(self._jobs.open.values()):
            if config.key in self._started:
                self._end(Interrupted(config))

    def _end(self, event: Event) -> None:
        self._jobs.end(event)
        self._on_event(event)
