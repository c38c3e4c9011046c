"""Signals that stop a command, as exceptions, and the exit codes that say which one it was."""

import os
import signal
from typing import NoReturn

ASKED = (signal.SIGTERM, signal.SIGUSR1)
"""How another process asks a command to stop. Batch systems announce a time limit or a preemption with
SIGUSR1, which would otherwise end Python on the spot."""


class Terminated(KeyboardInterrupt):
    """One of `ASKED`, where it ends the driver at once instead of in order."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        """`number` is that of the signal."""
        super().__init__()
        self.signal = signal.Signals(number)


def raise_on_sigterm() -> None:
    """From now on SIGTERM and SIGUSR1 raise Terminated in the main thread."""
    for number in ASKED:
        signal.signal(number, _terminate)


def _terminate(number: int, _: object) -> NoReturn:
    raise Terminated(number)


def end() -> None:
    """End this process, from any thread: another driver took it for dead and works on the experiment now."""
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_by(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Name of the signal that raised this, and the exit code that says so."""
    number = stop.signal if isinstance(stop, Terminated) else signal.SIGINT
    return number.name, 128 + number
