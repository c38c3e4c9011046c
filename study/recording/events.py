"""What happens to a trial, as workers report it and the ledger records it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainables.trial import TrialConfig


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun the trial, at `timestamp` (ms since 1970)."""

    config: TrialConfig
    tags: Mapping[str, str]
    timestamp: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The worker continues from the saved state of an earlier attempt.

    `rows` are the epochs trained so far, of which the ledger may lack some; `warnings` are for people.
    """

    config: TrialConfig
    rows: Sequence[Mapping[str, float]]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class Noted:
    """The worker does something in another way than it was asked to; its run gets these tags."""

    config: TrialConfig
    warning: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch has ended; `row` is its row of the history."""

    config: TrialConfig
    row: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The trial's result bundle is on storage.

    `objectives` is all that a search may know of it. `tested` is its test accuracy, where verdicts need it.
    """

    config: TrialConfig
    objectives: Mapping[str, float] = field(default_factory=dict)
    tested: float | None = None


@dataclass(frozen=True, slots=True)
class Pruned:
    """The scheduler has stopped the trial early; `row` is that of its last epoch."""

    config: TrialConfig
    row: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CacheHit:
    """A search suggested a trial that the ledger already has; its run gets these tags."""

    config: TrialConfig
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The trial has failed permanently."""

    config: TrialConfig
    reason: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The trial is not running any more and can be resumed."""

    config: TrialConfig


@dataclass(frozen=True, slots=True)
class Retrying:
    """The trial will be started again, with other resources or another worker."""

    config: TrialConfig
    reason: str


Event = (
    Started | Resumed | Noted | EpochDone | Succeeded | Pruned | CacheHit | Failed | Interrupted | Retrying
)
