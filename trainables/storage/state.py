"""The state of a trial between two epochs, as bytes: all that it takes to resume bit for bit.

Random numbers are no part of it: each comes from (seed, purpose, epoch, step).
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from trainables.fast.optimizer import SGD
from trainables.storage.checkpoints import Checkpoints

SAVE_TIME_FRACTION = 0.01
"""Of a trial's time, what saving may take."""
SHORTEST_PAUSE = 2.0
"""Seconds between two saves, however cheap they are."""


class DamagedState(ValueError):
    """The bytes are no state of this trial's network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """How far a trial is: `epoch` epochs with their rows, which took `seconds` over all attempts.

    Attributes:
        data: SHA-256 of the dataset.
        where: kind of device and number of threads: with others results may be rounded differently.
        usage: what that took of the machines (`trainables.usage`); empty where nobody measured it, as in
            states of earlier versions.
    """

    epoch: int
    history: tuple[Mapping[str, float], ...]
    seconds: float
    data: str
    where: str
    usage: Mapping[str, float] = field(default_factory=dict)


def pack(state: State, net: nn.Module, optimizer: SGD) -> bytes:
    """The state with weights and momentum."""
    buffer = io.BytesIO()
    content = {
        **{name: getattr(state, name) for name in ("epoch", "seconds", "data", "where")},
        "history": [dict(row) for row in state.history],
        "usage": dict(state.usage),
        "net": net.state_dict(),
        "momentum": optimizer.momentum_buffers,
    }
    torch.save(content, buffer)
    return buffer.getvalue()


def unpack(content: bytes, net: nn.Module, optimizer: SGD) -> State:
    """Bring network and optimiser to the state in `content`, in place.

    Raises:
        DamagedState: it cannot be read or does not fit; network and optimiser may be changed.
    """
    device = next(net.parameters()).device
    try:
        read: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        net.load_state_dict(read["net"])
        optimizer.load(read["momentum"])
        about = {name: read[name] for name in ("epoch", "seconds", "data", "where")}
        state = State(**about, history=tuple(read["history"]), usage=read.get("usage", {}))
    except Exception as error:  # what torch.load raises is not documented
        raise DamagedState((str(error).splitlines() or [type(error).__name__])[0]) from error
    if len(state.history) != state.epoch:
        raise DamagedState(f"{state.epoch} epochs, but {len(state.history)} rows of history")
    return state


class Saver:
    """Saves the state of a trial now and then: often enough to lose little, rarely enough to cost nothing."""

    def __init__(self, checkpoints: Checkpoints | None, net: nn.Module, optimizer: SGD) -> None:
        """Save nothing yet; with None for `checkpoints`, never."""
        self._checkpoints = checkpoints
        self._net = net
        self._optimizer = optimizer
        self._saved_epoch = 0
        self._cost = 0.0
        self._last = time.monotonic()

    def save_if_due(self, state: State, *, at_once: bool = False) -> None:
        """Save, unless the last save is so near that saving would take more than its share of the time."""
        pause = max(SHORTEST_PAUSE, self._cost / SAVE_TIME_FRACTION)
        if at_once or time.monotonic() - self._last >= pause:
            self.save(state)

    def save(self, state: State) -> None:
        """Save, unless this state is saved already."""
        if self._checkpoints is None or state.epoch <= self._saved_epoch:
            return
        started = time.monotonic()
        self._checkpoints.save(state.epoch, pack(state, self._net, self._optimizer))
        self._last = time.monotonic()
        self._cost = self._last - started
        self._saved_epoch = state.epoch
