"""What a trial takes of its machine."""

import mmap
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from synthetic import config, frame

from analysis.sections.costs import costs_section
from trainables import usage
from trainables.usage import Meter

NEVER = 1000.0
"""Seconds between readings: only those that a test asks for."""


class Machine:
    """Counters that a test sets, where Linux has its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu, self.folder = 100.0, 50.0, folder
        monkeypatch.setattr(usage, "PROC", folder)
        monkeypatch.setattr(usage, "POWERCAP", folder)
        clock = types.SimpleNamespace(monotonic=lambda: self.now, process_time=lambda: self.cpu)
        monkeypatch.setattr(usage, "time", clock)
        self.busy(0)
        (folder / "self/clear_refs").mkdir(parents=True)  # which nobody can write to
        self.resident(0)

    def busy(self, seconds: float) -> None:
        ticks = int(100 * seconds)
        # user nice system idle iowait irq softirq steal guest guest_nice
        (self.folder / "stat").write_text(f"cpu  {ticks} 0 0 999999 777 0 0 0 55 0\ncpu0 1 1 1 1 1 1 1 1\n")

    def resident(self, pages: int) -> None:
        (self.folder / "self/statm").write_text(f"9999 {pages} 5 5 0 5 0\n")

    def zone(self, zone: str, name: str, microjoules: int) -> None:
        (self.folder / zone).mkdir(exist_ok=True)
        for file, text in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": 10**9}.items():
            (self.folder / zone / file).write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def gpu_library(monkeypatch: pytest.MonkeyPatch, asked: Callable[[str], float]) -> None:
    """Let PyTorch find NVIDIA's library, which answers what `asked` says; of a GPU that PyTorch has used."""
    stand_in = types.SimpleNamespace(
        NVMLError_DriverNotLoaded=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"handle {index}",
        nvmlDeviceGetUtilizationRates=lambda handle: types.SimpleNamespace(gpu=asked("utilization")),
        nvmlDeviceGetPowerUsage=lambda handle: asked(f"milliwatts of {handle}"),
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=asked("bytes")),
    )
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    monkeypatch.setattr(torch.cuda, "pynvml", stand_in, raising=False)
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(torch.cuda, "_get_device_index", lambda device, optional: device or 0)


def own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5_000_000)


def test_cpu_time_and_the_peak_between_two_readings_are_those_of_this_process() -> None:
    with Meter(interval=NEVER, threads=2) as meter:
        began, worked = time.monotonic(), time.process_time()
        for _ in range(2):
            with mmap.mmap(-1, 60_000_000) as block:  # given back before anything reads
                block.write(b"x" * 60_000_000)
        metrics = meter.metrics()
        seconds, worked = time.monotonic() - began, time.process_time() - worked
    assert 0.9 * worked <= metrics["cpu_seconds"] <= 1.1 * worked + 0.05
    assert metrics["cpu_utilization"] == pytest.approx(metrics["cpu_seconds"] / (2 * seconds), rel=0.3)
    assert metrics["memory_peak_mb"] > metrics["memory_mean_mb"] + 50
    assert "gpu_seconds" not in metrics  # it has none


def test_a_new_trial_of_a_process_has_its_own_peak() -> None:
    block = mmap.mmap(-1, 60_000_000)
    block.write(b"x" * 60_000_000)
    with Meter(interval=NEVER) as first:
        high = first.metrics()["memory_peak_mb"]
    block.close()
    with Meter(interval=NEVER) as second:
        assert second.metrics()["memory_peak_mb"] < high - 50


