"""Where trials come from: a ledger with its storage, or an archive that was exported from one."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from study.ledger import tracking_uri
from study.ledger.copies import Point, read_points
from study.ledger.kept_code import kept_code, read_code
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord, without_mlflow_tags
from trainables.redact import first_line
from trainables.storage.bundles import bundle_keys
from trainables.storage.checkpoints import Checkpoints, checkpoint_keys
from trainables.storage.filesystem import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """What a ledger has of a space beside its trials.

    Attributes:
        tags: of the space's run, such as the declared numbers of seeds.
        files: names of what it keeps: the report, own files.
    """

    tags: Mapping[str, str]
    files: tuple[str, ...]


class Unreadable(OSError):
    """A file that belongs to a trial cannot be read, or is not what it was; the message says which."""


class Origin(Protocol):
    """A study that can be copied."""

    @property
    def title(self) -> str:
        """What it is, for people; without passwords."""

    @property
    def experiment(self) -> str:
        """Its name in the ledger."""

    @property
    def records(self) -> Mapping[str, TrialRecord]:
        """Its trials by key."""

    @property
    def studies(self) -> Mapping[str, Study]:
        """Its spaces by name."""

    @property
    def waiting(self) -> frozenset[str]:
        """Keys of finished trials whose result no driver has logged yet."""

    def points(self, record: TrialRecord) -> list[Point]:
        """All values of a trial's metrics."""

    def files(self, record: TrialRecord) -> contextlib.AbstractContextManager[Mapping[str, Path]]:
        """A trial's artifacts by name, within the context; raises Unreadable."""

    def study_file(self, space: str, name: str) -> bytes:
        """One of a study's files; raises Unreadable."""

    @property
    def code(self) -> Sequence[str]:
        """Names of the files that say which code trained the trials."""

    def code_file(self, name: str) -> bytes:
        """One of them; raises Unreadable."""

    def states(self, key: str) -> Mapping[str, int]:
        """Names of the saved states of an unfinished trial, with the epoch of each."""

    def stored(self, name: str) -> bytes:
        """A file of the storage: `checkpoints/KEY/STATE` or `results/KEY.zip`; raises Unreadable."""


@dataclass
class LedgerOrigin:
    """A ledger, and the storage with what its trials have saved; None: only what the ledger has."""

    ledger: Ledger
    storage: Storage | None = None
    title: str = field(default="")

    def __post_init__(self) -> None:
        """Name it after its address."""
        self.title = self.title or tracking_uri.redacted(self.ledger.uri)

    @property
    def experiment(self) -> str:
        """Its name in the ledger."""
        return self.ledger.experiment

    @cached_property
    def records(self) -> Mapping[str, TrialRecord]:
        """Its trials by key, as of one moment."""
        _ = self.ledger.experiment_id  # LedgerError where there is none
        return dict(sorted(self.ledger.trials().items()))

    @cached_property
    def studies(self) -> Mapping[str, Study]:
        """Its spaces by name."""
        return {
            space: Study(tags=without_mlflow_tags(tags), files=tuple(self.ledger.artifacts.names(run_id)))
            for space, (run_id, tags) in sorted(self.ledger.study_runs().items())
        }

    @cached_property
    def waiting(self) -> frozenset[str]:
        """Keys of finished trials whose result no driver has logged yet."""
        return frozenset(bundle_keys(self.storage)) if self.storage else frozenset()

    def points(self, record: TrialRecord) -> list[Point]:
        """All values of a trial's metrics."""
        return read_points(self.ledger, record.run_id)

    @contextlib.contextmanager
    def files(self, record: TrialRecord) -> Iterator[Mapping[str, Path]]:
        """A trial's artifacts by name; a finished trial has all that its run says it keeps."""
        names = set(self.ledger.artifacts.names(record.run_id))
        if record.status == "FINISHED":
            names |= record.kept
        with contextlib.ExitStack() as stack:
            try:
                borrowed = self.ledger.artifacts.borrowed
                found = {name: stack.enter_context(borrowed(record.run_id, name)) for name in sorted(names)}
            except OSError as error:
                raise Unreadable(f"trial {record.key}: {first_line(error)}") from error
            yield found

    def study_file(self, space: str, name: str) -> bytes:
        """One of a study's files."""
        run_id, _ = self.ledger.study_runs()[space]
        try:
            with self.ledger.artifacts.borrowed(run_id, name) as path:
                return path.read_bytes()
        except OSError as error:
            raise Unreadable(f"space {space}: {first_line(error)}") from error

    @cached_property
    def code(self) -> Sequence[str]:
        """Names of the files that say which code trained the trials."""
        return kept_code(self.ledger)

    def code_file(self, name: str) -> bytes:
        """One of them."""
        try:
            return read_code(self.ledger, name)
        except OSError as error:
            raise Unreadable(first_line(error)) from error

    @cached_property
    def _with_states(self) -> frozenset[str]:
        return frozenset(checkpoint_keys(self.storage)) if self.storage else frozenset()

    def states(self, key: str) -> Mapping[str, int]:
        """Names of the saved states of an unfinished trial, with the epoch of each."""
        if self.storage is None or key not in self._with_states:
            return {}
        return {name: int(name.partition("-")[0]) for name in Checkpoints(self.storage, key).names()}

    def stored(self, name: str) -> bytes:
        """A file of the storage."""
        if self.storage is None:
            raise Unreadable(f"{name}: there is no storage")
        try:
            return self.storage.read(name)
        except OSError as error:
            raise Unreadable(f"{name}: {first_line(error)}") from error
