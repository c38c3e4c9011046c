"""What is left of a trial's files in a lean archive: what tables take, in kilobytes instead of megabytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from study.ledger.records import KEPT_TAG, LEFT_OUT_TAG, TrialRecord
from study.transfer.origins import Unreadable
from trainables.metrics import PREDICTIONS, WEIGHTS

ARRAYS: Mapping[str, Sequence[str]] = {
    PREDICTIONS: ("labels", "predicted"),
    "views.npz": ("classes",),
    "embeddings.npz": (),
    WEIGHTS: (),
    "traceback.txt": (),  # with paths of a machine; the reason stands in a tag
}
"""Of files that do not stay whole, the arrays that stay; without any, the file is left out."""


def lean_record(record: TrialRecord) -> TrialRecord:
    """The record of a trial; if it is finished, its tags say which of its files are whole."""
    short = record.kept & ARRAYS.keys()
    if not short or record.status != "FINISHED":  # the others will keep all files when they end
        return record
    tags = {KEPT_TAG: " ".join(sorted(record.kept - short)), LEFT_OUT_TAG: " ".join(sorted(short))}
    return replace(record, tags={**record.tags, **tags})


def lean_content(name: str, path: Path) -> bytes | None:
    """What stays of a file; None: nothing. Raises Unreadable."""
    if name not in ARRAYS:
        return path.read_bytes()
    if not ARRAYS[name]:
        return None
    buffer = io.BytesIO()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            left: dict[str, Any] = {key: _small(arrays[key]) for key in ARRAYS[name] if key in arrays}
            np.savez_compressed(buffer, **left)  # dated 1980: equal studies give equal bytes
    except Exception as error:  # zipfile and NumPy have a dozen for a file with wrong bytes
        raise Unreadable(f"{path}: {error}") from error
    return buffer.getvalue()


def _small(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Classes in the smallest type that has them all; other values as they are."""
    if values.dtype.kind not in "iu" or not values.size:
        return values
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))
