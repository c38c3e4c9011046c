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


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """A network with the images it is evaluated on.

    Attributes:
        config: of the trial; its probabilities decide which images a transform meets.
        net: on `device`.
        dataset: that it is trained on.
        device: where to evaluate, in fp32.
    """

    config: TrialConfig
    net: SiameseNet
    dataset: Dataset
    device: torch.device

    @torch.no_grad()
    def outputs(
        self, split: str, indices: Indices, transforms: tuple[str, ...] | None, *, view: int = 0
    ) -> Outputs:
        """What the network says of some images, clean or with their fixed augmentation.

        Args:
            split: `train` or `test`.
            indices: (N,) into the whole split.
            transforms: the subset of transforms; None: clean images.
            view: which of an image's fixed draws.

        Returns:
            Outputs on the CPU, rows in the order of `indices`.
        """
        source: Split = getattr(self.dataset, split)
        h, logits = [], []
        self.net.eval()
        for rows, draws in _batches(self.dataset.name, split, len(source.labels), indices, view):
            images = torch.from_numpy(source.images[rows]).to(self.device)
            if transforms is None:
                x = images.float() / 255
            else:
                x = augment(images, policy(self.config, transforms), draws.to(self.device))
            features = self.net.features(normalise(x, self.dataset.mean, self.dataset.std))
            h.append(features.cpu())
            logits.append(self.net.logits(features).cpu())
        labels = torch.from_numpy(source.labels[indices])
        return Outputs(h=torch.cat(h), logits=torch.cat(logits), labels=labels)

    @torch.no_grad()
    def kept(self, split: str, indices: Indices, outputs: Outputs) -> dict[str, np.ndarray]:
        """`h` and, where the Barlow Twins term trained it, `z` of a fixed choice of images, as float16."""
        labels = getattr(self.dataset, split).labels[indices]
        chosen = stratified_choice(labels, EMBEDDED_IMAGES)
        h = outputs.h[torch.from_numpy(chosen)]
        arrays = {
            f"{split}_h": h.half().numpy(),
            f"{split}_labels": labels[chosen],
            f"{split}_index": indices[chosen],
        }
        if self.config.gamma:
            arrays[f"{split}_z"] = self.net.embedding(h.to(self.device)).half().cpu().numpy()
        return arrays


def evaluate(
    evaluator: Evaluator, train: Indices, validation: Indices
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Final metrics (fractions) and the artifacts `predictions.npz` and `embeddings.npz`.

    Args:
        evaluator: of the trained network.
        train: (n,) the training images it has seen.
        validation: (v,) the training images held out; may be empty.
    """
    outputs, subset = evaluator.outputs, evaluator.config.augmentations
    every = np.arange(len(evaluator.dataset.test.labels))
    train_aug = outputs("train", train, subset)
    test, test_aug = outputs("test", every, None), outputs("test", every, subset)
    metrics = {
        "train_acc": outputs("train", train, None).accuracy,
        "train_aug_acc": train_aug.accuracy,
        "test_acc": test.accuracy,
        "test_aug_acc": test_aug.accuracy,
        "test_augcrop_acc": outputs("test", every, ("rrc", *subset)).accuracy,
        "test_augfull_acc": outputs("test", every, TRANSFORMS).accuracy,
    }
    if len(validation):
        metrics["val_acc"] = outputs("train", validation, None).accuracy
    predictions = {"labels": test.labels.numpy(), **_predictions(test, ""), **_predictions(test_aug, "_aug")}
    embeddings = {**evaluator.kept("train", train, train_aug), **evaluator.kept("test", every, test)}
    return metrics, {"predictions.npz": _npz(predictions), "embeddings.npz": _npz(embeddings)}


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


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a bool among the keywords
    return buffer.getvalue()
