"""What `--keep weights` means for a study: how large the weights are, and which finished trials have none."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from study import ROOT
from study.ledger.records import TrialRecord
from trainables import data
from trainables.extensions.files import loaded
from trainables.metrics import WEIGHTS
from trainables.trial import TrialConfig

ARCHITECTURE = ("backbone", "feature_dim", "projector", "hidden_dim", "embedding_dim", "dataset")
"""Fields that decide how large a network is, the dataset by its number of classes."""


def describe(
    args: argparse.Namespace, trials: Sequence[TrialConfig], finished: Iterable[TrialRecord], data_dir: Path
) -> list[str]:
    """Lines for people on the weights of trials to run and of finished ones; none without `--keep weights`.

    With `--plan`, also how many bytes they will take, which takes seconds to find out.
    """
    if "weights" not in args.keep:
        return []
    lines = []
    if trials and args.plan:
        try:
            total = _total(_sizes(trials, data_dir))
            lines.append(f"weights:  to be kept of {len(trials)} trials: {total}")
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
            lines.append(f"weights:  their size is not known ({reason})")
    if without := sum(WEIGHTS not in record.kept for record in finished):
        lines.append(f"weights:  finished trials without, which are not trained again: {without}")
    return lines


def _total(sizes: Sequence[int]) -> str:
    """`1.2 GB, 37.4 MB to 149 MB each`."""
    low, high = format_bytes(min(sizes)), format_bytes(max(sizes))
    return f"{format_bytes(sum(sizes))}, {low if low == high else f'{low} to {high}'} each"


def _sizes(trials: Sequence[TrialConfig], data_dir: Path) -> list[int]:
    """Bytes of each trial's weights, asked from a process that imports PyTorch."""
    keys = [
        (*(getattr(trial, name) for name in ARCHITECTURE), trial.uses("embedding_dim")) for trial in trials
    ]
    kinds = dict(zip(keys, trials, strict=True))
    classes = {name: data.class_count(name, data_dir) for name in {trial.dataset for trial in trials}}
    asked = [(trial.to_params(), classes[trial.dataset]) for trial in kinds.values()]
    command = [sys.executable, "-W", "ignore", "-m", "trainables.weights"]
    request = json.dumps({"asked": asked, "files": [file.shipped for file in loaded()]})
    done = subprocess.run(command, cwd=ROOT, input=request, check=True, capture_output=True, text=True)
    sizes = dict(zip(kinds, json.loads(done.stdout), strict=True))
    return [sizes[key] for key in keys]


def format_bytes(count: int) -> str:
    """`1.2 GB`, `149 MB`, `83 kB`: powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1000:.0f} kB"
