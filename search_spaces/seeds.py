"""How many seeds a study plans: a number, or a range within which a verdict may end it."""

import json
import re
from dataclasses import asdict, dataclass

FEWEST = 3
"""Fewest seeds for a claim: two differences that happen to be close make t arbitrarily large."""
UNTIL = ("decided",)
"""Values of `--until`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPlan:
    """How many seeds each cell gets: `low` at least, `high` at most; equal where the number is fixed.

    `margin` (points of test accuracy) is what counts as a difference worth having; `step` is how many seeds
    a cell without a verdict gets at a time; `date` (YYYY-MM-DD) is that of its declaration in the ledger.
    """

    low: int
    high: int
    margin: float | None = None
    step: int = 1
    date: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be planned, with ValueError."""
        if self.low < 1 or self.high < self.low:
            raise ValueError(f"--seeds: got '{self}'; allowed: an integer >= 1, or a range such as 3..12")
        if self.is_range and self.low < FEWEST:
            raise ValueError(f"--seeds: got '{self}'; allowed: a range from {FEWEST} on, as a claim takes so many")
        if self.margin is not None and not 0 < self.margin < 100:
            raise ValueError(f"--margin: got {self.margin:g}; allowed: points of accuracy, above 0 and below 100")

    @property
    def is_range(self) -> bool:
        """Whether verdicts decide how many seeds there are."""
        return self.low < self.high

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which a cell is looked at: 3, 5, 7, … and the highest."""
        return (*range(self.low, self.high, self.step), self.high)

    def __str__(self) -> str:
        """As on the command line: `5`, `3..12`."""
        return f"{self.low}..{self.high}" if self.is_range else str(self.low)

    def to_json(self) -> str:
        """Text for the ledger."""
        return json.dumps(asdict(self))


def parse_seeds(text: str) -> SeedPlan:
    """The plan in `5` or `3..12`; raises ValueError."""
    found = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text)
    if not found:
        raise ValueError(f"--seeds: got {text!r}; allowed: an integer >= 1, or a range such as 3..12")
    low = int(found[1])
    return SeedPlan(low=low, high=int(found[2] or low))
