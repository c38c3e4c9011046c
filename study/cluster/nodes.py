"""The nodes of a cluster: each must see the storage and have the same code before a trial runs there."""

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from study.cluster.connection import ClusterError, is_own
from trainables.node import problem, source_digest
from trainables.redact import first_line, masked
from trainables.storage.filesystem import Storage

NOTES = "nodes"
"""Folder of storage with a file for each driver that is at work on a cluster."""
PATIENCE = 60.0
"""Seconds for a node to answer; one that does not is asked again by the first trial that it gets."""


@contextlib.contextmanager
def examined(storage: str, address: str | None) -> Iterator[Mapping[str, str] | None]:
    """Within this context trials may run; to be entered within a `cluster.session`.

    Gives what nodes that join later are asked when they get a trial (`trainables.node.problem`); None where
    this machine is the only one.

    Raises:
        ClusterError: the storage cannot be written, a node does not see it, or its code is another.
    """
    if is_own(address) and "://" not in storage:  # a folder, of which it is known that it can be written
        yield None
        return
    place, note = Storage(storage), f"{NOTES}/{uuid.uuid4().hex}"
    expected = {"storage": storage, "note": note, "code": source_digest()}
    try:
        place.write(note, b"what a driver writes all nodes must see\n")
    except OSError as error:
        raise ClusterError(f"--storage: {masked(storage)} cannot be written ({first_line(error)})") from None
    try:
        if is_own(address):
            yield None
        else:
            _examine(expected)
            yield expected
    finally:
        with contextlib.suppress(OSError):
            place.delete(note)


def _examine(expected: Mapping[str, str]) -> None:
    """Ask all nodes at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask: Any = ray.remote(problem)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": there}
            asked[ask.options(**options).remote(dict(expected))] = node["NodeManagerAddress"]
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
    for answer in late:
        ray.cancel(answer, force=True)
    for answer in done:
        try:
            found = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            # Such as a module that it does not have.
            line = first_line(error.cause)
            raise ClusterError(f"--address: node {asked[answer]} cannot run a trial: {line}") from None
        except ray.exceptions.RayError:
            continue  # just lost
        if found:
            raise ClusterError(found)
