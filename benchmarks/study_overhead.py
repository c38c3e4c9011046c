"""What a trial costs around its training, beside Ray Tune's own MLflow callback and Optuna in processes.

    python benchmarks/study_overhead.py [--trials 200] [--peer-trials 30] [--finished 2000 10000]

Trials that do nothing report five epochs each, two slots at once, MLflow on SQLite:

- ours: the whole command line. Its workers run everything but `train`, which returns made-up results with
  as many artifacts as a real trial has. Seconds a trial are the slope between a run of --trials and one of a
  fifth of them: starting Ray is no trial's cost. Kilobytes a trial that the driver grows by are those of the
  second half of a longer run.
- Ray Tune: a function trainable, grid search, MLflowLoggerCallback, resources of one CPU, otherwise defaults.
- Optuna: a loop that asks a study in SQLite, and a process a trial that logs to MLflow, two at once.

Then the seconds of a call that has nothing to do, on ledgers of finished trials whose report is there.
"""

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

RUN = [sys.executable, str(ROOT / "study/run.py")]
EPOCHS = 5
ARMS = 4
"""Of the quickstart."""
AT_ONCE = 2

DOES_NOTHING = """
def train(config, data_dir, *, on_epoch, **rest):
    import time

    rows = []
    for epoch in range(1, config.epochs + 1):
        now = {"epoch": epoch, "timestamp": int(time.time() * 1000)}
        some = dict.fromkeys(("train/loss", "train/ce", "train/acc", "lr", "val/acc"), 0.5)
        rows.append({**now, **some, "epoch_seconds": 0.001, "images_per_second": 1.0})
        on_epoch(rows[-1])
    names = ("test_acc", "val_acc", "train_acc", "test_ce", "test_ece", "knn_acc", "view_cosine")
    metrics = dict.fromkeys(names, 0.5) | {"train_seconds": 0.001, "evaluate_seconds": 0.001}
    artifacts = {name: b"x" * 100_000 for name in ("embeddings.npz", "predictions.npz")}
    artifacts["history.parquet"] = module.to_parquet(rows)
    return module.TrialResult(metrics=metrics, history=tuple(rows), artifacts=artifacts)
"""

TUNE = """
import sys
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

def trial(config):
    for epoch in range(int(sys_epochs)):
        tune.report({"loss": 0.5, "ce": 0.5, "acc": 0.5, "val_acc": 0.5, "lr": 0.1})

folder, count, sys_epochs = sys.argv[1:]
logger = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="study")
tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    param_space={"seed": tune.grid_search(list(range(int(count))))},
    run_config=tune.RunConfig(storage_path=folder, name="tune", callbacks=[logger], verbose=0),
).fit()
"""

OPTUNA_TRIAL = """
import sys, mlflow, optuna
folder, number, epochs = sys.argv[1:]
study = optuna.load_study(study_name="study", storage=f"sqlite:///{folder}/optuna.db")
trial = study.ask()
seed = trial.suggest_int("seed", 0, 10**6)
mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
mlflow.set_experiment("study")
with mlflow.start_run():
    mlflow.log_params({"seed": seed})
    for epoch in range(int(epochs)):
        metrics = {"loss": 0.5, "ce": 0.5, "acc": 0.5, "val_acc": 0.5, "lr": 0.1}
        mlflow.log_metrics(metrics, step=epoch)
study.tell(trial, 0.5)
"""


