"""SIGTERM as an exception, and the exit codes of commands that a signal has stopped."""

import os
import signal
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends the driver at once instead of in order."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def end() -> None:
    """End this process, from any thread: another driver took it for dead and works on the experiment now."""
    os.kill(os.getpid(), signal.SIGTERM)


def stopped_by(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Name of the signal that raised this, and the exit code that says so."""
    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    return number.name, 128 + number
