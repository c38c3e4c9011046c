"""Which arm is compared with which: the families of comparisons, for plans and analysis."""

import contextlib
from collections.abc import Hashable, Mapping
from typing import TypeVar

from trainables.arms import CE, CONTROL
from trainables.trial import ARM_FIELDS, CELL_FIELDS, DEFAULTS, TrialConfig, format_value, two_views

LEVEL = 0.05
"""Significance level α; intervals have level 1 - α."""

EXACT = 16
"""Up to so many seeds, all sign patterns are enumerated; above it, random ones are drawn."""
RANDOM_PATTERNS = 99_999

Cell = TypeVar("Cell", bound=Hashable)

_OPTIONS = tuple(name for name in ARM_FIELDS if name not in ("method", "gamma", "term", "term_code"))
"""Fields that distinguish arms of one name. (Not the term: γ has another scale for each.)"""
FIXMATCH = "fixmatch-0"
"""FixMatch without its unlabelled loss: cross-entropy on its weak view."""
_BUDGETS = (("epochs",), ("lr", "weight_decay"))
"""What else may explain an effect of two views: more images seen, or a larger step."""


def smallest_p(n: int) -> float:
    """The smallest two-sided p of the sign-flip test of n paired differences; 1 for none."""
    return 2 / (RANDOM_PATTERNS + 1) if n > EXACT else min(1.0, 2.0 / 2.0**n)


def families(arms: Mapping[str, TrialConfig]) -> dict[str, dict[str, str]]:
    """Which arm of a cell is compared with which, by family: `{baseline: {arm: its baseline}}`.

    - `ce`: every arm with two views.
    - `siamese-0`: every γ > 0, against the control that is otherwise equal.
    - `fixmatch-0`: FixMatch with γ > 0, likewise.
    - `unlabeled_size=0`, `views=symmetric`, …: arms that differ from another in that field alone, against
      the one that has the field's default (or the first value of the space).

    `arms` has a trial of each arm, by label.
    """
    # Partners agree in everything but what was tuned for each.
    first = next(iter(arms.values()), None)
    same = {name: getattr(first, name) for name in (first.tuned if first else ())}
    arms = {label: trial.replace(seed=0, **same) for label, trial in arms.items()}
    labels = {trial: label for label, trial in reversed(arms.items())}  # of equal ones, the first counts
    pairs = {label: trial for label, trial in arms.items() if two_views(trial)}
    single = [label for label in arms if label not in pairs]
    compared = {CE: dict.fromkeys(pairs, single[0]) if single else {}}
    compared[CONTROL] = _partners(
        labels,
        {label: trial for label, trial in pairs.items() if trial.gamma and trial.method == "siamese"},
        gamma=0.0,
    )
    semi_supervised = {label: trial for label, trial in pairs.items() if trial.method == "fixmatch"}
    compared[FIXMATCH] = _partners(
        labels, {label: trial for label, trial in semi_supervised.items() if trial.gamma}, gamma=0.0
    )
    for name in _OPTIONS:
        using = {label: trial for label, trial in pairs.items() if trial.uses(name)}
        values = list(dict.fromkeys(getattr(trial, name) for trial in using.values()))
        if len(values) > 1:
            reference = DEFAULTS[name] if DEFAULTS[name] in values else values[0]
            others = {label: trial for label, trial in using.items() if getattr(trial, name) != reference}
            compared[f"{name}={format_value(reference)}"] = _partners(labels, others, **{name: reference})
    return {family: baselines for family, baselines in compared.items() if baselines}


def _partners(
    labels: Mapping[TrialConfig, str], trials: Mapping[str, TrialConfig], **changes: object
) -> dict[str, str]:
    """For each trial the label of the arm that it would be with these changes, where there is one."""
    partners: dict[str, str] = {}
    for label, trial in trials.items():
        with contextlib.suppress(ValueError):  # there is no such trial: W-MSE with wider embeddings
            changed = trial.replace(**changes)
            partners |= {label: labels[changed]} if changed in labels else {}
    return partners


def controls_elsewhere(cells: Mapping[Cell, Mapping[str, TrialConfig]]) -> dict[Cell, dict[str, Cell]]:
    """Cross-entropy with another budget, for the cells that it may explain: `{cell: {label: its cell}}`.

    `ce` with twice the epochs forms a separate cell. A cell that has only `ce`, and differs from another cell
    only in the epochs, or in step and weight decay, is a control for that cell's arms with two views. Its
    label names the difference: `ce epochs=2000`. `cells` has a trial of each arm of each cell, by label.
    """
    lone = {cell: arms[CE] for cell, arms in cells.items() if list(arms) == [CE]}
    controls: dict[Cell, dict[str, Cell]] = {}
    for cell, arms in cells.items():
        if not any(two_views(trial) for trial in arms.values()):
            continue
        first = next(iter(arms.values()))
        for other, control in lone.items():
            values = zip(CELL_FIELDS, control.cell, first.cell, strict=True)
            differing = [name for name, theirs, ours in values if theirs != ours]
            if any(differing and {*differing} <= {*budget} for budget in _BUDGETS):
                difference = " ".join(f"{name}={format_value(getattr(control, name))}" for name in differing)
                controls.setdefault(cell, {})[f"{CE} {difference}"] = other
    return controls
