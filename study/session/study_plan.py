"""What an invocation would run: its selection compared with the ledger, and how long that would take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from search_spaces import Selection
from study.cli.invocation import Invocation
from study.cluster.connection import is_local
from study.cluster.mps import daemon_for_probes
from study.ledger.records import TrialRecord
from study.ledger.search_state import SearchState
from study.planning import forecast, precision, weights
from study.planning.forecast import Forecast, format_duration, wall_seconds
from study.planning.plan import Plan, describe, make_plan
from study.planning.probe import probe
from trainables import bf16, data
from trainables.trial import TrialConfig

State = TypeVar("State", Plan, SearchState)


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

    Raises:
        DataError: trials are to run whose images are missing.
    """
    records = invocation.ledger.trials()
    plan = make_plan(invocation.selection, records, source_digests(invocation, refresh=refresh))
    to_run = trained_epochs(invocation, plan.to_run(**invocation.rerun))
    # Where there were no images, it ends here: DataError.
    sizes = invocation.sizes or data.check(to_run, invocation.args.data_dir)
    expected = forecast.from_records(sizes, records.values(), invocation.allocation, invocation.data_dir)
    total, *design = describe(plan, **invocation.rerun)
    lines = [total, *forecast_lines(invocation, expected, list(to_run.items()), measure=measure)]
    lines += weights.describe(invocation.args, list(to_run), plan.finished, invocation.data_dir)
    lines += design
    return StudyPlan(state=plan, to_run=to_run, forecast=expected, records=records, lines=lines)


def forecast_lines(
    invocation: Invocation,
    expected: Forecast,
    trials: Sequence[tuple[TrialConfig, int]],
    finalists: Sequence[TrialConfig] = (),
    *,
    measure: bool,
) -> list[str]:
    """The forecast of trials, each with its trained epochs, in lines for people; see `plan_study`.

    `finalists` as in `forecast.describe`.
    """
    configs = [trial for trial, _ in trials]
    lines = precision_lines(invocation, configs, measure=measure)
    if measure:
        with daemon_for_probes(invocation.allocation.mps) as variables:
            lines += probe(expected, configs, invocation.allocation, invocation.data_dir, variables)
    budget = invocation.args.budget
    return lines + forecast.describe(expected, trials, invocation.allocation, budget, finalists)


def precision_lines(invocation: Invocation, trials: Sequence[TrialConfig], *, measure: bool) -> list[str]:
    """What is to be said of the precision of trials that run on this machine's processor.

    A study that is about to train measures it where bf16 is chosen and the processor may be slow at it.
    """
    if invocation.allocation.gpus or not is_local(invocation.args.address):
        return []
    begins = not invocation.args.plan and any(trial.precision == "bf16" for trial in trials)
    return precision.lines(trials, measure=measure or (begins and bf16.units() != bf16.AMX))


def range_lines(invocation: Invocation, plan: StudyPlan[Plan], most: Selection) -> list[str]:
    """How many trials a range of seeds takes at least and at most, and how long, in a line for people.

    `most` are those that it may take, done ones included; empty where all is decided.
    """
    done = {trial for group in (plan.state.done, plan.state.failed, plan.state.stale) for trial in group}
    left = [trial for trial in most.trials if trial not in done]
    if not left:
        return []
    line = f"--until decided: {len(plan.to_run)} trials at least, {len(left)} at most"
    whole = replace(plan, to_run={trial: plan.to_run.get(trial, 0) for trial in left})
    times = [each.wall_seconds(invocation.allocation.slots) for each in (plan, whole)]
    if times[0] is not None and times[1] is not None:
        line += f": {format_duration(times[0])} to {format_duration(times[1])}"
    return [line]


def records_in_use(invocation: Invocation) -> dict[str, TrialRecord]:
    """The ledger's records of the selection without trials on other data, which no statistic counts."""
    plan = make_plan(invocation.selection, invocation.ledger.trials(), invocation.current_digests())
    stale = {trial.key for trial in plan.stale}
    return {key: record for key, record in plan.records.items() if key not in stale}


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
