"""What the ledger says: its records, and the names of tags and metrics that carry a meaning."""

from collections.abc import Mapping
from dataclasses import dataclass

FINAL = "final/"
"""Prefix of final metrics, apart from those of each epoch."""
PRUNED = "pruned.epoch"
"""Tag of a searched trial that was stopped early: the epochs that it has been trained."""
DATA = "data.sha256"
"""Tag with the digest of the data that a trial was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial as the ledger has it.

    Attributes:
        key: of its config.
        run_id: of its MLflow run.
        status: RUNNING, FINISHED, FAILED or KILLED.
        params: of the config, as text.
        tags: without MLflow's own.
        metrics: final ones, without their prefix.
        changed: when the run last changed state, ms since 1970.
    """

    key: str
    run_id: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    changed: int


@dataclass(frozen=True, slots=True)
class Lock:
    """A driver that works on the experiment, or asks to.

    Attributes:
        run_id: of its MLflow run.
        started: by its own clock, ms since 1970.
        tags: of the run.
    """

    run_id: str
    started: int
    tags: Mapping[str, str]
