"""What is to be run: Ray Tune asks for one job after the other."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from study.recording.events import Event
from trainables.trial import TrialConfig

Job = tuple[TrialConfig, dict[str, Any]]
"""A trial with what `trainables.tune.job` made of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long a study may take.

    Attributes:
        deadline: when its trials are stopped, s since 1970.
        seconds: how long a trial is expected to take; None: not known.
        shown: as it was given.
    """

    deadline: float
    seconds: Callable[[TrialConfig], float | None]
    shown: str

    def latest_start(self, trial: TrialConfig) -> float:
        """The last moment at which a trial may begin, s since 1970."""
        return self.deadline - (self.seconds(trial) or 0.0)


class Jobs(Searcher):
    """Hands out jobs one after the other, some of them again; nothing is searched.

    Attributes:
        open: trials that have not ended, by key.
        handed_out: jobs that Tune has, by its id of the trial.
    """

    def __init__(
        self, jobs: Sequence[Job], budget: Budget | None = None, max_concurrent: int | None = None
    ) -> None:
        """Take the jobs, in the order of running.

        Args:
            jobs: all of them.
            budget: no trial is begun that would not fit into what is left of it; None: no limit.
            max_concurrent: trials at once; None: as many as fit.
        """
        super().__init__()
        self.open: dict[str, TrialConfig] = {}
        self.handed_out: dict[str, dict[str, Any]] = {}
        self._waiting: list[dict[str, Any]] = []
        self._budget = budget
        self._max_concurrent = max_concurrent
        self._refused: dict[str, float] = {}
        for config, job in jobs:
            self.add(config, job)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that never happens; a budget holds threads."""
        return {}

    @property
    def left(self) -> int:
        """Jobs that wait and have not been handed out."""
        return len(self._waiting)

    def add(self, config: TrialConfig, job: dict[str, Any]) -> None:
        """Take one more job, as the last."""
        self.open[config.key] = config
        self._waiting.append(job)

    def suggest(self, trial_id: str) -> Any:
        """The next job; None: not now; FINISHED: there will be none."""
        if self._max_concurrent is not None and len(self.handed_out) >= self._max_concurrent:
            return None
        self._waiting = [job for job in self._waiting if job["key"] in self.open]
        for position, job in enumerate(self._waiting):
            if self._budget is not None:
                latest = self._budget.latest_start(self.open[job["key"]])
                # What a worker found too late is late until it is known to be faster: clocks differ.
                if time.time() > latest or latest <= self._refused.get(job["key"], -math.inf):
                    continue
                job = {**job, "latest_start": latest}  # noqa: PLW2901
            del self._waiting[position]
            self.handed_out[trial_id] = job
            return job
        # One that is at work may come back, or show that others are faster than was thought.
        return None if self.handed_out else Searcher.FINISHED

    def again(self, job: dict[str, Any]) -> None:
        """Put a job back, as the next one."""
        self._waiting.insert(0, job)

    def late(self, job: dict[str, Any]) -> None:
        """Put a job back that was not begun, as there was no time left for it."""
        self._refused[job["key"]] = job["latest_start"]
        self._waiting.append(job)

    def trained(self, config: TrialConfig, rows: Sequence[Mapping[str, float]]) -> None:
        """Take note of epochs of an open trial."""

    def end(self, event: Event) -> None:
        """Take note of how a trial has ended."""
        del self.open[event.config.key]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune has done with a trial."""
        self.handed_out.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: this is never restored."""

    def restore(self, checkpoint_path: str) -> None:
        """Refuse: a study goes on from its ledger, never from Tune's files."""
        raise AssertionError("a study goes on from its ledger, never from Tune's files")
