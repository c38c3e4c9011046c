"""The searches: spaces whose configurations are not listed but suggested, one after the other.

A search says which fields of `TrialConfig` are fixed and how the others are suggested, in Optuna's own words
(`suggest_float`, `suggest_int`, `suggest_categorical`). Each parameter is a field, so that a finished trial
tells what was suggested for it: the ledger is all that a search remembers.

To add one, write a function here and name it in `SEARCHES`; the first line of its docstring is what
`python study/run.py --list-spaces` shows.
"""

import dataclasses
import random
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from search_spaces.design import Row, powerset
from trainables.catalogue import METHODS, TRANSFORMS
from trainables.metrics import OBJECTIVES
from trainables.trial import FIELDS, FieldValue, TrialConfig, coerce, format_value, nearest

Choice = TypeVar("Choice", None, bool, int, float, str)

SAMPLERS = ("tpe", "cmaes", "random")
SCHEDULERS = ("asha", "none")
SEED = 0
"""Of all searched trials. Finalists have the seeds after it, which the search never saw."""
DIGITS = 3
"""Significant digits of suggested numbers."""
DRAWN = 32
"""Configurations of each method that stand for those that will be suggested, in checks and forecasts."""


class Suggest(Protocol):
    """What asks for a parameter's value: a trial of Optuna's, or what stands in for one."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from low to high."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from low to high."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Choice:
        """One of the choices."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What a parameter may be: `choices`, or the numbers from `low` to `high`.

    Attributes:
        kind: `float`, `int` or `categorical`.
        low: smallest number.
        high: largest number.
        step: between numbers; None: any.
        log: whether numbers are spread evenly on a logarithmic scale.
        choices: of a category.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Search:
    """Fields that are fixed, and how the others are suggested.

    Attributes:
        name: of the space.
        fixed: fields that all trials share.
        parameters: asks for the others, given who is to be asked and the method; each name is a field. What
            cannot matter (`views` without grayscale and solarize) must not be asked for.
        methods: searched one beside the other, each with as many trials.
        trials: distinct configurations a method.
        finalists: best configurations of each method that are trained again with fresh seeds.
        seeds: number of fresh seeds of each finalist.
        objectives: names in `OBJECTIVES`; finalists are ranked by the first one.
        beside: a space of which the report shows the arms that have the same data and epochs.
        assigned: fields that the command line sets: they are fixed, too.
    """

    name: str
    fixed: Row
    parameters: Callable[[Suggest, str], None]
    methods: tuple[str, ...] = METHODS
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

    def config(self, method: str, suggest: Suggest) -> TrialConfig:
        """The trial that `suggest` makes up.

        Raises:
            ValueError: a parameter is no field, or the values make no trial.
        """
        asking = _Asking(suggest, self.assigned)
        self.parameters(asking, method)
        own = {"method": method, "seed": SEED}
        config = TrialConfig(**{**self.fixed, **asking.values, **self.assigned, **own})
        for name, value in asking.values.items():
            if name not in self.assigned and getattr(config, name) != coerce(name, value):
                raise ValueError(
                    f"search {self.name!r}: {name} was asked for, but cannot matter in {config.name}: ask"
                    " for it only where it does"
                )
        return config

    def recall(self, config: TrialConfig) -> dict[str, tuple[Any, Range]] | None:
        """What was suggested for a trial: each parameter's value and range.

        None where this search could not suggest it.
        """
        memory = _Memory(config)
        try:
            again = self.config(config.method, memory)
        except (ValueError, _OutsideError):
            return None
        return memory.asked if again == config else None

    def draw(self, count: int = DRAWN) -> list[TrialConfig]:
        """`count` configurations of each method at random, always the same ones."""
        drawn = []
        for method in self.methods:
            dice = _Dice(random.Random(f"{self.name} {method}"))  # noqa: S311  # nothing is secret here
            drawn += [self.config(method, dice) for _ in range(count)]
        return list(dict.fromkeys(drawn))

    def finals(self, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
        """The finalists' trials: each configuration with every fresh seed."""
        seeds = range(SEED + 1, SEED + 1 + self.seeds)
        return [config.replace(seed=seed) for seed in seeds for config in configs]

    def better(self, values: Sequence[float], others: Sequence[float]) -> bool:
        """Whether values of the objectives dominate others: nowhere worse, somewhere better."""
        signed = [
            (value - other) * (1 if OBJECTIVES[name] == "maximize" else -1)
            for name, value, other in zip(self.objectives, values, others, strict=True)
        ]
        return min(signed) >= 0 and max(signed) > 0

    def replace(self, **changes: Any) -> "Search":
        """This search with some attributes changed."""
        return dataclasses.replace(self, **changes)


class _OutsideError(LookupError):
    """A field's value is none that could have been suggested."""


class _Asking:
    """Passes on what is asked, but for fields that the command line has set.

    Numbers get few digits: what is found is typed again by people.
    """

    def __init__(self, suggest: Suggest, assigned: Mapping[str, FieldValue]) -> None:
        self._suggest = suggest
        self._assigned = assigned
        self.values: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        def ask() -> float:
            value = self._suggest.suggest_float(name, low, high, step=step, log=log)
            return value if step else min(max(float(f"{value:.{DIGITS}g}"), low), high)

        return self._keep(name, ask)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return self._keep(name, lambda: self._suggest.suggest_int(name, low, high, step=step, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, lambda: self._suggest.suggest_categorical(name, choices))

    def _keep(self, name: str, ask: Callable[[], Any]) -> Any:
        if name not in FIELDS or name in ("method", "seed"):
            hint = nearest(name, FIELDS)
            raise ValueError(f"a search asks for {name!r}{hint}; allowed: fields of TrialConfig")
        if name in self._assigned:
            value = self._assigned[name]
            return format_value(value) if isinstance(value, tuple) else value
        self.values[name] = ask()
        return self.values[name]


class _Memory:
    """Answers with what a trial has."""

    def __init__(self, config: TrialConfig) -> None:
        self._config = config
        self.asked: dict[str, tuple[Any, Range]] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._number(name, Range(kind="float", low=low, high=high, step=step, log=log)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._number(name, Range(kind="int", low=low, high=high, step=step, log=log)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        has = getattr(self._config, name)
        for choice in choices:
            if coerce(name, choice) == has:
                self.asked[name] = (choice, Range(kind="categorical", choices=tuple(choices)))
                return choice
        raise _OutsideError(name)

    def _number(self, name: str, allowed: Range) -> float:
        value = getattr(self._config, name)
        if value is None or not allowed.low <= value <= allowed.high:
            raise _OutsideError(name)
        self.asked[name] = (value, allowed)
        return float(value)


class _Dice:
    """Answers at random."""

    def __init__(self, random_numbers: random.Random) -> None:
        self._random = random_numbers

    def suggest_float(
        self, _name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if log:
            return min(max(low * (high / low) ** self._random.random(), low), high)
        value = self._random.uniform(low, high)
        return value if step is None else low + step * int((value - low) / step)

    def suggest_int(self, _name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if log:
            return min(int(low * ((high + 1) / low) ** self._random.random()), high)
        return self._random.randrange(low, high + 1, step)

    def suggest_categorical(self, _name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(list(choices))


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
        parameters=_training_and_loss,
        beside="quickstart",
    )


def _training_and_loss(trial: Suggest, method: str) -> None:
    """How every trial is trained and augments; the weights of the loss and the projector of two views."""
    trial.suggest_float("lr", 3e-3, 0.3, log=True)
    trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)
    trial.suggest_categorical("batch_size", (25, 50, 100))
    subset = trial.suggest_categorical("augmentations", [format_value(s) for s in powerset(TRANSFORMS)])
    if "rrc" in subset:
        trial.suggest_float("crop_scale_min", 0.2, 0.9)
    if method == "siamese":
        if "grayscale" in subset or "solarize" in subset:
            trial.suggest_categorical("views", ("symmetric", "asymmetric"))
        trial.suggest_float("gamma", 1e-5, 1e-1, log=True)
        trial.suggest_float("lambd", 5e-4, 5e-2, log=True)
        trial.suggest_categorical("hidden_dim", (128, 512, 2048))


SEARCHES: Mapping[str, Callable[[], Search]] = types.MappingProxyType(
    {make.__name__: make for make in (search,)}
)
