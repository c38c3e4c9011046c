"""How long a study of twelve small trials takes from the command to the report, and what its cores do.

    python benchmarks/quickstart.py [--epochs 60] [--seeds 3]

Runs `study/run.py --space quickstart` in an empty folder, as a new user does, then its report once more from
nothing. Prints seconds from the command to the end of the first epoch, as its worker's clock has it, to the
end of the last trial and to the end of the command; the share of the cores' time that nobody used while
trials waited, and from then to the last trial's end (of the whole machine: let nothing else run); seconds a
trial.
"""

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 0.1
"""Seconds between two looks at what the cores have done."""
Times = list[tuple[float, int, int]]
"""When, s since 1970, and by then the ticks of all cores, and those of them without work."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), ["--set", f"epochs={args.epochs}", "--seeds", str(args.seeds)])


def measure(folder: Path, options: list[str]) -> None:
    """Run the study and its report in a folder; print all figures."""
    times: Times = []
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(times, ended))
    watcher.start()
    began = time.time()
    _run(folder, "study/run.py", *options)
    whole = time.time() - began
    ended.set()
    watcher.join()
    database = sqlite3.connect(folder / "runs/mlflow.db")
    trials = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'trial.key')"
    (first,) = database.execute(
        f"SELECT min(timestamp) FROM metrics WHERE step = 1 AND {trials}"  # noqa: S608
    ).fetchone()
    count, begun, last = database.execute(
        f"SELECT count(*), max(start_time), max(end_time) FROM runs WHERE status = 'FINISHED' AND {trials}"  # noqa: S608
    ).fetchone()
    seconds = [
        value
        for (value,) in database.execute(
            "SELECT sum(value) FROM latest_metrics"
            " WHERE key IN ('final/train_seconds', 'final/evaluate_seconds') GROUP BY run_uuid"
        )
    ]
    shutil.rmtree(folder / "reports")
    reporting = time.time()
    _run(folder, "analysis/report.py", *options)
    print(f"trials: {count}")
    print(f"first epoch: {first / 1000 - began:.1f} s after the command")
    print(f"last trial: {last / 1000 - began:.1f} s")
    print(f"all, with the report: {whole:.1f} s")
    print(f"idle while trials waited: {_idle(times, first / 1000, begun / 1000):.1%}")
    print(f"idle from then to the last trial's end: {_idle(times, begun / 1000, last / 1000):.1%}")
    print(f"the report alone, as a command: {time.time() - reporting:.1f} s")
    print(f"seconds a trial: {sum(seconds) / len(seconds):.1f}")


def _run(folder: Path, script: str, *options: str) -> None:
    command = [sys.executable, str(ROOT / script), "--space", "quickstart", *options]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)


def _watch(times: Times, ended: threading.Event) -> None:
    """Take down what the cores do, until it is over; nothing where Linux does not tell."""
    while not ended.wait(PAUSE) and Path("/proc/stat").exists():
        ticks = [int(word) for word in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        times.append((time.time(), sum(ticks), ticks[3] + ticks[4]))  # without work, or waiting for a disk


def _idle(times: Times, first: float, last: float) -> float:
    """The share of the cores' time without work between two moments, s since 1970."""
    between = [(every, idle) for moment, every, idle in times if first <= moment <= last]
    if len(between) < 2:
        return float("nan")
    return (between[-1][1] - between[0][1]) / (between[-1][0] - between[0][0])


if __name__ == "__main__":
    main()
