"""How many seeds a study plans: a number, or a range within which a verdict may end it."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from trainables.trial import CELL_FIELDS, DEFAULTS, TrialConfig

FEWEST = 3
"""Fewest seeds for a claim: two differences that happen to be close make t arbitrarily large."""
MOST = 1000
"""Most seeds that `--seeds` takes."""
UNTIL = ("decided",)
"""Values of `--until`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedPlan:
    """How many seeds each cell gets: `low` at least, `high` at most; equal where the number is fixed.

    `margin` (points of test accuracy) is what counts as a difference worth having; `step` is how many seeds
    a cell without a verdict gets at a time; `date` (YYYY-MM-DD) is that of its declaration in the ledger.
    `adopted`: it was not declared, but is what a study had that was looked at before plans were recorded.
    """

    low: int
    high: int
    margin: float | None = None
    step: int = 1
    date: str | None = None
    adopted: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be planned, with ValueError."""
        if self.low < 1 or self.high < self.low:
            raise ValueError(f"--seeds: got {self}; allowed: an integer >= 1, or a range such as 3..12")
        if self.is_range and self.low < FEWEST:
            raise ValueError(
                f"--seeds: got {self}; allowed: a range from {FEWEST} on, as a claim takes so many"
            )
        if self.margin is not None and not 0 < self.margin < 100:
            raise ValueError(
                f"--margin: got {self.margin:g}; allowed: points of accuracy, above 0 and below 100"
            )

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

    @classmethod
    def from_json(cls, text: str) -> "SeedPlan":
        """The plan that `to_json` wrote."""
        return cls(**json.loads(text))


def parse_seeds(text: str) -> SeedPlan:
    """The plan in `5` or `3..12`; raises ValueError."""
    found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if not found:
        raise ValueError(f"--seeds: got {text!r}; allowed: an integer >= 1, or a range such as 3..12")
    # Python makes no number of more than 4,300 digits.
    low, high = (
        MOST + 1 if len(digits) > 4000 else int(digits) for digits in (found[1], found[2] or found[1])
    )
    if max(low, high) > MOST:
        raise ValueError(f"--seeds: got {text!r}; allowed: at most {MOST}")
    return SeedPlan(low=low, high=high)


def cell_digest(trial: TrialConfig) -> str:
    """Identity of a trial's cell in the ledger: 12 hex digits.

    Fields at their defaults are left out, so that a field that is added later changes nothing.
    """
    values = {name: getattr(trial, name) for name in CELL_FIELDS if name not in trial.tuned}
    known = {name: value for name, value in values.items() if name not in DEFAULTS or value != DEFAULTS[name]}
    if trial.tuned:
        known["tuned"] = sorted(trial.tuned)
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def seed_plans(trials: Iterable[TrialConfig], plan: SeedPlan) -> dict[str, SeedPlan]:
    """What is planned for each cell of these trials, by its digest.

    A range is the same for all cells; otherwise a cell has as many seeds as all of its arms have in common.
    """
    arms: dict[str, dict[TrialConfig, set[int]]] = {}
    for trial in trials:
        arms.setdefault(cell_digest(trial), {}).setdefault(trial.replace(seed=0), set()).add(trial.seed)
    if plan.is_range:
        return dict.fromkeys(arms, plan)
    counts = {cell: len(set.intersection(*seeds.values())) for cell, seeds in arms.items()}
    return {cell: replace(plan, low=n, high=n) for cell, n in counts.items() if n}
