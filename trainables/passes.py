"""Passes of images through a trained network, each made when a metric first needs it.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import measures
from trainables.catalogue import AUGMENTATIONS, TRANSFORMS
from trainables.datasets.splits import Indices, stratified_choice
from trainables.evaluator import NO_FEATURES, Evaluator, Outputs
from trainables.linear_probe import LinearProbe, fit_linear_probe

EMBEDDED_IMAGES = 2000
"""Images of each split whose features are kept, and measured: fixed and stratified."""
BANK_IMAGES = 10_000
"""Training images among which neighbours are looked for and to which linear probes are fitted, and validation
images that choose the strength of a probe: fixed and stratified."""


class NonFiniteOutputs(ArithmeticError):
    """The outputs of a trained network are infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What the metrics look at: passes of images through a network, each made once, when first needed.

    Attributes:
        train: (n,) labelled training images that the network has seen; `validation` (v,) those held out.
    """

    evaluator: Evaluator
    train: Indices
    validation: Indices

    @cached_property
    def bank(self) -> Indices:
        """Positions in `train` of the images among which neighbours are, and to which probes are fitted."""
        return stratified_choice(self._train_labels, BANK_IMAGES)

    @cached_property
    def shown(self) -> Indices:
        """Positions in `train` of the images whose features are kept."""
        return stratified_choice(self._train_labels, EMBEDDED_IMAGES)

    @cached_property
    def choosing(self) -> Indices:
        """Positions in `validation` of the images that choose the strength of a linear probe."""
        return stratified_choice(self.evaluator.dataset.train.labels[self.validation], BANK_IMAGES)

    @cached_property
    def measured(self) -> Indices:
        """Test images whose features are kept and measured."""
        return stratified_choice(self.evaluator.dataset.test.labels, EMBEDDED_IMAGES)

    @cached_property
    def train_clean(self) -> Outputs:
        """Of clean training images, with the features of those in the bank."""
        return self._outputs("train", self.train, None, keep=self.bank)

    @cached_property
    def train_aug(self) -> Outputs:
        """Of training images augmented by the trial's own subset."""
        return self._outputs("train", self.train, self._subset, keep=self.shown)

    @cached_property
    def held_out(self) -> Outputs:
        """Of clean validation images, with the features of those that choose the strength of a probe."""
        return self._outputs("train", self.validation, None, keep=self.choosing)

    @cached_property
    def test(self) -> Outputs:
        """Of clean test images, with all their features."""
        return self._outputs("test", self._every, None)

    @cached_property
    def test_aug(self) -> Outputs:
        """Of test images augmented by the trial's own subset."""
        return self._outputs("test", self._every, self._subset, keep=NO_FEATURES)

    @cached_property
    def test_augcrop(self) -> Outputs:
        """Of test images augmented by that subset and random crops."""
        cropped = tuple(name for name in AUGMENTATIONS if name in ("rrc", *self._subset))
        if cropped == self._subset:
            return self.test_aug
        return self._outputs("test", self._every, cropped, keep=NO_FEATURES)

    @cached_property
    def view1(self) -> Outputs:
        """Of test images under all four transforms at their default strengths."""
        return self._outputs("test", self._every, TRANSFORMS, reference=True, keep=self.measured)

    @cached_property
    def view2(self) -> Outputs:
        """Of another such view of the measured test images."""
        return self._outputs("test", self.measured, TRANSFORMS, reference=True, view=1)

    @cached_property
    def test_bnrecal(self) -> Outputs:
        """Of clean test images, with batch norm's statistics re-estimated on clean training images."""
        with self.evaluator.clean_statistics(self.train):
            return self._outputs("test", self._every, None, keep=NO_FEATURES)

    @cached_property
    def bank_features(self) -> tuple[Tensor, Tensor]:
        """Features (m, D) of the bank, on the network's device, and their labels (m,)."""
        bank = self.train_clean.some(self.bank)
        return bank.h.to(self.evaluator.device), bank.labels

    @cached_property
    def neighbours(self) -> measures.Neighbours:
        """The nearest images of the bank for each test image, as many as any metric asks for."""
        bank, labels = self.bank_features
        most = max(measures.NEIGHBOURS, measures.weighted_neighbours(labels))
        return measures.nearest(self.test.h, bank, labels, most)

    @cached_property
    def views(self) -> tuple[Outputs, Outputs]:
        """Of two augmented views of the measured test images."""
        return self.view1.some(self.measured), self.view2

    @cached_property
    def h(self) -> Tensor:
        """Features (n, D) of the measured test images."""
        return self.test.h[torch.from_numpy(self.measured)]

    @cached_property
    def labels(self) -> Tensor:
        """Labels (n,) of the measured test images."""
        return self.test.labels[torch.from_numpy(self.measured)]

    @cached_property
    def z(self) -> Tensor:
        """Embeddings (n, M) of the measured test images."""
        return self.evaluator.embedding(self.h)

    def linear_probe(self, features: Callable[[Tensor], Tensor] = lambda h: h) -> float:
        """Accuracy on clean test images of a linear probe on `features` of h (N, D)."""
        return self.fitted_probe(features).accuracy(features(self.test.h), self.test.labels)

    def fitted_probe(self, features: Callable[[Tensor], Tensor] = lambda h: h) -> LinearProbe:
        """The linear probe on `features` of h (N, D)."""
        bank, labels = self.bank_features
        held_out = None
        if len(self.validation):
            chosen = self.held_out.some(self.choosing)
            held_out = features(chosen.h), chosen.labels
        return fit_linear_probe(features(bank).to(bank.device), labels, held_out)

    @property
    def _subset(self) -> tuple[str, ...]:
        return self.evaluator.config.augmentations

    @property
    def _every(self) -> Indices:
        return np.arange(len(self.evaluator.dataset.test.labels))

    @property
    def _train_labels(self) -> Indices:
        return self.evaluator.dataset.train.labels[self.train]

    def _outputs(self, split: str, *arguments: Any, **options: Any) -> Outputs:
        """`Evaluator.outputs`; raises if they are not finite, which they may be even where weights are."""
        outputs = self.evaluator.outputs(split, *arguments, **options)
        if not (outputs.h.isfinite().all() and outputs.logits.isfinite().all()):
            raise NonFiniteOutputs(f"features or scores of {split} images are not finite")
        return outputs
