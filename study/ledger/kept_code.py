"""Files that say which code trained an experiment's trials: artifacts of its one run of `kind=code`."""

from collections.abc import Mapping

from study.ledger.ledger import Ledger

KIND = "code"


def keep_code(ledger: Ledger, files: Mapping[str, bytes]) -> None:
    """Log those of the files that are not there, by their names; the run is created where missing."""
    run_id = _run(ledger)
    with ledger.store.asking():
        if run_id is None:
            tags = {"kind": KIND}
            run_id = str(ledger.client.create_run(ledger.experiment_id, tags=tags, run_name=KIND).info.run_id)
        present = set(ledger.artifacts.names(run_id))
        if missing := {name: content for name, content in files.items() if name not in present}:
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
