"""The queue of trials: Ray Tune asks it for one job after the other."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from study.recording.events import Event
from trainables.trial import TrialConfig

Job = dict[str, Any]
"""What `trainables.tune.job` makes of a trial."""
MakeJob = Callable[..., Job]
"""Makes the job of a trial whose run gets these tags besides the usual ones: see `session.StudyRun.job`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long a study may take: its trials are stopped at the `deadline`, s since 1970.

    `seconds` are expected for a trial (None: not known); `text` is for people; `kept()` seconds before the
    deadline are for what follows this queue, and are none of its time.
    """

    deadline: float
    seconds: Callable[[TrialConfig], float | None]
    text: str
    kept: Callable[[], float] = lambda: 0.0

    def latest_start(self, trial: TrialConfig) -> float:
        """The last moment at which a trial may begin, s since 1970."""
        return self.deadline - self.kept() - (self.seconds(trial) or 0.0)


class TrialQueue(Searcher):
    """Hands out jobs in order, some of them repeatedly; to Tune it is a search algorithm.

    `unfinished` are the trials that have not ended, by key. No trial begins that would not fit into the rest
    of the `budget`. The `scheduler` may stop trials early.
    """

    def __init__(
        self,
        jobs: Sequence[tuple[TrialConfig, Job]] = (),
        budget: Budget | None = None,
        capacity: Callable[[], int] = lambda: sys.maxsize,
        scheduler: TrialScheduler | None = None,
    ) -> None:
        """Take the jobs, in the order of running; none begins while `capacity()` trials run."""
        super().__init__()
        self.budget = budget
        self.scheduler = scheduler
        self.unfinished: dict[str, TrialConfig] = {}
        self.avoided: list[str] = []  # ids of nodes that get no more jobs
        self._running: dict[str, Job] = {}  # by Tune's id of the trial
        self._pending: list[Job] = []
        self._capacity = capacity
        self._refused: dict[str, float] = {}
        for config, job in jobs:
            self.add(config, job)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that never happens; a budget holds threads."""
        return {}

    @property
    def pending(self) -> int:
        """Number of jobs that have not been handed out."""
        return len(self._pending)

    def add(self, config: TrialConfig, job: Job) -> None:
        """Append a job."""
        self.unfinished[config.key] = config
        self._pending.append(job)

    def suggest(self, trial_id: str) -> Any:
        """The next job; None: not now; FINISHED: there will be none."""
        if len(self._running) >= self._capacity():
            return None
        self._pending = [job for job in self._pending if job["key"] in self.unfinished]
        for position, job in enumerate(self._pending):
            if self.budget is not None:
                latest = self.budget.latest_start(self.unfinished[job["key"]])
                # A job that a worker found too late waits until it is expected to be faster: clocks differ.
                if time.time() > latest or latest <= self._refused.get(job["key"], -math.inf):
                    continue
                job = {**job, "latest_start": latest}  # noqa: PLW2901
            if self.avoided:
                job = {**job, "avoided": list(self.avoided)}  # noqa: PLW2901
            del self._pending[position]
            self._running[trial_id] = job
            return job
        # A running one may come back, or show that the others are faster than expected.
        return None if self._running else Searcher.FINISHED

    def requeue(self, job: Job) -> None:
        """Run a job again, as the next one."""
        self._pending.insert(0, job)

    def postpone(self, job: Job) -> None:
        """Put a job back that a worker did not begin, as there was no time left for it."""
        self._refused[job["key"]] = job["latest_start"]
        self._pending.append(job)

    def drop(self, trial_id: str) -> Job | None:
        """Take away a running job that Tune has given up; None where it is not running or has ended."""
        job = self._running.pop(trial_id, None)
        return job if job is not None and job["key"] in self.unfinished else None

    def record_epochs(self, config: TrialConfig, rows: Sequence[Mapping[str, float]]) -> None:
        """Take note of trained epochs of an unfinished trial."""

    def end(self, event: Event) -> None:
        """Take note of how a trial has ended."""
        del self.unfinished[event.config.key]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tune does not run the trial any more."""
        self._running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: a study resumes from its ledger, never from Tune's files."""


class GrowingQueue(TrialQueue):
    """A queue to which the end of a trial can add others: those that `more` returns for its event."""

    def __init__(
        self,
        jobs: Sequence[tuple[TrialConfig, Job]],
        make_job: Callable[[TrialConfig], Job],
        more: Callable[[Event], Sequence[TrialConfig]],
        budget: Budget | None = None,
        capacity: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        """Take the first jobs; `budget` and `capacity` as in `TrialQueue`."""
        super().__init__(jobs, budget, capacity)
        self._make_job, self._more = make_job, more

    def end(self, event: Event) -> None:
        """Take note of how a trial has ended, and append what it asks for."""
        super().end(event)
        for trial in self._more(event):
            self.add(trial, self._make_job(trial))
