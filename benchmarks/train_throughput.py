"""Images a second of a trial, beside what one would write by hand and beside lightly.

    python -m pip install -e '.[bench]'
    python benchmarks/train_throughput.py [--rounds 3] [--images 1280] [--epochs 2] [--quick]

ResNet-18, 32 x 32 pixels, batch 128, two views, CE + CE + 0.01 Barlow Twins, SGD; the same images
(scikit-learn's digits as PNG files in folders) for all:

- ours: a trial of this project, one thread; and as many at once as the machine has cores, as they are packed.
- plain: torchvision's ImageFolder, transforms v1 on PIL images, DataLoader, two forwards, torch.optim.SGD.
- lightly: its transform for two views, its BarlowTwinsLoss, otherwise as plain.

All are measured in fp32; where the processor has AMX, ours and plain in bf16, too (plain with autocast and
channels_last). Every measurement is a process of its own, rounds take turns, and the table has medians over
rounds. The floor is what the multiply-adds of a step that meet data (not the padding's zeros) take at the
rate of a matrix product of 1,024 x 1,024, measured in the same rounds. Ours has the variable that a study
gives its workers (`MALLOC_ARENA_MAX=1`).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BATCH = 128
GAMMA = 0.01
PRECISIONS = ("fp32", "bf16")
PEERS = ("plain", "lightly")
ARENAS = "MALLOC_ARENA_MAX"


class Run(NamedTuple):
    """A contestant at a setting."""

    name: str
    precision: str
    threads: int
    workers: int
    processes: int


def main() -> None:
    """Run all contestants, or with --contestant one, and print images a second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--epochs", type=int, default=2, help="measured, after one that is not")
    parser.add_argument("--quick", action="store_true", help="one setting of threads and workers each")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        measured = CONTESTANTS[args.contestant](args)
        print(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), args.images)
        compare(args, Path(folder))


