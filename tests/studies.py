"""Studies through the real command line, for tests that disturb them and compare what comes out."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces import folder_name
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from trainables.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = ("epochs=3", "train_size=50", "batch_size=25", "feature_dim=32", "hidden_dim=32")
TINY = ["--space", "quickstart", *(word for setting in SETTINGS for word in ("--set", setting))]
JOINED = ["--space", "thesis,quickstart", "--only", "dataset=digits", *TINY[2:]]
"""`TINY` as a part of two spaces, of which the first has no trial left."""
ARMS = ["--only", "arm=ce,siamese-0.01"]
REPORT = f"reports/{folder_name('quickstart', only=ARMS[1:], assign=SETTINGS)}"
"""Where the report of `TINY` with `ARMS` is."""
EPOCHS = os.environ.get("EPOCHS", "20")
STUDY = [*TINY, "--set", f"epochs={EPOCHS}", *ARMS, "--set", "term=byol", "--seeds", "2", "--no-report"]
"""Four trials; `slowed_down`, of some six seconds each. BYOL has most state: predictor and target network."""
HALF_STUDY = [*STUDY, "--seeds", "1", "--max-concurrent", "1"]
"""Two of them, one after the other: a process that trains takes four seconds to begin."""
AFTER_IMPORT = """
import importlib.abc, importlib.util, sys


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
{then}

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""
"""For Python's start: runs code as soon as a module was imported, which is there as `module`."""
SLOWER = """
import time

real = module.train

def train(*arguments, on_epoch, **options):
    def after_epoch(row):
        on_epoch(row)
        time.sleep(0.25)

    return real(*arguments, on_epoch=after_epoch, **options)
"""
"""For the source of a `train`: the real one, asleep for most of the time."""
HOLD = """
def hold():
    import pathlib, time

    pathlib.Path({note!r}).touch()
    time.sleep(600)
"""
HOLD_RENAMING = """
import os

rename = os.replace

def replace(source, target):
    if any(part in str(target) for part in {parts!r}):
        hold()
    rename(source, target)

os.replace = replace
"""
HOLD_FINISHING = """
real = module.MlflowClient.set_terminated

def set_terminated(self, run_id, status=None):
    tags = self.get_run(run_id).data.tags
    here = status == "FINISHED" and tags.get("kind") == "trial" and {stage!r} in (None, tags.get("stage"))
    if here and {before}:
        hold()
    real(self, run_id, status)
    if here:
        hold()

module.MlflowClient.set_terminated = set_terminated
"""
HAS_A_GPU = """
import types, torch

torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda *device: "GPU that is none"
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(total_memory=80 * 2**30)
torch.cuda.set_per_process_memory_fraction = lambda fraction, device: None
"""
"""For the source of a `train`: PyTorch says that it has a GPU, where Ray only counts them."""
MPS_CONTROL = """#!/bin/sh
folder=$(dirname "$CUDA_MPS_PIPE_DIRECTORY")
pid="$CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid"
if [ "$1" = -d ]; then
    [ -z "$MPS_FAILS" ] || exit 1
    daemon="$(dirname "$0")/nvidia-cuda-mps-sleep"
    [ -e "$daemon" ] || cp "$(command -v sleep)" "$daemon"
    "$daemon" 600 &
    echo $! > "$pid"
    said=-d
else
    read -r said
    [ -z "$MPS_HANGS" ] || exec sleep 600
    [ ! -f "$pid" ] || kill "$(cat "$pid")"
fi
echo "$said $folder $CUDA_VISIBLE_DEVICES" >> {log}
"""
"""In place of NVIDIA's program: a daemon that sleeps, and a record of calls."""
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""For MLflow's server: not the dozen processes that wait for jobs which no study has."""
UNTIMED = ("train/loss", "train/ce", "train/byol", "train/acc", "val/acc", "lr")


def at_start(folder: Path, *sources: str) -> dict[str, str]:
    """Make every Python process with the returned environment, on any node, begin with this code.

    Args:
        folder: for a module that Python imports at its start.
        sources: the code.
    """
    (folder / "sitecustomize.py").write_text("\n".join(sources))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def mps_stand_in(folder: Path) -> dict[str, str]:
    """An environment in which `nvidia-cuda-mps-control` notes its calls in `folder`/calls."""
    program = folder / "bin/nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(MPS_CONTROL.replace("{log}", str(folder / "calls")))
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def _instead_of_train(train: str) -> str:
    return _after_import("trainables.train", f"{textwrap.dedent(train)}\nmodule.train = train")


def _after_import(module: str, then: str) -> str:
    return AFTER_IMPORT.format(module=module, then=textwrap.indent(then, " " * 12))


WITHOUT_TSNE = _after_import("analysis.plots.projections", "module._tsne = lambda values, start: start")
"""Source for `at_start`: four layouts of t-SNE are half of a small report; here each is PCA's."""


def stand_in_for_train(folder: Path, train: str) -> dict[str, str]:
    """As `at_start`; trials are trained by another function.

    Args:
        folder: for a module that Python imports at its start.
        train: source of a function `train`; `module` is there, the one whose function it replaces.
    """
    return at_start(folder, _instead_of_train(train))


def slowed_down(folder: Path, *sources: str) -> dict[str, str]:
    """As `at_start`; trials last seconds, so that they can be disturbed, and leave the CPU to others."""
    return at_start(folder, _instead_of_train(SLOWER), *sources)


def held(note: Path, *, renaming: Sequence[str] = (), finishing: str = "", stage: str | None = None) -> str:
    """Source for `at_start`: a process leaves `note` at a moment, and goes no further.

    Args:
        note: a file that is made.
        renaming: parts of paths: before a file or folder gets such a name.
        finishing: `before` or `after` a trial's run is marked FINISHED.
        stage: of a search, whose trials alone are meant.
    """
    hold = HOLD.format(note=str(note))
    if renaming:
        return hold + HOLD_RENAMING.format(parts=renaming)
    then = HOLD_FINISHING.format(before=finishing == "before", stage=stage)
    return hold + _after_import("mlflow.tracking.client", then)


def start(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """The command line in `folder`, in a process group of its own; a Ray that it starts sees no GPU."""
    ours = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    if "--address" not in arguments:  # a Ray that is there counts GPUs as it likes
        ours["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.Popen(
        [sys.executable, ROOT / "study/run.py", *arguments],
        cwd=folder,
        env={**ours, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments, environment=environment)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ledger(folder: Path, experiment: str = "siamese-barlow-twins") -> Ledger:
    return Ledger(
        uri=f"sqlite:///{folder}/runs/mlflow.db",
        experiment=experiment,
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
        for name in ("history.parquet", "predictions.npz", "embeddings.npz", "views.npz")
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
    metrics = {name: value for name, value in record.metrics.items() if METRICS[name].table != "cost"}
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


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 90) -> None:
    """Wait for something that a running study is about to do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.1)


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
