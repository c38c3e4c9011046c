"""The searches: spaces whose configurations are not listed but suggested, one after the other.

A search has fixed fields of `TrialConfig` and parameters, each a field with the range that it is searched in.
A finished trial tells what was suggested for it, so the ledger is all that a search remembers.

To add one, write a function here and name it in `SEARCHES`; the first line of its docstring is what
`python study/run.py --list-spaces` shows.
"""

import dataclasses
import random
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_spaces.design import Row, powerset
from trainables.arms import CE
from trainables.catalogue import TRANSFORMS
from trainables.metrics import OBJECTIVES
from trainables.trial import FIELDS, TrialConfig, coerce, format_value, nearest

SAMPLERS = ("tpe", "cmaes", "random")
SCHEDULERS = ("asha", "none")
SEED = 0
"""Of all searched trials. Finalists have the seeds after it, which the search never saw."""
DIGITS = 3
"""Significant digits of suggested numbers: people will type them again."""
DRAWN = 32
"""Random configurations of each method that represent future suggestions in checks and forecasts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The allowed values of a parameter: `choices`, or the numbers from `low` to `high`, both included.

    `kind` is `float`, `int` or `categorical`; `step` is between numbers (None: any); `log` spreads them
    evenly on a logarithmic scale.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()

    def draw(self, dice: random.Random) -> Any:
        """A random value."""
        if self.kind == "categorical":
            return dice.choice(self.choices)
        if self.kind == "int":
            low, high = int(self.low), int(self.high)
            if self.log:
                return min(int(low * ((high + 1) / low) ** dice.random()), high)
            return dice.randrange(low, high + 1, int(self.step or 1))
        if self.log:
            return min(max(self.low * (self.high / self.low) ** dice.random(), self.low), self.high)
        value = dice.uniform(self.low, self.high)
        return value if self.step is None else self.low + self.step * int((value - self.low) / self.step)

    def recall(self, name: str, value: Any) -> Any:
        """What was suggested for a field that has this value; ValueError where it is outside of the range."""
        if self.kind == "categorical":
            for choice in self.choices:
                if coerce(name, choice) == value:
                    return choice
        elif value is not None and self.low <= value <= self.high:
            return value
        raise ValueError(f"{name}: got {value!r}; allowed: {self}")


def uniform(low: float, high: float, *, step: float | None = None) -> Range:
    """Numbers from low to high."""
    return Range(kind="float", low=low, high=high, step=step)


def loguniform(low: float, high: float) -> Range:
    """Numbers from low to high, spread evenly on a logarithmic scale."""
    return Range(kind="float", low=low, high=high, log=True)


def integers(low: int, high: int, *, step: int = 1, log: bool = False) -> Range:
    """Whole numbers from low to high."""
    return Range(kind="int", low=low, high=high, step=step, log=log)


def choice(*values: Any) -> Range:
    """One of the values."""
    return Range(kind="categorical", choices=values)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field that is searched within a range.

    `when` decides whether it is suggested, given the `method` and the values of the parameters before it.
    """

    name: str
    range: Range
    when: Callable[[Mapping[str, Any]], bool] = lambda values: True


