"""The outputs of a trained network for images, clean or augmented.

Every image of a dataset has one fixed draw of random numbers per view, for all four transforms. All trials
with equal strengths of augmentation are evaluated on the same augmented images, and what is measured under
all four transforms has the default strengths: the same images for every trial.

Shapes: N images evaluated, D = feature_dim, M = embedding_dim, K classes.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables import measures
from trainables.augment import Draws, Policy, augment, normalise, policy
from trainables.data import Dataset, Split
from trainables.datasets.splits import UNLABELLED, Indices, fixed_order
from trainables.fast.normalisation import NORMS
from trainables.models import SiameseNet
from trainables.randomness import generator
from trainables.trial import DEFAULTS, TrialConfig

BATCH_PIXELS = 500 * 32 * 32
"""Pixels evaluated at once: 500 images of 32 x 32, 55 of 96 x 96."""
STRENGTHS = ("crop_scale_min", "hflip_p", "grayscale_p", "solarize_p")
"""Fields that say how strongly each transform augments."""
NO_FEATURES = np.arange(0)
"""`keep` of `Evaluator.outputs` where no features are needed."""


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
