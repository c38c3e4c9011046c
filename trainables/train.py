"""A trial from its config to its result, in plain PyTorch."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables import data
from trainables.batches import VIEWS, sample_of_views, shuffled_batches
from trainables.datasets.splits import Choice, Indices, training_indices
from trainables.evaluate import evaluate, fit_classifier
from trainables.evaluator import NO_FEATURES, Evaluator
from trainables.fast.optimizer import SGD
from trainables.graph import Capture, Replayed
from trainables.machine import settle
from trainables.methods.term import Term
from trainables.metrics import WEIGHTS
from trainables.models import SiameseNet, build
from trainables.step import Step
from trainables.storage.bundles import TrialResult, to_parquet
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.state import DamagedState, Saver, State, unpack
from trainables.trial import TrialConfig
from trainables.usage import Meter
from trainables.weights import pack

EpochRow = dict[str, float]
RESIDENT_BYTES = 2**31
"""Training images up to this size are kept on a GPU; of larger sets each batch is fetched."""


class NonFiniteLoss(ArithmeticError):
    """The loss of a trial became infinite or not a number."""


def train(
    config: TrialConfig,
    data_dir: Path,
    *,
    device: torch.device | str = "cpu",
    threads: int = 1,
    checkpoints: Checkpoints | None = None,
    on_resume: Callable[[Sequence[Mapping[str, float]]], None] = lambda rows: None,
    on_epoch: Callable[[EpochRow], None] = lambda row: None,
    save_at: Container[int] = (),
    keep_weights: bool = False,
    meter: Meter | None = None,
    kernels: str = "deterministic",
    capture: Capture | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> TrialResult:
    """Train and evaluate one trial.

    The same config gives the same result to the last bit on CPUs of one kind with equal `threads`, whether
    it was interrupted or not.

    Args:
        config: what to train.
        data_dir: where prepared datasets are; a missing one is prepared.
        device: where to train.
        threads: CPU threads of PyTorch's operators, for the whole process.
        checkpoints: where the state is saved between epochs, and where an earlier attempt's is resumed from.
        on_resume: called once, with the rows of the epochs that an earlier attempt trained.
        on_epoch: called after each epoch with its row of the history. If it raises, the state is saved first.
        save_at: epochs after which the state is saved in any case, before `on_epoch` is called.
        keep_weights: whether the final weights are an artifact.
        meter: what measures the use of the machine, entered; None: nothing does.
        kernels: which of `catalogue.KERNELS` a GPU computes with.
        capture: how a step is captured so that it can be replayed, such as `cuda_graph`; None: it is not.
        on_note: called with a line for people if steps cannot be replayed.

    Raises:
        NonFiniteLoss: with epoch and term.
        ValueError: the config does not fit the data.
    """
    started = time.perf_counter()
    device, meter = torch.device(device), meter or Meter()
    settle(threads)
    dataset = data.load(config.dataset, data_dir, folds=config.fold != "none")
    choice = training_indices(config, dataset.train.labels, dataset.folds)
    # Labelled and unlabelled images are shuffled together.
    trained_on = np.concatenate([choice.train, choice.unlabelled])
    images, labels = _training_set(dataset, trained_on, device)
    where = f"{device.type}, {threads} threads"
    net, optimizer, state = _resumed(config, dataset, device, where, checkpoints=checkpoints, meter=meter)
    saver = Saver(checkpoints, net, optimizer)
    step = Step.of(config, net, optimizer, dataset.mean, dataset.std)
    train_on = Replayed(step, capture, on_note) if capture else step
    steps = len(trained_on) // config.batch_size
    evaluator = Evaluator(config=config, net=net, dataset=dataset, device=device)
    history = [dict(row) for row in state.history]
    on_resume(history)

    for epoch in range(state.epoch + 1, config.epochs + 1):
        epoch_started = time.perf_counter()
        settle(threads, kernels)
        net.train()
        step.sums.zero_()
        for number, batch in enumerate(shuffled_batches(config, len(trained_on), epoch)):
            targets = labels[batch.to(device, non_blocking=True)]  # a copy that waits would wait for the GPU
            inputs = step.inputs(images(batch), targets, epoch=epoch, number=number, steps=steps)
            train_on(inputs)
        # Read once an epoch: reading a number from a GPU waits for all the work queued on it.
        train_row = _train_row(config, step.term, step.sums.tolist(), steps, epoch)
        epoch_seconds = time.perf_counter() - epoch_started
        row = {
            "epoch": epoch,
            "timestamp": int(time.time() * 1000),
            **train_row,
            "lr": float(inputs.lr),
            "epoch_seconds": epoch_seconds,
            "images_per_second": steps * config.batch_size / epoch_seconds,
        }
        settle(threads)  # what is reported is measured by the usual kernels
        if len(choice.validation) and config.method != "unsupervised":  # which has no classifier yet
            row["val/acc"] = evaluator.outputs("train", choice.validation, None, keep=NO_FEATURES).accuracy
        history.append(row)
        reached = _reached(state, history, started, meter)
        saver.save_if_due(reached, at_once=epoch in save_at)
        try:
            on_epoch(row)
        except BaseException:  # this is where Tune ends a trial, with SystemExit
            saver.save(reached)
            raise

    del train_on  # a captured step keeps the memory of its activations and gradients
    optimizer.zero_grad()
    saver.save(_reached(state, history, started, meter))  # evaluating may take longer than many epochs
    result = _evaluated(evaluator, choice, history, state.seconds + time.perf_counter() - started)
    weights = {WEIGHTS: pack(config, net)} if keep_weights else {}
    sample = sample_of_views(config, images, labels, dataset.classes)
    return dataclasses.replace(
        result,
        metrics={**result.metrics, **meter.metrics()},
        artifacts={**result.artifacts, VIEWS: sample, **weights},
    )


def _evaluated(
    evaluator: Evaluator, choice: Choice, history: Sequence[EpochRow], train_seconds: float
) -> TrialResult:
    """The result of a trial whose training has ended."""
    started = time.perf_counter()
    config = evaluator.config
    if not all(parameter.isfinite().all() for parameter in evaluator.net.parameters()):
        # The loss of a step is computed before its update: only this sees the last one.
        raise NonFiniteLoss(f"weights are not finite after epoch {config.epochs} of {config.epochs}")
    if config.method == "unsupervised":
        fit_classifier(evaluator, choice.train, choice.validation)
    metrics, artifacts = evaluate(evaluator, choice.train, choice.validation)
    metrics["train_seconds"] = train_seconds
    metrics["evaluate_seconds"] = time.perf_counter() - started
    artifacts["history.parquet"] = to_parquet(history)
    return TrialResult(metrics=metrics, history=tuple(history), artifacts=artifacts)


def _resumed(
    config: TrialConfig,
    dataset: data.Dataset,
    device: torch.device,
    where: str,
    *,
    checkpoints: Checkpoints | None,
    meter: Meter,
) -> tuple[SiameseNet, SGD, State]:
    """Network and optimiser at the newest checkpoint that was trained on these data, else at the start.

    The meter gets what that checkpoint took.
    """

    def start() -> tuple[SiameseNet, SGD]:
        net = build(config, len(dataset.classes)).to(device)
        return net, SGD(net.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)

    net, optimizer = start()
    if checkpoints is not None:
        for name, content in checkpoints.newest_first():
            try:
                state = unpack(content, net, optimizer)
            except DamagedState as error:
                checkpoints.quarantine(name, str(error))
            else:
                if state.data == dataset.sha256:
                    if state.where != where:
                        checkpoints.notes.append(
                            f"{config.name} resumes on {where}, started on {state.where}: not bit for bit"
                        )
                    meter.resume(state.usage)
                    return net, optimizer, state
                checkpoints.quarantine(name, "it was trained on data that have changed since")
            net, optimizer = start()
    return (
        net,
        optimizer,
        State(epoch=0, history=(), seconds=0.0, data=dataset.sha256, where=where),
    )


def _reached(start: State, history: Sequence[EpochRow], started: float, meter: Meter) -> State:
    """The state after the epochs in `history`, in an attempt that resumed at `start`."""
    return dataclasses.replace(
        start,
        epoch=len(history),
        history=tuple(history),
        seconds=start.seconds + time.perf_counter() - started,
        usage=meter.so_far(),
    )


def _training_set(
    dataset: data.Dataset, indices: Indices, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The images and labels of a trial, by their position (B,) in `indices`.

    Returns:
        A function from positions to images (B, 3, S, S) uint8 on `device`, and all labels (N,) there.
    """
    labels = torch.from_numpy(dataset.train.labels[indices]).to(device)
    rows = torch.from_numpy(indices)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        mapped = torch.from_numpy(dataset.train.images)  # picking rows copies them: nothing writes here
    size = len(indices) * mapped[0].numel()
    if device.type == "cpu" or size > RESIDENT_BYTES:
        # All trials of a machine share the pages.
        return (lambda positions: mapped[rows[positions]].to(device, non_blocking=True)), labels
    resident = torch.empty(len(indices), *mapped.shape[1:], dtype=torch.uint8, device=device)
    for some in torch.arange(len(indices)).split(1000):  # no second copy of all in the machine's memory
        resident[some[0] : some[-1] + 1] = mapped[rows[some]].to(device)
    return (lambda positions: resident[positions.to(device, non_blocking=True)]), labels


def _train_row(config: TrialConfig, term: Term | None, sums: list[float], steps: int, epoch: int) -> EpochRow:
    """Means of an epoch from `Step.sums` added up; a term has a column where it is trained."""
    total, ce, of_term, right, labelled = sums
    without_labels = config.method == "unsupervised"
    parts = {} if without_labels else {"train/ce": ce}
    parts |= {f"train/{term.column}": of_term} if term else {}
    for name, value in {**parts, "train/loss": total}.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(f"{name} is {value} in epoch {epoch} of {config.epochs}")
    means = {"train/loss": total / steps, **{name: value / steps for name, value in parts.items()}}
    return means if without_labels else {**means, "train/acc": right / max(labelled, 1)}
