"""Artifacts of runs, downloaded once."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainables.redact import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(slots=True)
class Downloads:
    """Artifacts that this process has downloaded; they are deleted when it ends."""

    _folder: Path | None = field(default=None, repr=False)

    def fetch(self, client: "MlflowClient", run_id: str, name: str) -> Path:
        """Local path of an artifact; OSError where it does not exist or cannot be downloaded."""
        from mlflow.exceptions import MlflowException

        try:
            artifact_uri = client.get_run(run_id).info.artifact_uri
            if urlsplit(artifact_uri).scheme in ("", "file"):
                return Path(client.download_artifacts(run_id, name))
            if self._folder is None:
                # MLflow itself would make a folder for each call, and remove none.
                self._folder = Path(tempfile.mkdtemp(prefix="study-artifacts-"))
                atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
            path = self._folder / run_id / name
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                    draft = client.download_artifacts(run_id, name, scratch)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(draft, path)
            return path
        except MlflowException as error:
            raise OSError(f"run {run_id}: {first_line(error)}") from error
