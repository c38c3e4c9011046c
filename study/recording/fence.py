"""Nothing is written once a lease may have been lost."""

import threading
import time
from dataclasses import dataclass, field

from study.ledger.tracking_uri import LedgerError

TRUSTED = 30.0
"""Seconds after a heartbeat within which nobody can have taken its lease over (see `leases.DEAD_AFTER`)."""
PATIENCE = 60.0
"""Seconds to wait for the next heartbeat."""


class LeaseLost(LedgerError):
    """Another driver works on the experiment now."""


def now() -> float:
    """Seconds that go on while this process, or the whole machine, is asleep, whatever is set as the time."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class Fence:
    """Holds up who is about to write until a heartbeat proves that the lease is still ours.

    A process that was stopped, or a laptop that slept, does not know how long. Whoever writes asks the clock
    first. A request that is on its way meanwhile comes too late, too, but to a run that is nobody's any more:
    see `Ledger.ensure_run`.

    Attributes:
        wanted: a heartbeat is wanted at once, or the end of them.
        lost: the lease is another driver's.
    """

    wanted: threading.Event = field(default_factory=threading.Event)
    lost: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _proved: float = field(default_factory=now)

    def prove(self, asked: float) -> None:
        """The store took a heartbeat that was sent at `asked`."""
        with self._changed:
            self._proved = asked
            self._changed.notify_all()

    def lose(self) -> None:
        """The lease is another driver's."""
        with self._changed:
            self.lost = True
            self._changed.notify_all()

    def check(self) -> None:
        """Return if the lease is ours, LeaseLost if it is not; LedgerError if that cannot be told."""
        if self._known and not self.lost:
            return
        with self._changed:
            self.wanted.set()
            self._changed.wait_for(lambda: self._known, PATIENCE)
            if self.lost:
                raise LeaseLost("--experiment: another driver took this one for dead and works on it now")
            if not self._known:
                raise LedgerError(f"--tracking-uri: the store has not taken a heartbeat for {PATIENCE:.0f} s")

    @property
    def _known(self) -> bool:
        return self.lost or now() - self._proved < TRUSTED
