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
from trainables.augment import normalise, policies
from trainables.batches import VIEWS, augmented_views, sample_of_views, shuffled_batches
from trainables.datasets.splits import UNLABELLED, Choice, Indices, training_indices
from trainables.evaluate import evaluate, fit_classifier
from trainables.evaluator import NO_FEATURES, Evaluator
from trainables.fast.optimizer import SGD
from trainables.losses import Loss, cross_entropy, siamese_loss, with_term
from trainables.machine import settle
from trainables.methods import needs_of, term_of
from trainables.methods.term import Term
from trainables.metrics import WEIGHTS
from trainables.models import Mixing, SiameseNet, build
from trainables.randomness import generator, stream_seed
from trainables.storage.bundles import to_parquet
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.state import DamagedState, Saver, State, unpack
from trainables.trial import TrialConfig, TrialResult
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
    view_policies, term = policies(config), term_of(config)
    steps = len(trained_on) // config.batch_size
    evaluator = Evaluator(config=config, net=net, dataset=dataset, device=device)
    history = [dict(row) for row in state.history]
    on_resume(history)

    for epoch in range(state.epoch + 1, config.epochs + 1):
        epoch_started = time.perf_counter()
        net.train()
        sums = torch.zeros(5, device=device)  # of `_step_sums`
        for step, batch in enumerate(shuffled_batches(config, len(trained_on), epoch)):
            lr = _learning_rate(config, (epoch - 1) * steps + step, config.epochs * steps)
            x, targets = images(batch), labels[batch.to(device)]
            views = [
                normalise(view, dataset.mean, dataset.std)
                for view in augmented_views(config, x, view_policies, epoch=epoch, step=step)
            ]
            torch.manual_seed(stream_seed(config.seed, "dropout", epoch, step))
            mixing = _mixing(config, len(batch), epoch, step, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss, logits = _forward(config, term, net, views=views, targets=targets, mixing=mixing)
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step(lr)
            if term and term.target_momentum:
                done = ((epoch - 1) * steps + step + 1) / (config.epochs * steps)
                net.move_target(term.target_momentum(config, done))
            sums += _step_sums(loss, logits, targets)
        # Read once an epoch: reading a number from a GPU waits for all the work queued on it.
        train_row = _train_row(config, term, sums.tolist(), steps, epoch)
        epoch_seconds = time.perf_counter() - epoch_started
        row = {
            "epoch": epoch,
            "timestamp": int(time.time() * 1000),
            **train_row,
            "lr": lr,
            "epoch_seconds": epoch_seconds,
            "images_per_second": steps * config.batch_size / epoch_seconds,
        }
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
        return (lambda positions: mapped[rows[positions]].to(device)), labels
    resident = torch.empty(len(indices), *mapped.shape[1:], dtype=torch.uint8, device=device)
    for some in torch.arange(len(indices)).split(1000):  # no second copy of all in the machine's memory
        resident[some[0] : some[-1] + 1] = mapped[rows[some]].to(device)
    return (lambda positions: resident[positions.to(device)]), labels


def _learning_rate(config: TrialConfig, step: int, steps: int) -> float:
    if config.lr_schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def _mixing(config: TrialConfig, count: int, epoch: int, step: int, device: torch.device) -> Mixing | None:
    """How the images of a step are mixed; None where no term looks at mixed ones."""
    if "mixed" not in needs_of(config):
        return None
    return Mixing.sample(count, generator(config.seed, "mixing", epoch, step), device)


def _forward(
    config: TrialConfig,
    term: Term | None,
    net: SiameseNet,
    *,
    views: list[Tensor],
    targets: Tensor,
    mixing: Mixing | None,
) -> tuple[Loss, list[Tensor]]:
    """The loss of a batch and the logits of each view."""
    # All views at once: the gradient of a weight is computed once, not once a view and added up.
    if config.method == "fixmatch":
        # Its views are unlike: batch norm meets both together, as in the authors' code. Running statistics of
        # one and then the other would fit neither, nor clean images.
        h = net.features_of_views([torch.cat(views)])
    else:
        # Mixed images are no images: those that are evaluated are not normalised by their statistics.
        h = net.features_of_views([*views, mixing.of(*views)] if mixing else views, counted=len(views))
    logits = list(net.logits(h[: len(views) * len(targets)]).chunk(len(views)))
    if config.gamma is None:
        ce = cross_entropy(logits[0], targets)
        return Loss(ce, ce, None), logits
    value = None
    if term:
        pair = (logits[0], logits[1])
        branches = net.branches(
            needs_of(config), h=h, views=views, logits=pair, targets=targets, mixing=mixing
        )
        value = term.loss(branches, config)
    if config.method == "siamese":
        return siamese_loss(logits[0], logits[1], targets, value, gamma=config.gamma), logits
    ce = cross_entropy(logits[0], targets) if config.method == "fixmatch" else h.new_zeros(())
    return with_term(ce, value, gamma=config.gamma), logits


@torch.no_grad()
def _step_sums(loss: Loss, logits: list[Tensor], targets: Tensor) -> Tensor:
    """(5,) loss, ce, term, labelled views predicted right, labelled views."""
    labelled = targets != UNLABELLED
    right = torch.stack([((view.argmax(1) == targets) & labelled).sum() for view in logits]).sum()
    term = torch.zeros_like(loss.ce) if loss.term is None else loss.term
    return torch.stack([loss.total, loss.ce, term, right.float(), labelled.sum().float() * len(logits)])


def _train_row(config: TrialConfig, term: Term | None, sums: list[float], steps: int, epoch: int) -> EpochRow:
    """Means of an epoch from `_step_sums` added up; a term has a column where it is trained."""
    total, ce, of_term, right, labelled = sums
    without_labels = config.method == "unsupervised"
    parts = {} if without_labels else {"train/ce": ce}
    parts |= {f"train/{term.column}": of_term} if term else {}
    for name, value in {**parts, "train/loss": total}.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(f"{name} is {value} in epoch {epoch} of {config.epochs}")
    means = {"train/loss": total / steps, **{name: value / steps for name, value in parts.items()}}
    return means if without_labels else {**means, "train/acc": right / max(labelled, 1)}