def test_energy_of_processors_is_shared_out_by_cpu_time(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 999_000_000)
    machine.zone("intel-rapl:1", "package-1", 0)
    for zone, name in {
        "intel-rapl:0:0": "core",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        machine.zone(zone, name, 0)
    machine.resident(1000)
    with Meter(interval=NEVER, threads=2) as meter:
        # 10 s: 36 J + 40 J, of 8 s CPU time of all 2 are ours; the first counter has begun again.
        machine.now, machine.cpu = 110.0, 52.0
        machine.busy(8)
        machine.zone("intel-rapl:0", "package-0", 35_000_000)
        machine.zone("intel-rapl:1", "package-1", 40_000_000)
        for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            machine.zone(zone, (machine.folder / zone / "name").read_text().strip(), 10**8)
        meter._read()
        # 30 s more: 100 J, and nobody else.
        machine.now, machine.cpu = 140.0, 82.0
        machine.busy(38)
        machine.resident(3000)
        machine.zone("intel-rapl:1", "package-1", 140_000_000)
        metrics = meter.metrics()
    joules = (36 + 40) * 2 / 8 + 100
    page = mmap.PAGESIZE
    assert metrics == pytest.approx(
        {
            "cpu_seconds": 32,
            "cpu_utilization": 32 / 80,
            "cpu_energy_wh": joules / 3600,
            "memory_mean_mb": (10 * 1000 + 30 * 3000) / 40 * page / 1e6,
            "memory_peak_mb": 3000 * page / 1e6,  # of the readings, where the kernel has no peak
        }
    )


def test_what_a_machine_does_not_tell_is_missing(machine: Machine) -> None:
    machine.zone("intel-rapl:0", "package-0", 7)
    (machine.folder / "intel-rapl:0/energy_uj").unlink()  # as for all but root
    (machine.folder / "self/statm").unlink()
    (machine.folder / "stat").unlink()
    with Meter(interval=NEVER) as meter:
        machine.now, machine.cpu = 110.0, 52.0
        assert meter.metrics() == {"cpu_seconds": 2, "cpu_utilization": 0.2}
        assert meter.series(last=True) == {"system/process_cpu_utilization_percentage": 20}


def test_a_packed_trial_has_its_share_of_the_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"utilization": 80, "milliwatts of handle 3": 200_000, "bytes": 9_000_000}
    gpu_library(monkeypatch, said.__getitem__)
    own_gpu(monkeypatch)
    with Meter(gpu=0.25, interval=NEVER) as meter:
        machine.now = 110.0
        first = meter.series()
        said |= {"utilization": 20, "milliwatts of handle 3": 100_000}
        machine.now = 130.0
        assert meter.series() == {}  # too near to the point before
        metrics = meter.metrics()
        machine.now = 171.0
        later = meter.series()
    names = ["gpu_seconds", "gpu_utilization", "gpu_energy_wh", "gpu_memory_peak_mb"]
    assert {name: metrics[name] for name in names} == pytest.approx(
        {
            "gpu_seconds": 0.25 * 30,
            "gpu_utilization": (10 * 0.8 + 20 * 0.2) / 30,
            "gpu_energy_wh": 0.25 * (10 * 200 + 20 * 100) / 3600,
            "gpu_memory_peak_mb": 5,
        }
    )
    of_gpu = ["utilization_percentage", "power_usage_watts", "memory_usage_megabytes"]
    assert [first[f"system/gpu_0_{name}"] for name in of_gpu] == pytest.approx([80, 200, 9])  # of all of it
    assert [later[f"system/gpu_0_{name}"] for name in of_gpu] == pytest.approx([20, 100, 9])


def test_without_nvidias_library_time_and_memory_of_the_gpu_remain(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "_HAS_PYNVML", False)
    own_gpu(monkeypatch)
    with Meter(gpu=1, interval=NEVER) as meter:
        machine.now = 110.0
        found = {name: value for name, value in meter.metrics().items() if name.startswith("gpu")}
    assert found == {"gpu_seconds": 10, "gpu_memory_peak_mb": 5}


def test_a_gpu_that_stops_telling_leaves_no_part_for_the_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"utilization": 80, "milliwatts of handle 3": 200_000}
    gpu_library(monkeypatch, said.__getitem__)
    own_gpu(monkeypatch)
    with Meter(gpu=1, interval=NEVER) as meter:
        machine.now = 110.0
        meter._read()
        assert meter.metrics()["gpu_energy_wh"] == pytest.approx(200 * 10 / 3600)
        said.clear()
        machine.now = 120.0
        assert not {"gpu_energy_wh", "gpu_utilization"} & meter.metrics().keys()


