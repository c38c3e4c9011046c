"""All measurements of docs/performance.md in one go, on one page, with the machine that they are of.

    python -m pip install -e '.[bench]'
    python benchmarks/all.py [--out benchmarks.md] [--only NAME ...]
    python benchmarks/all.py --quick          # does everything still run? its figures mean nothing

Takes about an hour; let nothing else run meanwhile. Each measurement is a process of its own. The page is
written anew after each, so that one that fails, or is stopped, costs no other. Ends with code 1 if any has
failed.
"""

import argparse
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "torchvision", "numpy", "ray", "mlflow", "lightly", "kornia")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""What a processor may have that decides how fast its matrix products are, as Linux calls it."""
TRIAL = re.compile(r"^seconds a trial: ([\d.]+)$", re.MULTILINE)
"""What `quickstart.py` says last; `verdict.py` makes device time of trials with it."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A script with its arguments, and those of the short mode."""

    script: str
    title: str
    arguments: str = ""
    quick: str = ""

    @property
    def name(self) -> str:
        """The script without its ending."""
        return self.script.removesuffix(".py")

    def words(self, quick: bool) -> list[str]:
        """The command after `python`."""
        return [f"benchmarks/{self.script}", *shlex.split(self.quick if quick else self.arguments)]


MEASUREMENTS = (
    Measurement("quickstart.py", "From the command to the report", "", "--epochs 2 --seeds 1"),
    Measurement("train_throughput.py", "Training", "", "--rounds 1 --images 256 --epochs 1 --quick"),
    Measurement("convolution.py", "Convolutions of small maps", "", "--rounds 1 --batch 16"),
    Measurement(
        "convolution.py",
        "Convolutions of small maps, bf16",
        "--precision bf16",
        "--precision bf16 --rounds 1 --batch 16",
    ),
    Measurement(
        "views.py",
        "Both views in one batch",
        "resnet18 vgg16 convnet efficientnet_b0 densenet121",
        "--rounds 1 --batch 16 convnet",
    ),
    Measurement(
        "views.py", "Both views in one batch, bf16", "--precision bf16", "--precision bf16 --rounds 1 convnet"
    ),
    Measurement("step.py", "A step", "", "--rounds 1 --precision fp32 -- convnet"),
    Measurement("augment_throughput.py", "Augmentation", "", "--rounds 1 --batch 16"),
    Measurement(
        "study_overhead.py",
        "Around a trial",
        "",
        "--trials 10 --peer-trials 5 --memory-trials 10 --finished 20",
    ),
    Measurement("report_time.py", "Report", "", "--trials 100"),
    Measurement("cluster_scale.py", "A long study on three nodes", "", "--trials 20"),
    Measurement("verdict.py", "What a verdict costs", "power", "power --cells 20"),
    Measurement("gpu.py", "GPU", "", "--seconds 0.2 --minutes 1 --networks resnet18"),
)


def main() -> int:
    """Measure, and write the page; returns the exit code."""
    names = list(dict.fromkeys(each.name for each in MEASUREMENTS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="everything once, as short as possible")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.md"), metavar="FILE")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args()
    chosen = [each for each in possible(MEASUREMENTS) if not args.only or each.name in args.only]
    return measure(chosen, args.out, quick=args.quick)


def possible(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Those of them that this machine can do: GPUs are measured where there is one."""
    import torch

    there = [each for each in measurements if (ROOT / "benchmarks" / each.script).exists()]
    return [each for each in there if each.name != "gpu" or torch.cuda.is_available()]


def measure(measurements: Sequence[Measurement], out: Path, *, quick: bool) -> int:
    """Run measurements one after the other, and write the page after each; 1 if one has failed, else 0."""
    parts = [*head(quick)]
    failed = False
    seconds_a_trial = ""
    for number, each in enumerate(measurements, 1):
        words = each.words(quick)
        if each.name == "verdict" and seconds_a_trial:
            words += ["--seconds", seconds_a_trial]
        print(f"[{number}/{len(measurements)}] {shlex.join(words)}", flush=True)
        began = time.monotonic()
        run = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
        if found := TRIAL.search(run.stdout):
            seconds_a_trial = found[1]
        failed = failed or run.returncode != 0
        parts += ["", *part(each.title, words, run, time.monotonic() - began)]
        out.write_text("\n".join(parts) + "\n")
    print(f"wrote {out.absolute()}")
    return int(failed)


def head(quick: bool) -> Iterator[str]:
    """The machine, and the versions."""
    yield "# Measurements"
    yield ""
    if quick:
        yield "**A short run, which shows that everything runs: its figures mean nothing.**"
        yield ""
    yield f"- {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {_commit()}"
    yield f"- {_processor()}"
    yield f"- load before, 1 and 5 minutes: {', '.join(f'{load:.2f}' for load in os.getloadavg()[:2])}"
    yield f"- {platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield f"- {', '.join(f'{name} {_version(name)}' for name in LIBRARIES)}"


def part(
    title: str, words: Sequence[str], run: "subprocess.CompletedProcess[str]", seconds: float
) -> Iterator[str]:
    """What a measurement printed, under its command."""
    yield f"## {title}"
    yield ""
    yield f"`python {shlex.join(words)}`, {seconds:.0f} s"
    yield ""
    if run.returncode:
        last = "\n".join(run.stderr.strip().splitlines()[-3:])
        yield f"**It ended with code {run.returncode}.**\n\n```\n{run.stdout}{last}\n```"
    elif run.stdout.startswith("|"):  # a table already
        yield run.stdout.strip()
    else:
        yield f"```\n{run.stdout.rstrip()}\n```"


def _commit() -> str:
    """The commit, and whether there are changes; `unknown` without Git."""
    try:
        said = [
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for command in (["git", "rev-parse", "--short", "HEAD"], ["git", "status", "--porcelain"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said[0].strip() + (" with changes" if said[1].strip() else "")


def _processor() -> str:
    """Model, cores, instructions that matter, memory, and GPUs."""
    import torch

    sys.path.insert(0, str(ROOT))
    from trainables.machine import cores, processor

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has = [name for name in INSTRUCTIONS if re.search(rf"\b{name}\b", info)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    shown = [f"{cores()} cores", *(has or ["no known vector instructions"]), f"{memory:.0f} GiB"]
    return f"{processor()}, {', '.join([*shown, *(gpus or ['no GPU'])])}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
