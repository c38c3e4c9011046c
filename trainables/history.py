"""The history of a trial as a table: one row an epoch, one column a metric."""

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def to_parquet(history: Sequence[Mapping[str, float]]) -> bytes:
    """The rows of `TrialResult.history` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in history]), buffer)
    return buffer.getvalue()


def from_parquet(content: bytes) -> list[dict[str, float]]:
    """The rows that `to_parquet` wrote."""
    rows: list[dict[str, float]] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows
