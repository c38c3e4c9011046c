"""Leases in the ledger: runs of `kind=lock`, one for each driver that works on the experiment or waits to."""

from collections.abc import Mapping
from dataclasses import dataclass

from study.ledger.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a driver, held or requested; `started` is by the driver's own clock, ms since 1970."""

    run_id: str
    started: int
    tags: Mapping[str, str]


def create(ledger: Ledger, tags: Mapping[str, str]) -> str:
    """Create a lease with these tags; returns its run's id."""
    with ledger.store.asking():
        run = ledger.client.create_run(
            ledger.experiment_id, tags={"kind": "lock", **tags}, run_name="driver at work"
        )
    return str(run.info.run_id)


def read(ledger: Ledger) -> list[Lease]:
    """All leases of the experiment."""
    runs = ledger.store.search("tags.kind = 'lock'")
    return [Lease(run.info.run_id, int(run.info.start_time), run.data.tags) for run in runs]


def update(ledger: Ledger, run_id: str, tags: Mapping[str, str]) -> bool:
    """Set tags of a lease; False where it was deleted. LedgerError where the store does not answer."""
    with ledger.store.asking():
        if ledger.client.get_run(run_id).info.lifecycle_stage != "active":
            return False
        for name, value in tags.items():
            ledger.client.set_tag(run_id, name, value)
    return True
