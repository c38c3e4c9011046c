"""What a call would run, and running it."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from search_spaces import Selection, tags
from study.cli.invocation import Call
from study.cluster import connection
from study.ledger import tracking_uri
from study.ledger.search_state import FINAL, STAGE, Standing
from study.planning import forecast
from study.planning.forecast import Forecast
from study.planning.plan import Plan, describe, make_plan
from study.recording.version import code_tags
from trainables import data
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from study.cluster.execute import Ending
    from study.cluster.trial_queue import Budget, Jobs
    from study.recording.events import Found
    from study.search.optuna_queue import Halving
    from trainables.storage.bundles import Bundle

LOGGING_PATIENCE = 600.0
"""Seconds that a silent ledger is waited for when all trials have ended; Ctrl-C waits no longer."""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What would run, and how long it would take.

    Attributes:
        plan: the selection against the ledger.
        to_run: trials, each with the epochs that are trained already.
        forecast: of them.
        lines: for people.
    """

    plan: Plan
    to_run: dict[TrialConfig, int]
    forecast: Forecast
    lines: list[str]

    def wall_seconds(self, slots: int) -> float | None:
        """Of all that would run, `slots` trials at once; None where a trial's time is not known."""
        expected = [self.forecast.seconds(trial, done) for trial, done in self.to_run.items()]
        known = [seconds for seconds in expected if seconds is not None]
        return forecast.wall_seconds(known, slots) if len(known) == len(expected) else None


def prospect(call: Call, selection: Selection, *, refresh: bool = False, probe: bool = False) -> Prospect:
    """Hold a selection against the ledger.

    Args:
        call: of the command line.
        selection: the trials; `call` knows their sizes.
        refresh: prepare data again whose images have changed.
        probe: measure what no finished trial tells.
    """
    records = call.ledger.trials()
    plan = make_plan(selection, records, digests(call, refresh=refresh))
    to_run = trained_already(call, plan.to_run(**call.again_which))
    known = forecast.from_records(call.sizes, records.values(), call.grant, call.data_dir)
    lines = describe(plan, **call.again_which)
    if probe:
        lines += forecast.probe(known, list(to_run), call.grant, call.data_dir)
    lines += forecast.describe(known, list(to_run.items()), call.grant, call.args.budget)
    return Prospect(plan=plan, to_run=to_run, forecast=known, lines=lines)


def trained_already(call: Call, trials: Sequence[TrialConfig]) -> dict[TrialConfig, int]:
    """Trials that are not finished, with the epochs of their newest saved state."""
    from trainables.storage.checkpoints import checkpoint_keys, saved_epoch

    saved = set(checkpoint_keys(call.storage))
    return {
        trial: min(saved_epoch(call.storage, trial.key), trial.epochs) if trial.key in saved else 0
        for trial in trials
    }


def digests(call: Call, *, refresh: bool = False) -> dict[str, str | None]:
    """The digest of each dataset as it is at hand.

    None where it is not prepared, or its images have changed since; with `refresh`, these are prepared again.
    """
    found = {}
    for name in call.datasets:
        found[name] = data.fingerprint(name, call.data_dir, look_at_source=True)
        if found[name] is None and refresh and data.fingerprint(name, call.data_dir) is not None:
            found[name] = data.prepare(name, call.data_dir, look_at_source=True, progress=True)
    return found


def train(
    call: Call,
    to_run: dict[TrialConfig, int],
    known: Forecast,
    began: float,
    standing: Standing | None = None,
) -> "Ending":
    """Train what is missing; returns why it ended early, if it did.

    Args:
        call: of the command line.
        to_run: the trials, or those of a search that have begun, with the epochs that are trained already.
        known: forecast; learns from what ends.
        began: when the call's budget began to count, s since 1970.
        standing: of the search that finds more trials; None: these are all.
    """
    from study.cli.progress import Progress
    from study.recording.events import EpochDone, Event
    from study.recording.writer import LedgerWriter

    if standing is None:
        total, epochs = len(to_run), sum(trial.epochs for trial in to_run)
    else:
        total = standing.missing
        epochs = total * max(trial.epochs for trial in standing.search.draw())
    progress = Progress(total, epochs, call.console)

    def on_finished(bundle: "Bundle") -> None:
        progress.finished(bundle)
        size = call.sizes.get(bundle.config)
        if size is not None:
            seconds = (bundle.result.metrics[f"{part}_seconds"] for part in ("train", "evaluate"))
            known.learn(bundle.config, size, *seconds)

    writer = LedgerWriter(
        call.ledger,
        call.storage,
        on_finished=on_finished,
        on_lost=progress.failed,
        on_trouble=progress.note,
        may_write=lambda: not call.lease_lost.is_set(),
    )

    def on_event(event: Event) -> None:
        progress.on(event)
        writer.put(event)
        if isinstance(event, EpochDone):
            to_run[event.config] = int(event.row["epoch"])

    datasets = call.datasets
    for name in datasets:
        if name not in data.EMBEDDED:
            data.prepare(name, call.data_dir, progress=True)
    errands: list[Callable[[], object]] = [partial(importlib.import_module, "study.cluster.execute")]
    errands += [partial(data.prepare, name, call.data_dir) for name in datasets if name in data.EMBEDDED]
    patience = 2.0  # where an error or a second Ctrl-C ends this at once
    with progress:
        try:
            with _ground(call, to_run, known, began, errands=errands, note=progress.note) as ground:
                from study.cluster.execute import execute

                if standing is None:
                    jobs, scheduler = ground.listed(), None
                else:
                    jobs, scheduler = ground.suggested(standing, on_event)
                ending = execute(
                    jobs,
                    call.output / "ray",
                    on_event,
                    max_failures=call.args.max_failures,
                    budget=ground.budget,
                    scheduler=scheduler,
                )
            patience = LOGGING_PATIENCE if ending.complete else 10.0
        finally:
            writer.close(patience)
            if writer.lost and not call.lease_lost.is_set():
                waiting = f"{tracking_uri.redacted(call.storage_uri)}/results"
                progress.note(f"the ledger does not answer: results wait in {waiting} for the next call")
    for method in getattr(jobs, "exhausted", ()):
        call.exhausted.add(method)
    return ending


