"""The artifacts of runs as local files."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from study.ledger import sqlite_reader
from study.ledger.store import Store
from study.ledger.tracking_uri import local_folder
from trainables.redact import first_line


@dataclass(slots=True)
class Artifacts:
    """Where the artifacts of an experiment's runs lie, or have been downloaded to.

    `root` is the output's own folder for them. `unread` has those that could not be read when they were last
    asked for: run and name, and where they should be.
    """

    store: Store
    root: Path
    unread: dict[tuple[str, str], str] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict, repr=False)
    _downloads: Path | None = field(default=None, repr=False)

    def path(self, run_id: str, name: str) -> Path:
        """Local path of an artifact, downloaded once and deleted at exit; OSError where that fails."""
        where = "an unknown place"
        try:
            where = self._address(run_id)
            folder = local_folder(where)
            path = self._download(run_id, name) if folder is None else self._here(run_id, folder) / name
            where = str(path)
            if not path.exists():
                raise FileNotFoundError(f"run {run_id}: {path} does not exist")
        except OSError:
            self.unread[run_id, name] = where
            raise
        self.unread.pop((run_id, name), None)
        return path

    @contextlib.contextmanager
    def reading(self, run_id: str, name: str) -> Iterator[Path]:
        """`path`, for reading it within the context: a damaged file counts as `unread`, too."""
        path = self.path(run_id, name)
        try:
            yield path
        except Exception:
            self.unread[run_id, name] = str(path)
            raise

    def local_folder(self, run_id: str) -> Path | None:
        """The folder of a run's artifacts, which need not exist; None where a server has them."""
        folder = local_folder(self._address(run_id))
        return None if folder is None else self._here(run_id, folder)

    def names(self, run_id: str) -> list[str]:
        """Names of the files that a run keeps; folders are left out."""
        local = self.local_folder(run_id)
        if local is not None:
            return sorted(path.name for path in local.iterdir() if path.is_file()) if local.is_dir() else []
        with _by_the_client(run_id):
            return sorted(file.path for file in self.store.client.list_artifacts(run_id) if not file.is_dir)

    def forget_addresses(self) -> None:
        """Look addresses up again: they have changed."""
        self._addresses.clear()

    def _address(self, run_id: str) -> str:
        """The address of a run's artifacts, as the store has it."""
        database = self.store.sqlite_file
        if run_id not in self._addresses and database is not None:  # importing MLflow's client takes seconds
            with contextlib.suppress(sqlite_reader.UnsupportedSchema):
                known = sqlite_reader.read_artifact_addresses(database, self.store.experiment_id)
                self._addresses.update(known)
        if run_id not in self._addresses:
            with _by_the_client(run_id):
                self._addresses[run_id] = self.store.client.get_run(run_id).info.artifact_uri
        return self._addresses[run_id]

    def _here(self, run_id: str, folder: Path) -> Path:
        """The folder of a run's artifacts: in this output if it is there, for the output may be a copy."""
        own = self.root / run_id / "artifacts"
        return own if self.store.sqlite_file is not None and own.is_dir() else folder

    def _download(self, run_id: str, name: str) -> Path:
        if self._downloads is None:
            # MLflow itself would make a folder for each call, and remove none.
            self._downloads = Path(tempfile.mkdtemp(prefix="study-artifacts-"))
            atexit.register(shutil.rmtree, self._downloads, ignore_errors=True)
        path = self._downloads / run_id / name
        if not path.exists():
            with _by_the_client(run_id), tempfile.TemporaryDirectory(dir=self._downloads) as scratch:
                draft = self.store.client.download_artifacts(run_id, name, scratch)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(draft, path)
        return path

    @contextlib.contextmanager
    def borrowed(self, run_id: str, name: str) -> Iterator[Path]:
        """`path` for a while: a downloaded copy, which may be large, is deleted afterwards."""
        path = self.path(run_id, name)
        try:
            yield path
        finally:
            if self._downloads is not None and self._downloads in path.parents:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _by_the_client(run_id: str) -> Iterator[None]:
    """Turn the errors of MLflow's client into OSError."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise OSError(f"run {run_id}: {first_line(error)}") from error
