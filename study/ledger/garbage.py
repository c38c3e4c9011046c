"""Python's search for cycles among objects, put off where it does harm."""

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_state = {"depth": 0, "was_on": False}


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Put off Python's garbage collection, in all threads; contexts may overlap."""
    with _lock:
        if not _state["depth"]:
            _state["was_on"] = gc.isenabled()
            gc.disable()
        _state["depth"] += 1
    try:
        yield
    finally:
        with _lock:
            _state["depth"] -= 1
            if not _state["depth"] and _state["was_on"]:
                gc.enable()
