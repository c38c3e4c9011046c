"""The ledger's records, and the names of its tags and metrics that carry a meaning."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FINAL_PREFIX = "final/"
"""Prefix of final metrics; those of each epoch have none."""
PRUNED_TAG = "pruned.epoch"
"""Tag of a searched trial that was stopped early; its value is the number of trained epochs."""
DATA_TAG = "data.sha256"
"""Tag with the digest of the data that a trial was trained on."""
KEPT_TAG = "artifacts"
"""Tag of a finished trial with the names of its artifacts."""
LEFT_OUT_TAG = "left_out"
"""Tag of a trial that came in a lean archive: names of the files that it lacks, wholly or in part."""
WHOLE_TAG = "logged"
"""Tag of a trial's run that has all metrics and artifacts: it is finished, whatever its status says."""
MEASURED_TAG = "measured."
"""Beginning of the tag of a metric that was measured after the trial had finished; it says how."""
LARGEST = 1e100
"""A metric beyond it is no result. MLflow stores infinity as the largest float; squares of such overflow."""
DRIVER_TAG = "driver"
"""Tag of a trial's run on a server: the lease under which its driver writes, as the id of the lease's run."""
BEGUN_TAG = "attempt.begun"
"""Tag of a trial's run: when its last attempt began, ms since 1970. An attempt is counted once."""
LEASE_TAG, RELEASED = "lock.state", "released"
"""Tag of a lease's run: asking, held, or released by a driver that ended in order."""
FIRST_ARTIFACTS = "config.json embeddings.npz history.parquet predictions.npz"
"""What every trial kept before runs had that tag."""


def is_result(value: Any) -> Any:
    """Whether a metric is a number that can be computed with; for an array or a frame, of each."""
    return abs(value) < LARGEST  # NaN is not


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial in the ledger.

    Attributes:
        key: of the trial; empty for a run of somebody else's that calls itself a trial.
        status: RUNNING, FINISHED, FAILED or KILLED.
        params: the config's fields, as text.
        tags: without MLflow's own.
        metrics: final ones, without their prefix.
        changed: when the run last changed state, ms since 1970.
        name: of the run, on MLflow's pages.
        started: when the run began, ms since 1970; 0: not known.
    """

    key: str
    run_id: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    changed: int
    name: str = ""
    started: int = 0

    @property
    def kept(self) -> frozenset[str]:
        """Names of the artifacts that a finished trial's run has."""
        return frozenset(self.tags.get(KEPT_TAG, FIRST_ARTIFACTS).split())


def by_key(records: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """The records by key, from those of all runs, newest first; a finished one counts, or the oldest."""
    found: dict[str, TrialRecord] = {}
    for record in records:
        known = found.get(record.key)
        if known is None or record.status == "FINISHED" or known.status != "FINISHED":
            found[record.key] = record
    return found


def without_mlflow_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that this project has set."""
    return {name: value for name, value in tags.items() if not name.startswith("mlflow.")}
