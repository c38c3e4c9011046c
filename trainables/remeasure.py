"""Measures a finished trial again, from what its run keeps: no step of training."""

from collections.abc import Iterable
from pathlib import Path

import torch

from trainables import data
from trainables.datasets.splits import training_indices
from trainables.evaluate import from_predictions, measure
from trainables.evaluator import Evaluator
from trainables.machine import settle
from trainables.metrics import PREDICTIONS
from trainables.passes import Passes
from trainables.trial import TrialConfig
from trainables.weights import load


def device_here() -> str:
    """`cuda` where PyTorch sees a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def remeasure(
    config: TrialConfig,
    artifact: Path,
    names: Iterable[str],
    *,
    data_dir: Path,
    device: str,
    threads: int,
) -> dict[str, float]:
    """Metrics of a finished trial, from its weights or its predictions.

    They are those of the evaluation after training, to the last bit on the same kind of device with equal
    `threads`.

    Args:
        config: the trial.
        artifact: the file, by whose name it is known what it holds.
        names: of the metrics, all of which this artifact gives (`Metric.measured_from`).
        data_dir: where the prepared dataset is; not used for predictions.
        device: `cuda` or `cpu`.
        threads: CPU threads of PyTorch's operators, for the whole process.

    Raises:
        ValueError: the file is damaged.
        NonFiniteOutputs: features or scores are not finite.
    """
    settle(threads)
    if artifact.name == PREDICTIONS:
        return from_predictions(artifact.read_bytes(), names)
    dataset = data.load(config.dataset, data_dir, folds=config.fold != "none")
    net = load(artifact, config, len(dataset.classes)).to(device)
    choice = training_indices(config, dataset.train.labels, dataset.folds)
    evaluator = Evaluator(config=config, net=net, dataset=dataset, device=torch.device(device))
    return measure(Passes(evaluator=evaluator, train=choice.train, validation=choice.validation), names)
