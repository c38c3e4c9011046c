"""How long it takes from a ledger to a tidy frame to a report.

    python benchmarks/report_time.py [--trials 100 1000 10000]

Ledgers of the space `ablations` (2 backbones x 2 datasets x 16 subsets x 5 arms x seeds) with made-up
metrics and no artifacts: histories and embeddings cannot be drawn, all else is. Seconds of: reading the
ledger, the frame from it, the report, and the report again when one trial has changed. The first report
also pays for what libraries do once a process.
"""

import argparse
import dataclasses
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from search_spaces import Selection, select
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger

ARMS_AND_CELLS = 320
"""Trials of a seed."""


def main() -> None:
    """Measure and print all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000])
    args = parser.parse_args()
    print(f"{'trials':>8}{'seeds':>8}{'read':>8}{'frame':>8}{'report':>8}{'one changed':>14}   seconds")
    for count in args.trials:
        with tempfile.TemporaryDirectory() as folder:
            seeds, trials = ablations(Path(folder), count)
            seconds = "".join(f"{value:8.1f}" for value in stages(Path(folder), seeds, trials))
            print(f"{trials:8}{seeds:8}{seconds}", flush=True)


def ablations(folder: Path, count: int) -> tuple[int, int]:
    """Make a ledger of about so many finished trials in `folder`/runs; returns its seeds and trials.

    Where there are fewer trials than three seeds have, it is the first subsets only.
    """
    import synthetic

    runs = folder / "runs"
    runs.mkdir(parents=True)
    ledger = ledger_in(folder)
    ledger.open()
    seeds = max(3, round(count / ARMS_AND_CELLS))
    selection = selection_of(seeds, count)
    made = [
        synthetic.Made(config=trial, metrics=synthetic.results(trial, gain=0.02))
        for trial in selection.trials
    ]
    synthetic.fill(runs / "mlflow.db", runs / "mlartifacts", made, experiment=DEFAULT_EXPERIMENT)
    return seeds, len(made)


def selection_of(seeds: int, count: int) -> Selection:
    """The trials of `ablations` with so many seeds; the first cells only where `count` is much smaller."""
    selection = select("ablations", seeds=seeds)
    if count > len(selection.trials) // 2:
        return selection
    cells = list(dict.fromkeys(trial.cell for trial in selection.trials))
    kept = set(cells[: max(1, count * len(cells) // len(selection.trials))])
    trials = tuple(trial for trial in selection.trials if trial.cell in kept)
    return dataclasses.replace(selection, trials=trials)


def ledger_in(folder: Path) -> Ledger:
    """The ledger of a study that ran in `folder`."""
    runs = folder / "runs"
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    return Ledger(uri=uri, experiment=DEFAULT_EXPERIMENT, artifact_root=runs / "mlartifacts")


def stages(folder: Path, seeds: int, count: int) -> list[float]:
    """Seconds of reading, framing, reporting, and reporting again after one trial has changed."""
    from analysis.report import render
    from analysis.trials import load

    selection, ledger = selection_of(seeds, count), ledger_in(folder)
    out = folder / "report"
    moments = [time.perf_counter()]
    records = ledger.trials()
    moments.append(time.perf_counter())
    trials = load(selection, records)
    moments.append(time.perf_counter())
    render(selection, trials, ledger, out)
    moments.append(time.perf_counter())
    trials.loc[0, ["run_id", "test_acc"]] = ["another", 0.5]
    render(selection, trials, ledger, out)
    moments.append(time.perf_counter())
    shutil.rmtree(out)
    return [after - before for before, after in itertools.pairwise(moments)]


if __name__ == "__main__":
    main()
