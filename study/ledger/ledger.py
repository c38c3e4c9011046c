"""MLflow as the ledger: which trials are finished, with their metrics and artifacts.

One experiment, one run a trial, found by the tag `trial.key`.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from study.ledger import sqlite_reader, tracking_uri, trial_runs
from study.ledger.artifacts import Artifacts
from study.ledger.moved import bring_along
from study.ledger.pages import REPORT, StudyReport, run_page
from study.ledger.records import BEGUN_TAG, KEPT_TAG, MEASURED_TAG, PRUNED_TAG, WHOLE_TAG, TrialRecord, by_key
from study.ledger.store import Store, final_points, record_of
from study.ledger.usable import tell
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

DEFAULT_EXPERIMENT = "siamese-barlow-twins"
MAX_METRICS = 1000
"""MLflow's limit for one request."""


@dataclass(slots=True)
class Ledger:
    """An experiment in an MLflow store. Creating this object touches nothing.

    `artifact_root` is the absolute folder for artifacts of a local database; a tracking server has its own.
    `driver` is the lease under which this process writes, as the id of its run; None where it needs none.
    """

    uri: str
    experiment: str
    artifact_root: Path
    driver: str | None = field(default=None, init=False)
    store: Store = field(init=False, repr=False)
    artifacts: Artifacts = field(init=False, repr=False)
    _told: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        """Name the store."""
        self.store = Store(self.uri, self.experiment)
        self.artifacts = Artifacts(self.store, self.artifact_root)

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, created at first use."""
        return self.store.client

    @property
    def experiment_id(self) -> str:
        """Id of the experiment; LedgerError where it does not exist."""
        return self.store.experiment_id

    def exists(self) -> bool:
        """Whether the store and the experiment exist. Creates nothing."""
        return self.store.find_experiment() is not None

    def check(self) -> None:
        """Raise LedgerError where MLflow itself cannot use the store, which reading may not notice."""
        file = self.store.sqlite_file
        if file is None or file.exists():
            with self.store.asking():
                self.client.get_experiment_by_name(self.experiment)

    def open(self) -> None:
        """Create the store and the experiment where missing. Only for the driver that holds the lock."""
        self.store.create(self.artifact_root)
        self.bring_artifacts_along()

    def bring_artifacts_along(self) -> Path | None:
        """Let artifacts lie in this output where it was renamed or copied: see `moved.bring_along`.

        Only for the driver that holds the lock. Creates nothing; returns the old folder, if there is one.
        """
        database = self.store.sqlite_file
        if database is None or not self.exists():
            return None
        with self.store.asking():
            old = bring_along(database, self.experiment_id, self.artifact_root)
        if old is not None:
            self.artifacts.forget_addresses()
        return old

    def arrange_pages(self) -> None:
        """Give an older experiment its views and description. Only for the driver that holds the lock."""
        if self.exists():
            self.store.arrange_pages()

    def trials(self) -> dict[str, TrialRecord]:
        """The trials in the ledger by key. Creates nothing; runs without a key are told once and left out."""
        if not self.exists():
            return {}
        records = self._records()
        strangers = [record.run_id for record in records if not record.key]
        if strangers and not self._told:
            self._told = True
            where = f"{tracking_uri.redacted(self.uri)}/{run_page(self.experiment_id, strangers[0])}"
            tell(
                f"runs with kind=trial and without trial.key are left out: {len(strangers)}, such as {where}"
            )
        return by_key(record for record in records if record.key)

    def _records(self) -> list[TrialRecord]:
        """Those of all runs of trials, newest first."""
        if self.store.sqlite_file is not None:  # read directly, where the schema is known
            with contextlib.suppress(sqlite_reader.UnsupportedSchema):
                return sqlite_reader.read_trials(self.store.sqlite_file, self.experiment_id)
        return [record_of(run) for run in self.store.search("tags.kind = 'trial'")]

    def kill_orphans(self) -> None:
        """Mark RUNNING trials as KILLED: while this driver holds the lock, nobody runs them.

        One without params is deleted: its driver died before it could log which trial it is. One that has all
        is FINISHED: its driver died just before it said so, or an older request arrived late and undid it.
        """
        for run in list(self.store.search("tags.kind = 'trial' and attributes.status = 'RUNNING'")):
            if "trial.key" not in run.data.tags:
                continue  # not ours
            if run.data.params:
                whole = WHOLE_TAG in run.data.tags
                self.client.set_terminated(run.info.run_id, "FINISHED" if whole else "KILLED")
            else:
                self.client.delete_run(run.info.run_id)

    def ensure_run(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        """Id of the trial's run with these tags; it is created where missing, as begun at `started` (ms)."""
        return trial_runs.ensure(self.store, self.driver, config, tags, started)

    def begin(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        """Set the trial's run (see `ensure_run`) to RUNNING and count the attempt; returns its id."""
        run_id = self.ensure_run(config, tags, started)
        run = self.client.get_run(run_id)
        current = run.data.tags
        if started is None or current.get(BEGUN_TAG) != str(started):  # else this is asked again
            attempts = int(current.get("attempts", "0")) + 1
            self.tag(run_id, {"attempts": str(attempts), BEGUN_TAG: str(started or "")})
        for outdated in ("failure", PRUNED_TAG):
            if outdated in current:
                self.client.delete_tag(run_id, outdated)
        if run.info.status != "RUNNING":  # a request that arrives late must not undo FINISHED
            self.client.update_run(run_id, status="RUNNING")
        return run_id

    def logged_epochs(self, run_id: str) -> int:
        """The last epoch whose metrics the run has, 0 where there is none."""
        points = self.client.get_metric_history(run_id, "train/loss")
        return max((point.step for point in points), default=0)

    def log_epochs(self, run_id: str, rows: Iterable[Mapping[str, float]]) -> None:
        """Log rows of a history: each metric at step = epoch, with the row's own timestamp."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for row in rows:
            points = [
                Metric(name, float(value), int(row["timestamp"]), int(row["epoch"]))
                for name, value in row.items()
                if name not in ("epoch", "timestamp")
            ]
            # An epoch is logged in one request or not at all: `logged_epochs` checks a single metric.
            if len(batch) + len(points) > MAX_METRICS:
                self.client.log_batch(run_id, metrics=batch)
                batch = []
            batch += points
        if batch:
            self.client.log_batch(run_id, metrics=batch)

    def finish(
        self, run_id: str, metrics: Mapping[str, float], artifacts: Mapping[str, bytes], timestamp: int
    ) -> None:
        """Log final metrics and artifacts, then mark the run FINISHED.

        `metrics` have no prefix; `timestamp` is that of the last epoch (ms since 1970), so that logging them
        again adds no second point.
        """
        from mlflow.entities import RunTag

        self.log_files(run_id, artifacts)
        tags = {KEPT_TAG: " ".join(sorted(artifacts)), WHOLE_TAG: "true"}
        points = final_points(metrics, timestamp)
        self.client.log_batch(run_id, metrics=points, tags=[RunTag(*tag) for tag in tags.items()])
        self.client.set_terminated(run_id, "FINISHED")

    def add_measured(self, run_id: str, metrics: Mapping[str, float], how: str, timestamp: int) -> None:
        """Log final metrics that were measured after the trial had finished, with a tag that says how.

        `metrics` have no prefix. The latest `timestamp` (ms since 1970) counts where there are two values.
        """
        from mlflow.entities import RunTag

        tags = [RunTag(MEASURED_TAG + name, how) for name in metrics]
        with self.store.asking():
            points = [self._as_the_latest(run_id, point) for point in final_points(metrics, timestamp)]
            self.client.log_batch(run_id, metrics=points, tags=tags)

    def _as_the_latest(self, run_id: str, point: "Metric") -> "Metric":
        """The point at a time that makes it count, should the clock have been set back."""
        from mlflow.entities import Metric

        known = self.client.get_metric_history(run_id, point.key)
        latest = max(known, key=lambda other: other.timestamp, default=None)
        if latest is None or latest.timestamp < point.timestamp:
            return point
        return (
            latest if latest.value == point.value else Metric(point.key, point.value, latest.timestamp + 1, 0)
        )

    def fail(self, run_id: str, reason: str, traceback: str) -> None:
        """Mark the run FAILED, with the reason as tag and the traceback as artifact."""
        self.client.set_tag(run_id, "failure", reason[:500])
        self.log_files(run_id, {"traceback.txt": traceback.encode()})
        self.client.set_terminated(run_id, "FAILED")

    def is_finished(self, run_id: str) -> bool:
        """Whether the run is FINISHED."""
        return bool(self.client.get_run(run_id).info.status == "FINISHED")

    def kill(self, run_id: str) -> None:
        """Mark the run KILLED: interrupted; a later attempt resumes it."""
        self.client.set_terminated(run_id, "KILLED")

    def prune(self, run_id: str, epoch: int) -> None:
        """Mark the run KILLED, stopped early after `epoch` epochs: its saved state is kept."""
        self.client.set_tag(run_id, PRUNED_TAG, str(epoch))
        self.kill(run_id)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, whatever its status."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """A metric of a trial by epoch."""
        with self.store.asking():
            points = self.client.get_metric_history(run_id, metric)
        return {int(point.step): float(point.value) for point in sorted(points, key=lambda point: point.step)}

    def stale_runs(self) -> list[str]:
        """Ids of runs whose data have changed, and that were trained again."""
        return [run.info.run_id for run in self.store.search("tags.kind = 'stale'")] if self.exists() else []

    def delete_runs(self, run_ids: Iterable[str]) -> None:
        """Delete runs; MLflow can restore them until `mlflow gc`."""
        with self.store.asking():
            for run_id in run_ids:
                self.client.delete_run(run_id)

    def log_study(self, space: str, files: Mapping[str, bytes]) -> None:
        """Log artifacts to the space's run of `kind=study`, which is created where missing.

        The experiment's description leads to a report among them.
        """
        with self.store.asking():
            run_id = self._study_run(space)
            self.log_files(run_id, files)
            self.client.set_terminated(run_id, "FINISHED")
        if REPORT in files:
            self.store.arrange_pages(StudyReport(space=space, run_id=run_id))

    def tag_study(self, space: str, tags: Mapping[str, str]) -> None:
        """Set tags of the space's run of `kind=study`, which is created where missing."""
        with self.store.asking():
            run_id = self._study_run(space)
            self.tag(run_id, tags)
            self.client.set_terminated(run_id, "FINISHED")

    def studies(self) -> dict[str, dict[str, str]]:
        """The tags of the run of `kind=study` of each space, by space, the oldest first."""
        return {space: tags for space, (_, tags) in self.study_runs().items()}

    def study_runs(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Id and tags of the run of `kind=study` of each space, by space, the oldest first."""
        if self.store.sqlite_file is not None:
            with contextlib.suppress(sqlite_reader.UnsupportedSchema):
                return sqlite_reader.read_studies(self.store.sqlite_file, self.experiment_id)
        with self.store.asking():
            runs = sorted(self.store.search("tags.kind = 'study'"), key=_age)
        studies: dict[str, tuple[str, dict[str, str]]] = {}
        for run in runs:
            if "space" in run.data.tags:
                studies.setdefault(run.data.tags["space"], (str(run.info.run_id), dict(run.data.tags)))
        return studies

    def study_tags(self, space: str) -> dict[str, str]:
        """The tags of a space's run of `kind=study`; empty where there is none."""
        return self.studies().get(space, {})

    def _study_run(self, space: str) -> str:
        """Id of the space's run, which is created where missing."""
        if known := self.study_runs().get(space):
            return known[0]
        tags = {"kind": "study", "space": space}
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=f"study {space}")
        return str(run.info.run_id)

    def log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Log artifacts from memory."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                Path(scratch, name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch)

    def artifact(self, run_id: str, name: str) -> Path:
        """Local path of an artifact, downloaded once and deleted at exit; OSError where that fails."""
        return self.artifacts.path(run_id, name)


def _age(run: "Run") -> tuple[int, str]:
    return (run.info.start_time, run.info.run_id)
