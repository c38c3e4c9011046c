"""The machine that this process runs on; imports PyTorch only to ask a GPU for its name."""

import glob
import platform
from pathlib import Path


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


def gpus() -> int:
    """How many GPUs there seem to be, by their device files; 0 where there are none."""
    return len(glob.glob("/dev/nvidia[0-9]*")) or sum(
        bool(glob.glob(pattern)) for pattern in ("/dev/kfd", "/dev/dxg")
    )
