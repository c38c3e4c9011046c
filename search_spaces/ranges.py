"""The values that a parameter of a search may take."""

import random
from dataclasses import dataclass
from typing import Any

from trainables.trial import coerce


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
