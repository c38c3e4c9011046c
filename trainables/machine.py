"""The machine that this process runs on; imports PyTorch only where it is set up or its GPU asked for."""

import contextlib
import ctypes
import glob
import os
import platform
from pathlib import Path

CONTEXT = 600 * 2**20
"""Bytes of each process's share that CUDA takes for itself, outside of PyTorch's allocator: its context and
kernels are about half a GiB on recent GPUs."""
ARENAS = "MALLOC_ARENA_MAX"
"""Variable that, as 1, lets glibc keep memory that is freed in threads, where Ray trains: by default a thread
has an arena of its own, which holds 64 MiB and returns what is free. Read when a process starts."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""glibc's numbers of the settings (malloc.h)."""


def processor() -> str:
    """Model name of the processor, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def device_name(device: str) -> str:
    """What the tag `device` says of `cpu` or `cuda`."""
    if device == "cpu":
        return f"cpu {processor()}"
    import torch

    return str(torch.cuda.get_device_name())


def cap_gpu_memory(share: float) -> float | None:
    """Keep this process within its share of the first visible GPU; returns the cap in GiB, None if all of it.

    The cap is on PyTorch's allocator: beyond it a trial runs out of memory itself, instead of its neighbours.
    """
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    fraction = 1.0 if share >= 1 else max(share - CONTEXT / total, share / 2)
    torch.cuda.set_per_process_memory_fraction(fraction, 0)
    return None if share >= 1 else float(fraction * total / 2**30)


def gpu_trouble() -> str | None:
    """Why PyTorch can use no GPU here, in words for people; None: it can."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"PyTorch {torch.__version__} sees no GPU here, though there seems to be one"


def gpus() -> int:
    """How many GPUs this process may use, as it seems: by their device files, and by CUDA_VISIBLE_DEVICES."""
    files = len(glob.glob("/dev/nvidia[0-9]*")) or sum(
        bool(glob.glob(pattern)) for pattern in ("/dev/kfd", "/dev/dxg")
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return files
    named = [] if visible == "NoDevFiles" else [name for name in visible.split(",") if name.strip()]
    return min(files, len(named))  # NoDevFiles is what Slurm says to a job without GPUs


def cores() -> int:
    """How many cores this process may use: what it is bound to, and what Slurm has given to its job.

    Slurm binds jobs to their cores only where its administrators have set it up.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return min(bound, int(granted)) if granted.isdigit() and int(granted) else bound


def settle(threads: int, kernels: str = "deterministic") -> None:
    """Set what an earlier trial in this process may have changed: threads of PyTorch, kernels of GPUs."""
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    # Unless asked for, fp32 means fp32: no TF32.
    torch.set_float32_matmul_precision("high" if kernels == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = kernels == "tf32"
    torch.backends.cudnn.benchmark = kernels != "deterministic"
    torch.backends.cudnn.deterministic = kernels == "deterministic"


def keep_freed_memory() -> bool:
    """Keep what tensors free for the next ones, in this process; returns whether the C library does so.

    By default glibc returns freed blocks to the kernel, depending on how they happen to lie in memory and
    always above 32 MiB, and gets them back page by page: filling a tensor can take ten times as long.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    return False
