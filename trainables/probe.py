"""Measure for a few seconds what trials would take, without training them: `study/run.py --plan --probe`.

Reads one JSON object from standard input (`threads`, `gpu`: the share of one, `cuda_graphs` and `kernels` as
on the command line, `files`: see `OwnFile.shipped`, `trials`: `params` and `data_dir` of each) and prints a
`Probe` as a JSON object on a line for each trial. It runs as a separate process, because the
command line does not load PyTorch.
"""

import contextlib
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables import data
from trainables.datasets.splits import stratified_choice, training_indices
from trainables.evaluate import evaluate
from trainables.evaluator import NO_FEATURES, Evaluator
from trainables.extensions.files import load_shipped
from trainables.graph import WARM_UP, Capture, cuda_graph
from trainables.machine import cap_gpu_memory, device_name
from trainables.models import build
from trainables.train import EpochRow, train
from trainables.trial import TrialConfig

SECONDS = 3.0
"""Of training that is measured, after the first epochs, which are slower."""
EPOCHS, BATCHES = 2, 2
"""Epochs that are measured at least, and batches of each."""
EVALUATED = 200
"""Images of each split that are evaluated, at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What was measured; `evaluate_seconds` for all metrics of `labelled` training and `test` test images."""

    device: str
    images_per_second: float
    evaluate_seconds: float
    labelled: int
    test: int


class _Enough(Exception):
    """Training has been measured for long enough."""


def probe(
    config: TrialConfig,
    data_dir: Path,
    *,
    device: str,
    threads: int,
    kernels: str = "deterministic",
    capture: Capture | None = None,
) -> Probe:
    """Train a few batches of a trial, and evaluate the untrained network on some images."""
    config = config.replace(fold="none")  # as fast, and measuring downloads nothing
    dataset = data.load(config.dataset, data_dir)
    whole = training_indices(config, dataset.train.labels).train
    few = min(len(whole), max(BATCHES * config.batch_size, len(dataset.classes)))
    shorter = config.replace(train_size=few, unlabeled_size=0, val_fraction=0, epochs=10**6)
    try:
        few = len(training_indices(shorter, dataset.train.labels).train)
    except ValueError:  # classes too small, or fewer labels than a batch: all of them, then
        shorter = config.replace(epochs=10**6)
        choice = training_indices(shorter, dataset.train.labels)
        few = len(choice.train) + len(choice.unlabelled)
    rows: list[EpochRow] = []
    started = time.monotonic()
    slower = 1 + (WARM_UP if capture else 0)  # of a batch at least

    def on_epoch(row: EpochRow) -> None:
        nonlocal started
        rows.append(row)
        if len(rows) == slower:
            started = time.monotonic()
        elif len(rows) >= slower + EPOCHS and time.monotonic() - started > SECONDS:
            raise _Enough

    how: dict[str, Any] = {"device": device, "threads": threads, "kernels": kernels, "capture": capture}
    with contextlib.suppress(_Enough):
        train(shorter, data_dir, **how, on_epoch=on_epoch)
    images = few // config.batch_size * config.batch_size * (len(rows) - slower)
    training = sum(row["epoch_seconds"] for row in rows[slower:])

    some = stratified_choice(dataset.train.labels[whole], EVALUATED)
    tested = stratified_choice(dataset.test.labels, EVALUATED)
    smaller = dataclasses.replace(
        dataset,
        test=data.Split(images=dataset.test.images[tested], labels=dataset.test.labels[tested]),
    )
    net = build(config, len(dataset.classes)).to(device)
    alone = shorter.replace(val_fraction=0)
    evaluator = Evaluator(config=alone, net=net, dataset=smaller, device=torch.device(device))
    started = time.monotonic()
    evaluate(evaluator, whole[some], NO_FEATURES)
    return Probe(
        device=device_name(device),
        images_per_second=images / training,
        evaluate_seconds=time.monotonic() - started,
        labelled=len(some),
        test=len(tested),
    )


def main() -> None:
    """Answer what is asked on standard input."""
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # what a file of your own prints is no part of the answer
        load_shipped(asked["files"])
    how: dict[str, Any] = {"device": "cpu", "threads": asked["threads"]}
    if asked["gpu"] and torch.cuda.is_available():
        cap_gpu_memory(asked["gpu"])
        how |= {"device": "cuda", "kernels": asked["kernels"]}
        how |= {"capture": cuda_graph} if asked["cuda_graphs"] else {}
    for trial in asked["trials"]:
        config = TrialConfig.from_params(trial["params"])
        try:
            with contextlib.redirect_stdout(sys.stderr):
                measured = probe(config, Path(trial["data_dir"]), **how)
            answer: dict[str, object] = dataclasses.asdict(measured)
        except Exception as error:  # of one trial; the others are measured
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
