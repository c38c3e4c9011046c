"""What the project does to the process that trains."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from trainables import machine
from trainables.catalogue import KERNELS
from trainables.machine import keep_freed_memory, settle


def test_glibc_keeps_freed_memory() -> None:
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_are_kept_in_threads_too() -> None:
    """Ray trains in a thread. A block of 64 MiB has 16,384 pages, of which each costs a page fault."""
    code = (
        "import resource, threading; from trainables.machine import keep_freed_memory\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def work():\n"
        "    bytearray(2**26); before = faults()\n"
        "    for _ in range(3): bytearray(2**26)\n"
        "    print(faults() - before)\n"
        "keep_freed_memory(); thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    environment = {**os.environ, machine.ARENAS: "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 4), ("0,1", 2), ("GPU-8f1c,", 1), ("", 0), ("NoDevFiles", 0)]
)
def test_gpus_are_those_that_the_process_is_given(
    visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.glob, "glob", lambda _: [f"/dev/nvidia{number}" for number in range(4)])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.gpus() == count


@pytest.mark.parametrize(("granted", "count"), [("", 6), ("4", 4), ("64", 6), ("0", 6), ("2(x3)", 6)])
def test_cores_are_those_that_the_process_is_given(
    granted: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", granted)
    assert machine.cores() == count


@pytest.mark.parametrize(
    ("kernels", "deterministic", "tf32"),
    [("tf32", False, True), ("fastest", False, False), ("deterministic", True, False)],
)
def test_kernels_are_those_that_were_asked_for_whatever_was_before(
    kernels: str, deterministic: bool, tf32: bool
) -> None:
    cudnn = torch.backends.cudnn
    settle(1, kernels)
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (
        deterministic,
        not deterministic,
        tf32,
    )
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    settle(1)  # the next trial in this process
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == (True, False, False)
    assert torch.get_float32_matmul_precision() == "highest"


def test_kernels_that_can_be_asked_for_are_those_that_are_tested() -> None:
    assert set(KERNELS) == {"deterministic", "fastest", "tf32"}
