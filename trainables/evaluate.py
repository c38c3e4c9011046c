"""Final metrics and artifacts of a trained network.

Every image of a dataset has one fixed draw of random numbers per view, for all four transforms. All trials
with equal strengths of augmentation are evaluated on the same augmented images, and what is measured under
all four transforms has the default strengths: the same images for every trial.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import measures
from trainables.augment import Draws, Policy, augment, normalise, policy
from trainables.catalogue import AUGMENTATIONS, TRANSFORMS
from trainables.data import Dataset, Split
from trainables.datasets.splits import UNLABELLED, Indices, fixed_order, stratified_choice
from trainables.fast.normalisation import NORMS
from trainables.models import SiameseNet
from trainables.randomness import generator
from trainables.trial import DEFAULTS, TrialConfig

BATCH_PIXELS = 500 * 32 * 32
"""Pixels evaluated at once: 500 images of 32 x 32, 55 of 96 x 96."""
EMBEDDED_IMAGES = 2000
"""Images of each split whose features are kept, and measured: fixed and stratified."""
BANK_IMAGES = 10_000
"""Training images among which neighbours are looked for: fixed and stratified."""
STRENGTHS = ("crop_scale_min", "grayscale_p", "solarize_p")
"""Fields that say how strongly each transform augments."""
NO_FEATURES = np.arange(0)
"""`keep` of `Evaluator.outputs` where no features are needed."""


class NonFiniteOutputs(ArithmeticError):
    """The outputs of a trained network are infinite or not a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The network's outputs for N images.

    Attributes:
        h: (n, D) features of the images for which they were requested.
        logits: (N, K).
        labels: (N,).
    """

    h: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def accuracy(self) -> float:
        """Share of images whose class is predicted right."""
        return measures.accuracy(self.logits, self.labels)


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
        self,
        split: str,
        indices: Indices,
        transforms: tuple[str, ...] | None,
        *,
        view: int = 0,
        reference: bool = False,
        keep: Indices | None = None,
    ) -> Outputs:
        """The network's outputs for some images, clean or with their fixed augmentation.

        Args:
            split: `train` or `test`.
            indices: (N,) into the labelled images of the whole split.
            transforms: the subset of transforms; None: clean images.
            view: which of an image's fixed draws.
            reference: with the default strengths of augmentation, not the trial's own.
            keep: (n,) sorted positions in `indices` whose features are returned; None: all. (Those of 50,000
                images take 400 MB.)

        Returns:
            Outputs on the CPU, rows in the order of `indices`.
        """
        h, logits = [], []
        strengths = {name: DEFAULTS[name] for name in STRENGTHS} if reference else {}
        of = None if transforms is None else policy(self.config.replace(**strengths), transforms)
        kept = np.arange(len(indices)) if keep is None else keep
        self.net.eval()
        for start, x in self._batches(split, indices, of, view, self._batch_size):
            features = self.net.features(x)
            wanted = kept[np.searchsorted(kept, start) : np.searchsorted(kept, start + len(x))] - start
            h.append(features[torch.from_numpy(wanted)].cpu())
            logits.append(self.net.logits(features).cpu())
        labels = torch.from_numpy(self._split(split).labels[indices])
        return Outputs(h=torch.cat(h), logits=torch.cat(logits), labels=labels)

    @contextlib.contextmanager
    @torch.no_grad()
    def clean_statistics(self, train: Indices) -> Iterator[None]:
        """Within this context batch norm uses its mean statistics over batches of clean training images.

        Args:
            train: (n,) the labelled training images, in batches of the training's size; a smaller last one is
                left out, as in training.
        """
        norms = [module for module in self.net.modules() if isinstance(module, NORMS)]
        before = [(norm.momentum, {k: v.clone() for k, v in norm.state_dict().items()}) for norm in norms]
        try:
            if norms:
                self.net.eval()  # dropout stays off
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # the mean over all batches, not a moving one
                    norm.train()
                # Not in the order of the dataset, which may go class by class.
                shuffled, size = train[fixed_order(len(train))], self.config.batch_size
                whole = shuffled[: max(len(shuffled) // size, 1) * size]
                for _, x in self._batches("train", whole, None, 0, size):
                    self.net.features(x)
            yield
        finally:
            for norm, (momentum, state) in zip(norms, before, strict=True):
                norm.momentum = momentum
                norm.load_state_dict(state)

    @torch.no_grad()
    def embedding(self, h: Tensor) -> Tensor:
        """Embeddings z (n, M) of features (n, D), on the CPU."""
        return self.net.eval().embedding(h.to(self.device)).cpu()

    @property
    def _batch_size(self) -> int:
        return max(BATCH_PIXELS // self.dataset.image_size**2, 2)

    def _split(self, name: str) -> Split:
        split: Split = getattr(self.dataset, name)
        return split

    def _batches(
        self, split: str, indices: Indices, of: Policy | None, view: int, size: int
    ) -> Iterator[tuple[int, Tensor]]:
        """Position of the first image and `size` normalised images (B, 3, S, S), batch by batch."""
        source = self._split(split)
        labelled = int((source.labels != UNLABELLED).sum())
        # Drawn for the whole split, then picked: what an image gets does not depend on the others evaluated.
        purpose = f"evaluation of {self.dataset.name}/{split}/view {view}"
        draws = None
        if of and of.transforms:
            draws = Draws.sample(labelled, lambda name: generator(0, purpose + name), of.transforms)
        for start in range(0, len(indices), size):
            rows = indices[start : start + size]
            images = torch.from_numpy(source.images[rows]).to(self.device)
            if draws is None or of is None:
                x = images.float() / 255
            else:
                x = augment(images, of, draws[torch.from_numpy(rows)].to(self.device))
            yield start, normalise(x, self.dataset.mean, self.dataset.std)


def evaluate(
    evaluator: Evaluator, train: Indices, validation: Indices
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Final metrics and the artifacts `predictions.npz` and `embeddings.npz`.

    Args:
        evaluator: of the trained network.
        train: (n,) the labelled training images it has seen.
        validation: (v,) the training images held out; may be empty.

    Returns:
        Metrics by name: fractions, except `test_ce` (nats) and the effective ranks; then files by name.

    Raises:
        NonFiniteOutputs: features or scores are not finite.
    """
    dataset, subset = evaluator.dataset, evaluator.config.augmentations
    outputs = partial(_finite_outputs, evaluator)
    every = np.arange(len(dataset.test.labels))
    # Positions whose features are asked for.
    bank = stratified_choice(dataset.train.labels[train], BANK_IMAGES)
    shown = stratified_choice(dataset.train.labels[train], EMBEDDED_IMAGES)
    measured = stratified_choice(dataset.test.labels, EMBEDDED_IMAGES)

    train_clean = outputs("train", train, None, keep=bank)
    train_aug = outputs("train", train, subset, keep=shown)
    test = outputs("test", every, None)
    cropped = tuple(name for name in AUGMENTATIONS if name in ("rrc", *subset))
    augmented = {
        transforms: outputs("test", every, transforms, keep=NO_FEATURES)
        for transforms in dict.fromkeys((subset, cropped))
    }
    view1 = outputs("test", every, TRANSFORMS, reference=True, keep=measured)
    view2 = outputs("test", measured, TRANSFORMS, reference=True, view=1)
    with evaluator.clean_statistics(train):
        test_bnrecal = outputs("test", every, None, keep=NO_FEATURES)

    h = test.h[torch.from_numpy(measured)]
    bank_h, bank_labels = train_clean.h.to(evaluator.device), train_clean.labels[torch.from_numpy(bank)]
    metrics = {
        "train_acc": train_clean.accuracy,
        "train_aug_acc": train_aug.accuracy,
        "test_acc": test.accuracy,
        "test_acc_bnrecal": test_bnrecal.accuracy,
        "test_aug_acc": augmented[subset].accuracy,
        "test_augcrop_acc": augmented[cropped].accuracy,
        "test_augfull_acc": view1.accuracy,
        "test_ce": measures.cross_entropy(test.logits, test.labels),
        "test_ece": measures.calibration_error(test.logits, test.labels),
        "knn_acc": measures.knn_accuracy(test.h, test.labels, bank_h, bank_labels),
        "view_agreement": measures.view_agreement(view1.logits[torch.from_numpy(measured)], view2.logits),
        "view_cosine": measures.view_cosine(view1.h, view2.h),
        "effective_rank": measures.effective_rank(h),
        "silhouette": measures.silhouette(h, test.labels[torch.from_numpy(measured)]),
    }
    if len(validation):
        held_out = outputs("train", validation, None, keep=NO_FEATURES)
        metrics["val_acc"] = held_out.accuracy
        metrics["val_ece"] = measures.calibration_error(held_out.logits, held_out.labels)
    predictions = {
        "labels": test.labels.numpy(),
        **_predictions(test, ""),
        **_predictions(augmented[subset], "_aug"),
    }
    embeddings = {
        **_embeddings("train", dataset.train, train[shown], train_aug.h),
        **_embeddings("test", dataset.test, measured, h),
    }
    if evaluator.config.uses("embedding_dim"):
        z = evaluator.embedding(h)
        metrics["z_effective_rank"] = measures.effective_rank(z)
        embeddings["train_z"] = evaluator.embedding(train_aug.h).half().numpy()
        embeddings["test_z"] = z.half().numpy()
    return metrics, {"predictions.npz": _npz(predictions), "embeddings.npz": _npz(embeddings)}


def _finite_outputs(evaluator: Evaluator, split: str, *arguments: Any, **options: Any) -> Outputs:
    """`Evaluator.outputs`; raises if they are not finite, which they may be even where all weights are."""
    outputs = evaluator.outputs(split, *arguments, **options)
    if not (outputs.h.isfinite().all() and outputs.logits.isfinite().all()):
        raise NonFiniteOutputs(f"features or scores of {split} images are not finite")
    return outputs


def _embeddings(name: str, split: Split, indices: Indices, h: Tensor) -> dict[str, np.ndarray]:
    """Features (n, D) of some images of a split, as float16, with their labels and indices."""
    return {
        f"{name}_h": h.half().numpy(),
        f"{name}_labels": split.labels[indices],
        f"{name}_index": indices,
    }


def _predictions(outputs: Outputs, suffix: str) -> dict[str, np.ndarray]:
    probability, predicted = outputs.logits.softmax(1).max(1)
    return {f"predicted{suffix}": predicted.numpy(), f"probability{suffix}": probability.numpy()}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes a bool among the keywords
    return buffer.getvalue()
