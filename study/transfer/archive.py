"""An archive of a study: a ZIP file that needs no program of ours to be read and checked.

`trials.jsonl` has a line for each run of a trial, `trials/KEY/` its metrics (`points.parquet`) and artifacts,
`studies/SPACE/` the report and what else a space keeps, `checkpoints/` and `results/` what a storage holds of
trials that are not finished or not logged. `SHA256SUMS` has the digest of every other member.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from study.ledger.copies import Point
from study.ledger.records import TrialRecord
from study.transfer.origins import Study, Unreadable
from trainables.storage.bundles import FILE

FORMAT = 1
"""Raised when older versions could misread an archive."""
ABOUT, TRIALS, SUMS, CRATE, README = (
    *("study.json", "trials.jsonl", "SHA256SUMS"),
    *("ro-crate-metadata.json", "README.md"),
)
POINTS = "points.parquet"
KEY = re.compile(r"[0-9a-f]{16}")
COMPRESSED = (".npz", ".parquet", ".png", ".zip")
"""Files that compressing again makes no smaller."""
CHUNK = 2**20
LARGEST_TEXT = 2**28
"""Bytes of a table of contents: more would fill the memory of whoever opens a hostile archive."""
DAMAGE = (KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
"""What reading a damaged member raises."""


class ArchiveError(ValueError):
    """A file is no archive of a study, or cannot be read; the message says why."""


class ArchiveWriter:
    """Writes an archive. It appears under its name when it is complete.

    The same members give the same bytes: they have one date, and are written in the order in which they are
    given.
    """

    def __init__(self, file: Path) -> None:
        """Begin an archive that will be `file`."""
        self._file = file
        self._draft = file.with_name(f".{file.name}.partial")
        self._held = self._draft.open("a")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, whatever ends it
            ours = os.path.samestat(os.fstat(self._held.fileno()), self._draft.stat())
        except OSError:
            ours = False
        if not ours:
            self._held.close()
            raise ArchiveError(f"{file} is being written by another process")
        self._zip = zipfile.ZipFile(self._draft, "w", allowZip64=True)
        self.members: dict[str, tuple[int, str]] = {}
        """Size and SHA-256 of what is written."""

    def add(self, name: str, content: bytes) -> None:
        """Add a member."""
        self._add(name, io.BytesIO(content), len(content))

    def add_file(self, name: str, path: Path) -> None:
        """Add a file as a member."""
        with path.open("rb") as file:
            self._add(name, file, path.stat().st_size)

    def _add(self, name: str, content: BinaryIO, size: int) -> None:
        about = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        about.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
        about.external_attr = 0o644 << 16
        about.file_size = size
        digest = hashlib.sha256()
        with self._zip.open(about, "w") as member:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                member.write(chunk)
        self.members[name] = (size, digest.hexdigest())

    def close(self) -> str:
        """Write the digests and give the archive its name; returns its own SHA-256."""
        sums = "".join(f"{digest}  {name}\n" for name, (_, digest) in sorted(self.members.items()))
        self.add(SUMS, sums.encode())
        self._zip.close()
        with self._draft.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        os.replace(self._draft, self._file)
        self._held.close()
        return digest

    def abandon(self) -> None:
        """Leave no trace."""
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()
        self._draft.unlink(missing_ok=True)
        self._held.close()


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


def trial_member(key: str, name: str) -> str:
    """Name of the member with a trial's file."""
    return f"trials/{key}/{name}"


def study_member(space: str, name: str) -> str:
    """Name of the member with a study's file."""
    return f"studies/{quote(space, safe='+')}/{name}"


def row(record: TrialRecord) -> str:
    """The line of a trial in `trials.jsonl`."""
    return json.dumps(dataclasses.asdict(record), sort_keys=True)


def points_file(points: list[Point]) -> bytes:
    """The points of a trial as a Parquet file."""
    columns = list(zip(*points, strict=True)) or [(), (), (), ()]
    types = (pa.string(), pa.float64(), pa.int64(), pa.int64())
    table = pa.table(
        {
            name: pa.array(column, type=kind)
            for name, column, kind in zip(Point._fields, columns, types, strict=True)
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
