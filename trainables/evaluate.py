"""Final metrics and artifacts of a trained network.

Every image of a dataset has one fixed draw of random parameters per view, for all four transforms, so
that all trials on the dataset are evaluated on the same augmented images.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.augment import Draws, augment, normalise, policy
from trainables.data import Dataset, Indices, Split, stratified_choice
from trainables.models import SiameseNet
from trainables.randomness import generator
from trainables.trial import TRANSFORMS, TrialConfig

BATCH = 500
EMBEDDED_IMAGES = 2000
"""Images of each split whose features are kept: fixed and stratified."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What the network says of N images.

    Attributes:
        h: (N, D) features.
        logits: (N, K).
        labels: (N,).
    """

    h: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def accuracy(self) -> float:
        """Share of images whose class is predicted right."""
        return (self.logits.argmax(1) == self.labels).double().mean().item()


def evaluate(
    config: TrialConfig,
    net: SiameseNet,
    dataset: Dataset,
    train: Indices,
    validation: Indices,
    device: torch.device,
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Final metrics (fractions) and the artifacts `predictions.npz` and `embeddings.npz`.

    Args:
        config: of the trial.
        net: trained, on `device`.
        dataset: that it was trained on.
        train: (n,) the training images it has seen.
        validation: (v,) the training images held out; may be empty.
        device: where to evaluate, in fp32.
    """

    def run(split: str, indices: Indices, transforms: tuple[str, ...] | None) -> Outputs:
        return outputs(config, net, dataset, split, indices, transforms, device=device)

    subset = config.augmentations
    every = np.arange(len(dataset.test.labels))
    train_aug = run("train", train, subset)
    test, test_aug = run("test", every, None), run("test", every, subset)
    metrics = {
        "train_acc": run("train", train, None).accuracy,
        "train_aug_acc": train_aug.accuracy,
        "test_acc": test.accuracy,
        "test_aug_acc": test_aug.accuracy,
        "test_augcrop_acc": run("test", every, ("rrc", *subset)).accuracy,
        "test_augfull_acc": run("test", every, TRANSFORMS).accuracy,
    }
    if len(validation):
        metrics["val_acc"] = run("train", validation, None).accuracy
    predictions = {"labels": test.labels.numpy(), **_predictions(test, ""), **_predictions(test_aug, "_aug")}
    embeddings = {
        **_embeddings(config, net, dataset.train, train, train_aug, "train", device),
        **_embeddings(config, net, dataset.test, every, test, "test", device),
    }
    return metrics, {"predictions.npz": _npz(predictions), "embeddings.npz": _npz(embeddings)}


@torch.no_grad()
def outputs(
    config: TrialConfig,
    net: SiameseNet,
    dataset: Dataset,
    split: str,
    indices: Indices,
    transforms: tuple[str, ...] | None,
    *,
    view: int = 0,
    device: torch.device,
) -> Outputs:
    """What `net` says of some images of a split, clean or with their fixed augmentation.

    Args:
        config: of the trial; its probabilities decide whom a transform meets.
        net: on `device`.
        dataset: the images' dataset.
        split: `train` or `test`.
        indices: (N,) into the whole split.
        transforms: the subset of transforms; None: clean images.
        view: which of an image's fixed draws.
        device: where to evaluate.

    Returns:
        Outputs on the CPU, rows in the order of `indices`.
    """
    images: Split = getattr(dataset, split)
    h, logits = [], []
    net.eval()
    for rows, draws in _batches(dataset.name, split, len(images.labels), indices, view):
        x = torch.from_numpy(images.images[rows]).to(device)
        view_of_x = (
            x.float() / 255
            if transforms is None
            else augment(x, policy(config, transforms), draws.to(device))
        )
        features = net.features(normalise(view_of_x, dataset.mean, dataset.std))
        h.append(features.cpu())
        logits.append(net.logits(features).cpu())
    labels = torch.from_numpy(images.labels[indices])
    return Outputs(h=torch.cat(h), logits=torch.cat(logits), labels=labels)


def _batches(
    name: str, split: str, size: int, indices: Indices, view: int
) -> Iterator[tuple[Indices, Draws]]:
    # Drawn for the whole split and then picked, so that an image's draw does not depend on who else is
    # evaluated.
    draws = Draws.sample(size, generator(0, f"evaluation of {name}/{split}/view {view}"))
    for start in range(0, len(indices), BATCH):
        rows = indices[start : start + BATCH]
        yield rows, draws[torch.from_numpy(rows)]


def _predictions(outputs: Outputs, suffix: str) -> dict[str, np.ndarray]:
    probability, predicted = outputs.logits.softmax(1).max(1)
    return {f"predicted{suffix}": predicted.numpy(), f"probability{suffix}": probability.numpy()}


@torch.no_grad()
def _embeddings(
    config: TrialConfig,
    net: SiameseNet,
    split: Split,
    indices: Indices,
    outputs: Outputs,
    name: str,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """`h` and, where the Barlow Twins term trained it, `z` of a fixed choice of images, as float16."""
    chosen = stratified_choice(split.labels[indices], EMBEDDED_IMAGES)
    h = outputs.h[torch.from_numpy(chosen)]
    arrays = {
        f"{name}_h": h.half().numpy(),
        f"{name}_labels": split.labels[indices[chosen]],
        f"{name}_index": indices[chosen],
    }
    if config.gamma:
        arrays[f"{name}_z"] = net.embedding(h.to(device)).half().cpu().numpy()
    return arrays


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a bool among the keywords
    return buffer.getvalue()
