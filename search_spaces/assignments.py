"""`--set`: fields that are replaced in all trials of a selection, or swept over several values."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence

from search_spaces.design import Trials, check_count
from search_spaces.names import arm_labels
from trainables.trial import FieldValue, TrialConfig, parse_value

FORM = "KEY=V[,V]"


def parse_assignments(assignments: Sequence[str]) -> dict[str, tuple[FieldValue, ...]]:
    """The distinct values of each field; the last of several assignments of one field counts.

    ValueError where a field or a value is not allowed.
    """
    values: dict[str, tuple[FieldValue, ...]] = {}
    for assignment in assignments:
        key, text = split_option("--set", assignment, FORM)
        if key == "arm":
            raise ValueError("--set: 'arm' is derived; set method or gamma instead")
        with naming("--set"):
            values[key] = tuple(dict.fromkeys(parse_value(key, part) for part in text.split(",")))
    return values


def assign_all(
    trials: Trials, assignments: Sequence[str]
) -> tuple[dict[TrialConfig, TrialConfig], list[str]]:
    """Set fields in all trials, once for every combination of the values that they are set to.

    Returns:
        The new trials, equal ones merged, each with the first trial that it comes from; and lines for people.

    Raises:
        ValueError: a field or a value is not allowed, or makes a trial that is not.
    """
    values = parse_assignments(assignments)
    combined = math.prod(map(len, values.values())) * len(trials)
    check_count("--set", f"{combined // len(trials):,} combinations" if trials else "", combined)
    # All at once: method and gamma, for example, are only valid together.
    combinations = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    with naming("--set"):
        made = [(trial.replace(**each), trial) for each in combinations for trial in trials]
    origins: dict[TrialConfig, TrialConfig] = {}
    for new, old in made:
        origins.setdefault(new, old)
    return origins, [
        *_replaced(assignments),
        f"{' '.join(_effective(assignments))}: {_count(len(combinations), len(trials), len(origins))}",
        *_merged_arms(made),
    ]


def _effective(assignments: Sequence[str]) -> list[str]:
    """The assignments that count, as typed: of each field the last."""
    last = {assignment.partition("=")[0]: assignment for assignment in assignments}
    return [f"--set {assignment}" for assignment in last.values()]


def _replaced(assignments: Sequence[str]) -> list[str]:
    """A line for each assignment that a later one replaces."""
    last = {assignment.partition("=")[0]: number for number, assignment in enumerate(assignments)}
    return [
        f"--set {assignment}: replaced by --set {assignments[counts]}"
        for number, assignment in enumerate(assignments)
        if (counts := last[assignment.partition("=")[0]]) != number
    ]


def _count(combinations: int, before: int, after: int) -> str:
    """`12`; of a sweep `2 x 12 = 24`, or `2 x 12, 18 of them distinct`."""
    if combinations == 1:
        return str(after)
    product = f"{combinations} x {before}"
    return (
        f"{product} = {after}" if after == combinations * before else f"{product}, {after} of them distinct"
    )


def _merged_arms(made: Sequence[tuple[TrialConfig, TrialConfig]]) -> list[str]:
    """A line for each set of arms of one cell that become equal, and one where no control is left.

    `made` has each new trial with the one it comes from.
    """
    before, after = arm_labels([old for _, old in made]), arm_labels([new for new, _ in made])
    sources: dict[tuple[TrialConfig, object, int], dict[str, None]] = {}
    for new, old in made:
        sources.setdefault((new, old.cell, old.seed), {})[before[old]] = None
    merged: dict[tuple[str, ...], dict[str, None]] = {}
    for (new, _, _), arms in sources.items():
        if len(arms) > 1:
            merged.setdefault(tuple(arms), {})[after[new]] = None
    lines = [
        f"{len(arms)} arms became equal: {', '.join(arms)} (now {', '.join(now)})"
        for arms, now in merged.items()
    ]
    gammas = {new.gamma for new, _ in made}
    if 0 in {old.gamma for _, old in made} and 0 not in gammas and gammas != {None}:
        lines.append("no control is left: every arm with two views has γ > 0")
    return lines


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Begin the message of a ValueError with the option."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def split_option(option: str, text: str, form: str) -> tuple[str, str]:
    """Key and value of `KEY=VALUE`; ValueError where one is missing."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{option}: got {text!r}; allowed: {form}")
    return key, value
