"""An archive of a study: a ZIP file that needs no program of ours to be read and checked.

`trials.jsonl` has a line for each run of a trial, `trials/KEY/` its metrics (`points.parquet`) and artifacts,
`studies/SPACE/` the report and what else a space keeps, `code/` what trained them, `checkpoints/` and
`results/` what a storage holds of trials that are not finished or not logged, `SHA256SUMS` all digests.
"""

import dataclasses
import io
import json
import re
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from study.ledger.copies import Point
from study.ledger.records import TrialRecord

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


class ArchiveError(ValueError):
    """A file is no archive of a study, or cannot be read; the message says why."""


def trial_member(key: str, name: str) -> str:
    """Name of the member with a trial's file."""
    return f"trials/{key}/{name}"


def study_member(space: str, name: str) -> str:
    """Name of the member with a study's file."""
    return f"studies/{quote(space, safe='+')}/{name}"


def code_member(name: str) -> str:
    """Name of the member with a file about code."""
    return f"code/{name}"


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
