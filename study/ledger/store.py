"""One experiment in an MLflow store: the client, and the questions that the ledger asks through it.

Only this module and its neighbours import MLflow, and they do so late: importing it takes seconds
that `--help` cannot spend.
"""

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from study.ledger import pages, sqlite_reader, tracking_uri
from study.ledger.records import FINAL_PREFIX, TrialRecord, without_mlflow_tags
from study.ledger.tracking_uri import LedgerError
from trainables.redact import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PAGE_SIZE = 5000


@dataclass(slots=True)
class Store:
    """An experiment, which may not exist yet. Creating this object touches nothing.

    Attributes:
        guard: called before each request; it raises where this process may not write any more.
    """

    uri: str
    experiment: str
    guard: Callable[[], None] | None = field(default=None, repr=False)
    _client: "MlflowClient | None" = field(default=None, repr=False)
    _experiment_id: str | None = field(default=None, repr=False)

    @property
    def client(self) -> "MlflowClient":
        """The MLflow client, created at first use; to be asked for anew before each request."""
        if self.guard is not None:
            self.guard()
        if self._client is None:
            # No notices and progress bars between the lines of our console.
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
            # The writer retries by itself; the client would retry silently for minutes.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = MlflowClient(self.uri)
        return self._client

    @property
    def sqlite_file(self) -> Path | None:
        """The file of a local database; None for other stores."""
        return tracking_uri.sqlite_file(self.uri)

    @property
    def experiment_id(self) -> str:
        """Id of the experiment; LedgerError where it does not exist."""
        experiment_id = self.find_experiment()
        if experiment_id is None:
            raise LedgerError(self.unknown_experiment)
        return experiment_id

    @property
    def unknown_experiment(self) -> str:
        """The error where the experiment does not exist."""
        text = f"--experiment: no experiment {self.experiment!r} at {tracking_uri.redacted(self.uri)}"
        if self.sqlite_file is not None and not self.sqlite_file.exists():
            text += "; there is no such file: was the study made in another folder, or with --output?"
        return text

    def find_experiment(self) -> str | None:
        """Id of the experiment, None where it does not exist; LedgerError where it was deleted."""
        if self.sqlite_file is not None and not self.sqlite_file.exists():
            return None  # MLflow's client would create it
        if self._experiment_id is None:
            experiment = self._lookup()
            if experiment is not None and experiment.deleted:
                raise LedgerError(
                    f"--experiment: {self.experiment!r} was deleted; restore it with `mlflow experiments"
                    f" restore --experiment-id {experiment.id}`, or take another name"
                )
            self._experiment_id = None if experiment is None else experiment.id
        return self._experiment_id

    def _lookup(self) -> sqlite_reader.Experiment | None:
        """The experiment as the store has it, deleted or not; None where it does not exist."""
        if self.sqlite_file is not None:
            with contextlib.suppress(sqlite_reader.UnsupportedSchema):
                return sqlite_reader.find_experiment(self.sqlite_file, self.experiment)
        with self.asking():
            found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            return None
        return sqlite_reader.Experiment(found.experiment_id, found.lifecycle_stage == "deleted")

    def create(self, artifact_root: Path) -> None:
        """Create the store and the experiment where missing. Only for the driver that holds the lock."""
        if self.sqlite_file is not None and not self.sqlite_file.exists():
            tracking_uri.create_sqlite(self.sqlite_file)
        if self.find_experiment() is not None:
            return
        location = None if self.uri.startswith("http") else artifact_root.absolute().as_uri()
        with self.asking():
            try:
                self._experiment_id = self.client.create_experiment(self.experiment, location)
            except Exception:
                # Another driver may have just created it, or the client itself: it repeats a request whose
                # answer was lost.
                if self.find_experiment() is None:
                    raise
        self.arrange_pages()

    def arrange_pages(self, report: pages.StudyReport | None = None) -> None:
        """Give MLflow's pages of the experiment what they lack: views, a description, a link to a new report.

        Trials do not depend on it: a store that does not take it is no error.
        """
        with contextlib.suppress(LedgerError), self.asking():
            present = self._tags()
            for name, text in pages.experiment_tags(self.experiment_id, present, report).items():
                if present.get(name) != text:
                    self.client.set_experiment_tag(self.experiment_id, name, text)

    def _tags(self) -> dict[str, str]:
        """The experiment's own tags."""
        if self.sqlite_file is not None:
            with contextlib.suppress(sqlite_reader.UnsupportedSchema):
                return sqlite_reader.read_experiment_tags(self.sqlite_file, self.experiment_id)
        return dict(self.client.get_experiment(self.experiment_id).tags)

    def search(self, condition: str) -> Iterator["Run"]:
        """The runs of the experiment that meet a condition in MLflow's syntax, without deleted ones."""
        token = None
        while True:
            with self.asking(), _without_garbage_collection():
                page = self.client.search_runs(
                    [self.experiment_id], condition, max_results=PAGE_SIZE, page_token=token
                )
            yield from page
            token = page.token
            if not token:
                return

    def tags_of(self, run_id: str) -> dict[str, str]:
        """The tags of a run, deleted or not; empty where `mlflow gc` has removed it."""
        from mlflow.exceptions import MlflowException

        try:
            return dict(self.client.get_run(run_id).data.tags)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Turn MLflow's errors, which include those of its database and its transport, into LedgerError."""
        try:
            yield
        except LedgerError:
            raise
        except Exception as error:
            where = tracking_uri.redacted(self.uri)
            raise LedgerError(f"--tracking-uri: no ledger at {where}: {first_line(error)}") from error


def final_points(metrics: Mapping[str, float], timestamp: int) -> list["Metric"]:
    """Final metrics as MLflow logs them, at step 0; `timestamp` in ms since 1970."""
    from mlflow.entities import Metric

    return [Metric(FINAL_PREFIX + name, value, timestamp, 0) for name, value in metrics.items()]


def record_of(run: "Run") -> TrialRecord:
    """A trial's run as a record."""
    info, data = run.info, run.data
    return TrialRecord(
        key=data.tags.get("trial.key", ""),
        run_id=info.run_id,
        status=info.status,
        params=data.params,
        tags=without_mlflow_tags(data.tags),
        metrics={
            name.removeprefix(FINAL_PREFIX): value
            for name, value in data.metrics.items()
            if name.startswith(FINAL_PREFIX)
        },
        changed=int(info.end_time or info.start_time or 0),
        name=info.run_name or "",
        started=int(info.start_time or 0),
    )


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """A search creates millions of objects; looking for cycles among them doubles its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
