"""Whether the precision of trials is the fast one on this processor, in lines for people."""

import os
import subprocess
import sys
from collections.abc import Iterable

from study import ROOT
from trainables import bf16
from trainables.trial import TrialConfig

SLOW, FAST = 1.1, 0.5
"""Times as long as in fp32 from which bf16 is called slow, and up to which it is called fast."""
PATIENCE = 60.0
"""Seconds in which PyTorch is imported and bf16 measured."""


def lines(trials: Iterable[TrialConfig], *, measure: bool) -> list[str]:
    """That the precision of trials that run on this processor is slow, or that another one is fast.

    Without `measure`, and where nothing can be measured, the processor's own list of its units decides.
    """
    precisions = {trial.precision for trial in trials}
    units = bf16.units()
    if not precisions or (units is None and not measure):
        return []
    if measure and (times := _measured()) is not None:
        return _by_measurement(precisions, times)
    return [] if units is None else _by_units(precisions, units)


def _by_measurement(precisions: set[str], times: float) -> list[str]:
    if "bf16" in precisions and times >= SLOW:
        return [
            f"bf16 is slow on this processor: a product of matrices takes {times:.1f} times as long as in"
            " fp32 (measured); --set precision=fp32 is faster (which makes them new trials)"
        ]
    if "fp32" in precisions and times <= FAST:
        return [
            f"bf16 is fast on this processor: a product of matrices is {1 / times:.1f} times as fast as in"
            " fp32 (measured); --set precision=bf16 trains with it (which makes them new trials)"
        ]
    return []


def _by_units(precisions: set[str], units: str) -> list[str]:
    if "bf16" in precisions and units != bf16.AMX:
        has = f"it has {units}, but no AMX" if units else "it has no units for it and emulates it"
        return [
            f"bf16 may be slow on this processor: {has}; --plan --probe measures by how much, and"
            " --set precision=fp32 is the other choice (which makes them new trials)"
        ]
    if "fp32" in precisions and units == bf16.AMX:
        return [
            "bf16 may be fast on this processor: it has AMX; --plan --probe measures by how much, and"
            " --set precision=bf16 trains with it (which makes them new trials)"
        ]
    return []


def _measured() -> float | None:
    """What `trainables.bf16` measures in a process of its own; None where it cannot."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-W", "ignore", "-m", "trainables.bf16"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
