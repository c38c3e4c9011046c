"""Whether the backbones of a study can run on its images, asked before anything starts."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from trainables.data import image_size
from trainables.trial import BACKBONES, TrialConfig

ROOT = Path(__file__).resolve().parents[1]
SAFE_SIZE = 32
"""Every built-in backbone runs on images of this size and larger."""


def check(trials: Iterable[TrialConfig], data_dir: Path) -> None:
    """Raise ValueError for a backbone that does not exist or cannot run at its dataset's image size.

    Built-in backbones at usual sizes are known to run. The others are tried in a process of its own: it
    imports PyTorch, which the command line does not.
    """
    pairs = dict.fromkeys((trial.backbone, trial.feature_dim, trial.dataset) for trial in trials)
    sizes = {dataset: image_size(dataset, data_dir) for dataset in {dataset for *_, dataset in pairs}}
    unknown = [
        (name, width, sizes[dataset])
        for name, width, dataset in pairs
        if name not in BACKBONES or sizes[dataset] < SAFE_SIZE
    ]
    if not unknown:
        return
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "trainables.models", json.dumps(unknown)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(
            f"backbone: {', '.join(dict.fromkeys(n for n, *_ in unknown))} cannot be tried ({reason})"
        )
    complaints = list(dict.fromkeys(text for text in json.loads(done.stdout) if text))
    if complaints:
        raise ValueError("; ".join(complaints))
