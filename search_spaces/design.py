"""A small vocabulary for experimental designs.

`product` combines choices into rows, dictionaries with some fields of `TrialConfig`; `trials` turns rows into
configs.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from trainables.trial import FIELDS, TrialConfig, nearest

Row = dict[str, Any]
MOST_TRIALS = 20_000
"""Most that options of a command line make of a space: all are compared with the ledger before one runs."""
T = TypeVar("T")


def check_count(option: str, given: object, count: int) -> None:
    """Raise ValueError for more trials than `MOST_TRIALS`, before they are made."""
    if count > MOST_TRIALS:
        raise ValueError(
            f"{option}: got {given}, which makes {count:,} trials; allowed: at most {MOST_TRIALS:,}"
        )


class Trials(list[TrialConfig]):
    """Distinct trials; `notes` has a line for people for each exclusion from their design."""

    def __init__(self, configs: Iterable[TrialConfig], notes: Sequence[str] = ()) -> None:
        """Keep the first of equal configs."""
        super().__init__(dict.fromkeys(configs))
        self.notes = tuple(notes)


def powerset(items: Sequence[T]) -> list[tuple[T, ...]]:
    """All subsets, smaller ones first: 2**n, from none to all."""
    return [subset for size in range(len(items) + 1) for subset in itertools.combinations(items, size)]


def pairs(items: Sequence[T]) -> list[tuple[T, ...]]:
    """All subsets of two."""
    return list(itertools.combinations(items, 2))


def leave_one_out(items: Sequence[T]) -> list[tuple[T, ...]]:
    """The whole, then the whole without each item: what does one contribute beside the others?"""
    return [tuple(items), *(tuple(items[:i]) + tuple(items[i + 1 :]) for i in range(len(items)))]


def add_one_in(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Nothing, then each item alone: what does one do by itself?"""
    return [(), *((item,) for item in items)]


def arms(gammas: Iterable[float], **siamese: Any) -> list[Row]:
    """The arms of a cell: the baseline `ce`, then `siamese` with each gamma and the other fields given."""
    return [{"method": "ce"}, *({"method": "siamese", "gamma": gamma, **siamese} for gamma in gammas)]


def product(**choices: Iterable[Any]) -> list[Row]:
    """Every combination of the choices, the last one changing fastest.

    A keyword is a field and its values; where a value is a dictionary, its fields are taken instead and
    the keyword is only a name: `product(seed=range(5), arm=arms([0, 0.1]))`. Of fields that are given
    twice, the later choice counts. ValueError where a field does not exist.
    """
    rows = []
    for values in itertools.product(*(list(values) for values in choices.values())):
        row: Row = {}
        for name, value in zip(choices, values, strict=True):
            row |= value if isinstance(value, Mapping) else {name: value}
        rows.append(row)
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in FIELDS:
            raise ValueError(f"unknown field {name!r}{nearest(name, FIELDS)}; allowed: {', '.join(FIELDS)}")
    return rows


def trials(rows: Iterable[Row], **fields: Any) -> Trials:
    """A config for each row, with `fields` where the row does not say otherwise; equal ones are merged."""
    return Trials(TrialConfig(**{**fields, **row}) for row in rows)


def exclude(design: Iterable[TrialConfig], rule: Callable[[TrialConfig], bool], because: str) -> Trials:
    """The design without the trials to which `rule` applies; the reason is printed with the plan."""
    design = Trials(design, getattr(design, "notes", ()))
    left = [trial for trial in design if not rule(trial)]
    note = f"without {len(design) - len(left)}: {because}"
    return Trials(left, (*design.notes, note) if len(left) < len(design) else design.notes)
