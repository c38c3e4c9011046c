"""Images a second on a GPU: with and without CUDA graphs, alone and shared, with and without MPS.

    python -m pip install -e '.[bench,gpu]'
    python benchmarks/gpu.py [--minutes 10] [--seconds 3] [--networks resnet18,vgg16] > gpu.md
    python benchmarks/gpu.py --device cpu --seconds 0.2         # the same flow where there is no GPU

32 x 32 pixels, batch 128, two views with all four augmentations, CE + CE + 0.01 Barlow Twins, SGD; ResNet-18,
ResNet-18 with CIFAR's stem and VGG-16 in bf16 and fp32. Beside it, on the same GPU:

- plain: torchvision's ImageFolder, transforms on PIL images in as many workers as there are cores, two
  forwards, torch.optim.SGD, autocast where the precision is bf16, kernels as PyTorch chooses them by default.
- lightly: its transform for two views and its BarlowTwinsLoss in the same loop.

Every process that is measured is one of its own, as trials are. Those that share the GPU begin together when
all are ready. What matters most comes first; after `--minutes` nothing more is begun, and the table has what
was measured until then. The share of the peak is that of a large matrix product, measured in the same run;
multiply-adds are those that meet data, not padding. Where there is no GPU, steps are replayed by a stand-in
for a graph, which calls the step.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import train_throughput

GAMMA = train_throughput.GAMMA
NETWORKS = ("resnet18", "resnet18_cifar", "vgg16")
PRECISIONS = ("bf16", "fp32")
REPEATED = 100
"""How often the images of plain PyTorch and lightly are in one epoch."""
PATIENCE = 300
"""Seconds for processes to get ready, and to end."""


class Run(NamedTuple):
    """What is measured: `way` by so many processes at once."""

    network: str
    precision: str
    way: str
    processes: int = 1
    mps: bool = False
    kernels: str = "deterministic"


def main() -> None:
    """Measure all, or with --run one process of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no measurement begins")
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS))
    parser.add_argument("--batch", type=int, help="default: 128, on a CPU 8")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.networks) - set(NETWORKS):
        parser.error(f"--networks: got {', '.join(sorted(unknown))}; allowed: {', '.join(NETWORKS)}")
    args.batch = args.batch or (128 if args.device == "cuda" else 8)
    if args.run:
        measured_here(args, Run(*json.loads(args.run)))
        return
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; allowed: --device cpu, which tries the flow of this script")
    with tempfile.TemporaryDirectory() as folder:
        train_throughput.write_images(Path(folder, "images"), 10 * args.batch)
        args.folder = Path(folder)
        found: dict[Run, dict[str, Any]] = {}
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            measure_all(args, found)
        finally:  # stopped early, it has a table, too
            print(table(args, found), flush=True)


