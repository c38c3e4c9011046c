"""The nodes of a cluster: each must see the storage and have the same code before a trial runs there."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from study.cluster.connection import ClusterError, is_local
from study.recording.notes import NoteNotWritten, kept_note
from trainables.node import check_node, source_digest
from trainables.redact import first_line, masked
from trainables.storage.filesystem import Storage

PATIENCE = 60.0
"""Seconds for a node to answer; one that does not is checked again by the first trial that it gets."""


@contextlib.contextmanager
def checked_nodes(storage: str, address: str | None) -> Iterator[Mapping[str, str] | None]:
    """Within this context, inside a `ray_connection`, all present nodes can run trials.

    Yields what nodes that join later are checked against when they get a trial (the argument of
    `trainables.node.check_node`); None where this machine is the only one. ClusterError where the storage
    cannot be written, a node does not see it, or a node has other code.
    """
    if is_local(address) and "://" not in storage:  # a folder, which has been checked already
        yield None
        return
    try:
        with kept_note(Storage(storage)) as note:
            expected = {"storage": storage, "note": note, "code": source_digest()}
            if is_local(address):
                yield None
            else:
                _check_nodes(expected)
                yield expected
    except NoteNotWritten as error:
        line = f"--storage: {masked(storage)} cannot be written ({first_line(error)})"
        raise ClusterError(line) from None


def _check_nodes(expected: Mapping[str, str]) -> None:
    """Check all nodes at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    check: Any = ray.remote(check_node)
    hosts = {}
    for node in ray.nodes():
        if node["Alive"]:
            affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": affinity}
            hosts[check.options(**options).remote(dict(expected))] = node["NodeManagerAddress"]
    done, late = ray.wait(list(hosts), num_returns=len(hosts), timeout=PATIENCE)
    for answer in late:
        ray.cancel(answer, force=True)
    for answer in done:
        try:
            trouble = ray.get(answer)
        except ray.exceptions.RayTaskError as error:  # such as a missing module
            line = first_line(error.cause)
            raise ClusterError(f"--address: node {hosts[answer]} cannot run a trial: {line}") from None
        except ray.exceptions.RayError:
            continue  # the node was just lost
        if trouble:
            raise ClusterError(trouble)


def ids_at(address: str) -> list[str]:
    """Ids of the present nodes with this address."""
    import ray

    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address]


def fit_without(avoided: Collection[str], request: Mapping[str, float]) -> bool:
    """Whether a node that is there and not avoided could run a trial with this request."""
    import ray

    return any(
        all(node["Resources"].get(kind.upper(), 0.0) >= amount for kind, amount in request.items() if amount)
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in avoided
    )
