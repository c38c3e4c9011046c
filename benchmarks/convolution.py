"""Convolutions of small maps beside PyTorch's own: forward and backward pass on one thread.

    python benchmarks/convolution.py [--rounds 7] [--batch 128] [--precision bf16]

Single layers, then the whole ResNet-18 at 32 x 32 pixels; the two take turns, the table has the best of all
rounds.
"""

import argparse
import copy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from torch import Tensor, nn

from trainables.fast.convolution import speed_up
from trainables.machine import device_name, keep_freed_memory
from trainables.models import backbone

LAYERS = (
    (512, 512, 1, 1),
    (256, 512, 2, 2),
    (256, 256, 2, 1),
    (128, 256, 4, 2),
    (64, 128, 8, 2),
    (128, 128, 4, 1),
    (64, 64, 8, 1),
    (512, 512, 3, 1),
    (512, 512, 2, 1),
)
"""Channels in and out, pixels of the map, stride; all 3 x 3."""


def main() -> None:
    """Time all of them and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print(
        f"{device_name('cpu')}, one thread, torch {torch.__version__}, {args.precision}, batch {args.batch}"
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        _layers(args)


def _layers(args: argparse.Namespace) -> None:
    for channels, width, size, stride in LAYERS:
        layer = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        x = torch.randn(args.batch, channels, size, size)
        _compare(f"{channels} to {width}, maps of {size}, stride {stride}", layer, x, args.rounds)
    _compare("ResNet-18", backbone("resnet18", 2048), torch.randn(args.batch, 3, 32, 32), args.rounds)


def _compare(name: str, stock: nn.Module, x: Tensor, rounds: int) -> None:
    stock = stock.to(memory_format=torch.channels_last)
    ours = speed_up(copy.deepcopy(stock))
    x = x.to(memory_format=torch.channels_last).requires_grad_(x.shape[1] > 3)  # images need no gradient
    best = [float("inf"), float("inf")]
    for _ in range(rounds + 1):
        for i, net in enumerate((stock, ours)):
            started = time.perf_counter()
            net(x).sum().backward()
            best[i] = min(best[i], 1000 * (time.perf_counter() - started))
    print(f"{name:36}PyTorch {best[0]:8.1f} ms   here {best[1]:8.1f} ms   {best[0] / best[1]:5.1f} times")


if __name__ == "__main__":
    main()
