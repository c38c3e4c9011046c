"""What a trial takes of its machine: time of CPUs and GPUs, memory, energy.

A thread reads counters once a second while the trial runs. The counters are those of Linux (/proc, and
/sys/class/powercap for the energy of processors), of PyTorch, and of NVIDIA's or AMD's library behind
`torch.cuda`. What a machine does not tell is missing in the end, never a guess.

Two of these belong to a machine, and are shared out: the energy of the processors by the CPU time of this
process among all that they worked; the energy of a GPU, and the time on it, by the share that Ray granted.
"""

import contextlib
import math
import operator
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

INTERVAL = 1.0
"""Seconds between two readings."""
SHORTEST = 0.2
"""Seconds that a reading at the end of an epoch is apart from the one before, at least; of a GPU, which takes
longer to ask, it is `INTERVAL`."""
SERIES_EVERY = 60.0
"""Seconds between two points of the series for MLflow's pages."""
POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc")
MB, WH = 1e6, 3600.0
"""Bytes of a megabyte, as MLflow counts them, and joules of a watt-hour."""
PEAKS = ("memory_peak", "gpu_memory_peak")
SUMS = (
    *("seconds", "core_seconds", "cpu_seconds", "memory_seconds", "cpu_joules"),
    *("gpu_seconds", "gpu_busy_seconds", "gpu_joules"),
)
"""What is added up over readings and attempts: `memory_seconds` are bytes times seconds, the joules those of
this trial."""
Totals = dict[str, float]
"""`SUMS` and `PEAKS` so far; NaN where some part is not known."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment; NaN where the machine does not tell.

    Attributes:
        cpu: seconds of CPU time of this process, of all its threads.
        busy: those of the whole machine.
        joules: what its processors took since the first reading.
        memory: resident bytes of this process.
        gpu_busy: share of the last second in which the GPU was busy.
        watts: what the GPU takes.
    """

    cpu: float
    busy: float
    joules: float
    memory: float
    gpu_busy: float = math.nan
    watts: float = math.nan


@dataclass(slots=True)
class Processors:
    """The energy counters of the processors (RAPL), which many machines show to root alone."""

    _before: dict[Path, int] = field(default_factory=dict)
    _joules: float = 0.0

    def joules(self) -> float:
        """What they took since the first call, which begins at 0; NaN where nothing tells."""
        # Zones within a package (cores, memory), and its twin under intel-rapl-mmio, would count twice.
        zones = [z for z in POWERCAP.glob("intel-rapl:*") if _text(z / "name").startswith("package")]
        try:
            for zone in zones:
                now = int(_text(zone / "energy_uj"))
                since = now - self._before.get(zone, now)
                if since < 0:  # the counter begins again after its largest value
                    since += int(_text(zone / "max_energy_range_uj"))
                self._before[zone] = now
                self._joules += since / 1e6
        except ValueError:
            return math.nan
        return self._joules if zones else math.nan


