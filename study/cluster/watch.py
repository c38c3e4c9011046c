"""Who leaves a cluster while a study runs."""

import contextlib
import threading
from collections.abc import Callable, Iterator

INTERVAL = 5.0
"""Seconds between two looks at the list of nodes."""
EXPECTED = ("EXPECTED_TERMINATION", "AUTOSCALER_DRAIN_IDLE", 1, 4)
"""Ray's reasons (`NodeDeathInfo`) for a node that somebody has stopped, or that nobody needed."""


@contextlib.contextmanager
def watched_nodes(on_lost: Callable[[str], object], interval: float = INTERVAL) -> Iterator[None]:
    """Within this context, inside a `ray_connection`, tell which nodes are lost.

    `on_lost` is called with the address of each, once, from another thread.
    """
    ended = threading.Event()
    seen = set(_alive_and_lost()[0])

    def look() -> None:
        nonlocal seen
        alive, lost = _alive_and_lost()
        for node in seen & lost.keys():
            on_lost(lost[node])
        seen = set(alive)

    def watch() -> None:
        while not ended.wait(interval):
            with contextlib.suppress(Exception):  # Ray does not answer: the next look will tell
                look()

    thread = threading.Thread(target=watch, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(interval)


def _alive_and_lost() -> tuple[dict[str, str], dict[str, str]]:
    """Addresses of the nodes that are there, and of those that were lost, by Ray's id of the node."""
    import ray

    nodes = ray.nodes()
    alive = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    gone = [node for node in nodes if not node["Alive"] and node.get("DeathReason") not in EXPECTED]
    return alive, {node["NodeID"]: node["NodeManagerAddress"] for node in gone}
