"""What saving states and logging cost a ResNet-18 trial, as a share of its time.

    python benchmarks/safety_overhead.py [--epochs 20] [--images 1000]

Runs one trial through the command line, in a temporary folder: scikit-learn's digits, 32 x 32 pixels, two
views, the projector of the thesis, no validation images, one thread, fp32. The worker pays for saving and
reporting between two epochs; the driver pays for logging an epoch, which is timed on the same ledger.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from study.ledger import leases
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger


def main() -> None:
    """Run the trial and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    settings = {
        "backbone": "resnet18",
        "epochs": args.epochs,
        "train_size": args.images,
        "batch_size": 128,
        "val_fraction": 0,
        "hidden_dim": 2048,
        "feature_dim": 2048,
        "embedding_dim": 128,
        "precision": "fp32",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "study/run.py"), "--space", "quickstart", "--seeds", "1"]
        command += ["--only", "arm=siamese-0.01", "--no-report", "--data-dir", "data"]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        started = time.monotonic()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        wall = time.monotonic() - started
        ledger = Ledger(
            uri=f"sqlite:///{folder}/runs/mlflow.db",
            experiment=DEFAULT_EXPERIMENT,
            artifact_root=Path(folder, "runs/mlartifacts"),
        )
        (record,) = ledger.trials().values()
        history = pd.read_parquet(ledger.artifact(record.run_id, "history.parquet"))
        logging = _seconds_an_epoch(ledger, history)
    training, epochs = record.metrics["train_seconds"], history["epoch_seconds"].sum()
    gaps = history["timestamp"].diff().dropna() / 1000 - history["epoch_seconds"].iloc[1:]
    print(", ".join(f"{name} {record.tags[name]}" for name in ("device", "threads", "version.torch")))
    print(f"training            {training:8.1f} s, of which epochs {epochs:.1f} s")
    print(f"outside of epochs   {training - epochs:8.1f} s, {(training - epochs) / training:.2%} of training")
    print(f"  between epochs    {gaps.sum():8.1f} s, {gaps.sum() / training:.2%} (saving and reporting)")
    print(f"  longest gap       {gaps.max():8.2f} s (the state is saved)")
    print(
        f"logging an epoch    {logging * 1000:8.1f} ms of the driver, {logging * len(history) / training:.2%}"
    )
    print(f"command             {wall:8.1f} s")


def _seconds_an_epoch(ledger: Ledger, history: pd.DataFrame) -> float:
    """How long the ledger takes to log one epoch, in a run of its own."""
    run_id = leases.create(ledger, {})
    rows = history.to_dict("records")
    started = time.perf_counter()
    for row in rows:
        ledger.log_epochs(run_id, [row])
    return (time.perf_counter() - started) / len(rows)


if __name__ == "__main__":
    main()
