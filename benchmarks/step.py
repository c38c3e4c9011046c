"""CPU time of a training step, as a worker of Ray runs it, beside that of another checkout.

    git worktree add ../before COMMIT
    python benchmarks/step.py --against ../before [--rounds 15] [--precision fp32 bf16] [BACKBONE ...]

32 x 32 pixels, batch 128, two views, Siamese with the Barlow Twins term: forward pass, backward pass,
optimiser, on one thread that is not the first one of its process, with the variables that a study gives its
workers. Checkouts take turns, step by step. The table has medians: CPU time of a step, the part of it that
the kernel took for page faults, the most memory, and the ratio of the pairs. Without --against, this
checkout alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
"""Steps that are not measured: they fetch memory."""


def main() -> None:
    """Measure, and print a row for each network and precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE", default=["resnet18", "convnet"])
    args = parser.parse_args()
    if args.work:
        sys.path.insert(0, str(args.work))
        thread = threading.Thread(target=work, args=(args.backbones[0], args.precision[0]))
        thread.start()
        thread.join()
        return
    checkouts = [*([args.against.resolve()] if args.against else []), ROOT]
    print(_machine())
    for backbone in args.backbones:
        for precision in args.precision:
            found = _in_turns(checkouts, backbone, precision, args.rounds)
            print(f"{backbone:16}{precision}  {'   '.join(map(_row, found))}{_ratio(found)}", flush=True)


def _machine() -> str:
    sys.path.insert(0, str(ROOT))
    from trainables.bf16 import units
    from trainables.machine import processor

    return f"{processor()}, units for bf16: {units() or 'none known'}; before (if asked for) and after, ms"


def _in_turns(checkouts: list[Path], backbone: str, precision: str, rounds: int) -> list[list[Any]]:
    """For each checkout: of each step CPU seconds, those in the kernel, and the most memory so far, KiB."""
    started = [_start(checkout, backbone, precision) for checkout in checkouts]
    found: list[list[Any]] = [[] for _ in started]
    for number in range(rounds + WARM_UP):
        for process, steps in zip(started, found, strict=True):
            process.stdin.write("\n")
            process.stdin.flush()
            measured = json.loads(process.stdout.readline())
            if number >= WARM_UP:
                steps.append(measured)
    for process in started:
        process.stdin.close()
        process.wait()
    return found


def _start(checkout: Path, backbone: str, precision: str) -> Any:
    command = [sys.executable, __file__, "--work", str(checkout), "--precision", precision, "--", backbone]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    if "ARENAS" in (checkout / "trainables/machine.py").read_text():  # what its studies give their workers
        environment["MALLOC_ARENA_MAX"] = "1"
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout
    )


def _row(steps: list[Any]) -> str:
    total, system, memory = (statistics.median(column) for column in zip(*steps, strict=True))
    return f"{1000 * total:7.0f} (kernel {1000 * system:4.0f}, {memory / 2**20:.2f} GiB)"


def _ratio(found: list[list[Any]]) -> str:
    if len(found) == 1:
        return ""
    ratios = [after[0] / before[0] for before, after in zip(*found, strict=True)]
    return f"   ratio {statistics.median(ratios):.3f}"


def work(backbone: str, precision: str) -> None:
    """A step for each line of standard input."""
    import torch

    from trainables.fast.optimizer import SGD
    from trainables.losses import barlow_twins_loss, siamese_loss
    from trainables.machine import settle
    from trainables.models import build
    from trainables.trial import TrialConfig

    settle(1)
    config = TrialConfig(
        dataset="digits", backbone=backbone, augmentations=(), method="siamese", gamma=0.01, seed=0
    )
    net = build(config, 10).train()
    optimizer = SGD(net.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)
    views = [torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last) for _ in range(2)]
    targets = torch.arange(128) % 10
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            h = net.features_of_views(views)
            scores, embeddings = net.logits(h).chunk(2), net.embedding(h).chunk(2)
            term = barlow_twins_loss(*embeddings, lambd=config.lambd)
            loss = siamese_loss(*scores, targets, term, gamma=0.01)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step(config.lr)
        after = resource.getrusage(resource.RUSAGE_SELF)
        system = after.ru_stime - before.ru_stime
        print(json.dumps([after.ru_utime - before.ru_utime + system, system, after.ru_maxrss]), flush=True)


if __name__ == "__main__":
    main()
