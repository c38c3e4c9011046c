"""A metric that a file of your own defines, called with what its parameters ask for."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from trainables.extensions import functions
from trainables.extensions.signatures import inputs_of


def measure_own(name: str, inputs: Mapping[str, Callable[[], Tensor]]) -> float:
    """The metric of a function in a loaded file.

    `inputs` makes each of `METRIC_INPUTS` when it is asked for. ValueError where the function returns no
    finite number.
    """
    function = functions["metric", name]
    value = function(**{given: inputs[given]() for given in inputs_of("metric", function)})
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        number = math.nan
    if not math.isfinite(number):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) and value.shape else repr(value)
        raise ValueError(f"metric {name!r} returned {got.splitlines()[0]}; allowed: one finite number")
    return number