def main() -> None:
    """Measure and print all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200, help="of ours")
    parser.add_argument("--peer-trials", type=int, default=30, help="of each peer, which take seconds each")
    parser.add_argument("--memory-trials", type=int, default=600, help="of ours, for the driver's memory")
    parser.add_argument("--finished", type=int, nargs="*", default=[2000, 10000], help="sizes of ledgers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = seconds_a_trial(folder, run_ours, args.trials)
        print(f"{'ours':28}{ours:8.3f} s a trial", flush=True)
        peers = {"Ray Tune + MLflow callback": run_tune, "Optuna + MLflow, processes": run_optuna}
        for peer, run in peers.items():
            seconds = seconds_a_trial(folder, run, args.peer_trials)
            print(f"{peer:28}{seconds:8.3f} s a trial, {seconds / ours:.1f} times ours", flush=True)
        grown = memory(Path(tempfile.mkdtemp(dir=folder)), args.memory_trials)
        print(f"memory of our driver: {grown:.0f} KB a trial", flush=True)
        for count in args.finished:
            found, seconds = nothing_to_do(folder / str(count), count)
            print(f"nothing to do, {found} finished: {seconds:.1f} s", flush=True)


def seconds_a_trial(folder: Path, run: Callable[[Path, int], None], count: int) -> float:
    """Seconds that a further trial costs, from a run of `count` and one of a fifth."""
    few = max(ARMS, count // 5 // ARMS * ARMS)
    seconds = {}
    for trials in (ARMS, few, count):  # the first is not used: what it reads is in memory then
        where = Path(tempfile.mkdtemp(dir=folder))
        started = time.monotonic()
        run(where, trials)
        seconds[trials] = time.monotonic() - started
    runs = ", ".join(f"{trials} trials in {taken:.1f} s" for trials, taken in seconds.items())
    print(f"  {run.__name__}: {runs}", flush=True)
    return (seconds[count] - seconds[few]) / (count - few)


def run_ours(folder: Path, count: int) -> None:
    """A study of trials that do nothing."""
    with _ours(folder, count) as study:
        study.wait()
    _check(study, folder)


def memory(folder: Path, count: int) -> float:
    """Kilobytes by which the driver grows a trial, from the middle of a long study to its end.

    Before that it still takes what its libraries keep: of every study the same.
    """
    samples: list[tuple[int, int]] = []  # finished trials, KB
    with _ours(folder, count) as study:
        while study.poll() is None:
            done = len(list(folder.glob("runs/mlartifacts/*")))
            status = Path(f"/proc/{study.pid}/status").read_text()
            held = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
            if done >= count / 2 and held:
                samples.append((done, held[0]))
            time.sleep(0.5)
    _check(study, folder)
    (trials, before), (all_trials, after) = samples[0], samples[-1]
    return (after - before) / (all_trials - trials)


def _ours(folder: Path, count: int) -> subprocess.Popen[bytes]:
    from studies import stand_in_for_train

    command = [*RUN, "--space", "quickstart", "--seeds", str(count // ARMS), "--set", f"epochs={EPOCHS}"]
    return _start([*command, "--no-report"], folder, **stand_in_for_train(folder, DOES_NOTHING))


def run_tune(folder: Path, count: int) -> None:
    """Ray Tune as its documentation shows it."""
    with _start([sys.executable, "-c", TUNE, str(folder), str(count), str(EPOCHS)], folder) as study:
        study.wait()
    _check(study, folder)


def run_optuna(folder: Path, count: int) -> None:
    """A process a trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name="study", storage=f"sqlite:///{folder}/optuna.db")

    def trial(number: int) -> None:
        command = [sys.executable, "-c", OPTUNA_TRIAL, str(folder), str(number), str(EPOCHS)]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)

    trial(0)  # makes the database; two at once might both do so
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(trial, range(1, count)))


def nothing_to_do(folder: Path, count: int) -> tuple[int, float]:
    """How many finished trials there are, and the seconds of a call that finds its report unchanged."""
    from report_time import ablations

    seeds, found = ablations(folder, max(count, 960))
    command = [*RUN, "--space", "ablations", "--seeds", str(seeds)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if "(unchanged)" not in done.stdout:
        raise SystemExit(f"rendered again:\n{done.stdout[-2000:]}")
    shutil.rmtree(folder)
    return found, seconds


def _start(command: list[str], folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    with (folder / "output.txt").open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env={**os.environ, **environment}
        )


def _check(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.returncode:
        raise SystemExit((folder / "output.txt").read_text()[-4000:])


if __name__ == "__main__":
    main()
