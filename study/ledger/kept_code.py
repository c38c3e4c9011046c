"""Files that say which code trained an experiment's trials: artifacts of its one run of `kind=code`."""

from collections.abc import Mapping

from study.ledger.ledger import Ledger

KIND = "code"


def keep_code(ledger: Ledger, files: Mapping[str, bytes]) -> None:
    """Log those of the files that are not there, by their names; the run is created where missing."""
    run_id = _run(ledger)
    present = set() if run_id is None else set(ledger.artifacts.names(run_id))
    missing = {name: content for name, content in files.items() if name not in present}
    if not missing:
        return
    with ledger.store.asking():
        if run_id is None:
            run = ledger.client.create_run(ledger.experiment_id, tags={"kind": KIND}, run_name=KIND)
            run_id = str(run.info.run_id)
        ledger.log_files(run_id, missing)
        ledger.client.set_terminated(run_id, "FINISHED")


def kept_code(ledger: Ledger) -> list[str]:
    """Names of the files that are kept."""
    run_id = _run(ledger)
    return [] if run_id is None else ledger.artifacts.names(run_id)


def read_code(ledger: Ledger, name: str) -> bytes:
    """A file that is kept; OSError where it cannot be read."""
    run_id = _run(ledger)
    if run_id is None:
        raise FileNotFoundError(f"{name} is not kept")
    with ledger.artifacts.borrowed(run_id, name) as path:
        return path.read_bytes()


def _run(ledger: Ledger) -> str | None:
    runs = ledger.store.search(f"tags.kind = '{KIND}'")
    oldest = min(((run.info.start_time, run.info.run_id) for run in runs), default=None)
    return None if oldest is None else str(oldest[1])
