"""What would run: the trials of a selection compared with the ledger."""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_spaces import Selection
from search_spaces.families import EXACT, LEVEL, controls_elsewhere, families, smallest_p
from search_spaces.names import arm_labels, arm_settings, varying_fields
from search_spaces.seeds import FEWEST
from study.ledger.records import DATA_TAG, TrialRecord
from trainables.arms import CE
from trainables.trial import TrialConfig, format_value

MAX_LISTED_SUBSETS = 8
"""A line of the plan lists up to so many subsets of augmentations."""
MAX_LISTED_ARMS = 12
"""Likewise arms; more are counted by their term."""
WIDTH = 100
"""Columns of a plan."""
NBSP = "\N{NO-BREAK SPACE}"


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
    """The plan in a few lines for people, with the totals first."""
    trials = plan.selection.trials
    to_run = plan.to_run(retry_failed=retry_failed, rerun_stale=rerun_stale)
    stale = f", {len(plan.stale)} stale (their data have changed)" if plan.stale else ""
    total = (
        f"{len(trials)} planned: {len(plan.done)} done, {len(plan.half_done)} half-done, {len(plan.failed)}"
        f" failed{stale}, {len(plan.new)} new; to run: {len(to_run)}"
    )
    return [total, *plan.selection.steps, *_cells(plan, to_run)]


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
        arms = _arms({labels[trial]: trial for trial in members})
        settings = [f"{first.epochs} epochs"]
        settings += [f"{name} {format_value(getattr(first, name))}" for name in varying]
        settings += arm_settings(members)
        settings += [f"{name} tuned for each arm" for name in first.tuned]
        design = f"{arms} x{NBSP}seeds {_ranges({t.seed for t in members})}, {_unbroken(settings)}"
        network = f"{first.dataset}/{first.backbone}"
        state = _unbroken(f"{count} {name}" for name, count in counts[cell].items())
        groups.setdefault((network, design, state), []).append(format_value(first.augmentations))
    lines = [f"{len(cells)} {'cell' if len(cells) == 1 else 'cells'}:"]
    for (network, design, state), subsets in groups.items():
        each = f"each{NBSP}" if len(subsets) > 1 else ""
        lines.append(f"  {network}/{_subsets(subsets)}: {design}: {each}{state}")
    return folded(lines)


def folded(lines: Iterable[str]) -> list[str]:
    """The lines, those of more than `WIDTH` columns on several, but no number without its unit."""
    wrapper = textwrap.TextWrapper(width=WIDTH, break_long_words=False, break_on_hyphens=False)
    short = []
    for line in lines:
        wrapper.subsequent_indent = " " * (len(line) - len(line.lstrip()) + 4)
        line = re.sub(r"(?<=\d) (?=[a-zA-Z%])", NBSP, line)  # noqa: PLW2901
        short += [part.replace(NBSP, " ") for part in wrapper.wrap(line) or [line]]
    return short


def _unbroken(items: Iterable[str]) -> str:
    """The items in a line that is broken between them only."""
    return ", ".join(item.replace(" ", NBSP) for item in items)


def _arms(arms: Mapping[str, TrialConfig]) -> str:
    """The labels of a cell's arms; of many `36 arms (ce, siamese-0, 6 barlow_twins, 3 vicreg, …)`."""
    if len(arms) <= MAX_LISTED_ARMS:
        return _unbroken(arms)
    kinds = Counter(
        trial.term if trial.method == "siamese" and trial.uses("term") else trial.arm
        for trial in arms.values()
    )
    counted = _unbroken(f"{count} {kind}" if count > 1 else kind for kind, count in kinds.items())
    return f"{len(arms)}{NBSP}arms ({counted})"


def seeds_lines(trials: Sequence[TrialConfig]) -> list[str]:
    """What the seeds of these trials are enough for; empty where nothing is compared.

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
    p = f"{'an exact' if n <= EXACT else 'a'} sign-flip p of"
    have = f"seeds: {n} of each arm; a claim takes at least {FEWEST}"
    if n >= enough:
        return [f"{have}, {p} {LEVEL} takes {enough} (the smallest possible is {smallest_p(n):.2g})"]
    return [
        f"{have}, {p} {LEVEL} takes {enough} ({n} {'reaches' if n == 1 else 'reach'} {smallest_p(n):.2g})"
    ]


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
