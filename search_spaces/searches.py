"""The searches: spaces whose configurations are not listed but suggested, one after the other.

To add one, write a function here and name it in `SEARCHES`; the first line of its docstring is what
`python study/run.py --list-spaces` shows.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any

from search_spaces.design import Row, powerset
from search_spaces.ranges import choice, loguniform, uniform
from search_spaces.search_design import Parameter, Search, for_methods, with_a_term, with_two_views
from search_spaces.spaces import RIVALS
from trainables.catalogue import TRANSFORMS
from trainables.trial import format_value

SAMPLERS = ("tpe", "cmaes", "random")
SCHEDULERS = ("asha", "none")


def _views_can_differ(values: Mapping[str, Any]) -> bool:
    subset = values["augmentations"]
    return with_two_views(values) and ("grayscale" in subset or "solarize" in subset)


def search() -> Search:
    """How good can each method be? Optuna and early stopping on the quickstart's digits, then fresh seeds."""
    return Search(
        name="search",
        fixed={
            "dataset": "digits",
            "train_size": 200,
            "val_fraction": 0.1,
            "backbone": "convnet",
            "feature_dim": 512,
            "epochs": 60,
            "lr_schedule": "cosine",
        },
        parameters=(
            Parameter("lr", loguniform(3e-3, 0.3)),
            Parameter("weight_decay", loguniform(1e-5, 1e-2)),
            Parameter("batch_size", choice(25, 50, 100)),
            Parameter("augmentations", choice(*map(format_value, powerset(TRANSFORMS)))),
            Parameter("crop_scale_min", uniform(0.2, 0.9), when=lambda v: "rrc" in v["augmentations"]),
            Parameter("views", choice("symmetric", "asymmetric"), when=_views_can_differ),
            Parameter("gamma", loguniform(1e-5, 1e-1), when=with_two_views),
            Parameter("lambd", loguniform(5e-4, 5e-2), when=with_a_term),
            Parameter("hidden_dim", choice(128, 512, 2048), when=with_a_term),
        ),
        beside="quickstart",
    )


def rivals_search() -> Search:
    """How good can each term be? As many tries of step and weight for each, then fresh seeds: CIFAR-10."""
    terms: dict[str, Row] = {
        term: {"method": "siamese", "term": term, **head} for term, (_, head) in RIVALS.items()
    }
    weights = {term: loguniform(gammas[0] / 10, gammas[-1] * 10) for term, (gammas, _) in RIVALS.items()}
    return Search(
        name="rivals_search",
        fixed={
            "dataset": "cifar10",
            "val_fraction": 0.1,
            "backbone": "resnet18",
            "augmentations": TRANSFORMS,
            "batch_size": 128,
            "epochs": 100,
            "lr_schedule": "cosine",
            "precision": "bf16",
        },
        methods={"ce": {"method": "ce"}, "control": {"method": "siamese", "gamma": 0.0}, **terms},
        parameters=(
            Parameter("lr", loguniform(1e-3, 0.3)),
            Parameter("weight_decay", loguniform(1e-5, 1e-2)),
            *(Parameter("gamma", weight, when=for_methods(term)) for term, weight in weights.items()),
        ),
        seeds_per_configuration=3,
    )


_searches: dict[str, Callable[[], Search]] = {make.__name__: make for make in (search, rivals_search)}
SEARCHES: Mapping[str, Callable[[], Search]] = types.MappingProxyType(_searches)


def add_search(name: str, make: Callable[[], Search]) -> None:
    """Add a search of a file of your own, in place of an older version."""
    _searches[name] = make


def remove_search(name: str) -> None:
    """Forget it again, if it is there."""
    _searches.pop(name, None)