def compare(args: argparse.Namespace, folder: Path) -> None:
    """All contestants in turns, then the table."""
    from trainables.bf16 import AMX, units

    cores = len(os.sched_getaffinity(0))
    settings = [(1, 0), (cores, 0), (cores, cores)] if args.quick else [(1, 0), (1, cores)]
    if not args.quick:
        settings += [(cores, 0), (cores, 1), (cores, cores)]
    precisions = PRECISIONS if units() == AMX else PRECISIONS[:1]
    kinds = []
    for precision in precisions:
        kinds += [Run(name, precision, 1, 0, 1) for name in ("floor", "ours")]
        kinds.append(Run("ours", precision, 1, 0, cores))
        for name in ("plain", "lightly") if precision == "fp32" else ("plain",):
            kinds += [Run(name, precision, threads, workers, 1) for threads, workers in settings]
            kinds.append(Run(name, precision, 1, 0, cores))
    runs: dict[Run, list[float]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind, found in runs.items():
            found.append(_together(kind, args=args, folder=folder))
    print(_machine())
    print(f"{'':10}{'':10}{'threads':>8}{'workers':>8}{'at once':>8}{'images/s':>10}   rounds")
    medians = {kind: statistics.median(found) for kind, found in runs.items()}
    for kind, found in runs.items():
        each = " ".join(f"{value:.0f}" for value in found)
        shown = f"{kind.name:10}{kind.precision:10}{kind.threads:8}{kind.workers:8}{kind.processes:8}"
        print(f"{shown}{medians[kind]:10.1f}   {each}")
    for precision in precisions:
        one, whole = (medians[Run("ours", precision, 1, 0, at_once)] for at_once in (1, cores))
        print(f"{precision}, one thread: {one / medians[Run('floor', precision, 1, 0, 1)]:.2f} of the floor")
        share = _together(Run("outside", precision, 1, 0, 1), args=args, folder=folder)
        print(f"{precision}, one thread: {share:.1%} of an epoch is outside of both passes and optimiser")
        for name, peer in dict.fromkeys((kind.name, kind.precision) for kind in kinds):
            if name in PEERS:
                rates = {kind: rate for kind, rate in medians.items() if kind[:2] == (name, peer)}
                single = max(rate for kind, rate in rates.items() if kind.processes == 1)
                packed = rates[Run(name, peer, 1, 0, cores)]
                print(
                    f"{precision}, whole machine: {whole / single:.2f} times {name} in {peer} at its best"
                    f" setting of threads and workers, {whole / packed:.2f} times {cores} of it at once"
                )


def _together(kind: Run, *, args: argparse.Namespace, folder: Path) -> float:
    """Images a second of `processes` contestants that run at once, added up."""
    command = [sys.executable, __file__, "--contestant", kind.name, "--precision", kind.precision]
    command += ["--threads", str(kind.threads), "--workers", str(kind.workers), "--folder", str(folder)]
    command += ["--images", str(args.images), "--epochs", str(args.epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(kind.threads)}
    environment |= {ARENAS: "1"} if kind.name in ("ours", "outside") else {}  # what studies give workers
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(kind.processes)
    ]
    total = 0.0
    for process in started:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{kind.name} ended with {process.returncode}")
        total += json.loads(out.splitlines()[-1])
    return total


def ours(args: argparse.Namespace, *, all_epochs: bool = False) -> float:
    """A trial, as the command line trains it; the first epoch counts only with `all_epochs`."""
    from trainables.train import train
    from trainables.trial import TrialConfig

    config = TrialConfig(
        dataset="folder:images",
        train_size=args.images,
        backbone="resnet18",
        augmentations=("rrc", "hflip", "grayscale", "solarize"),
        method="siamese",
        gamma=GAMMA,
        epochs=args.epochs + 1,
        batch_size=BATCH,
        precision=args.precision,
        seed=0,
    )
    rows: list[dict[str, float]] = []

    class Enough(Exception):
        pass

    def on_epoch(row: dict[str, float]) -> None:
        rows.append(row)
        if len(rows) == config.epochs:
            raise Enough

    try:
        train(config, args.folder, threads=args.threads, on_epoch=on_epoch)
    except Enough:
        measured = rows if all_epochs else rows[1:]
        steps = args.images // BATCH
        return len(measured) * steps * BATCH / sum(row["epoch_seconds"] for row in measured)
    raise AssertionError("the trial has ended by itself")


def plain(args: argparse.Namespace, loop: Callable[..., float] | None = None) -> float:
    """What one writes by hand."""
    import torch
    from torchvision import transforms

    one_view = transforms.Compose(
        [
            transforms.RandomResizedCrop(32, scale=(0.2, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomGrayscale(0.2),
            transforms.RandomSolarize(128, 0.2),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )

    def barlow_twins(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        z1, z2 = ((z - z.mean(0)) / z.std(0) for z in (z1, z2))
        c = z1.T @ z2 / len(z1)
        on_diag = (c.diagonal() - 1).square().sum()
        return on_diag + 0.0051 * (c.square().sum() - c.diagonal().square().sum())

    return (loop or _by_hand)(args, lambda image: (one_view(image), one_view(image)), barlow_twins)


def lightly(args: argparse.Namespace, loop: Callable[..., float] | None = None) -> float:
    """lightly's transforms and loss in the same loop."""
    from lightly.loss import BarlowTwinsLoss
    from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    view = {"input_size": 32, "cj_prob": 0.0, "gaussian_blur": 0.0, "min_scale": 0.2}
    transform = BYOLTransform(
        BYOLView1Transform(**view, solarization_prob=0.2), BYOLView2Transform(**view, solarization_prob=0.2)
    )
    return (loop or _by_hand)(args, transform, BarlowTwinsLoss(lambda_param=0.0051))


def _by_hand(args: argparse.Namespace, transform: Callable, barlow_twins: Callable) -> float:
    import torch
    from torch import nn
    from torchvision.datasets import ImageFolder
    from torchvision.models import resnet18

    torch.set_num_threads(args.threads)
    backbone, classifier = resnet18(num_classes=2048), nn.Linear(2048, 10)
    projector = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(inplace=True), nn.Linear(2048, 128))
    parts = nn.ModuleList([backbone, classifier, projector])
    half = args.precision == "bf16"
    layout = torch.channels_last if half else torch.contiguous_format
    parts = parts.to(memory_format=layout)
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(args.folder / "images/train"), transform),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    images, seconds = 0, 0.0
    for epoch in range(args.epochs + 1):
        started = time.perf_counter()
        for (x1, x2), y in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                h1, h2 = (backbone(x.to(memory_format=layout)) for x in (x1, x2))
                scores, z1, z2 = [classifier(h) for h in (h1, h2)], projector(h1), projector(h2)
            loss = sum(nn.functional.cross_entropy(score.float(), y) for score in scores)
            loss = loss + GAMMA * barlow_twins(z1.float(), z2.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(y) if epoch else 0
        seconds += time.perf_counter() - started if epoch else 0.0
    return images / seconds


def outside(args: argparse.Namespace) -> float:
    """Share of a trial's epochs that is neither forward pass nor backward pass nor optimiser."""
    import torch

    from trainables import step
    from trainables.fast.optimizer import SGD

    inside = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*arguments: Any, **options: Any) -> Any:
            nonlocal inside
            started = time.perf_counter()
            result = call(*arguments, **options)
            inside += time.perf_counter() - started
            return result

        return measured

    for owner, name in ((step, "forward"), (torch.Tensor, "backward"), (SGD, "step")):
        setattr(owner, name, timed(getattr(owner, name)))
    seconds = args.images // BATCH * BATCH * (args.epochs + 1) / ours(args, all_epochs=True)
    return 1 - inside / seconds


def floor(args: argparse.Namespace) -> float:
    """Images a second if a step were nothing but its multiply-adds, at the rate of a matrix product."""
    import torch

    torch.set_num_threads(1)
    a = torch.randn(1024, 1024).to(torch.bfloat16 if args.precision == "bf16" else torch.float32)
    seconds = min(_timed(lambda: a @ a) for _ in range(20))
    return (1024**3 / seconds) / multiply_adds()


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def multiply_adds(backbone: str = "resnet18") -> float:
    """Those with data of one image's two views, forward and backward; the images need no gradient."""
    import torch
    from torch import nn

    from trainables.models import build
    from trainables.trial import TrialConfig

    config = TrialConfig(
        dataset="digits", backbone=backbone, augmentations=(), method="siamese", gamma=GAMMA, seed=0
    )
    net, total, sizes = build(config, 10), 0.0, []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            per_axis = sum(
                0 <= o * module.stride[0] - int(module.padding[0]) + t < inputs[0].shape[-1]
                for o, t in itertools.product(range(output.shape[-1]), range(module.kernel_size[0]))
            )
            sizes.append(per_axis**2 * module.in_channels * module.out_channels)
        else:
            sizes.append(module.weight.numel())

    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        h = net.eval().features(torch.zeros(1, 3, 32, 32))
        net.logits(h), net.embedding(h)
    total = 3 * sum(sizes) - sizes[0]
    return 2 * total


def write_images(folder: Path, count: int) -> None:
    """scikit-learn's digits as PNG files of 32 x 32 pixels, class by class; repeated where they run out."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    by_class: list[Iterator[np.ndarray]] = [
        itertools.cycle(digits.images[digits.target == label]) for label in range(10)
    ]
    for i in range(count + 10):
        label = i % 10
        split = "train" if i < count else "test"
        path = folder / split / str(label) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(next(by_class[label]) * 15.9375, np.ones((4, 4))).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(path)


def _machine() -> str:
    import torch

    from trainables.machine import device_name

    return f"{device_name('cpu')}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}"


CONTESTANTS = {"floor": floor, "ours": ours, "outside": outside, "plain": plain, "lightly": lightly}

if __name__ == "__main__":
    main()
