"""What would run: the trials of a selection compared with the ledger."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces import Selection
from search_spaces.families import EXACT, LEVEL, controls_elsewhere, families, smallest_p
from search_spaces.names import arm_labels, arm_settings, varying_fields
from study.ledger.records import DATA_TAG, TrialRecord
from trainables.arms import CE
from trainables.trial import TrialConfig, format_value

MAX_LISTED_SUBSETS = 8
"""A line of the plan lists up to so many subsets of augmentations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The trials of a selection by their state in the ledger; each is in one of five groups.

    Attributes:
        selection: the planned trials.
        done: finished, with all metrics and artifacts.
        stale: finished, but on data that have changed; run again on request only.
        failed: failed permanently; run again on request only.
        half_done: begun, then interrupted.
        new: not begun.
        records: the ledger's records of these trials, by key.
    """

    selection: Selection
    done: tuple[TrialConfig, ...]
    stale: tuple[TrialConfig, ...]
    failed: tuple[TrialConfig, ...]
    half_done: tuple[TrialConfig, ...]
    new: tuple[TrialConfig, ...]
    records: dict[str, TrialRecord]

    def to_run(self, *, retry_failed: bool = False, rerun_stale: bool = False) -> tuple[TrialConfig, ...]:
        """The trials that a run would train, in the selection's order, half-done ones first."""
        wanted = {*self.new, *(self.failed if retry_failed else ()), *(self.stale if rerun_stale else ())}
        return self.half_done + tuple(trial for trial in self.selection.trials if trial in wanted)

    @property
    def finished(self) -> list[TrialRecord]:
        """The records of the trials that are done."""
        return [self.records[trial.key] for trial in self.done]

    @property
    def complete(self) -> bool:
        """Whether every trial is finished."""
        return len(self.done) == len(self.selection.trials)


def make_plan(
    selection: Selection, ledger: Mapping[str, TrialRecord], digests: Mapping[str, str | None]
) -> Plan:
    """Compare a selection with the ledger's records, by key.

    `digests` has the current SHA-256 of datasets; finished trials on other data are stale.
    """
    records = {trial.key: ledger[trial.key] for trial in selection.trials if trial.key in ledger}
    groups: dict[str, list[TrialConfig]] = {}
    for trial in selection.trials:
        groups.setdefault(_group(records.get(trial.key), digests.get(trial.dataset)), []).append(trial)
    return Plan(
        selection=selection,
        records=records,
        **{name: tuple(groups.get(name, ())) for name in ("done", "stale", "failed", "half_done", "new")},
    )


def _group(record: TrialRecord | None, digest: str | None) -> str:
    if record is None:
        return "new"
    if record.status == "FINISHED":
        return "stale" if digest is not None and record.tags.get(DATA_TAG, digest) != digest else "done"
    return "failed" if record.status == "FAILED" else "half_done"


def describe(plan: Plan, *, retry_failed: bool = False, rerun_stale: bool = False) -> list[str]:
    """The plan in a few lines for people."""
    trials = plan.selection.trials
    to_run = plan.to_run(retry_failed=retry_failed, rerun_stale=rerun_stale)
    stale = f", {len(plan.stale)} stale (their data have changed)" if plan.stale else ""
    total = (
        f"{len(trials)} planned: {len(plan.done)} done, {len(plan.half_done)} half-done, {len(plan.failed)}"
        f" failed{stale}, {len(plan.new)} new; to run: {len(to_run)}"
    )
    return [*plan.selection.steps, *_cells(plan, to_run), *_smallest_p(trials), total]


def _cells(plan: Plan, to_run: tuple[TrialConfig, ...]) -> list[str]:
    """A line for all cells that differ only in their augmentations and have the same arms, seeds and state.

    It names dataset, backbone, epochs, and the fields in which the cells of the selection differ.
    """
    trials = plan.selection.trials
    states = {"planned": trials, "done": plan.done, "half-done": plan.half_done}
    states |= {"failed": plan.failed, "stale": plan.stale, "to run": to_run}
    cells: dict[tuple[object, ...], list[TrialConfig]] = {}
    counts: dict[tuple[object, ...], Counter[str]] = defaultdict(Counter)
    for name, in_state in states.items():
        for trial in in_state:
            counts[trial.cell][name] += 1
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial)
    always = ("dataset", "backbone", "augmentations", "epochs")
    varying = varying_fields(trials, besides=always)
    labels = arm_labels(trials)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for cell, members in cells.items():
        first = members[0]
        arms = ", ".join(dict.fromkeys(labels[trial] for trial in members))
        settings = [f"{first.epochs} epochs"]
        settings += [f"{name} {format_value(getattr(first, name))}" for name in varying]
        settings += arm_settings(members)
        design = f"{arms} x seeds {_ranges({t.seed for t in members})}, {', '.join(settings)}"
        network = f"{first.dataset}/{first.backbone}"
        state = ", ".join(f"{count} {name}" for name, count in counts[cell].items())
        groups.setdefault((network, design, state), []).append(format_value(first.augmentations))
    lines = [f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}:"]
    for (network, design, state), subsets in groups.items():
        each = "each " if len(subsets) > 1 else ""
        lines.append(f"  {network}/{_subsets(subsets)}: {design}: {each}{state}")
    return lines


def _smallest_p(trials: Sequence[TrialConfig]) -> list[str]:
    """The smallest p-value that the seeds of every family allow, and how many seeds allow 0.05.

    In the joint sign-flip test n paired differences have 2**n patterns of signs, so two-sided p >= 2 / 2**n,
    whatever the number of arms.
    """
    labels = arm_labels(trials)
    cells: dict[tuple[object, ...], dict[str, list[TrialConfig]]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, {}).setdefault(labels[trial], []).append(trial)
    examples = {cell: {label: members[0] for label, members in arms.items()} for cell, arms in cells.items()}
    elsewhere = controls_elsewhere(examples)
    counts: list[int] = []  # seeds of each family
    for cell, arms in cells.items():
        # Only seeds that every arm has are compared.
        seeds = set.intersection(*({t.seed for t in members} for members in arms.values()))
        counts += [len(seeds)] * len(families(examples[cell]))
        for other in elsewhere.get(cell, {}).values():
            counts.append(len(seeds & {trial.seed for trial in cells[other][CE]}))
    counts = [n for n in counts if n]
    if not counts:
        return []
    n = min(counts)
    enough = next(count for count in range(1, EXACT + 1) if smallest_p(count) <= LEVEL)
    exact = "an exact" if n <= EXACT else "a"
    needed = "" if n >= enough else f"; {enough} seeds allow {LEVEL}"
    allow = "1 seed allows" if n == 1 else f"{n} seeds allow"
    return [f"{allow} {exact} sign-flip p of {smallest_p(n):.2g} at best, for any number of arms{needed}"]


def _subsets(texts: Sequence[str]) -> str:
    """`rrc`, or `{none, rrc, rrc+hflip}`, or how many."""
    if len(texts) == 1:
        return texts[0]
    return f"{{{', '.join(texts)}}}" if len(texts) <= MAX_LISTED_SUBSETS else f"{{{len(texts)} subsets}}"


def _ranges(seeds: set[int]) -> str:
    """`0`, `0-4`, `0, 2-3`."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
