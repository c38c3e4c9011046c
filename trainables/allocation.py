"""What a trial is granted of a machine, and whether a run had the same."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """What each trial is expected to be granted; None: not known before Ray is asked.

    `device` is the run's tag, not known for GPUs and on clusters; `slots` is the number of trials at once.
    """

    device: str | None
    threads: int
    gpus: float | None
    slots: int | None

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags had this allocation, as far as it is known."""
        device = tags.get("device", "")
        if self.device is not None and device != self.device:
            return False
        if device.startswith("cpu "):
            return not self.gpus and tags.get("threads") == str(self.threads)
        return self.gpus is None or tags.get("gpus", "1") == f"{self.gpus:g}"