@dataclass(frozen=True, kw_only=True)
class Search:
    """Fields that are fixed, and the ranges of the others.

    Attributes:
        fixed: fields that all trials share.
        parameters: the other fields, in the order of suggestion. One that does not matter in a trial (`views`
            without grayscale and solarize) must not be suggested: say so with `when`.
        methods: searched independently, each with as many trials.
        trials: distinct configurations for each method.
        finalists: best configurations of each method that are trained again with fresh seeds.
        seeds: number of fresh seeds for each finalist.
        objectives: names in `OBJECTIVES`; finalists are ranked by the first one.
        beside: a space whose arms with the same data and epochs the report shows for comparison.
        assigned: fields that the command line sets: they are fixed, too.
    """

    name: str
    fixed: Row
    parameters: tuple[Parameter, ...]
    methods: tuple[str, ...] = ("ce", "siamese")
    trials: int = 12
    finalists: int = 2
    seeds: int = 3
    objectives: tuple[str, ...] = ("val_acc",)
    beside: str | None = None
    assigned: Row = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be searched."""
        for option, value in (("trials", self.trials), ("finalists", self.finalists), ("seeds", self.seeds)):
            if value < 1:
                raise ValueError(f"--{option}: got {value}; allowed: an integer >= 1")
        for name in self.objectives:
            if name not in OBJECTIVES:
                hint = nearest(name, OBJECTIVES)
                raise ValueError(f"--objective: got {name!r}{hint}; allowed: {', '.join(OBJECTIVES)}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"--objective: got {','.join(self.objectives)}; each name at most once")
        for name in ("method", "seed"):
            if name in self.assigned:
                raise ValueError(f"--set: a search has {name} by itself; --only method=NAME keeps one method")
        for name in (parameter.name for parameter in self.parameters):
            if name not in FIELDS or name in ("method", "seed"):
                hint = nearest(name, FIELDS)
                raise ValueError(f"a search has parameter {name!r}{hint}; allowed: fields of TrialConfig")

    def config(self, method: str, suggest: Callable[[Parameter], Any]) -> TrialConfig:
        """The trial with the values that `suggest` returns, one parameter after the other.

        ValueError where the values make no trial, or a parameter does not matter in it.
        """
        values: dict[str, Any] = {"method": method}
        for parameter in self.parameters:
            name, allowed = parameter.name, parameter.range
            if not parameter.when(values):
                continue
            if name in self.assigned:
                value = self.assigned[name]
                values[name] = format_value(value) if isinstance(value, tuple) else value
                continue
            values[name] = suggest(parameter)
            if allowed.kind == "float" and not allowed.step:
                values[name] = min(max(float(f"{values[name]:.{DIGITS}g}"), allowed.low), allowed.high)
        config = TrialConfig(**{**self.fixed, **values, **self.assigned, "seed": SEED})
        for name in values.keys() - {"method", *self.assigned}:
            if getattr(config, name) != coerce(name, values[name]):
                raise ValueError(
                    f"search {self.name!r}: {name} was suggested, but does not matter in {config.name}:"
                    " suggest it only where it does"
                )
        return config

    def recall(self, config: TrialConfig) -> dict[str, tuple[Any, Range]] | None:
        """Value and range of each parameter suggested for a trial; None where it could not be suggested."""
        suggested: dict[str, tuple[Any, Range]] = {}

        def remember(parameter: Parameter) -> Any:
            value = parameter.range.recall(parameter.name, getattr(config, parameter.name))
            suggested[parameter.name] = value, parameter.range
            return value

        try:
            same = self.config(config.method, remember) == config
        except ValueError:
            return None
        return suggested if same else None

    def draw(self) -> list[TrialConfig]:
        """`DRAWN` random configurations of each method, always the same ones."""
        drawn = []
        for method in self.methods:
            draw = partial(_draw, random.Random(f"{self.name} {method}"))  # noqa: S311  # nothing is secret here
            drawn += [self.config(method, draw) for _ in range(DRAWN)]
        return list(dict.fromkeys(drawn))

    def finals(self, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
        """The finalists' trials: each configuration with every fresh seed."""
        seeds = range(SEED + 1, SEED + 1 + self.seeds)
        return [config.replace(seed=seed) for seed in seeds for config in configs]

    def better(self, values: Sequence[float], others: Sequence[float]) -> bool:
        """Whether values of the objectives dominate others: nowhere worse, somewhere better."""
        gains = [
            (value - other) * (1 if OBJECTIVES[name] == "maximize" else -1)
            for name, value, other in zip(self.objectives, values, others, strict=True)
        ]
        return min(gains) >= 0 and max(gains) > 0

    def replace(self, **changes: Any) -> "Search":
        """This search with some attributes changed."""
        return dataclasses.replace(self, **changes)


def _draw(dice: random.Random, parameter: Parameter) -> Any:
    return parameter.range.draw(dice)


def with_two_views(values: Mapping[str, Any]) -> bool:
    """For `Parameter.when`: fields that matter with two views only."""
    return values["method"] != CE


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
            Parameter("lambd", loguniform(5e-4, 5e-2), when=with_two_views),
            Parameter("hidden_dim", choice(128, 512, 2048), when=with_two_views),
        ),
        beside="quickstart",
    )


SEARCHES: Mapping[str, Callable[[], Search]] = types.MappingProxyType(
    {make.__name__: make for make in (search,)}
)
