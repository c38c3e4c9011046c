"""What a training step sees: a batch of images in their augmented views, and a sample of that to look at.

Shapes: B images a batch, 3 channels, S pixels height and width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.augment import Draws, Policy, augment, policies
from trainables.kept import npz
from trainables.randomness import generator
from trainables.trial import TrialConfig

VIEWS = "views.npz"
"""Artifact with the first images that a trial was trained on, in their views."""
SAMPLE, SAMPLE_SIDE, SAMPLE_BYTES = 8, 48, 100_000
"""Most images of a sample, their height and width, and the pixels of the images and two views together."""


def shuffled_batches(config: TrialConfig, count: int, epoch: int) -> Iterator[Tensor]:
    """Positions 0 … count - 1 in a new order, batch by batch; a smaller last batch is dropped."""
    order = torch.randperm(count, generator=generator(config.seed, "order", epoch))
    for batch in order.split(config.batch_size):
        if len(batch) == config.batch_size:
            yield batch


def draws_of_views(
    config: TrialConfig, count: int, view_policies: Sequence[Policy], *, epoch: int, step: int
) -> tuple[Draws, ...]:
    """The random numbers of each view of the `count` images of a step, on the CPU."""
    return tuple(
        Draws.sample(count, partial(_stream, config.seed, f"view {i}", epoch, step), policy.transforms)
        for i, policy in enumerate(view_policies, 1)
    )


def _stream(seed: int, purpose: str, epoch: int, step: int, name: str) -> torch.Generator:
    return generator(seed, purpose + name, epoch, step)


def sample_of_views(
    config: TrialConfig, images: Callable[[Tensor], Tensor], labels: Tensor, classes: Sequence[str]
) -> bytes:
    """The artifact `VIEWS`: the first images of the first training step, and the views that it made of them.

    All follows from the config, so that it can be made at any time, and is what the step has seen to the
    bit. There are at most `SAMPLE` images, fewer where they are large; those of more than `SAMPLE_SIDE`
    pixels are reduced to that, by the mean over areas.

    Args:
        config: of the trial.
        images: from positions (B,) to images (B, 3, S, S) uint8.
        labels: (N,) of all images that are trained on; -1: none.
        classes: names of the K classes.

    Returns:
        The content of an `.npz` file: `original`, `view1` and, with a second view, `view2`, each
        (n, 3, S, S) uint8 with S at most `SAMPLE_SIDE`; `labels` (n,); `classes` (K,), names in UTF-8.
    """
    batch = next(shuffled_batches(config, len(labels), epoch=1))
    x = images(batch)
    side = min(x.shape[-1], SAMPLE_SIDE)
    count = min(SAMPLE, SAMPLE_BYTES // (3 * 3 * side * side))
    # Of the whole batch: an augmentation in a file of your own may look at all of its images.
    view_policies = policies(config)
    draws = draws_of_views(config, len(x), view_policies, epoch=1, step=0)
    views = [
        augment(x, policy, numbers.to(x.device))[:count]
        for policy, numbers in zip(view_policies, draws, strict=True)
    ]
    pictures = {"original": x[:count].float() / 255} | {f"view{i}": view for i, view in enumerate(views, 1)}
    return npz(
        {
            **{name: _as_bytes(picture, side) for name, picture in pictures.items()},
            "labels": labels[batch[:count].to(labels.device)].cpu().numpy(),
            "classes": np.array([name.encode(errors="replace") for name in classes]),
        }
    )


def _as_bytes(x: Tensor, side: int) -> np.ndarray:
    """Images (n, 3, S, S) in 0–1 as uint8, (n, 3, side, side)."""
    if x.shape[-1] > side:
        x = F.interpolate(x, size=(side, side), mode="area")
    return (x * 255).round().clamp(0, 255).byte().cpu().numpy()
