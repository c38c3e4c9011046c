"""Trains what is missing: one session with its queue, its progress and its writer."""

import contextlib
import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from search_spaces import tags
from study.cli.invocation import Invocation
from study.cluster import connection
from study.ledger import tracking_uri
from study.ledger.kept_code import keep_code
from study.ledger.search_state import FINAL_STAGE, STAGE_TAG
from study.planning.forecast import format_duration
from study.session.code_version import code_version
from study.session.live import LiveReport, live_report
from study.session.study_plan import StudyPlan
from trainables import data
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.cluster.execute import GracefulStop
    from study.cluster.trial_queue import Budget, Job, MakeJob, TrialQueue
    from study.recording.events import Event
    from trainables.storage.bundles import Bundle

LOGGING_PATIENCE = 600.0
"""Seconds to wait for a silent ledger when all trials have ended; after Ctrl-C it is less."""

Queue = TypeVar("Queue", bound="TrialQueue")
MakeQueue = Callable[["MakeJob", Mapping[str, float]], Queue]
"""Makes a queue for trials with this resource request."""


WORTH_DRAWING = 10.0
"""Seconds of training that are left when figures are drawn ahead: a process that draws takes half as long."""


class Schedule(Protocol):
    """Who says which trials are wanted because of how others have ended."""

    def take(self, trial: TrialConfig, status: str, value: float | None) -> list[TrialConfig]:
        """Take in that a trial is FINISHED, with its test accuracy, or FAILED; returns what is wanted now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """What a driver has for all of its training sessions.

    Attributes:
        deadline: the end of the budget, s since 1970; None: there is none.
        lease_lost: nothing is written once it is set.
        live: the report while trials run.
    """

    deadline: float | None
    lease_lost: threading.Event
    live: LiveReport

    @classmethod
    def of(cls, invocation: Invocation, lease_lost: threading.Event) -> "Driver":
        """The driver of an invocation, whose budget begins now."""
        budget = invocation.args.budget
        deadline = None if budget is None else time.time() + budget
        return cls(deadline=deadline, lease_lost=lease_lost, live=live_report(invocation))


class StudyRun:
    """One training session: owns forecast, progress, writer and queue while trials run."""

    def __init__(
        self,
        invocation: Invocation,
        plan: StudyPlan[Any],
        driver: Driver,
        *,
        trials: int,
        epochs: int,
    ) -> None:
        """Prepare to run `trials` trials with `epochs` epochs in all."""
        from study.cli.progress import Progress
        from study.recording.writer import LedgerWriter

        self.invocation = invocation
        self.forecast = plan.forecast
        self._epochs_done = dict(plan.to_run)
        self._deadline, self._lease_lost, self._live = driver.deadline, driver.lease_lost, driver.live
        self._something_finished = False
        first = min((trial.seed for trial in invocation.selection.trials), default=None)
        # With the last of these, all arms have a result: what shows one seed alone can be drawn.
        self._first_seed = {trial for trial in plan.to_run if trial.seed == first}
        self._draw_ahead = invocation.search is None
        self._progress = Progress(trials, epochs, invocation.console)
        self._live.say = self._progress.note
        self._writer = LedgerWriter(
            ledger=invocation.ledger,
            storage=invocation.storage,
            on_finished=self._on_finished,
            on_lost=self._progress.failed,
            on_trouble=self._progress.note,
            on_opened=lambda: keep_code(invocation.ledger, code_version().files),
            on_written=self._consider_a_look,
            may_write=lambda: not driver.lease_lost.is_set(),
        )

    def _on_finished(self, bundle: "Bundle") -> None:
        self._something_finished = True
        self._first_seed.discard(bundle.config)
        self._progress.finished(bundle)
        self.forecast.learn_finished(bundle.config, bundle.result.metrics)

    def _consider_a_look(self) -> None:
        """Have the report rendered, if it is time to and there is something to show."""
        if not self._something_finished or self._lease_lost.is_set():
            return
        if self._draw_ahead and not self._first_seed and (self._progress.seconds_left or 0) > WORTH_DRAWING:
            self._draw_ahead = not self._live.draw_ahead()
        self._live.consider(self._progress.left)

    def _on_node_lost(self, node: str) -> None:
        self._progress.note(f"node {node} was lost: its trials go on elsewhere, from their last checkpoint")
        self.invocation.notifier.node_lost(node)

    def on_event(self, event: "Event") -> None:
        """Show and write an event."""
        from study.recording.events import EpochDone

        self._progress.on(event)
        self._writer.put(event)
        if isinstance(event, EpochDone):
            self._epochs_done[event.config] = int(event.row["epoch"])

    def forgo(self, trials: Sequence[TrialConfig]) -> None:
        """Show that these trials will not be needed."""
        self._progress.forgo(trials)

    @property
    def budget(self) -> "Budget | None":
        """The limit of the session."""
        from study.cluster.trial_queue import Budget

        if self._deadline is None:
            return None
        return Budget(
            deadline=self._deadline,
            seconds=lambda trial: self.forecast.seconds(trial, self._epochs_done.get(trial, 0)),
            text=format_duration(self.invocation.args.budget),
        )

    def train(self, make_queue: MakeQueue[Queue]) -> "tuple[GracefulStop, Queue]":
        """Run all trials of the queue; returns it, and why training stopped early, if it did."""
        background = _warm_up(self.invocation)
        patience = 2.0  # after an error or a second Ctrl-C
        self._live.start()
        with self._progress:
            try:
                stop, queue = self._execute(make_queue, background)
                patience = 10.0 if stop.requested else LOGGING_PATIENCE
            finally:
                try:
                    self._live.stop()
                finally:  # a second Ctrl-C must not cost what waits to be written
                    self._writer.close(patience)
                if self._writer.lost and not self._lease_lost.is_set():
                    results = f"{tracking_uri.redacted(self.invocation.storage_uri)}/results"
                    line = f"the ledger does not answer: results wait in {results} for the next invocation"
                    self._progress.note(line)
        return stop, queue

    def _execute(
        self, make_queue: MakeQueue[Queue], background: Sequence[Callable[[], object]]
    ) -> "tuple[GracefulStop, Queue]":
        """Connect to Ray, check its nodes, and run the queue."""
        from study.cluster.mps import mps_daemons
        from study.cluster.nodes import checked_nodes
        from study.cluster.watch import watched_nodes

        invocation, address = self.invocation, self.invocation.args.address
        with connection.ray_connection(address, background, invocation.allocation.slots):
            from study.cluster.execute import execute

            request = connection.resource_request(invocation.resources, address)
            request, hint = connection.fall_back_to_cpus(request, invocation.resources, address)
            for line in filter(None, (hint, connection.why_waiting(request))):
                self._progress.note(line)
            watching = (
                contextlib.nullcontext()
                if connection.is_local(address)
                else watched_nodes(self._on_node_lost)
            )
            with (
                checked_nodes(invocation.storage_uri, address) as node,
                watching,
                mps_daemons(invocation.args.mps, request, address, self._progress.note) as mps,
            ):
                on_gpus = {
                    "cuda_graphs": invocation.args.cuda_graphs,
                    "kernels": invocation.args.kernels,
                    "mps": mps,
                }
                job = partial(self.job, request=request, node=node, code=code_version().tags, on_gpus=on_gpus)
                queue = make_queue(job, request)
                tune_dir, failures = invocation.output / "ray", invocation.args.max_failures
                stop = execute(queue, tune_dir, self.on_event, max_failures=failures)
        return stop, queue

    def job(
        self,
        trial: TrialConfig,
        extra: Mapping[str, str],
        save_at: Iterable[int] = (),
        *,
        verdict: bool = False,
        request: Mapping[str, float],
        node: Mapping[str, str] | None,
        code: Mapping[str, str],
        on_gpus: Mapping[str, Any],
    ) -> "Job":
        """The job of a trial whose run gets `code` and `extra` as tags (see `trainables.tune.job`)."""
        from trainables.tune import job

        invocation = self.invocation
        self.forecast.add_sizes(trial, invocation.data_dir)
        return job(
            trial,
            data_dir=invocation.data_dir,
            storage=invocation.storage_uri,
            tags={**tags(invocation.selection.space_of(trial), trial), **extra, **code},
            request=request,
            node=node,
            save_at=save_at,
            keep=invocation.args.keep,
            verdict=verdict,
            on_gpus=on_gpus,
        )

    def fixed_queue(self, make_job: "MakeJob", _request: Mapping[str, float]) -> "TrialQueue":
        """The queue of the planned trials."""
        from study.cluster.trial_queue import TrialQueue

        stage = {STAGE_TAG: FINAL_STAGE} if self.invocation.search else {}
        jobs = [(trial, make_job(trial, stage)) for trial in self._epochs_done]
        limit = self.invocation.resources.max_concurrent or sys.maxsize
        return TrialQueue(jobs, self.budget, lambda: limit)

    def growing_queue(self, schedule: "Schedule") -> "MakeQueue[TrialQueue]":
        """Makes the queue of the planned trials, and of those that the schedule asks for as others end."""

        def more(event: "Event") -> list[TrialConfig]:
            from study.recording.events import Failed, Succeeded

            match event:
                case Succeeded(config, _, tested):
                    trials = schedule.take(config, "FINISHED", tested)
                case Failed(config):
                    trials = schedule.take(config, "FAILED", None)
                case _:
                    return []
            self._epochs_done |= dict.fromkeys(trials, 0)
            self._progress.expect(trials)
            return trials

        def queue(make_job: "MakeJob", _request: Mapping[str, float]) -> "TrialQueue":
            from study.cluster.trial_queue import GrowingQueue

            job = partial(make_job, extra={}, verdict=True)
            jobs = [(trial, job(trial)) for trial in self._epochs_done]
            limit = self.invocation.resources.max_concurrent or sys.maxsize
            return GrowingQueue(jobs, job, more, self.budget, lambda: limit)

        return queue


def _warm_up(invocation: Invocation) -> list[Callable[[], object]]:
    """Prepare datasets and ask a server; returns what can be done while Ray starts."""
    local = invocation.ledger.store.sqlite_file is not None
    if not local:  # it may answer late, and Ctrl-C waits for no thread
        invocation.ledger.check()
    embedded = [name for name in invocation.datasets if name in data.EMBEDDED]
    for name in invocation.datasets:
        if name not in embedded:
            folds = name in invocation.datasets_with_folds
            data.prepare(name, invocation.data_dir, folds=folds, progress=True)
    return [
        partial(importlib.import_module, "study.cluster.execute"),
        code_version,
        *([invocation.ledger.check] if local else []),
        *(partial(data.prepare, name, invocation.data_dir) for name in embedded),
    ]
