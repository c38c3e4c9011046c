"""The run of a trial: found, made, or made anew where another driver may write to the old one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from study.ledger.pages import run_name
from study.ledger.records import DATA_TAG, DRIVER_TAG, LEASE_TAG, RELEASED, without_mlflow_tags
from study.ledger.store import Store
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from mlflow.entities import Run


def ensure(
    store: Store, driver: str | None, config: TrialConfig, tags: Mapping[str, str], started: int | None
) -> str:
    """Id of the trial's run with these tags; it is created where missing, as begun at `started` (ms).

    The run is looked up again after creating one: MLflow's client repeats a request whose answer was lost,
    which can leave two. The finished one is kept, or the oldest. Of a run that `_is_shared` only the tags are
    kept: the epochs that it had come with the trial's saved state, or are trained again.
    """
    from mlflow.entities import Param, RunTag

    tags = tags if driver is None else {**tags, DRIVER_TAG: driver}
    runs = _on_these_data(store, _runs_of(store, config.key), tags.get(DATA_TAG))
    shared = {run.info.run_id for run in runs if driver is not None and _is_shared(store, driver, run)}
    if len(shared) == len(runs):
        identity = {"kind": "trial", "trial.key": config.key, "arm": config.arm}
        if runs:
            tags = {**without_mlflow_tags(runs[0].data.tags), **tags}
            started = runs[0].info.start_time
        store.client.create_run(store.experiment_id, started, {**tags, **identity}, run_name(config))
        runs = _runs_of(store, config.key)
    first, *others = sorted(runs, key=lambda run: run.info.run_id in shared)
    for other in others:
        store.client.delete_run(other.info.run_id)
    run_id = str(first.info.run_id)
    # Every time: whoever created the run may have died before logging these.
    store.client.log_batch(
        run_id,
        params=[Param(name, value) for name, value in config.to_params().items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    return run_id


def _runs_of(store: Store, key: str) -> list["Run"]:
    """Runs of a trial: finished ones first, then the oldest."""
    runs = store.search(f"tags.kind = 'trial' and tags.`trial.key` = '{key}'")
    return sorted(runs, key=lambda run: (run.info.status != "FINISHED", run.info.start_time, run.info.run_id))


def _on_these_data(store: Store, runs: list["Run"], digest: str | None) -> list["Run"]:
    """Those of the runs that are on the same data; the others stay in the store, and no trials any more."""
    if digest is None:
        return runs
    stale = [run for run in runs if run.data.tags.get(DATA_TAG, digest) != digest]
    for run in stale:
        store.client.set_tag(run.info.run_id, "kind", "stale")
        if run.info.status == "RUNNING":
            store.client.set_terminated(run.info.run_id, "KILLED")
    return [run for run in runs if run not in stale]


def _is_shared(store: Store, driver: str, run: "Run") -> bool:
    """Whether another driver may write to the run, because it has not noticed yet that it lost its lease.

    Nobody can keep a request from arriving that was sent before. So the trial gets a new run, and the old one
    is deleted: MLflow refuses to write to it from then on.
    """
    owner = run.data.tags.get(DRIVER_TAG)
    return owner not in (None, driver) and store.tags_of(owner).get(LEASE_TAG) != RELEASED
