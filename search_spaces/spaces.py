"""The search spaces. A space is a function without arguments that returns a list of trial configs.

To add one, write the function here and name it in `SPACES`; the first line of its docstring is what
`python study/run.py --list-spaces` shows.
"""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trainables.trial import TrialConfig

Space = Callable[[], list[TrialConfig]]


def arms(gammas: Iterable[float]) -> list[dict[str, Any]]:
    """Fields of the arms of one cell: the baseline `ce`, then `siamese` with each gamma."""
    return [{"method": "ce"}, *({"method": "siamese", "gamma": gamma} for gamma in gammas)]


def quickstart() -> list[TrialConfig]:
    """One cell on scikit-learn's digits: 4 arms x 3 seeds of a small network, minutes on two cores."""
    # 200 training images: enough to learn from, few enough that accuracy stays clear of its ceiling.
    return [
        TrialConfig(
            dataset="digits",
            train_size=200,
            val_fraction=0.1,
            backbone="convnet",
            feature_dim=512,
            hidden_dim=512,
            augmentations=("rrc", "solarize"),
            batch_size=50,
            epochs=60,
            lr=0.03,
            lr_schedule="cosine",
            seed=seed,
            **arm,
        )
        for seed in range(3)
        for arm in arms([0.0, 1e-3, 1e-2])
    ]


SPACES: Mapping[str, Space] = types.MappingProxyType({space.__name__: space for space in (quickstart,)})
