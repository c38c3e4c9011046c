"""Ray Tune runs the trials that are missing."""

import os
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
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
from ray.tune.search import Searcher

from study.writer import EpochDone, Event, Failed, Interrupted, Resumed, Started, Succeeded
from trainables.trial import TrialConfig
from trainables.tune import run_job

# Tune gives its workers an environment of their own for another library's sake (PyTorch Lightning). Without
# it they are the processes that Ray has already started, seconds sooner.
getattr(sys.modules.get("ray.tune.execution.class_cache"), "DEFAULT_ENV_VARS", {}).clear()

Job = tuple[TrialConfig, dict[str, Any]]


def execute(
    jobs: Sequence[Job],
    request: Mapping[str, float],
    tune_dir: Path,
    on_event: Callable[[Event], None],
    *,
    max_failures: int,
    max_concurrent: int | None = None,
) -> signal.Signals | None:
    """Run all jobs with Ray Tune; to be called within a `cluster.session`, in the main thread.

    Ends when all have ended, or after the first Ctrl-C or SIGTERM: what has not ended then is Interrupted.

    Args:
        jobs: each trial with what `trainables.tune.job` made of it, in the order of running.
        request: Ray's resource request of each trial.
        tune_dir: absolute folder for Tune's own files.
        on_event: gets what happens, in the calling thread; must return at once.
        max_failures: how often a trial whose process is lost is started again, from its last saved state.
        max_concurrent: trials at once; None: as many as fit.

    Returns:
        The signal that stopped it early, None where none did.
    """
    callback = _Events([config for config, _ in jobs], on_event, attempts=max_failures + 1)
    tuner = tune.Tuner(
        tune.with_resources(run_job, dict(request)),
        tune_config=tune.TuneConfig(
            search_alg=_Jobs([job for _, job in jobs]),
            num_samples=len(jobs),
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,  # a fresh process a trial costs seconds to import PyTorch
            trial_dirname_creator=lambda trial: trial.config["key"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(tune_dir),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    )
    stop = _StopSignals()
    try:
        with stop:
            tuner.fit()
    finally:
        callback.interrupt_rest()
    return stop.received


class _StopSignals:
    """Within this context the first Ctrl-C or SIGTERM lets Tune stop in order; the second stops at once.

    Entered after Ray has started, which sets a handler of its own for SIGTERM.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        first = self.received is None
        self.received = signal.Signals(number)
        # Tune ends its loop on SIGUSR1, once it has set its handler for it.
        if first and callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)
        else:
            raise KeyboardInterrupt


class _Jobs(Searcher):
    """Hands out the jobs one after the other; nothing is searched."""

    def __init__(self, jobs: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self._waiting = list(reversed(jobs))

    def suggest(self, trial_id: str) -> Any:
        return self._waiting.pop() if self._waiting else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        pass  # a list learns nothing from results

    def save(self, checkpoint_path: str) -> None:
        pass  # never restored

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study goes on from its ledger, never from Tune's files")


class _Events(tune.Callback):
    """Turns what Tune reports into events."""

    def __init__(
        self, configs: Sequence[TrialConfig], on_event: Callable[[Event], None], *, attempts: int
    ) -> None:
        self._attempts = attempts
        self._open = {config.key: config for config in configs}
        self._started: set[str] = set()
        self._on_event = on_event

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens; ours hold threads

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        config = self._open.get(trial.config["key"])
        if config is None:
            return  # ended before: a process that Tune took for lost may still report
        if "started" in result:
            self._started.add(config.key)
            self._on_event(Started(config, result["started"], result["started_at"]))
        elif "resumed" in result:
            self._on_event(Resumed(config, result["resumed"], result["notes"]))
        elif "row" in result:
            self._on_event(EpochDone(config, result["row"]))
        elif "bundle" in result:
            self._end(Succeeded(config))
        elif "failure" in result:
            self._end(Failed(config, result["failure"], result["traceback"]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = self._open.get(trial.config["key"])
        if config is None:
            return
        path = Path(trial.error_file) if trial.error_file else None
        text = path.read_text() if path and path.exists() else ""
        last = text.strip().splitlines()[-1:] or ["its process was lost"]
        self._end(Failed(config, f"after {self._attempts} attempts: {last[0]}", text))

    def interrupt_rest(self) -> None:
        """Tell of all that began and neither succeeded nor failed."""
        for config in list(self._open.values()):
            if config.key in self._started:
                self._end(Interrupted(config))

    def _end(self, event: Event) -> None:
        del self._open[event.config.key]
        self._on_event(event)
