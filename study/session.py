"""Plans and trains: compares a selection with the ledger, then runs what is missing."""

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from search_spaces import tags
from study.cli.invocation import Invocation
from study.cluster import connection
from study.ledger import tracking_uri
from study.ledger.records import TrialRecord
from study.ledger.search_state import FINAL_STAGE, STAGE_TAG, SearchState
from study.planning import forecast, weights
from study.planning.forecast import Forecast, format_duration, wall_seconds
from study.planning.plan import Plan, describe, make_plan
from study.planning.probe import probe
from trainables import data
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.cluster.execute import GracefulStop
    from study.cluster.trial_queue import Budget, Job, MakeJob, TrialQueue
    from study.recording.events import Event
    from trainables.storage.bundles import Bundle

LOGGING_PATIENCE = 600.0
"""Seconds to wait for a silent ledger when all trials have ended; after Ctrl-C it is less."""

State = TypeVar("State", Plan, SearchState)
Queue = TypeVar("Queue", bound="TrialQueue")
MakeQueue = Callable[["MakeJob", Mapping[str, float]], Queue]
"""Makes a queue for trials with this resource request."""


class Schedule(Protocol):
    """Who says which trials are wanted because of how others have ended."""

    def take(self, trial: TrialConfig, status: str, value: float | None) -> list[TrialConfig]:
        """Take in that a trial is FINISHED, with its test accuracy, or FAILED; returns what is wanted now."""


@dataclass(frozen=True, kw_only=True)
class StudyPlan(Generic[State]):
    """What would run, and how long it would take.

    Attributes:
        state: the selection or the search compared with the ledger.
        to_run: trials with the number of epochs that are trained already; of a search, the half-done ones.
        forecast: of these trials; of a search, also of those that it may suggest.
        records: all trials of the ledger, by key.
        lines: for people.
    """

    state: State
    to_run: Mapping[TrialConfig, int]
    forecast: Forecast
    records: Mapping[str, TrialRecord]
    lines: Sequence[str]

    def wall_seconds(self, slots: int | None) -> float | None:
        """Seconds until all trials have run, `slots` at once; None where something is not known."""
        expected = [self.forecast.seconds(trial, done) for trial, done in self.to_run.items()]
        known = [seconds for seconds in expected if seconds is not None]
        return wall_seconds(known, slots) if slots and len(known) == len(expected) else None


def plan_study(invocation: Invocation, *, refresh: bool = False, measure: bool = False) -> StudyPlan[Plan]:
    """Compare the selection with the ledger.

    `refresh` prepares datasets again whose images have changed; `measure` probes trials without a forecast.
    """
    records = invocation.ledger.trials()
    plan = make_plan(invocation.selection, records, source_digests(invocation, refresh=refresh))
    to_run = trained_epochs(invocation, plan.to_run(**invocation.rerun))
    expected = forecast.from_records(
        invocation.sizes, records.values(), invocation.allocation, invocation.data_dir
    )
    lines = describe(plan, **invocation.rerun)
    lines += forecast_lines(invocation, expected, list(to_run.items()), measure=measure)
    lines += weights.describe(invocation.args, list(to_run), plan.finished, invocation.data_dir)
    return StudyPlan(state=plan, to_run=to_run, forecast=expected, records=records, lines=lines)


def forecast_lines(
    invocation: Invocation, expected: Forecast, trials: Sequence[tuple[TrialConfig, int]], *, measure: bool
) -> list[str]:
    """The forecast of trials, each with its trained epochs, in lines for people; see `plan_study`."""
    lines = []
    if measure:
        lines += probe(expected, [trial for trial, _ in trials], invocation.allocation, invocation.data_dir)
    return lines + forecast.describe(expected, trials, invocation.allocation, invocation.args.budget)


def range_lines(invocation: Invocation, plan: StudyPlan[Plan]) -> list[str]:
    """How many trials a range of seeds takes at least and at most, and how long, in a line for people."""
    done = {trial for group in (plan.state.done, plan.state.failed, plan.state.stale) for trial in group}
    most = [trial for trial in invocation.selection.trials if trial not in done]
    line = f"--until decided: {len(plan.to_run)} trials at least, {len(most)} at most"
    whole = replace(plan, to_run={trial: plan.to_run.get(trial, 0) for trial in most})
    times = [each.wall_seconds(invocation.allocation.slots) for each in (plan, whole)]
    if most and times[0] is not None and times[1] is not None:
        line += f": {format_duration(times[0])} to {format_duration(times[1])}"
    return [line]


def trained_epochs(invocation: Invocation, trials: Iterable[TrialConfig]) -> dict[TrialConfig, int]:
    """Unfinished trials with the number of epochs in their newest saved state."""
    from trainables.storage.checkpoints import checkpoint_keys, saved_epoch

    storage = invocation.storage
    saved = set(checkpoint_keys(storage))
    return {
        trial: min(saved_epoch(storage, trial.key), trial.epochs) if trial.key in saved else 0
        for trial in trials
    }


