"""Studies through the real command line, for tests that disturb them and compare what comes out."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("epochs=3", "train_size=50", "batch_size=25", "feature_dim=32", "hidden_dim=32")
TINY = ["--space", "quickstart", *(word for setting in SETTINGS for word in ("--set", setting))]
ARMS = ["--only", "arm=ce,siamese-0.01"]
EPOCHS = os.environ.get("EPOCHS", "100")
HALF_STUDY = [*TINY, "--set", f"epochs={EPOCHS}", *ARMS, "--seeds", "1", "--no-report"]
"""Two trials of some ten seconds each."""
STUDY = [*HALF_STUDY, "--seeds", "2"]
"""Four such trials."""
STAND_IN = """
import importlib.abc, importlib.util, sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "trainables.train":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
{train}
            module.train = train

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""
HAS_A_GPU = """
import types, torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *device: "GPU that is none"
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(total_memory=80 * 2**30)
torch.cuda.set_per_process_memory_fraction = lambda fraction, device: None
"""
"""For the source of a `train`: PyTorch says that it has a GPU, where Ray only counts them."""
UNTIMED = ("train/loss", "train/ce", "train/bt", "train/acc", "val/acc", "lr")


def stand_in_for_train(folder: Path, train: str) -> dict[str, str]:
    """Make every Python process with the returned environment, on any node, train by another function.

    Args:
        folder: for a module that Python imports at its start.
        train: source of a function `train`; `module` is there, the one whose function it replaces.
    """
    text = STAND_IN.format(train=textwrap.indent(textwrap.dedent(train), " " * 12))
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}


def start(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command line in `folder`, in a process group of its own."""
    ours = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return subprocess.Popen(
        [sys.executable, ROOT / "study/run.py", *arguments],
        cwd=folder,
        env={**ours, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ledger(folder: Path) -> Ledger:
    return Ledger(
        uri=f"sqlite:///{folder}/runs/mlflow.db",
        experiment="siamese-barlow-twins",
        artifact_root=folder / "runs/mlartifacts",
    )


def records(of: Path | Ledger) -> dict[str, TrialRecord]:
    found = list((ledger(of) if isinstance(of, Path) else of).trials().values())
    by_name = {f"{r.tags['arm']}/s{r.params['seed']}": r for r in found}
    assert len(by_name) == len(found), "a trial has two runs"
    return by_name


def outcome(of: Ledger, record: TrialRecord) -> dict[str, Any]:
    """What a trial left in the ledger, but for what the clock decides."""
    files = {
        name: of.artifact(record.run_id, name).read_bytes()
        for name in ("history.parquet", "predictions.npz", "embeddings.npz")
    }
    history = pd.read_parquet(io.BytesIO(files.pop("history.parquet")))
    points = {
        metric: sorted((p.step, p.value) for p in of.client.get_metric_history(record.run_id, metric))
        for metric in history.columns.intersection(UNTIMED)
    }
    for metric, logged in points.items():  # each epoch once, and as the trial's own history says
        assert logged == [*enumerate(history[metric], 1)], metric
    arrays = {
        f"{name}/{array}": content[array].tobytes()
        for name, file in files.items()
        for content in [np.load(io.BytesIO(file))]
        for array in content.files
    }
    metrics = {name: value for name, value in record.metrics.items() if "seconds" not in name}
    return {"key": record.key, "status": record.status, "metrics": metrics, "points": points, **arrays}


def check_equal(folder: Path, undisturbed: Path, *, seeds: int = 2, of: Ledger | None = None) -> None:
    """The ledger of `folder` (or `of`) is that of `undisturbed`, and nothing is left waiting in `folder`.

    Args:
        folder: where a study was disturbed.
        undisturbed: where `STUDY` was left alone.
        seeds: how many of its seeds were run in `folder`.
        of: where the ledger is not in `folder`.
    """
    ours, theirs = of or ledger(folder), ledger(undisturbed)
    found, expected = records(ours), records(theirs)
    expected = {name: record for name, record in expected.items() if int(record.params["seed"]) < seeds}
    assert found.keys() == expected.keys()
    for name, record in found.items():
        assert outcome(ours, record) == outcome(theirs, expected[name]), name
    # One run each, also of those that no record speaks for.
    runs = ours.client.search_runs([ours.experiment_id], "tags.kind = 'trial'")
    assert len(runs) == len(expected)
    for left in ("results", "checkpoints"):
        assert [list(path.iterdir()) for path in (folder / "runs").rglob(left)] == [[]]


def saved_states(folder: Path) -> set[Path]:
    return set((folder / "runs").glob("**/checkpoints/*/[0-9]*"))


def wait_for_a_saved_state(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait until the study has saved something new; False where it has ended instead."""
    before, deadline = saved_states(folder), time.monotonic() + 90
    while saved_states(folder) <= before:
        assert time.monotonic() < deadline, "no state is saved"
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def descendants(pid: int) -> list[int]:
    """A process and all below it: Ray's have process groups and sessions of their own."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def kill_tree(process: subprocess.Popen[Any]) -> None:
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train: Ray names one after the method that it runs."""
    return [
        p for p in descendants(process.pid) if b"ray::ImplicitFunc" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """Lines of its output up to the one that holds `text`."""
    lines = ""
    assert process.stdout is not None
    for line in process.stdout:
        lines += line
        if text in line:
            return lines
    _, errors = process.communicate()
    raise AssertionError(f"it ended with {process.returncode}, without {text!r}: {lines}{errors}")
