"""What bf16 costs on the processor of this machine: by its name for it, or measured.

As a script it measures and prints a number: the command line starts it as a process, so that it need not
import PyTorch.
"""

import time
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
AMX, AVX512 = "AMX", "AVX512-BF16"
UNITS = {"amx_bf16": AMX, "avx512_bf16": AVX512}
"""Units for products of bf16 numbers by their flags in Linux, the fastest first."""
SIZE, ROUNDS = 384, 5
"""Rows and columns of the matrices that are multiplied, and how often: some milliseconds in all."""


def units() -> str | None:
    """`AMX`, `AVX512-BF16`, or an empty string for none; None where it is not known."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    flags = next((line.split() for line in lines if line.startswith("flags")), None)
    if flags is None:  # not an x86 processor
        return None
    return next((name for flag, name in UNITS.items() if flag in flags), "")


def relative_time() -> float:
    """How many times as long as in fp32 a product of matrices takes in bf16, on one thread."""
    import torch

    torch.set_num_threads(1)
    matrix = torch.rand(SIZE, SIZE)
    best = {}
    for x in (matrix, matrix.bfloat16()):
        seconds = []
        for _ in range(ROUNDS + 1):  # the first one is slower
            started = time.perf_counter()
            x @ x
            seconds.append(time.perf_counter() - started)
        best[x.dtype] = min(seconds)
    return best[torch.bfloat16] / best[torch.float32]


if __name__ == "__main__":
    print(relative_time())