def plan(args: argparse.Namespace) -> Iterator[Run]:
    """What to measure, what matters most first."""
    several = (2, 4, 8) if args.device == "cuda" else (2,)
    middle = several[len(several) // 2]
    for precision, kernels in (("bf16", "deterministic"), ("fp32", "deterministic"), ("fp32", "tf32")):
        yield Run("", precision, "peak", kernels=kernels)
    for network in args.networks:
        for precision in PRECISIONS:
            yield Run(network, precision, "eager")
            yield Run(network, precision, "graph")
            yield Run(network, precision, "graph", kernels="fastest" if precision == "bf16" else "tf32")
            for mps in (True, False):
                for processes in several:
                    yield Run(network, precision, "graph", processes, mps)
                yield Run(network, precision, "eager", middle, mps)
            if network == args.networks[0]:
                yield Run(network, precision, "plain")
                yield Run(network, precision, "lightly")


def measure_all(args: argparse.Namespace, found: dict[Run, dict[str, Any]]) -> None:
    """Add results of the plan, as far as the minutes go: numbers, or an error in words."""
    deadline = time.monotonic() + 60 * args.minutes
    for run in plan(args):
        if time.monotonic() > deadline:
            print("no time is left for the rest", file=sys.stderr)
            break
        found[run] = together(args, run)
        print(run, found[run], file=sys.stderr, flush=True)


def together(args: argparse.Namespace, run: Run) -> dict[str, Any]:
    """The processes of a run, with a daemon if it has one: numbers added up, or an `error`."""
    from study.cluster.mps import PIPES, Daemon, NoDaemonError

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    daemon = None
    if run.mps:
        try:
            daemon = Daemon.start(1)
        except NoDaemonError as error:
            return {"error": f"no MPS daemon: {error}"}
        environment[PIPES] = daemon.pipes
    command = [sys.executable, __file__, "--device", args.device, "--seconds", str(args.seconds)]
    command += ["--batch", str(args.batch), "--folder", str(args.folder), "--run", json.dumps(run)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(run.processes)
    ]
    late = threading.Timer(PATIENCE, lambda: [process.kill() for process in processes])
    late.start()
    try:
        for process in processes:
            process.stdout.readline()  # it is ready, or has ended
        for process in processes:
            with contextlib.suppress(BrokenPipeError):  # that has ended, and will say why
                process.stdin.write("go\n")
                process.stdin.flush()
        outputs = [process.communicate() for process in processes]
    finally:
        late.cancel()
        for process in processes:
            process.kill()
        if daemon:
            daemon.end()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            return {"error": (errors.strip().splitlines() or ["no reason given"])[-1]}
    results = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    fallen_back = [result["note"] for result in results if "note" in result]
    return {
        "rate": sum(result["rate"] for result in results),
        "memory": max(result["memory"] for result in results),
        **({"error": fallen_back[0]} if fallen_back else {}),
    }


def measured_here(args: argparse.Namespace, run: Run) -> None:
    """Get ready, wait for the others, measure, and print the result as JSON."""
    import torch

    from trainables.machine import settle

    if run.way in ("eager", "graph", "peak"):
        settle(1, run.kernels)
    else:
        torch.set_num_threads(1)
    if args.device == "cuda":
        torch.cuda.init()
    notes: list[str] = []
    if run.way == "peak":
        rate = product_rate(args, run)
    elif run.way in ("plain", "lightly"):
        contestant = getattr(train_throughput, run.way)
        rate = contestant(args, lambda _, *parts: by_hand(args, run, *parts))
    else:
        rate = own_steps(args, run, notes.append)
    result = {"rate": rate, "memory": memory_in_use(args.device)}
    print(json.dumps({**result, "note": notes[0]} if notes else result))


def per_second(args: argparse.Namespace, once: Callable[[], object], warm_up: int) -> float:
    """How often `once` is done in a second, when all processes are ready."""
    for _ in range(warm_up):
        once()
    settled(args.device)
    print("ready", flush=True)
    sys.stdin.readline()
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < args.seconds:
        for _ in range(10 if args.device == "cuda" else 1):  # let the queue of the GPU run full in between
            once()
            count += 1
        settled(args.device)
    return count / (time.perf_counter() - started)


def own_steps(args: argparse.Namespace, run: Run, on_note: Callable[[str], None]) -> float:
    """Images a second of this project's step, its random numbers and batches included."""
    import torch

    from trainables.fast.optimizer import SGD
    from trainables.graph import WARM_UP, Replayed, cuda_graph
    from trainables.models import build
    from trainables.step import Step
    from trainables.trial import TrialConfig

    config = TrialConfig(
        dataset="cifar10",
        backbone=run.network,
        augmentations=("rrc", "hflip", "grayscale", "solarize"),
        method="siamese",
        gamma=GAMMA,
        batch_size=args.batch,
        precision=run.precision,
        seed=os.getpid(),
    )
    device = torch.device(args.device)
    net = build(config, 10).to(device).train()
    optimizer = SGD(net.parameters(), momentum=config.momentum, weight_decay=config.weight_decay)
    step = Step.of(config, net, optimizer, (0.5,) * 3, (0.25,) * 3)
    capture = cuda_graph if args.device == "cuda" else lambda call: call
    train_on = Replayed(step, capture, on_note) if run.way == "graph" else step
    images = torch.randint(256, (100 * args.batch, 3, 32, 32), dtype=torch.uint8, device=device)
    labels = torch.arange(len(images), device=device) % 10
    number = 0

    def once() -> None:
        nonlocal number
        batch = torch.randperm(len(images))[: args.batch].to(device, non_blocking=True)
        train_on(step.inputs(images[batch], labels[batch], epoch=1, number=number, steps=10**6))
        number += 1

    rate = per_second(args, once, WARM_UP + 2)
    if not step.sums.isfinite().all():
        raise SystemExit("the loss is not finite")
    return rate * args.batch


def by_hand(args: argparse.Namespace, run: Run, transform: Callable, barlow_twins: Callable) -> float:
    """Images a second of the loop that one would write, with a DataLoader in all cores."""
    import torch
    from torch import nn
    from torchvision.datasets import ImageFolder

    from trainables.models import backbone

    device = torch.device(args.device)
    parts = nn.ModuleDict(
        {
            "backbone": backbone(run.network, 2048),
            "classifier": nn.Linear(2048, 10),
            "projector": nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(inplace=True), nn.Linear(2048, 128)),
        }
    ).to(device)
    optimizer = torch.optim.SGD(parts.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = ImageFolder(str(args.folder / "images/train"), transform)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.ConcatDataset([images] * REPEATED),  # workers wait for each other at its end
        batch_size=args.batch,
        shuffle=True,
        drop_last=True,
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
        pin_memory=args.device == "cuda",
    )
    batches = (batch for _ in iter(int, 1) for batch in loader)

    def once() -> None:
        (x1, x2), y = next(batches)
        x1, x2, y = (tensor.to(device, non_blocking=True) for tensor in (x1, x2, y))
        with torch.autocast(args.device, torch.bfloat16, enabled=run.precision == "bf16"):
            h1, h2 = parts["backbone"](x1), parts["backbone"](x2)
            loss = sum(nn.functional.cross_entropy(parts["classifier"](h), y) for h in (h1, h2))
            z1, z2 = (parts["projector"](h).float() for h in (h1, h2))
        loss = loss + GAMMA * barlow_twins(z1, z2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return per_second(args, once, 3) * args.batch


def product_rate(args: argparse.Namespace, run: Run) -> float:
    """Multiply-adds a second of a large matrix product."""
    import torch

    size = 8192 if args.device == "cuda" else 1024
    kind = torch.bfloat16 if run.precision == "bf16" else torch.float32
    a, b = torch.randn(2, size, size, device=args.device).to(kind)
    return per_second(args, lambda: a @ b, 5) * size**3


def settled(device: str) -> None:
    """Wait for all work of this process on the GPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def memory_in_use(device: str) -> float:
    """GiB in use of the GPU, by all of its processes; of this process on a CPU."""
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(args: argparse.Namespace, found: dict[Run, dict[str, Any]]) -> str:
    """All results in Markdown."""
    columns = "network | precision | step | kernels | processes | MPS | images/s | against eager | GiB"
    lines = [f"{machine(args)}\n", f"| {columns} | of the peak |", "|" + " --- |" * 6 + " ---: |" * 4]
    for run, result in found.items():
        if run.way == "peak":
            continue
        kernels = run.kernels if run.way in ("eager", "graph") else "PyTorch's"
        cells = [run.network, run.precision, run.way, kernels, str(run.processes), "yes" if run.mps else ""]
        if "rate" not in result:
            lines.append(f"| {' | '.join(cells)} | {result['error']} | | | |")
            continue
        rate, eager = result["rate"], found[Run(run.network, run.precision, "eager")].get("rate")
        relative = f"{rate / eager:.2f}" if eager else ""
        share = ""
        if peak := found[peak_of(run)].get("rate"):
            share = f"{rate * train_throughput.multiply_adds(run.network) / peak:.1%}"
        note = f" ({result['error']})" if "error" in result else ""
        cells += [f"{rate:,.0f}{note}", relative, f"{result['memory']:.1f}", share]
        lines.append(f"| {' | '.join(cells)} |")
    listed = ", ".join(
        f"{2 * result['rate'] / 1e12:.2f} TFLOP/s in {'tf32' if run.kernels == 'tf32' else run.precision}"
        for run, result in found.items()
        if run.way == "peak" and "rate" in result
    )
    return "\n".join([*lines, f"\nThe peak: {listed}."])


def peak_of(run: Run) -> Run:
    """The matrix product that a run can be compared with: by default PyTorch convolves fp32 in TF32."""
    tf32 = run.precision == "fp32" and (run.kernels == "tf32" or run.way in ("plain", "lightly"))
    return Run("", run.precision, "peak", kernels="tf32" if tf32 else "deterministic")


def machine(args: argparse.Namespace) -> str:
    """What was measured on."""
    import torch

    from trainables.machine import device_name

    cores = len(os.sched_getaffinity(0))
    return (
        f"{device_name(args.device)}, {cores} cores, torch {torch.__version__}, batch {args.batch},"
        f" {args.seconds:g} s each."
    )


if __name__ == "__main__":
    main()
