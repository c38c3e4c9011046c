"""What workers of a local Ray import as soon as they run, while the driver is still preparing.

`study.cluster.ray_internals` names it. What cannot be imported is no error here: the first trial says so.
"""

import contextlib
import importlib

for module in ("trainables.tune", "trainables.train"):
    with contextlib.suppress(Exception):
        importlib.import_module(module)
