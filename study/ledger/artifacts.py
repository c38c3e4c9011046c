"""The artifacts of runs as local files."""

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from study.ledger.store import Store
from trainables.redact import first_line


@dataclass(slots=True)
class Artifacts:
    """Where the artifacts of an experiment's runs lie, or have been downloaded to."""

    store: Store
    _downloads: Path | None = field(default=None, repr=False)

    def path(self, run_id: str, name: str) -> Path:
        """Local path of an artifact, downloaded once and deleted at exit; OSError where that fails."""
        from mlflow.exceptions import MlflowException

        client = self.store.client
        try:
            artifact_uri = client.get_run(run_id).info.artifact_uri
            if urlsplit(artifact_uri).scheme in ("", "file"):
                return Path(client.download_artifacts(run_id, name))
            if self._downloads is None:
                # MLflow itself would make a folder for each call, and remove none.
                self._downloads = Path(tempfile.mkdtemp(prefix="study-artifacts-"))
                atexit.register(shutil.rmtree, self._downloads, ignore_errors=True)
            path = self._downloads / run_id / name
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=self._downloads) as scratch:
                    draft = client.download_artifacts(run_id, name, scratch)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(draft, path)
            return path
        except MlflowException as error:
            raise OSError(f"run {run_id}: {first_line(error)}") from error

    @contextlib.contextmanager
    def borrowed(self, run_id: str, name: str) -> Iterator[Path]:
        """`path` for a while: a downloaded copy, which may be large, is deleted afterwards."""
        path = self.path(run_id, name)
        try:
            yield path
        finally:
            if self._downloads is not None and self._downloads in path.parents:
                path.unlink(missing_ok=True)
