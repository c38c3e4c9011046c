"""Final metrics and artifacts of a trained network.

Every image of a dataset has one fixed draw of random numbers per view, for all four transforms. All trials
with equal strengths of augmentation are evaluated on the same augmented images, and what is measured under
all four transforms has the default strengths: the same images for every trial.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import contextlib
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
from trainables.kept import npz, of_features, of_predictions, relative_logits
from trainables.linear_probe import linear_probe_accuracy
from trainables.models import SiameseNet
from trainables.randomness import generator
from trainables.trial import DEFAULTS, TrialConfig

BATCH_PIXELS = 500 * 32 * 32
"""Pixels evaluated at once: 500 images of 32 x 32, 55 of 96 x 96."""
EMBEDDED_IMAGES = 2000
"""Images of each split whose features are kept, and measured: fixed and stratified."""
BANK_IMAGES = 10_000
"""Training images among which neighbours are looked for and which linear probes are fitted to, and validation
images that choose a probe's strength: fixed and stratified, at most so many each."""
STRENGTHS = ("crop_scale_min", "grayscale_p", "solarize_p")
"""Fields that say how strongly each transform augments."""
NO_FEATURES = np.arange(0)
"""`keep` of `Evaluator.outputs` where no features are needed."""


class NonFiniteOutputs(ArithmeticError):
    """The outputs of a trained network are infinite or not a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """Logits (N, K) and labels (N,) of N images, features h (n, D) of those for which they were requested."""

    h: Tensor
    logits: Tensor
    labels: Tensor

    def some(self, kept: Indices) -> "Outputs":
        """Those images alone, by position (n,), for which features were requested."""
        positions = torch.from_numpy(kept)
        return Outputs(h=self.h, logits=self.logits[positions], labels=self.labels[positions])

    @property
    def accuracy(self) -> float:
        """Share of images whose class is predicted right."""
        return measures.accuracy(self.logits, self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """A network on `device` with the images it is evaluated on, in fp32.

    The config's probabilities decide which images an augmentation changes.
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
        """Within this context batch norm uses its mean statistics over batches of clean training images (n,).

        Batches have the training's size; a smaller last one is left out, as in training.
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

    `train` (n,) are the labelled training images that it has seen, `validation` (v,) those held out, if any.

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
    choosing = stratified_choice(dataset.train.labels[validation], BANK_IMAGES)
    shown = stratified_choice(dataset.train.labels[train], EMBEDDED_IMAGES)
    measured = stratified_choice(dataset.test.labels, EMBEDDED_IMAGES)

    train_clean = outputs("train", train, None, keep=bank)
    train_aug = outputs("train", train, subset, keep=shown)
    held_out = outputs("train", validation, None, keep=choosing) if len(validation) else None
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
        "test_ece_floor": measures.calibration_floor(test.logits.softmax(1).amax(1)),
        **_probes(evaluator, test, train_clean.some(bank), held_out and held_out.some(choosing)),
        **_of_two_views(view1.some(measured), view2),
        "effective_rank": measures.effective_rank(h),
        "silhouette": measures.silhouette(h, test.labels[torch.from_numpy(measured)]),
    }
    if held_out:
        metrics["val_acc"] = held_out.accuracy
        metrics["val_ece"] = measures.calibration_error(held_out.logits, held_out.labels)
    predictions = {
        "labels": test.labels.numpy(),
        **of_predictions(test.logits, ""),
        **of_predictions(augmented[subset].logits, "_aug"),
        "logits_augcrop": relative_logits(augmented[cropped].logits),
        "logits_augfull": relative_logits(view1.logits),
        "logits_view2": relative_logits(view2.logits),
        "view2_index": measured,
    }
    if held_out:
        predictions["val_logits"] = relative_logits(held_out.logits)
        predictions["val_labels"] = held_out.labels.numpy()
        predictions["val_index"] = validation
    embeddings = {
        **of_features("train", train_aug.h, dataset.train.labels, train[shown]),
        **of_features("test", h, dataset.test.labels, measured),
    }
    if evaluator.config.uses("embedding_dim"):
        z = evaluator.embedding(h)
        metrics["z_effective_rank"] = measures.effective_rank(z)
        embeddings["train_z"] = evaluator.embedding(train_aug.h).half().numpy()
        embeddings["test_z"] = z.half().numpy()
    return metrics, {"predictions.npz": npz(predictions), "embeddings.npz": npz(embeddings)}


def _probes(evaluator: Evaluator, test: Outputs, bank: Outputs, held_out: Outputs | None) -> dict[str, float]:
    """What other classifiers than the network's own make of its features: of h, and of z where it is trained.

    `bank` and `held_out` have the features of all their images.
    """
    labels, bank_h = test.labels, bank.h.to(evaluator.device)
    k = measures.weighted_neighbours(bank.labels)
    near = measures.nearest(test.h, bank_h, bank.labels, max(k, measures.NEIGHBOURS))
    choosing = (held_out.h, held_out.labels) if held_out else None
    metrics = {
        "linear_probe_acc": linear_probe_accuracy(test.h, labels, bank_h, bank.labels, choosing),
        "knn_weighted_acc": measures.weighted_knn_accuracy(near, labels, k=k),
        "knn_acc": measures.knn_accuracy(near, labels),
    }
    if evaluator.config.uses("embedding_dim"):
        z, bank_z = evaluator.embedding(test.h), evaluator.embedding(bank.h).to(evaluator.device)
        choosing = (evaluator.embedding(held_out.h), held_out.labels) if held_out else None
        metrics["z_linear_probe_acc"] = linear_probe_accuracy(z, labels, bank_z, bank.labels, choosing)
    return metrics


def _of_two_views(view1: Outputs, view2: Outputs) -> dict[str, float]:
    """How alike predictions and features of the same images are in two views."""
    both = view1.logits, view2.logits
    return {
        "view_agreement": measures.view_agreement(*both),
        "view_kappa": measures.view_kappa(*both),
        "view_both_right": measures.view_both_right(*both, view1.labels),
        "view_cosine": measures.view_cosine(view1.h, view2.h),
    }


def _finite_outputs(evaluator: Evaluator, split: str, *arguments: Any, **options: Any) -> Outputs:
    """`Evaluator.outputs`; raises if they are not finite, which they may be even where all weights are."""
    outputs = evaluator.outputs(split, *arguments, **options)
    if not (outputs.h.isfinite().all() and outputs.logits.isfinite().all()):
        raise NonFiniteOutputs(f"features or scores of {split} images are not finite")
    return outputs
