"""What would run: the trials of a selection against what the ledger has."""

from collections.abc import Iterable
from dataclasses import dataclass

from search_spaces import Selection
from study.ledger import Ledger, TrialRecord
from trainables.trial import TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The trials of a selection by what the ledger says of them; each is in one of four groups.

    Attributes:
        selection: what was asked for.
        done: finished, with all metrics and artifacts.
        failed: failed for good; run again on request only.
        half_done: begun, then interrupted.
        new: not begun.
        records: what the ledger has of these trials, by key.
    """

    selection: Selection
    done: tuple[TrialConfig, ...]
    failed: tuple[TrialConfig, ...]
    half_done: tuple[TrialConfig, ...]
    new: tuple[TrialConfig, ...]
    records: dict[str, TrialRecord]

    def to_run(self, *, retry_failed: bool = False) -> tuple[TrialConfig, ...]:
        """The trials that a run would train, in the selection's order, half-done ones first."""
        wanted = {*self.new, *(self.failed if retry_failed else ())}
        return self.half_done + tuple(trial for trial in self.selection.trials if trial in wanted)

    @property
    def complete(self) -> bool:
        """Whether every trial is finished."""
        return len(self.done) == len(self.selection.trials)


def make_plan(selection: Selection, ledger: Ledger) -> Plan:
    """Hold a selection against the ledger; creates nothing."""
    records = ledger.trials(trial.key for trial in selection.trials)

    def having(*statuses: str | None) -> tuple[TrialConfig, ...]:
        status = {key: record.status for key, record in records.items()}
        return tuple(trial for trial in selection.trials if status.get(trial.key) in statuses)

    return Plan(
        selection=selection,
        done=having("FINISHED"),
        failed=having("FAILED"),
        half_done=having("RUNNING", "SCHEDULED", "KILLED"),
        new=having(None),
        records=records,
    )


def describe(plan: Plan, *, retry_failed: bool = False) -> list[str]:
    """The plan in a few lines for people."""
    trials = plan.selection.trials
    by_cell: dict[tuple[object, ...], list[TrialConfig]] = {}
    for trial in trials:
        by_cell.setdefault(trial.cell, []).append(trial)
    lines = [*plan.selection.steps]
    for members in by_cell.values():
        first = members[0]
        where = first.name.rsplit("/", 2)[0]
        arms = _distinct(trial.arm for trial in members)
        seeds = _distinct(str(trial.seed) for trial in members)
        lines.append(f"  {where}: {', '.join(arms)} x seeds {', '.join(seeds)}, {first.epochs} epochs")
    lines.append(
        f"{len(trials)} planned: {len(plan.done)} done, {len(plan.half_done)} half-done, {len(plan.failed)}"
        f" failed, {len(plan.new)} new; to run: {len(plan.to_run(retry_failed=retry_failed))}"
    )
    return lines


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
