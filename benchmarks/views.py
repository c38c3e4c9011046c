"""A training step with both views in one batch, beside one view after the other, on one thread.

    python benchmarks/views.py [--rounds 5] [--batch 128] [--precision fp32] [BACKBONE ...]

32 x 32 pixels, Siamese with the Barlow Twins term: forward pass, backward pass, optimiser. The two take
turns; the table has the median of all rounds.
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

from trainables.fast.optimizer import SGD
from trainables.losses import barlow_twins_loss, siamese_loss
from trainables.machine import device_name, keep_freed_memory
from trainables.models import SiameseNet, build
from trainables.trial import TrialConfig

WAYS: dict[str, Callable[[SiameseNet, list[Tensor]], Tensor]] = {
    "one after the other": lambda net, views: torch.cat([net.features(view) for view in views]),
    "at once": lambda net, views: net.features_of_views(views),
}


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE", default=["resnet18", "convnet"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(
        f"{device_name('cpu')}, one thread, torch {torch.__version__}, batch {args.batch}, {args.precision}"
    )
    for name in args.backbones:
        config = TrialConfig(
            dataset="digits",
            backbone=name,
            augmentations=(),
            method="siamese",
            gamma=0.01,
            seed=0,
            precision=args.precision,
        )
        steps = {way: _step(config, features, args.batch) for way, features in WAYS.items()}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(args.rounds + 2):
            for way, step in steps.items():
                started = time.perf_counter()
                step()
                if number >= 2:  # the first steps fetch memory
                    seconds[way].append(time.perf_counter() - started)
        apart, at_once = (1000 * statistics.median(seconds[way]) for way in WAYS)
        print(f"{name:20}{apart:8.0f} ms one after the other{at_once:8.0f} ms at once{at_once / apart:8.2f}")


def _step(
    config: TrialConfig, features: Callable[[SiameseNet, list[Tensor]], Tensor], batch: int
) -> Callable[[], None]:
    """A training step on random images, of a network of its own."""
    net = build(config, 10).train()
    optimizer = SGD(net.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)
    views = [torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last) for _ in range(2)]
    targets = torch.arange(batch) % 10

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            h = features(net, views)
            scores, embeddings = net.logits(h).chunk(2), net.embedding(h).chunk(2)
            term = barlow_twins_loss(*embeddings, lambd=config.lambd)
            loss = siamese_loss(*scores, targets, term, gamma=0.01)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step(config.lr)

    return step


if __name__ == "__main__":
    main()
