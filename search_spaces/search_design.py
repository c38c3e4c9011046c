"""A small vocabulary for searches.

A search has fixed fields of `TrialConfig`, methods with fixed fields of their own, and parameters: each is a
field with the range that it is searched in. A finished trial tells its method and what was suggested for it,
so the ledger is all that a search remembers.
"""

import contextlib
import dataclasses
import random
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_spaces.design import Row, check_count
from search_spaces.ranges import Range
from trainables.arms import CE
from trainables.catalogue import FIRST_TERM, METHODS, TERMS
from trainables.metrics import OBJECTIVES
from trainables.relevance import SIAMESE
from trainables.trial import FIELDS, TrialConfig, coerce, format_value, nearest

SEED = 0
"""The first seed of a searched configuration. Finalists have seeds that the search never saw."""
DIGITS = 3
"""Significant digits of suggested numbers: people will type them again."""
DRAWN = 32
"""Random configurations of each method that represent future suggestions in checks and forecasts."""
BASELINE_AND_PAIRS: Mapping[str, Row] = types.MappingProxyType(
    {"ce": {"method": "ce"}, "siamese": {"method": "siamese"}}
)
"""The methods of a search that names none: one view against two."""
METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field that is searched within a range.

    `when` decides whether it is suggested, given the method's name (as `name`), the method's fixed fields
    (`method` among them), and the values of the parameters before it. Several parameters may share a name,
    for ranges that differ by method: at most one of them may apply. A field that the method fixes is never
    suggested.
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
        methods: names, each with the fields that it fixes, `method` among them. They are searched
            independently, each with as many configurations.
        trials: distinct configurations for each method.
        seeds_per_configuration: seeds with which each configuration is trained; the mean of its objectives
            counts.
        finalists: best configurations of each method that are trained again with fresh seeds.
        seeds: number of fresh seeds for each finalist.
        objectives: names in `OBJECTIVES`; finalists are ranked by the first one.
        beside: a space whose arms with the same data and epochs the report shows for comparison.
        assigned: fields that the command line sets: they are fixed, too.
    """

    name: str
    fixed: Row
    parameters: tuple[Parameter, ...]
    methods: Mapping[str, Row] = field(default_factory=lambda: BASELINE_AND_PAIRS)
    trials: int = 12
    seeds_per_configuration: int = 1
    finalists: int = 2
    seeds: int = 3
    objectives: tuple[str, ...] = ("val_acc",)
    beside: str | None = None
    assigned: Row = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be searched."""
        for name in ("trials", "finalists", "seeds", "seeds_per_configuration"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: got {value}; allowed: an integer >= 1")
        methods = len(self.methods)
        check_count("--trials", self.trials, methods * self.trials)
        check_count(
            "--seeds-per-configuration",
            self.seeds_per_configuration,
            methods * self.trials * self.seeds_per_configuration,
        )
        check_count("--finalists", self.finalists, methods * self.finalists)
        check_count("--seeds", self.seeds, methods * self.finalists * self.seeds)
        for name in self.objectives:
            if name not in OBJECTIVES:
                hint = nearest(name, OBJECTIVES)
                raise ValueError(f"--objective: got {name!r}{hint}; allowed: {', '.join(OBJECTIVES)}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"--objective: got {','.join(self.objectives)}; each name at most once")
        self._check_methods()
        for name in (parameter.name for parameter in self.parameters):
            if name not in FIELDS or name in ("method", "seed"):
                hint = nearest(name, FIELDS)
                raise ValueError(f"a search has parameter {name!r}{hint}; allowed: fields of TrialConfig")

    def _check_methods(self) -> None:
        """Raise ValueError for methods without a name or a meaning, and for `assigned` fields of theirs."""
        for name in ("method", "seed"):
            if name in self.assigned:
                raise ValueError(f"--set: a search has {name} by itself; --only method=NAME keeps one method")
        for method, row in self.methods.items():
            if not METHOD_NAME.fullmatch(method):
                raise ValueError(f"a search has a method named {method!r}; allowed: letters, digits, _ . -")
            if row.get("method") not in METHODS:
                raise ValueError(
                    f"method {method!r} of a search fixes method={row.get('method')!r}; allowed:"
                    f" {', '.join(METHODS)}"
                )
            for field_name in row:
                if field_name not in FIELDS or field_name == "seed":
                    hint = nearest(field_name, FIELDS)
                    raise ValueError(
                        f"method {method!r} of a search fixes {field_name!r}{hint}; allowed: fields of"
                        " TrialConfig but the seed"
                    )
                if field_name in self.assigned:
                    raise ValueError(
                        f"--set: {field_name} is fixed by the method {method!r} of this search; --only"
                        " method=NAME[,NAME] can leave that method out"
                    )
        names = list(self.methods)
        for i, method in enumerate(names):
            for other in names[:i]:
                if self.methods[other] == self.methods[method]:
                    raise ValueError(f"methods {other!r} and {method!r} of a search fix the same fields")

    def config(self, method: str, suggest: Callable[[Parameter], Any]) -> TrialConfig:
        """The trial with the values that `suggest` returns, one parameter after the other.

        ValueError where the values make no trial, a parameter does not matter in it, or two parameters of one
        name are to be suggested.
        """
        row = self.methods[method]
        values: dict[str, Any] = {"name": method, **row}
        suggested: dict[str, Any] = {}
        for parameter in self.parameters:
            name, allowed = parameter.name, parameter.range
            if name in row or not parameter.when(values):
                continue
            if name in self.assigned:
                value = self.assigned[name]
                values[name] = format_value(value) if isinstance(value, tuple) else value
                continue
            if name in suggested:
                raise ValueError(
                    f"search {self.name!r}: two ranges of {name} apply to {method}: their `when` must exclude"
                    " each other"
                )
            value = suggest(parameter)
            if allowed.kind == "float" and not allowed.step:
                value = min(max(float(f"{value:.{DIGITS}g}"), allowed.low), allowed.high)
            values[name] = suggested[name] = value
        config = TrialConfig(**{**self.fixed, **row, **suggested, **self.assigned, "seed": SEED})
        for name, value in suggested.items():
            if getattr(config, name) != coerce(name, value):
                raise ValueError(
                    f"search {self.name!r}: {name} was suggested, but does not matter in {config.name}:"
                    " suggest it only where it does"
                )
        return config

    def recall(self, config: TrialConfig) -> dict[str, tuple[Any, Range]] | None:
        """Value and range of each parameter suggested for a trial; None where it could not be suggested."""
        found = self._recall(config)
        return found[1] if found else None

    def method_of(self, config: TrialConfig) -> str | None:
        """The method of a trial: the first that could have suggested it; None where none could."""
        found = self._recall(config)
        return found[0] if found else None

    def _recall(self, config: TrialConfig) -> tuple[str, dict[str, tuple[Any, Range]]] | None:
        for method, row in self.methods.items():
            suggested: dict[str, tuple[Any, Range]] = {}

            def remember(parameter: Parameter, suggested: dict[str, tuple[Any, Range]] = suggested) -> Any:
                value = parameter.range.recall(parameter.name, getattr(config, parameter.name))
                suggested[parameter.name] = value, parameter.range
                return value

            # Other fixed fields may have become defaults where they do not matter: only the whole tells.
            if row["method"] == config.method:
                with contextlib.suppress(ValueError):
                    if self.config(method, remember) == config:
                        return method, suggested
        return None

    def draw(self) -> list[TrialConfig]:
        """`DRAWN` random configurations of each method, always the same ones."""
        return list(dict.fromkeys(config for method in self.methods for config in self.draw_of(method)))

    def draw_of(self, method: str) -> list[TrialConfig]:
        """`DRAWN` random configurations of a method, always the same ones."""
        draw = partial(_draw, random.Random(f"{self.name} {method}"))  # noqa: S311  # nothing is secret here
        return list(dict.fromkeys(self.config(method, draw) for _ in range(DRAWN)))

    def searched(self, config: TrialConfig) -> list[TrialConfig]:
        """The trials of a configuration: with each seed that the search trains it with."""
        return [config.replace(seed=SEED + i) for i in range(self.seeds_per_configuration)]

    def finals(self, configs: Sequence[TrialConfig], first: int | None = None) -> list[TrialConfig]:
        """The finalists' trials: each configuration with every fresh seed.

        These begin with `first`, by default with the one after the searched seeds.
        """
        start = SEED + self.seeds_per_configuration if first is None else first
        return [config.replace(seed=seed) for seed in range(start, start + self.seeds) for config in configs]

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


def for_methods(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """For `Parameter.when`: a field, or a range, of these methods of the search alone."""
    return lambda values: values["name"] in names


def with_two_views(values: Mapping[str, Any]) -> bool:
    """For `Parameter.when`: fields that matter with two views only."""
    return values["method"] != CE


def with_a_term(values: Mapping[str, Any]) -> bool:
    """For `Parameter.when`: fields that matter with a term of `TERMS` only, not in its control γ = 0."""
    return values["method"] in SIAMESE and values.get("gamma") != 0


def with_projector(values: Mapping[str, Any]) -> bool:
    """For `Parameter.when`: fields of the projector, which some terms do without."""
    return with_a_term(values) and "z" in TERMS[values.get("term", FIRST_TERM)].needs
