"""MLflow as the ledger: which trials are finished, with their metrics and artifacts.

One experiment, one run a trial, found by the tag `trial.key`. This is the only module that imports
MLflow, and it does so late: importing it takes seconds that `--help` has not got.
"""

import argparse
import atexit
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from study.ledger import credentials, sqlite_reader, tracking_uri
from study.ledger.garbage import collecting_later
from study.ledger.records import DATA, FINAL, PRUNED, Lock, TrialRecord
from study.ledger.tracking_uri import LedgerError
from trainables.redact import first_line
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_EXPERIMENT = "siamese-barlow-twins"
PAGE = 5000
MOST_METRICS = 1000
"""That one request may carry."""


@dataclass(slots=True)
class Ledger:
    """An experiment in an MLflow store. Creating this object touches nothing.

    Attributes:
        uri: MLflow tracking URI.
        experiment: name of the experiment.
        artifact_root: absolute folder for artifacts where the store is a local database; a tracking
            server decides for itself.
    """

    uri: str
    experiment: str
    artifact_root: Path
    _client: "MlflowClient | None" = field(default=None, repr=False)
    _experiment_id: str | None = field(default=None, repr=False)
    _downloads: Path | None = field(default=None, repr=False)

    def trials(self, keys: Iterable[str] | None = None) -> dict[str, TrialRecord]:
        """The trials in the ledger by key; none where it does not exist yet. Creates nothing.

        Args:
            keys: only these; None: all.
        """
        if not self.exists():
            return {}
        wanted = None if keys is None else set(keys)
        records = self._quick_trials()
        if records is None:
            records = [_record(run) for run in self._search("tags.kind = 'trial'")]
        return {record.key: record for record in records if wanted is None or record.key in wanted}

    def _quick_trials(self) -> list[TrialRecord] | None:
        """The trials of a local database; None where the client has to be asked."""
        file = tracking_uri.sqlite_file(self.uri)
        if file is None:
            return None
        try:
            return [
                TrialRecord(
                    key=run.tags["trial.key"],
                    run_id=run.run_id,
                    status=run.status,
                    params=run.params,
                    tags=_without_mlflows(run.tags),
                    metrics={name.removeprefix(FINAL): value for name, value in run.metrics.items()},
                    changed=run.changed,
                )
                for run in sqlite_reader.trials(file, self.experiment_id, FINAL)
            ]
        except sqlite_reader.NotQuick:
            return None

    def exists(self) -> bool:
        """Whether the store and the experiment are there."""
        file = tracking_uri.sqlite_file(self.uri)
        if file is not None and not file.exists():
            return False
        return self._find_experiment() is not None

    def check(self) -> None:
        """Raise LedgerError where MLflow itself cannot use the store, which reading may not notice."""
        file = tracking_uri.sqlite_file(self.uri)
        if file is None or file.exists():
            with self._asking():
                self.client.get_experiment_by_name(self.experiment)

    def open(self) -> None:
        """Create the store and the experiment where missing. For the one driver that holds the lock."""
        file = tracking_uri.sqlite_file(self.uri)
        if file is not None and not file.exists():
            tracking_uri.create_sqlite(file)
        if self._find_experiment() is None:
            location = None if self.uri.startswith("http") else self.artifact_root.absolute().as_uri()
            with self._asking():
                try:
                    self._experiment_id = self.client.create_experiment(self.experiment, location)
                except Exception:
                    # Made in this moment by another driver, or by ourselves: the client repeats a request
                    # whose answer was lost.
                    if self._find_experiment() is None:
                        raise

    def kill_orphans(self) -> None:
        """Mark RUNNING trials as KILLED: while the lock is ours, nobody runs them.

        One without params is deleted: its driver died between making it and saying what it is.
        """
        for run in list(self._search("tags.kind = 'trial' and attributes.status = 'RUNNING'")):
            if run.data.params:
                self.kill(run.info.run_id)
            else:
                self.client.delete_run(run.info.run_id)

    def run_of(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        """Id of the trial's run, which is made if there is none, with these tags.

        A run is found by its key before and after one is created: MLflow's client repeats a request
        whose answer was lost, which can leave two. The oldest is kept.

        Args:
            config: of the trial.
            tags: of this attempt.
            started: when the trial began, ms since 1970; None: now.
        """
        from mlflow.entities import Param, RunTag

        runs = self._runs_of(config.key)
        for run in [run for run in runs if _of_other_data(run, tags)]:
            self.retire(run.info.run_id)
            runs.remove(run)
        if not runs:
            known_by = {"kind": "trial", "trial.key": config.key, "arm": config.arm}
            self.client.create_run(self.experiment_id, started, known_by, config.name)
            runs = self._runs_of(config.key)
        first, *doubles = runs
        for double in doubles:
            self.client.delete_run(double.info.run_id)
        run_id = str(first.info.run_id)
        # Every time: whoever created the run may have died before it had logged these.
        self.client.log_batch(
            run_id,
            params=[Param(name, value) for name, value in config.to_params().items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        return run_id

    def begin(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        """Set the trial's run RUNNING and count the attempt; returns its id. Arguments as of `run_of`."""
        run_id = self.run_of(config, tags, started)
        known = self.client.get_run(run_id).data.tags
        self.client.set_tag(run_id, "attempts", str(int(known.get("attempts", "0")) + 1))
        for of_before in ("failure", PRUNED):
            if of_before in known:
                self.client.delete_tag(run_id, of_before)
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def retire(self, run_id: str) -> None:
        """Set a run aside whose data have changed since: it stays to be looked at, but is a trial no more."""
        self.client.set_tag(run_id, "kind", "stale")
        if self.client.get_run(run_id).info.status == "RUNNING":
            self.kill(run_id)

    def logged_epochs(self, run_id: str) -> int:
        """The last epoch whose metrics the run has, 0 where there is none."""
        points = self.client.get_metric_history(run_id, "train/loss")
        return max((point.step for point in points), default=0)

    def log_epochs(self, run_id: str, rows: Iterable[Mapping[str, float]]) -> None:
        """Log rows of a history: each metric at step = epoch, at the row's own time."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for row in rows:
            points = [
                Metric(name, float(value), int(row["timestamp"]), int(row["epoch"]))
                for name, value in row.items()
                if name not in ("epoch", "timestamp")
            ]
            # An epoch is logged in one request or not at all: `logged_epochs` looks at one metric only.
            if len(batch) + len(points) > MOST_METRICS:
                self.client.log_batch(run_id, metrics=batch)
                batch = []
            batch += points
        if batch:
            self.client.log_batch(run_id, metrics=batch)

    def finish(
        self, run_id: str, metrics: Mapping[str, float], artifacts: Mapping[str, bytes], timestamp: int
    ) -> None:
        """Log final metrics and artifacts, then mark the run FINISHED.

        Args:
            run_id: of the trial, its epochs already logged.
            metrics: final ones, without prefix.
            artifacts: file name -> content.
            timestamp: of the last epoch, ms since 1970: logging again makes no second point.
        """
        from mlflow.entities import Metric

        points = [Metric(FINAL + name, value, timestamp, 0) for name, value in metrics.items()]
        self.client.log_batch(run_id, metrics=points)
        self.log_files(run_id, artifacts)
        self.client.set_terminated(run_id, "FINISHED")

    def fail(self, run_id: str, reason: str, traceback: str) -> None:
        """Mark the run FAILED, with the reason as tag and the traceback as artifact."""
        self.client.set_tag(run_id, "failure", reason[:500])
        self.log_files(run_id, {"traceback.txt": traceback.encode()})
        self.client.set_terminated(run_id, "FAILED")

    def is_finished(self, run_id: str) -> bool:
        """Whether the run is FINISHED."""
        return bool(self.client.get_run(run_id).info.status == "FINISHED")

    def kill(self, run_id: str) -> None:
        """Mark the run KILLED: interrupted, to be gone on with."""
        self.client.set_terminated(run_id, "KILLED")

    def prune(self, run_id: str, epoch: int) -> None:
        """Mark the run KILLED, stopped early after `epoch` epochs: its saved state is kept."""
        self.client.set_tag(run_id, PRUNED, str(epoch))
        self.kill(run_id)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, whatever its status."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """A metric of a trial by epoch."""
        with self._asking():
            points = self.client.get_metric_history(run_id, metric)
        return {int(point.step): float(point.value) for point in sorted(points, key=lambda point: point.step)}

    def stale_runs(self) -> list[str]:
        """Ids of the runs whose data have changed since, and that were trained again."""
        return [run.info.run_id for run in self._search("tags.kind = 'stale'")] if self.exists() else []

    def delete_runs(self, run_ids: Iterable[str]) -> None:
        """Delete runs; MLflow can restore them until it collects its garbage."""
        with self._asking():
            for run_id in run_ids:
                self.client.delete_run(run_id)

    def create_lock(self, tags: Mapping[str, str]) -> str:
        """Make a run of `kind=lock` with these tags; returns its id."""
        with self._asking():
            about = {"kind": "lock", **tags}
            run = self.client.create_run(self.experiment_id, tags=about, run_name="driver at work")
        return str(run.info.run_id)

    def locks(self) -> list[Lock]:
        """The runs of `kind=lock`."""
        runs = self._search("tags.kind = 'lock'")
        return [Lock(run.info.run_id, int(run.info.start_time), run.data.tags) for run in runs]

    def touch_lock(self, run_id: str, tags: Mapping[str, str]) -> bool:
        """Set tags of a lock; False where it was deleted. LedgerError where the store does not answer."""
        with self._asking():
            if self.client.get_run(run_id).info.lifecycle_stage != "active":
                return False
            for name, value in tags.items():
                self.client.set_tag(run_id, name, value)
        return True

    def log_study(self, space: str, files: Mapping[str, bytes]) -> None:
        """Log artifacts to the space's run of `kind=study`, which is made if there is none.

        Raises:
            LedgerError: the store does not take them.
        """
        with self._asking():
            runs = list(self._search(f"tags.kind = 'study' and tags.space = '{space}'"))
            if runs:
                run_id = min(runs, key=_age).info.run_id
            else:
                tags = {"kind": "study", "space": space}
                run_id = self.client.create_run(
                    self.experiment_id, tags=tags, run_name=f"study {space}"
                ).info.run_id
            self.log_files(run_id, files)
            self.client.set_terminated(run_id, "FINISHED")

    def log_files(self, run_id: str, files: Mapping[str, bytes], folder: str | None = None) -> None:
        """Log artifacts from memory, into `folder` of the run's artifacts."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in files.items():
                Path(scratch, name).write_bytes(content)
            self.client.log_artifacts(run_id, scratch, folder)

    def artifact(self, run_id: str, name: str) -> Path:
        """Local path of an artifact, downloaded first from a remote store: once in the life of this object.

        Raises:
            OSError: it is not there, or cannot be had.
        """
        from mlflow.exceptions import MlflowException

        try:
            where = self.client.get_run(run_id).info.artifact_uri
            if urlsplit(where).scheme in ("", "file"):
                return Path(self.client.download_artifacts(run_id, name))
            if self._downloads is None:
                # Left to itself MLflow makes a folder for each call, and removes none.
                self._downloads = Path(tempfile.mkdtemp(prefix="study-artifacts-"))
                atexit.register(shutil.rmtree, self._downloads, ignore_errors=True)
            whole = self._downloads / run_id / name
            if not whole.exists():
                with tempfile.TemporaryDirectory(dir=self._downloads) as folder:
                    draft = self.client.download_artifacts(run_id, name, folder)
                    whole.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(draft, whole)
            return whole
        except MlflowException as error:
            raise OSError(f"run {run_id}: {first_line(error)}") from error

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, made at first use."""
        if self._client is None:
            # Notices and progress bars between the lines of our console help nobody.
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
            # The writer tries again by itself; the client would do so in silence for minutes.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = MlflowClient(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """Id of the experiment.

        Raises:
            LedgerError: there is no such experiment.
        """
        found = self._find_experiment()
        if found is None:
            raise LedgerError(
                f"--experiment: no experiment {self.experiment!r} at {tracking_uri.redacted(self.uri)}"
            )
        return found

    def _find_experiment(self) -> str | None:
        if self._experiment_id is None:
            found = self._experiment()
            if found is not None and found.deleted:
                raise LedgerError(
                    f"--experiment: {self.experiment!r} was deleted; restore it with `mlflow experiments"
                    f" restore --experiment-id {found.id}`, or take another name"
                )
            self._experiment_id = None if found is None else found.id
        return self._experiment_id

    def _experiment(self) -> sqlite_reader.Experiment | None:
        file = tracking_uri.sqlite_file(self.uri)
        if file is not None:
            with contextlib.suppress(sqlite_reader.NotQuick):
                return sqlite_reader.find_experiment(file, self.experiment)
        with self._asking():
            found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return None
        return sqlite_reader.Experiment(
            found.experiment_id, found.lifecycle_stage == "deleted", int(found.creation_time or 0)
        )

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn what MLflow lets through of its database's and its transport's errors into a LedgerError."""
        try:
            yield
        except LedgerError:
            raise
        except Exception as error:
            line = first_line(error)
            raise LedgerError(
                f"--tracking-uri: no ledger at {tracking_uri.redacted(self.uri)}: {line}"
            ) from error

    def _search(self, condition: str, *, deleted: bool = False) -> Iterator["Run"]:
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        token = None
        while True:
            # A search makes a million objects: looking for cycles among them doubles its time.
            with self._asking(), collecting_later():
                page = self.client.search_runs(
                    [self.experiment_id], condition, view, max_results=PAGE, page_token=token
                )
            yield from page
            token = page.token
            if not token:
                return

    def _runs_of(self, key: str) -> list["Run"]:
        """Runs of a trial, oldest first."""
        return sorted(self._search(f"tags.kind = 'trial' and tags.`trial.key` = '{key}'"), key=_age)


def add_ledger_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which ledger is meant, the same for running and for analysing."""
    group = parser.add_argument_group("where results are")
    group.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("runs"),
        help="database, artifacts and Ray's files (default: runs)",
    )
    group.add_argument(
        "--experiment",
        metavar="NAME",
        default=DEFAULT_EXPERIMENT,
        help=f"MLflow experiment (default: {DEFAULT_EXPERIMENT})",
    )
    group.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///<output>/mlflow.db)",
    )


def ledger_from(args: argparse.Namespace) -> Ledger:
    """The ledger that parsed `add_ledger_arguments` describe.

    Raises:
        LedgerError: others could read the password that it takes.
    """
    output = args.output.absolute()
    uri = args.tracking_uri or f"sqlite:///{output / 'mlflow.db'}"
    try:
        credentials.check_tracking(uri)
    except ValueError as error:
        raise LedgerError(str(error)) from None
    return Ledger(uri=uri, experiment=args.experiment, artifact_root=output / "mlartifacts")


def _record(run: "Run") -> TrialRecord:
    info, data = run.info, run.data
    return TrialRecord(
        key=data.tags["trial.key"],
        run_id=info.run_id,
        status=info.status,
        params=data.params,
        tags=_without_mlflows(data.tags),
        metrics={
            name.removeprefix(FINAL): value for name, value in data.metrics.items() if name.startswith(FINAL)
        },
        changed=int(info.end_time or info.start_time or 0),
    )


def _without_mlflows(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if not name.startswith("mlflow.")}


def _of_other_data(run: "Run", tags: Mapping[str, str]) -> bool:
    before, now = run.data.tags.get(DATA), tags.get(DATA)
    return None not in (before, now) and before != now


def _age(run: "Run") -> tuple[int, str]:
    return (run.info.start_time, run.info.run_id)
