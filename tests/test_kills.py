"""A study that is killed again and again ends like one that was left alone.

`KILLS=50 python -m pytest tests/test_kills.py` kills it more often than is good for every day.
"""

import contextlib
import io
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_run import ARMS, TINY, ledger, records, run, start

from study.ledger import TrialRecord

KILLS = int(os.environ.get("KILLS", "4"))
STUDY = [*TINY, "--set", "epochs=200", *ARMS, "--seeds", "2"]
"""Four trials of some ten seconds each."""
UNTIMED = ("train/loss", "train/ce", "train/bt", "train/acc", "val/acc", "lr")


def descendants(pid: int) -> list[int]:
    """All processes below one: Ray's have process groups and sessions of their own."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def kill_tree(process: subprocess.Popen[str]) -> None:
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study was run and left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, *STUDY)
    assert done.returncode == 0, done.stderr
    return folder


def outcome(folder: Path, record: TrialRecord) -> dict[str, Any]:
    """What a trial left in the ledger, but for what the clock decides."""
    of_run = ledger(folder)
    files = {
        name: of_run.artifact(record.run_id, name).read_bytes()
        for name in ("history.parquet", "predictions.npz", "embeddings.npz")
    }
    history = pd.read_parquet(io.BytesIO(files.pop("history.parquet")))
    points = {
        metric: sorted((p.step, p.value) for p in of_run.client.get_metric_history(record.run_id, metric))
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


def check_equal(folder: Path, undisturbed: Path) -> None:
    """The ledgers of two folders are the same, and nothing is left waiting."""
    ours, theirs = records(folder), records(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, record in ours.items():
        assert outcome(folder, record) == outcome(undisturbed, theirs[name]), name
    for left in ("results", "checkpoints"):
        assert list((folder / "runs" / left).iterdir()) == []


def saved_states(folder: Path) -> set[Path]:
    return set((folder / "runs").glob("checkpoints/*/[0-9]*"))


def wait_for_a_saved_state(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait until the study has saved something new; False where it has ended instead."""
    before, deadline = saved_states(folder), time.monotonic() + 90
    while saved_states(folder) <= before:
        assert time.monotonic() < deadline, "no state is saved"
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def test_killed_at_random_moments(tmp_path: Path, undisturbed: Path) -> None:
    """The whole process tree, with -9, while it starts, trains, logs, evaluates or renders."""
    chance = random.Random(0)  # noqa: S311  # not for secrets
    kills = at_work = 0
    complete = False
    while kills < KILLS:
        process = start(tmp_path, *STUDY)
        if kills % 2 or complete:
            time.sleep(chance.uniform(1, 16))
        elif wait_for_a_saved_state(process, tmp_path):
            at_work += 1
            time.sleep(chance.uniform(0, 4))
        else:
            complete = True  # from here on only what starts, looks and renders is killed
        if process.poll() is None:
            kill_tree(process)
            kills += 1
        else:
            process.communicate()
    done = run(tmp_path, *STUDY)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path, undisturbed)
    assert at_work >= 2, "the study was over too soon: this test tests nothing"
    print(f"{kills} kills, {at_work} of them soon after a state was saved")


def test_ctrl_c_and_then_a_lost_worker(tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path, *STUDY)
    assert wait_for_a_saved_state(process, tmp_path)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - asked < 20
    assert re.search(r"stopped by SIGINT: \d of 4 trials are missing\ngo on:    python ", out)

    process = start(tmp_path, *STUDY)
    assert process.stdout is not None
    for line in process.stdout:
        if "goes on after epoch" in line:
            break
    # Ray names a process after the method it runs.
    workers = [
        p for p in descendants(process.pid) if b"ray::ImplicitFunc" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]
    os.kill(workers[0], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    check_equal(tmp_path, undisturbed)
    attempts = [int(r.tags["attempts"]) for r in records(tmp_path).values()]
    # How many trials had begun when Ctrl-C came is chance; the lost worker's is begun once more in any case.
    assert sum(attempts) > len(attempts), "no worker was lost: this test tests nothing"