def _text(path: Path) -> str:
    """The content of a file of the kernel; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _resident_bytes() -> float:
    words = _text(PROC / "self/statm").split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else math.nan


def _largest_resident_bytes() -> float:
    """The most that was resident since `_forget_largest`, exactly; NaN where the kernel does not tell."""
    for line in _text(PROC / "self/status").splitlines():
        if line.startswith("VmHWM:"):
            return 1024.0 * int(line.split()[1])
    return math.nan


def _forget_largest() -> bool:
    """Whether the kernel begins to look for the largest resident size anew (`man 5 proc`, clear_refs)."""
    try:
        (PROC / "self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _busy_seconds() -> float:
    """Seconds that the cores of this machine worked, for whomever, since it was started."""
    words = _text(PROC / "stat").partition("\n")[0].split()
    if len(words) < 9:
        return math.nan
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _of_gpu(name: str) -> float:
    """What a function of `torch.cuda` says of the first visible GPU; NaN where no library tells."""
    import torch

    try:
        return float(getattr(torch.cuda, name)(0))
    except Exception:  # a missing library, an old driver, a part of a GPU (MIG): each has its own errors
        return math.nan


def _gpu_now() -> dict[str, float]:
    """What the GPU does, as `Reading` has it."""
    import torch

    busy = _of_gpu("utilization") / 100
    # Of a part of a GPU (MIG) no use is known; the power is that of the whole, which others use, too.
    # NVIDIA's library says milliwatts, AMD's watts.
    watts = math.nan if math.isnan(busy) else _of_gpu("power_draw") / (1 if torch.version.hip else 1000)
    return {"gpu_busy": busy, "watts": watts}


class Meter:
    """Measures a trial while it is entered; one that is not measures nothing.

    Args:
        gpu: the share of a GPU that the trial was granted, 0 for none.
        threads: CPU threads that it was granted.
        interval: seconds between two readings.
    """

    def __init__(self, *, gpu: float = 0.0, threads: int = 1, interval: float = INTERVAL) -> None:
        """Measure nothing yet."""
        self._gpu, self._threads, self._interval = gpu, threads, interval
        self._earlier: Totals | None = None
        self._here: Totals = {}
        self._processors = Processors()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._series_at, self._series_from = 0.0, dict.fromkeys(SUMS, 0.0)

    def __enter__(self) -> Self:
        """Begin."""
        self._exact_peak = _forget_largest()
        if self._gpu:
            _of_gpu("reset_peak_memory_stats")  # returns nothing; one that cannot do it must end no trial
        of_gpu = 0.0 if self._gpu else math.nan
        self._here = {name: of_gpu if name.startswith("gpu") else 0.0 for name in (*SUMS, *PEAKS)}
        self._last, self._at = self._reading(), time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join(self._interval)  # a driver that hangs must not keep the trial

    def resume(self, earlier: Mapping[str, float]) -> None:
        """Add what earlier attempts took; empty where that is not known, as nobody measured it."""
        self._earlier = {name: earlier.get(name, math.nan) for name in (*SUMS, *PEAKS)}

    def so_far(self) -> Totals:
        """What all attempts took until now, or a moment ago; empty for a meter that was never entered."""
        if not self._here:
            return {}
        self._read(INTERVAL if self._gpu else SHORTEST)
        with self._lock:
            here = dict(self._here)
        if self._earlier is None:
            return here
        add = {name: _larger if name in PEAKS else operator.add for name in here}
        return {name: add[name](here[name], self._earlier[name]) for name in here}

    def metrics(self) -> dict[str, float]:
        """The final metrics of `trainables.metrics` that are known."""
        if not self._here:
            return {}
        self._read()
        of = self.so_far()
        found = {
            "cpu_seconds": of["cpu_seconds"],
            "cpu_utilization": _ratio(of["cpu_seconds"], of["core_seconds"]),
            "memory_peak_mb": of["memory_peak"] / MB,
            "memory_mean_mb": _ratio(of["memory_seconds"], of["seconds"]) / MB,
            "cpu_energy_wh": of["cpu_joules"] / WH,
            "gpu_seconds": of["gpu_seconds"],
            "gpu_utilization": _ratio(of["gpu_busy_seconds"], of["seconds"]),
            "gpu_memory_peak_mb": of["gpu_memory_peak"] / MB,
            "gpu_energy_wh": of["gpu_joules"] / WH,
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def series(self, *, last: bool = False) -> dict[str, float]:
        """A point for the page *System metrics* of MLflow; empty if the one before is not old enough.

        What the whole GPU does has MLflow's own names, as if it were the machine's first.
        """
        if not self._here or not (last or time.monotonic() - self._series_at >= SERIES_EVERY):
            return {}
        self._read()
        with self._lock:
            now, reading = dict(self._here), self._last
        since = {name: now[name] - value for name, value in self._series_from.items()}
        self._series_at, self._series_from = time.monotonic(), {name: now[name] for name in SUMS}
        point = {
            "process_cpu_utilization_percentage": 100 * _ratio(since["cpu_seconds"], since["seconds"]),
            "process_memory_usage_megabytes": reading.memory / MB,
            "gpu_0_utilization_percentage": 100 * _ratio(since["gpu_busy_seconds"], since["seconds"]),
            "gpu_0_memory_usage_megabytes": (_of_gpu("device_memory_used") if self._gpu else math.nan) / MB,
            "gpu_0_power_usage_watts": _ratio(since["gpu_joules"], since["gpu_seconds"]),
        }
        return {f"system/{name}": value for name, value in point.items() if math.isfinite(value)}

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            with contextlib.suppress(Exception):  # whatever it is, the trial goes on
                self._read()

    def _reading(self) -> Reading:
        return Reading(
            cpu=time.process_time(),
            busy=_busy_seconds(),
            joules=self._processors.joules(),
            memory=_resident_bytes(),
            **(_gpu_now() if self._gpu else {}),
        )

    def _read(self, apart: float = 0.0) -> None:
        """Take a reading, unless the last one is less than `apart` seconds old."""
        with self._lock:
            seconds = time.monotonic() - self._at
            if seconds < apart:
                return
            before, now = self._last, self._reading()
            self._last, self._at = now, self._at + seconds
            cpu = now.cpu - before.cpu
            taken = {
                "seconds": seconds,
                "core_seconds": self._threads * seconds,
                "cpu_seconds": cpu,
                "memory_seconds": now.memory * seconds,
                "cpu_joules": (now.joules - before.joules) * _share(cpu, now.busy - before.busy),
                "gpu_seconds": self._gpu * seconds,
                "gpu_busy_seconds": now.gpu_busy * seconds,
                "gpu_joules": self._gpu * now.watts * seconds,
            }
            for name, value in taken.items():
                self._here[name] += value
            largest = _largest_resident_bytes() if self._exact_peak else now.memory
            self._here["memory_peak"] = _larger(self._here["memory_peak"], largest)
            self._here["gpu_memory_peak"] = _of_gpu("max_memory_reserved") if self._gpu else math.nan


def _larger(one: float, other: float) -> float:
    """The larger one; NaN where either is not known."""
    return math.nan if math.isnan(one + other) else max(one, other)


def _share(ours: float, all_of_it: float) -> float:
    """Our share of the CPU time: at most 1, as the machine counts in hundredths of a second."""
    return min(1.0, ours / all_of_it) if all_of_it else 1.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
