"""Which arm is held against which: the families of comparisons, in plans and in analysis alike."""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from trainables.trial import ARM_FIELDS, CELL_FIELDS, DEFAULTS, FieldValue, TrialConfig, format_value

CE = "ce"
"""Cross-entropy alone: the baseline of the thesis's claim."""
CONTROL = "siamese-0"
"""Two views without the term: the baseline of the effect of the term itself."""
LEVEL = 0.05
"""Of significance: α. Intervals are for 1 - α."""

EXACT = 16
"""Most seeds for which all patterns of signs are looked at; above it, random ones."""
RANDOM_PATTERNS = 99_999

Fields = Mapping[str, FieldValue]
Cell = TypeVar("Cell", bound=Hashable)

_SAME = ("views", "unlabeled_size")
"""What an arm and its control have in common."""
_OPTIONS = tuple(name for name in ARM_FIELDS if name not in ("method", "gamma"))
_BUDGETS = (("epochs",), ("lr", "weight_decay"))
"""What else may explain an effect of two views: more images seen, or a larger step."""


def smallest_p(n: int) -> float:
    """The smallest two-sided p of the sign-flip test of n paired differences; 1 for none."""
    return 2 / (RANDOM_PATTERNS + 1) if n > EXACT else min(1.0, 2.0 / 2.0**n)


def fields_of(trial: TrialConfig) -> dict[str, FieldValue]:
    """The fields by name."""
    return {name: getattr(trial, name) for name in (*CELL_FIELDS, *ARM_FIELDS)}


def families(arms: Mapping[str, Fields]) -> dict[str, dict[str, str]]:
    """Which arm of a cell is held against which, by family: `{baseline: {arm: its baseline}}`.

    - `ce`: every arm of two views.
    - `siamese-0`: every γ > 0, against the control with the same views and unlabelled images.
    - `unlabeled_size=0`, `views=symmetric`, …: arms that differ from another in that one field alone, against
      the one that has the field's default (or the first value of the space).

    Args:
        arms: the fields that make each arm, by label.
    """
    two_views = {label: arm for label, arm in arms.items() if arm["method"] == "siamese"}
    with_term = {label: arm for label, arm in two_views.items() if arm["gamma"]}
    alone = [label for label in arms if label not in two_views]
    found = {CE: dict.fromkeys(two_views, alone[0]) if alone else {}}
    controls = {_values(arm, _SAME): label for label, arm in two_views.items() if label not in with_term}
    found[CONTROL] = {
        label: controls[_values(arm, _SAME)]
        for label, arm in with_term.items()
        if _values(arm, _SAME) in controls
    }
    for name in _OPTIONS:
        # What the control has no use for is set to its default there: that is no value of the study.
        using = two_views if name in _SAME else with_term
        values = list(dict.fromkeys(arm[name] for arm in using.values()))
        if len(values) < 2:
            continue
        reference = DEFAULTS[name] if DEFAULTS[name] in values else values[0]
        others = ["gamma", *(option for option in _OPTIONS if option != name)]
        having = {_values(arm, others): label for label, arm in two_views.items() if arm[name] == reference}
        found[f"{name}={format_value(reference)}"] = {
            label: having[_values(arm, others)]
            for label, arm in two_views.items()
            if arm[name] != reference and _values(arm, others) in having
        }
    return {name: pairs for name, pairs in found.items() if pairs}


def controls_elsewhere(cells: Mapping[Cell, Mapping[str, Fields]]) -> dict[Cell, dict[str, Cell]]:
    """Cross-entropy with another budget, for the cells that it may explain: `{cell: {label: its cell}}`.

    `ce` with twice the epochs is a cell of its own, as epochs make cells. A cell that has `ce` alone, and
    differs from one of several arms in the epochs, or in step and weight decay, and in nothing else, is
    there to be compared with that one's arms of two views. Its label names the difference:
    `ce epochs=2000`.

    Args:
        cells: the fields of each arm of each cell, by the arm's label.
    """
    lone = {cell: arms[CE] for cell, arms in cells.items() if list(arms) == [CE]}
    found: dict[Cell, dict[str, Cell]] = {}
    for cell, arms in cells.items():
        if not any(arm["method"] == "siamese" for arm in arms.values()):
            continue
        first = next(iter(arms.values()))
        for other, control in lone.items():
            differing = [name for name in CELL_FIELDS if str(control[name]) != str(first[name])]
            if any(differing and {*differing} <= {*budget} for budget in _BUDGETS):
                named = " ".join(f"{name}={format_value(control[name])}" for name in differing)
                found.setdefault(cell, {})[f"{CE} {named}"] = other
    return found


def _values(arm: Fields, names: Iterable[str]) -> tuple[FieldValue, ...]:
    return tuple(arm[name] for name in names)