@contextlib.contextmanager
def _ground(
    call: Call,
    to_run: Mapping[TrialConfig, int],
    known: Forecast,
    began: float,
    *,
    errands: Sequence[Callable[[], object]],
    note: Callable[[str], None],
) -> "Iterator[_Ground]":
    """A session of Ray's whose nodes can run trials."""
    from study.cluster.nodes import examined

    with connection.session(call.args.address, meanwhile=errands):
        request = connection.request(call.resources, call.args.address)
        request, instead = connection.on_cpus_instead(request, call.resources, call.args.address)
        if instead:
            note(instead)
        if waits := connection.waits_for(request):
            note(waits)
        with examined(call.storage_uri, call.args.address) as node:
            yield _Ground(call=call, to_run=to_run, forecast=known, request=request, node=node, began=began)


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """What jobs are made of, within a session of Ray's."""

    call: Call
    to_run: Mapping[TrialConfig, int]
    forecast: Forecast
    request: Mapping[str, float]
    node: Mapping[str, str] | None
    began: float

    @cached_property
    def budget(self) -> "Budget | None":
        """How long the call may take."""
        from study.cluster.trial_queue import Budget

        seconds = self.call.args.budget
        if seconds is None:
            return None
        return Budget(
            deadline=self.began + seconds,
            seconds=lambda trial: self.forecast.seconds(trial, self.to_run.get(trial, 0)),
            shown=forecast.shown(seconds),
        )

    @cached_property
    def code(self) -> dict[str, str]:
        """Tags that say what runs."""
        return code_tags()

    def job(self, trial: TrialConfig, more: Mapping[str, str], save_at: Iterable[int] = ()) -> dict[str, Any]:
        """The job of a trial whose run gets these tags beside the usual ones."""
        from trainables.tune import job

        call = self.call
        if trial not in call.sizes:
            sizes = data.check([trial], call.data_dir)
            call.sizes.update(sizes)
            self.forecast.take(sizes)
        return job(
            trial,
            data_dir=call.data_dir,
            storage=call.storage_uri,
            tags={**tags(call.selection.space, trial), **more, **self.code},
            request=self.request,
            node=self.node,
            save_at=save_at,
        )

    def listed(self) -> "Jobs":
        """The trials that are to run, which are known."""
        from study.cluster.trial_queue import Jobs

        stage = {STAGE: FINAL} if self.call.search else {}
        listed = [(trial, self.job(trial, stage)) for trial in self.to_run]
        return Jobs(listed, self.budget, self.call.resources.max_concurrent)

    def suggested(
        self, standing: Standing, on_found: "Callable[[Found], None]"
    ) -> "tuple[Jobs, Halving | None]":
        """The trials that a search will suggest, and what stops some of them early."""
        from study.search.optuna_queue import MEASURED, Halving, Suggestions

        call = self.call
        histories = {
            member.config.key: call.ledger.history(member.run_id, MEASURED) for member in standing.all
        }
        scheduler = None
        if call.args.scheduler == "asha":
            scheduler = Halving(standing.search)
            for member in standing.all:
                key = member.config.key
                scheduler.replay(key, member.config.method, histories[key].items())
        at_most = call.resources.max_concurrent
        jobs = Suggestions(
            standing,
            partial(self.job, save_at=scheduler.rungs if scheduler else ()),
            sampler=call.args.sampler,
            histories=histories,
            on_found=on_found,
            budget=self.budget,
            places=lambda: min(connection.places(self.request, call.args.address), at_most or sys.maxsize),
            retry_failed=call.args.retry_failed,
        )
        return jobs, scheduler