def test_attempts_add_up_and_an_unknown_one_leaves_nothing_known(machine: Machine) -> None:
    machine.resident(1000)
    with Meter(interval=NEVER) as first:
        machine.now, machine.cpu = 110.0, 55.0
        earlier = first.so_far()
    machine.resident(500)
    with Meter(interval=NEVER) as second:
        second.resume(earlier)
        machine.now, machine.cpu = 140.0, 70.0
        metrics, both = second.metrics(), second.so_far()
    assert metrics["cpu_seconds"] == 20
    assert metrics["cpu_utilization"] == pytest.approx(20 / 40)
    assert metrics["memory_peak_mb"] == 1000 * mmap.PAGESIZE / 1e6
    assert both["seconds"] == 40
    with Meter(interval=NEVER) as third:  # after a state of a version that measured nothing
        third.resume({})
        machine.now = 150.0
        assert third.metrics() == {}


def test_one_that_is_not_entered_measures_nothing() -> None:
    meter = Meter()
    meter.resume({"cpu_seconds": 7})
    assert (meter.so_far(), meter.metrics(), meter.series(last=True)) == ({}, {}, {})


def test_readings_are_taken_while_a_trial_runs_and_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    with Meter(interval=0.005) as meter:
        monkeypatch.setattr(meter, "_read", lambda: taken.append(1))
        while len(taken) < 3:
            time.sleep(0.005)
    count = len(taken)
    time.sleep(0.03)
    assert len(taken) == count


def test_the_report_says_what_each_arm_took() -> None:
    measured = {"train_seconds": 90.0, "evaluate_seconds": 10.0, "cpu_seconds": 80.0, "cpu_utilization": 0.8}
    with_energy = {**measured, "memory_peak_mb": 900.0, "gpu_energy_wh": 12.0}
    trials = frame(
        {
            config("ce", 0): {"test_acc": 0.5, **with_energy},
            config("ce", 1): {
                "test_acc": 0.5,
                **with_energy,
                "memory_peak_mb": 1400.0,
                "gpu_energy_wh": 20.0,
            },
            config("0", 0): {"test_acc": 0.5, **with_energy, "train_seconds": 290.0, "cpu_utilization": 0.4},
            config("0", 1): {"test_acc": 0.5, "train_seconds": 100.0, "evaluate_seconds": 100.0},
            config("0", 2): None,
        }
    )
    (table,) = costs_section(trials).tables
    shown = table.frame()
    assert [*shown.columns] == [
        *("Trials", "Time a trial", "CPU time", "CPUs used", "Peak memory"),
        *("GPU energy a trial", "GPU energy"),
    ]
    assert shown.loc["CE"].tolist() == ["2", "100 s", "3 min", "80 %", "1.4 GB", "16 Wh", "32 Wh"]
    of_one = ["80 s (1 of 2)", "40 % (1 of 2)", "0.9 GB (1 of 2)", "12 Wh (1 of 2)", "12 Wh (1 of 2)"]
    assert shown.loc["γ = 0"].tolist() == ["2", "4 min", *of_one]
    # The mean of use counts long trials more: (2 · 100 s · 0.8 + 300 s · 0.4) / 500 s.
    assert shown.loc["All", "CPUs used"] == "56 % (3 of 4)"
    assert shown.loc["All", "GPU energy"] == "44 Wh (3 of 4)"
    assert "CPU energy" not in table.caption
    assert costs_section(frame({config("ce", 0): 0.5})).is_empty


def test_several_cells_have_a_row_each() -> None:
    taken = {"test_acc": 0.5, "train_seconds": 3600.0, "evaluate_seconds": 3600.0}
    cells = {config("ce", 0, epochs=epochs): taken for epochs in (30, 60)}
    (table,) = costs_section(frame(cells)).tables
    assert table.frame()["Time a trial"].tolist() == ["2.0 h"] * 3
    assert table.corner == "Cell"
