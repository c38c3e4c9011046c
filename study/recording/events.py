"""What happens to a trial, as workers report it and the ledger records it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainables.trial import TrialConfig


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun with the trial."""

    config: TrialConfig
    tags: Mapping[str, str]
    timestamp: int
    """ms since 1970."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The worker goes on from what an earlier attempt had saved."""

    config: TrialConfig
    rows: Sequence[Mapping[str, float]]
    """Of the epochs that are trained already; the ledger may not have all of them."""
    notes: Sequence[str]
    """For people."""


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch's row of the history."""

    config: TrialConfig
    row: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The trial's result bundle lies on storage."""

    config: TrialConfig
    objectives: Mapping[str, float] = field(default_factory=dict)
    """What a search may know of it."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The trial was stopped early: others of its search are better."""

    config: TrialConfig
    row: Mapping[str, float]
    """Of its last epoch."""


@dataclass(frozen=True, slots=True)
class Found:
    """A searcher asked for a trial that the ledger has already."""

    config: TrialConfig
    run_id: str
    tags: Mapping[str, str]
    """That its run gets."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The trial has failed for good."""

    config: TrialConfig
    reason: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Nobody runs the trial any more; it can be gone on with."""

    config: TrialConfig


@dataclass(frozen=True, slots=True)
class Repeated:
    """The trial will be begun again, otherwise."""

    config: TrialConfig
    reason: str


Event = Started | Resumed | EpochDone | Succeeded | Pruned | Found | Failed | Interrupted | Repeated
