"""Durations: of trials that run side by side, and as text."""

import heapq
from collections.abc import Iterable

STARTUP = 12.0
"""Seconds until Ray has started and its workers have imported PyTorch (two cores of an AMD EPYC)."""
BETWEEN = 0.3
"""Seconds between two trials of a worker (likewise)."""


def wall_seconds(seconds: Iterable[float], slots: int) -> float:
    """How long trials take together: each begins, in this order, as soon as a slot is free."""
    free = [0.0] * slots
    end = 0.0
    for needed in seconds:
        begin = heapq.heappop(free)
        heapq.heappush(free, begin + needed + BETWEEN)
        end = max(end, begin + needed)
    return STARTUP + end


def count_fitting(seconds: Iterable[float], slots: int, budget: float) -> int:
    """How many of the trials would end within `budget` seconds; one that would not is skipped."""
    free, count = [STARTUP] * slots, 0
    for needed in seconds:
        if free[0] + needed <= budget:
            heapq.heapreplace(free, free[0] + needed + BETWEEN)
            count += 1
    return count


def format_duration(seconds: float) -> str:
    """`8.3 s`, `4 min 10 s`, `5 h 02 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def compare(expected: float, actual: float) -> str:
    """A line for people that compares a forecast with the actual time."""
    difference = f"{(actual - expected) / expected:+.0%}"
    return f"forecast: {format_duration(expected)}, took {format_duration(actual)} ({difference})"