def source_digests(invocation: Invocation, *, refresh: bool) -> dict[str, str | None]:
    """SHA-256 of each dataset; None where it is not prepared, or its images have changed since.

    With `refresh`, changed ones are prepared again.
    """
    digests = {}
    for name in invocation.datasets:
        digests[name] = data.fingerprint(name, invocation.data_dir, look_at_source=True)
        if digests[name] is None and refresh and data.fingerprint(name, invocation.data_dir) is not None:
            digests[name] = data.prepare(name, invocation.data_dir, look_at_source=True, progress=True)
    return digests


class StudyRun:
    """One training session: owns forecast, progress, writer and queue while trials run."""

    def __init__(
        self,
        invocation: Invocation,
        plan: StudyPlan[Any],
        *,
        trials: int,
        epochs: int,
        deadline: float | None,
        lease_lost: threading.Event,
    ) -> None:
        """Prepare to run `trials` trials with `epochs` epochs in all.

        `deadline` is the end of the budget, s since 1970. Nothing is written once `lease_lost` is set.
        """
        from study.cli.progress import Progress
        from study.recording.writer import LedgerWriter

        self.invocation = invocation
        self.forecast = plan.forecast
        self._epochs_done = dict(plan.to_run)
        self._deadline = deadline
        self._lease_lost = lease_lost
        self._progress = Progress(trials, epochs, invocation.console)
        self._writer = LedgerWriter(
            ledger=invocation.ledger,
            storage=invocation.storage,
            on_finished=self._on_finished,
            on_lost=self._progress.failed,
            on_trouble=self._progress.note,
            may_write=lambda: not lease_lost.is_set(),
        )

    def _on_finished(self, bundle: "Bundle") -> None:
        self._progress.finished(bundle)
        self.forecast.learn_finished(bundle.config, bundle.result.metrics)

    def on_event(self, event: "Event") -> None:
        """Show and write an event."""
        from study.recording.events import EpochDone

        self._progress.on(event)
        self._writer.put(event)
        if isinstance(event, EpochDone):
            self._epochs_done[event.config] = int(event.row["epoch"])

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
        with self._progress:
            try:
                stop, queue = self._execute(make_queue, background)
                patience = 10.0 if stop.requested else LOGGING_PATIENCE
            finally:
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
        from study.cluster.nodes import checked_nodes

        invocation, address = self.invocation, self.invocation.args.address
        with connection.ray_connection(address, background):
            from study.cluster.execute import execute

            request = connection.resource_request(invocation.resources, address)
            request, hint = connection.fall_back_to_cpus(request, invocation.resources, address)
            for line in filter(None, (hint, connection.why_waiting(request))):
                self._progress.note(line)
            with checked_nodes(invocation.storage_uri, address) as node:
                queue = make_queue(partial(self.job, request=request, node=node, code=_code_tags()), request)
                tune_dir, failures = invocation.output / "ray", invocation.args.max_failures
                stop = execute(queue, tune_dir, self.on_event, max_failures=failures)
        return stop, queue

    def job(
        self,
        trial: TrialConfig,
        extra: Mapping[str, str],
        save_at: Iterable[int] = (),
        *,
        request: Mapping[str, float],
        node: Mapping[str, str] | None,
        code: Mapping[str, str],
    ) -> "Job":
        """The job of a trial whose run gets `code` and `extra` as tags (see `trainables.tune.job`)."""
        from trainables.tune import job

        invocation = self.invocation
        self.forecast.add_sizes(trial, invocation.data_dir)
        return job(
            trial,
            data_dir=invocation.data_dir,
            storage=invocation.storage_uri,
            tags={**tags(invocation.selection.space, trial), **extra, **code},
            request=request,
            node=node,
            save_at=save_at,
            keep=invocation.args.keep,
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

            jobs = [(trial, make_job(trial, {})) for trial in self._epochs_done]
            limit = self.invocation.resources.max_concurrent or sys.maxsize
            return GrowingQueue(jobs, lambda trial: make_job(trial, {}), more, self.budget, lambda: limit)

        return queue


def _warm_up(invocation: Invocation) -> list[Callable[[], object]]:
    """Prepare datasets; returns what can be done while Ray starts."""
    embedded = [name for name in invocation.datasets if name in data.EMBEDDED]
    for name in invocation.datasets:
        if name not in embedded:
            data.prepare(name, invocation.data_dir, progress=True)
    return [
        partial(importlib.import_module, "study.cluster.execute"),
        *(partial(data.prepare, name, invocation.data_dir) for name in embedded),
    ]


def _code_tags() -> dict[str, str]:
    """Tags with the versions of this project and of Ray, and the commit where this is a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(connection.ROOT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    tags = {"version.study": version("siamese-barlow-twins"), "version.ray": version("ray")}
    try:
        dirty = str(bool(git("status", "--porcelain"))).lower()
        return {**tags, "git.commit": git("rev-parse", "HEAD").strip(), "git.dirty": dirty}
    except (OSError, subprocess.CalledProcessError):
        return tags  # an installed package: its version identifies it
