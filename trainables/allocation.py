"""What a trial is granted of a machine, and whether a run had the same."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """What each trial is expected to be granted; None: not known before Ray is asked.

    `device` is the run's tag, not known for GPUs and on clusters; `slots` is the number of trials at once.
    `cuda_graphs`, `kernels` and `mps` (whether a daemon shares GPUs) say how GPUs are used.
    """

    device: str | None
    threads: int
    gpus: float | None
    slots: int | None
    cuda_graphs: bool = False
    kernels: str = "deterministic"
    mps: bool | None = False

    def matches(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags had this allocation, as far as it is known."""
        device = tags.get("device", "")
        if self.device is not None and device != self.device:
            return False
        if device.startswith("cpu "):
            return not self.gpus and tags.get("threads") == str(self.threads)
        if self.gpus is None:
            return True
        eager = tags.get("gpus.step", "eager") == "eager"  # more where a graph was asked for and failed
        return (
            tags.get("gpus", "1") == f"{self.gpus:g}"
            and eager != self.cuda_graphs
            and tags.get("gpus.kernels", "deterministic") == self.kernels
            and (self.mps is None or self.mps == (tags.get("gpus.mps") == "yes"))
        )
