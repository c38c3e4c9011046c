"""Is the driver of a long study on a cluster steady? Its memory, and the seconds of a trial, by the clock.

    python benchmarks/cluster_scale.py [--trials 1600]

Three Ray nodes on this machine: a head that runs no trials and two nodes for one trial each. Trials do
nothing but report five epochs and hand over as many artifacts as real ones (`study_overhead.py`). All goes
through the command line, with saved results on a shared folder and MLflow on SQLite, as on a real cluster.
Prints a line for each tenth of the trials: when it was done, seconds a trial, and the driver's memory.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from study_overhead import ARMS, DOES_NOTHING, EPOCHS, RUN

PARTS = 10


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="Is the driver of a long study on a cluster steady?")
    parser.add_argument("--trials", type=int, default=1600, help=f"a multiple of {ARMS}")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        measure(folder, args.trials)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, trials: int) -> None:
    """Run the study and print what was seen."""
    from ray.cluster_utils import Cluster
    from studies import stand_in_for_train

    os.environ |= stand_in_for_train(folder, DOES_NOTHING)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    options = ["--space", "quickstart", "--seeds", str(trials // ARMS), "--set", f"epochs={EPOCHS}"]
    options += ["--no-report", "--address", cluster.address, "--storage", str(folder / "shared")]
    log = folder / "log"
    try:
        with log.open("w") as out:
            process = subprocess.Popen([*RUN, *options], cwd=folder, stdout=out, stderr=out)
        watch(process, log, trials)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, log.read_text()[-2000:]
    print(log.read_text().splitlines()[-1])


def watch(process: subprocess.Popen[bytes], log: Path, trials: int) -> None:
    """Print a line for each part of the study until it ends."""
    held = 0.0
    print(f"{'trials':>7} {'seconds':>8} {'s a trial':>10} {'driver, MB':>11}")
    before = (0, time.monotonic())
    began = before[1]
    part = 0
    while process.poll() is None:
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has just ended
            held = memory(process.pid)
        done = log.read_text().count("validation 50.0%")
        if done and not part:
            before, part = (done, time.monotonic()), 1  # what starts once is no trial's cost
            began = before[1]
        if done >= part * trials // PARTS and part:
            now = time.monotonic()
            each = (now - before[1]) / max(1, done - before[0])
            print(f"{done:7} {now - began:8.0f} {each:10.3f} {held:11.1f}", flush=True)
            before, part = (done, now), part + 1


def memory(pid: int) -> float:
    """Megabytes of a process that are its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return (values["Private_Clean"] + values["Private_Dirty"]) / 1000


if __name__ == "__main__":
    main()
