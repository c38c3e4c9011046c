"""Does torch.compile pay for itself within a trial on CPUs? A ResNet-18's forward and backward pass.

    python benchmarks/compile.py [--rounds 6] [--batch 128]

One thread, 32 x 32 pixels, with this project's convolutions of small maps and with PyTorch's own. The process
that compiles is started twice on one cache: the second finds what the first has made, as a study's trials
would.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

KINDS = {"this project's convolutions": True, "PyTorch's own": False}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        measure(args.rounds, args.batch)
        return
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
        again = [sys.executable, __file__, "--worker", f"--rounds={args.rounds}", f"--batch={args.batch}"]
        for name in ("nothing in the cache", "again, from the cache"):
            print(f"{name}:", flush=True)
            subprocess.run(again, env=environment, check=True)


def measure(rounds: int, batch: int) -> None:
    """Print seconds of compiling with the first step, and of a step without and with it."""
    import torch

    from trainables.fast.convolution import speed_up
    from trainables.machine import keep_freed_memory
    from trainables.models import backbone

    torch.set_num_threads(1)
    keep_freed_memory()
    x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)

    def step(net: torch.nn.Module) -> float:
        started = time.perf_counter()
        net.zero_grad()
        net(x).square().mean().backward()
        return time.perf_counter() - started

    for name, ours in KINDS.items():
        net = backbone("resnet18", 2048).to(memory_format=torch.channels_last)
        net = speed_up(net) if ours else net
        compiled = torch.compile(net)
        first = step(compiled)
        seconds = [(step(net), step(compiled)) for _ in range(rounds)]
        eager, fast = (min(column) for column in zip(*seconds, strict=True))
        print(f"  {name}: compiled in {first:.0f} s; a step {eager:.3f} s, compiled {fast:.3f} s", flush=True)


if __name__ == "__main__":
    main()
