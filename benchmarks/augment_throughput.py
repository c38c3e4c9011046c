"""Two views a second on one thread, beside torchvision and kornia.

    python -m pip install -e '.[bench]'
    python benchmarks/augment_throughput.py [--rounds 5] [--batch 128]

Random resized crop (scale 0.2 to 1), horizontal flip, grayscale and solarize with probability 0.2 each,
then normalising; from uint8 images in memory to fp32, at 32 x 32 and 96 x 96 pixels:

- ours: `trainables.augment`, a batch at a time.
- v1: torchvision's transforms on PIL images, image by image.
- v2: torchvision's transforms v2 on tensors, image by image (a batch would share one draw).
- kornia: its augmentations on batches, with a draw for each image.

Rounds take turns in one process; the table has medians.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor

from trainables.augment import Draws, augment, normalise, policy
from trainables.catalogue import TRANSFORMS
from trainables.machine import device_name, keep_freed_memory
from trainables.trial import TrialConfig

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SIZES = (32, 96)
MANY = 16
"""Batches after which peers that draw in batches are timed; image by image a batch is enough."""


def ours(_: int) -> Callable[[Tensor], object]:
    """This project's."""
    config = TrialConfig(
        dataset="digits", backbone="convnet", augmentations=TRANSFORMS, method="siamese", gamma=0.0, seed=0
    )
    one, generator = policy(config, TRANSFORMS), torch.Generator().manual_seed(0)

    def views(images: Tensor) -> object:
        return [
            normalise(augment(images, one, Draws.sample(len(images), lambda name: generator)), MEAN, STD)
            for _ in range(2)
        ]

    return views


def v1(size: int) -> Callable[[Tensor], object]:
    """torchvision on PIL images."""
    from torchvision import transforms as t

    view = t.Compose(
        [
            t.RandomResizedCrop(size, scale=(0.2, 1.0)),
            t.RandomHorizontalFlip(),
            t.RandomGrayscale(0.2),
            t.RandomSolarize(128, 0.2),
            t.ToTensor(),
            t.Normalize(MEAN, STD),
        ]
    )
    to_image = t.ToPILImage()
    made: dict[int, list[object]] = {}

    def views(images: Tensor) -> object:
        if id(images) not in made:  # a dataset class would hold PIL images
            made[id(images)] = [to_image(image) for image in images]
        return [torch.stack([view(image) for image in made[id(images)]]) for _ in range(2)]

    return views


def v2(size: int) -> Callable[[Tensor], object]:
    """torchvision's second version on tensors."""
    from torchvision.transforms import v2 as t

    view = t.Compose(
        [
            t.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            t.RandomHorizontalFlip(),
            t.RandomGrayscale(0.2),
            t.RandomSolarize(128, 0.2),
            t.ToDtype(torch.float32, scale=True),
            t.Normalize(list(MEAN), list(STD)),
        ]
    )
    return lambda images: [torch.stack([view(image) for image in images]) for _ in range(2)]


def kornia(size: int) -> Callable[[Tensor], object]:
    """kornia on batches."""
    import kornia.augmentation as k

    view = k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
        k.RandomHorizontalFlip(p=0.5),
        k.RandomGrayscale(p=0.2),
        k.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=0.2),
        k.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    return lambda images: [view(images.float() / 255) for _ in range(2)]


def main() -> None:
    """Time all of them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a trial; it serves the peers as well
    print(f"{device_name('cpu')}, one thread, torch {torch.__version__}, batch {args.batch}")
    for size in SIZES:
        images = torch.randint(0, 256, (args.batch, 3, size, size), dtype=torch.uint8)
        contestants = {make.__name__: make(size) for make in (ours, v1, v2, kornia)}
        found: dict[str, list[float]] = {name: [] for name in contestants}
        for call in contestants.values():
            call(images)
        for _ in range(args.rounds):
            for name, call in contestants.items():
                batches = MANY if name in ("ours", "kornia") else 2
                started = time.perf_counter()
                for _ in range(batches):
                    call(images)
                found[name].append(batches * len(images) / (time.perf_counter() - started))
        median = {name: statistics.median(values) for name, values in found.items()}
        for name, value in median.items():
            print(
                f"{size:3} x {size}  {name:8}{value:10.0f} images (two views each) a second"
                f"   ours: {median['ours'] / value:.1f} times"
            )


if __name__ == "__main__":
    main()
