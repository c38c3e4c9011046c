"""What taking trials into a ledger would change: which are new, which are known, which contradict."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from study.ledger.records import DATA_TAG, PRUNED_TAG, TrialRecord
from study.transfer.origins import Origin
from trainables.metrics import METRICS, TESTED
from trainables.trial import PROTOCOL, TrialConfig

ROUNDING = 1e-6
"""Relative difference up to which two results count as equal: they were rounded differently."""


class Verdict(enum.Enum):
    """What becomes of a trial; the value says it to people."""

    NEW = "new here"
    FURTHER = "further than here, and replaces it"
    STATE = "of which the saved state is newer than here"
    METRICS = "finished here, too, with metrics that are missing here"
    KNOWN = "known here"
    CONFLICT = "in conflict, and left"


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A trial that another ledger has.

    Attributes:
        here: the same trial in this ledger; None: it is new.
        reason: of a conflict.
        missing: metrics of it that this ledger lacks, without prefix.
    """

    record: TrialRecord
    here: TrialRecord | None
    verdict: Verdict
    reason: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """What a merge will do.

    Attributes:
        items: all trials of the origin.
        waiting: keys of results that no driver has logged, and that this ledger does not have.
    """

    items: tuple[Item, ...]
    waiting: tuple[str, ...]

    def of(self, *verdicts: Verdict) -> list[Item]:
        """The trials with one of these verdicts."""
        return [item for item in self.items if item.verdict in verdicts]


def compare(origin: Origin, here: Mapping[str, TrialRecord], states: Mapping[str, int]) -> Merge:
    """Compare all trials of an origin with a ledger.

    Args:
        origin: where trials come from.
        here: the ledger's trials by key.
        states: the epoch after which each unfinished trial would resume here, by key.
    """
    items = tuple(
        _item(record, here.get(key), _last(origin.states(key)), states.get(key, 0))
        for key, record in origin.records.items()
    )
    finished = {key for key, record in here.items() if record.status == "FINISHED"}
    finished |= {key for key, record in origin.records.items() if record.status == "FINISHED"}
    return Merge(items=items, waiting=tuple(sorted(origin.waiting - finished)))


def _last(states: Mapping[str, int]) -> int:
    return max(states.values(), default=0)


def _item(record: TrialRecord, here: TrialRecord | None, saved: int, saved_here: int) -> Item:
    """What becomes of a trial, whose saved states end after these epochs."""
    reason, verdict = _obstacle(record, here), Verdict.KNOWN
    missing: tuple[str, ...] = ()
    if reason:
        verdict = Verdict.CONFLICT
    elif here is None:
        verdict = Verdict.NEW
    elif record.status == here.status == "FINISHED":
        missing = _missing(record, here)
        verdict = Verdict.METRICS if missing else Verdict.KNOWN
    elif _progress(record) > _progress(here):
        verdict = Verdict.FURTHER
    elif here.status != "FINISHED" and saved > saved_here:
        verdict = Verdict.STATE
    return Item(record=record, here=here, verdict=verdict, reason=reason, missing=missing)


def _obstacle(record: TrialRecord, here: TrialRecord | None) -> str:
    """Why a trial cannot be merged with what is here, in words for people; empty where it can."""
    wrong = _of_another_version(record)
    if wrong or here is None:
        return wrong
    ours, theirs = here.tags.get(DATA_TAG), record.tags.get(DATA_TAG)
    if ours and theirs and ours != theirs:
        return f"trained on other data: SHA-256 {theirs[:12]} there, {ours[:12]} here"
    both_finished = record.status == here.status == "FINISHED"
    return _contradiction(record, here) if both_finished else ""


def _of_another_version(record: TrialRecord) -> str:
    """Why a run is none of a trial that this version could train; empty where it is one."""
    own = "@" in record.params.get("code", "") or "@" in record.params.get("term_code", "")
    try:
        key = TrialConfig.from_params(record.params).key
    except (ValueError, TypeError) as error:
        return "" if own else f"not a trial of this version: {error}"
    if key != record.key and not own:
        return f"not a trial of this version: its fields have the key {key} under protocol {PROTOCOL}"
    return ""


def _progress(record: TrialRecord) -> tuple[bool, bool, int]:
    """How far a trial is: finished, then stopped early or failed for good, then anything else."""
    ended = record.status == "FAILED" or PRUNED_TAG in record.tags
    pruned = record.tags.get(PRUNED_TAG, "")
    return record.status == "FINISHED", ended, int(pruned) if pruned.isdigit() else 0


def _missing(record: TrialRecord, here: TrialRecord) -> tuple[str, ...]:
    """Final metrics of a finished trial that were measured there alone."""
    return tuple(sorted(name for name in record.metrics.keys() - here.metrics.keys() if is_result(name)))


def is_result(name: str) -> bool:
    """Whether a final metric says what a trial learned, not what it cost."""
    known = METRICS.get(name)
    return "/" not in name and (known is None or known.table != "cost")


def _differ(name: str, one: TrialRecord, other: TrialRecord) -> bool:
    first, second = one.metrics[name], other.metrics[name]
    if not is_result(name) or (math.isnan(first) and math.isnan(second)):
        return False
    return not math.isclose(first, second, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _contradiction(record: TrialRecord, here: TrialRecord) -> str:
    """Other results of the same trial, in words: a metric that differs, and what may explain it."""
    shared = sorted(record.metrics.keys() & here.metrics.keys())
    several = [name for name in shared if _differ(name, record, here)]
    if not several:
        return ""
    name = TESTED if TESTED in several else several[0]
    more = f" and {len(several) - 1} more metrics" if len(several) > 1 else ""
    text = f"{name} is {record.metrics[name]:.6g} there, {here.metrics[name]:.6g} here{more}"
    for tag in ("device", "version.torch", "threads", "source.sha256"):
        there, ours = record.tags.get(tag, "?"), here.tags.get(tag, "?")
        if there != ours:
            return f"{text} ({tag}: {there[:60]} there, {ours[:60]} here)"
    return text
