"""An archive that is read. Nothing of it is trusted."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from study.ledger.copies import Point
from study.ledger.records import TrialRecord
from study.transfer.members import (
    ABOUT,
    CHUNK,
    FORMAT,
    KEY,
    POINTS,
    SUMS,
    TRIALS,
    ArchiveError,
    code_member,
    study_member,
    trial_member,
)
from study.transfer.origins import Study, Unreadable
from trainables.storage.bundles import FILE

LARGEST_TEXT = 2**28
"""Bytes of a table of contents: more would fill the memory of whoever opens a hostile archive."""
DAMAGE = (KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What reading a damaged member raises."""


class Archive:
    """An archive that is read: an `Origin`. Its names, sizes and digests are checked: nothing is trusted."""

    def __init__(self, file: Path) -> None:
        """Open an archive; ArchiveError where it is none."""
        self.title = str(file)
        try:
            self._zip = zipfile.ZipFile(file)
            names = self._zip.namelist()
            if missing := {ABOUT, TRIALS, SUMS} - set(names):
                raise ArchiveError(f"{file} is no export of a study: it has no {min(missing)}")
            self.sums = dict(_parse_sum(line) for line in self._text(SUMS).splitlines())
            self.about: dict[str, Any] = json.loads(self._checked(ABOUT))
        except (*DAMAGE, ValueError) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{file} is no export of a study, or is damaged: {error}") from error
        if self.about.get("format") != FORMAT:
            given = self.about.get("format")
            raise ArchiveError(f"{file} has format {given!r}; allowed: {FORMAT}; another version exported it")

    def _text(self, name: str) -> str:
        if self._zip.getinfo(name).file_size > LARGEST_TEXT:
            raise ArchiveError(f"{self.title}: {name} is larger than {LARGEST_TEXT >> 20} MiB")
        return self._zip.read(name).decode()

    def _checked(self, name: str) -> str:
        text = self._text(name)
        if hashlib.sha256(text.encode()).hexdigest() != self.sums.get(name):
            raise ArchiveError(f"{self.title}: {name} is not what was exported (its SHA-256 differs)")
        return text

    @property
    def experiment(self) -> str:
        """Its name in the ledger."""
        return str(self.about["experiment"])

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self._checked(TRIALS).splitlines()]
        except ArchiveError:
            raise
        except (*DAMAGE, ValueError) as error:
            raise ArchiveError(f"{self.title}: {TRIALS} cannot be read: {error}") from error

    @cached_property
    def records(self) -> Mapping[str, TrialRecord]:
        """Its trials by key."""
        fields = [field.name for field in dataclasses.fields(TrialRecord)]
        try:
            records = [TrialRecord(**{name: row[name] for name in fields}) for row in self._rows]
        except (KeyError, TypeError) as error:
            raise ArchiveError(f"{self.title}: {TRIALS} lacks {error}") from error
        return {record.key: record for record in records if KEY.fullmatch(record.key)}

    @cached_property
    def _artifacts(self) -> dict[str, list[str]]:
        """Names of each trial's artifacts."""
        found: dict[str, list[str]] = {}
        for name in self._zip.namelist():
            file = re.fullmatch(rf"trials/({KEY.pattern})/({FILE.pattern})", name)
            if file and file[2] != POINTS:
                found.setdefault(file[1], []).append(file[2])
        return found

    @cached_property
    def studies(self) -> Mapping[str, Study]:
        """Its spaces by name."""
        return {
            space: Study(tags=tags, files=tuple(self._files_in(study_member(space, ""))))
            for space, tags in self.about["studies"].items()
        }

    def _files_in(self, folder: str) -> list[str]:
        """Names of the members in a folder; those of folders in it, and of any other form, are left out."""
        inside = (name.removeprefix(folder) for name in self._zip.namelist() if name.startswith(folder))
        return [name for name in inside if FILE.fullmatch(name)]

    @cached_property
    def waiting(self) -> frozenset[str]:
        """Keys of finished trials whose result no driver has logged yet."""
        names = (re.fullmatch(r"results/([0-9a-f]{16})\.zip", name) for name in self._zip.namelist())
        return frozenset(name[1] for name in names if name)

    def points(self, record: TrialRecord) -> list[Point]:
        """All values of a trial's metrics."""
        content = self.read(trial_member(record.key, POINTS))
        try:
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
            return [Point(row["name"], row["value"], row["timestamp"], row["step"]) for row in rows]
        except (KeyError, pa.ArrowException) as error:
            raise Unreadable(f"{self.title}: {trial_member(record.key, POINTS)}: {error}") from error

    @contextlib.contextmanager
    def files(self, record: TrialRecord) -> Iterator[Mapping[str, Path]]:
        """A trial's artifacts by name, unpacked within the context."""
        with tempfile.TemporaryDirectory(prefix="study-merge-") as scratch:
            found = {}
            for name in self._artifacts.get(record.key, ()):
                found[name] = Path(scratch, name)
                self._unpack(trial_member(record.key, name), found[name])
            if record.status == "FINISHED" and (missing := record.kept - found.keys()):
                raise Unreadable(f"{self.title}: trial {record.key} lacks {', '.join(sorted(missing))}")
            yield found

    def study_file(self, space: str, name: str) -> bytes:
        """One of a study's files."""
        return self.read(study_member(space, name))

    @cached_property
    def code(self) -> Sequence[str]:
        """Names of the files that say which code trained the trials."""
        return self._files_in(code_member(""))

    def code_file(self, name: str) -> bytes:
        """One of them."""
        return self.read(code_member(name))

    @cached_property
    def _states(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name in self._zip.namelist():
            if state := re.fullmatch(r"checkpoints/([0-9a-f]{16})/((\d{8,})-[0-9a-f]{8})", name):
                found.setdefault(state[1], {})[state[2]] = int(state[3])
        return found

    def states(self, key: str) -> Mapping[str, int]:
        """Names of the saved states of an unfinished trial, with the epoch of each."""
        return self._states.get(key, {})

    def stored(self, name: str) -> bytes:
        """A file of the storage."""
        return self.read(name)

    def read(self, name: str) -> bytes:
        """A member, whose digest is checked; raises Unreadable."""
        buffer = io.BytesIO()
        self._copy(name, buffer)
        return buffer.getvalue()

    def _unpack(self, name: str, path: Path) -> None:
        with path.open("wb") as file:
            self._copy(name, file)

    def _copy(self, name: str, target: BinaryIO) -> None:
        digest = hashlib.sha256()
        try:
            with self._zip.open(name) as member:
                while chunk := member.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
        except DAMAGE as error:
            raise Unreadable(f"{self.title}: {name} cannot be read: {error}") from error
        if digest.hexdigest() != self.sums.get(name):
            raise Unreadable(f"{self.title}: {name} is not what was exported (its SHA-256 differs)")

    def damaged(self) -> list[str]:
        """What is wrong with it, in lines for people: each member is read."""
        names = set(self._zip.namelist()) - {SUMS}
        lines = [f"{name} is missing" for name in sorted(self.sums.keys() - names)]
        lines += [f"{name} was not exported with it" for name in sorted(names - self.sums.keys())]
        with open(os.devnull, "wb") as nowhere:
            for name in sorted(names & self.sums.keys()):
                try:
                    self._copy(name, nowhere)
                except Unreadable as error:
                    lines.append(str(error))
        return lines


def _parse_sum(line: str) -> tuple[str, str]:
    digest, _, name = line.partition("  ")
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name:
        raise ArchiveError(f"{SUMS} has a line that is no digest and name: {line[:80]!r}")
    return name, digest
