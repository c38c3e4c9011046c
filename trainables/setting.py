"""What a field of `TrialConfig` says about itself, and the errors for what is not allowed."""

import dataclasses
import difflib
import operator
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

FIRST_RELEASE = object()
"""`as_before` of the fields of the first release, which are always part of the key."""
_HOLDS: Mapping[str, Callable[[float, float], bool]] = types.MappingProxyType(
    {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
)


@dataclass(frozen=True, slots=True)
class Rule:
    """In which trials a field matters.

    Attributes:
        title: of these trials, for people; empty: all.
        holds: whether a trial is one of them.
    """

    title: str
    holds: Callable[[typing.Any], bool]


ALWAYS = Rule("", lambda _: True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is known of a field besides its type and default.

    Attributes:
        low: smallest value; `above`: all values are larger than this one.
        high: largest value; `below`: all values are smaller than this one.
        choices: allowed texts; besides them what `pattern` matches, which `hint` describes.
        part: what the field is a part of: the `cell`, the `arm`, or the `seed`.
        used_by: where the field matters. Elsewhere it has its default.
        as_before: for a field added after the first release, the value that means what trials did before it
            existed. With it the field is left out of the key, so that adding one changes no key.
    """

    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    choices: Collection[str] = ()
    pattern: re.Pattern[str] | None = None
    hint: str = ""
    part: str = "cell"
    used_by: Rule = ALWAYS
    as_before: object = FIRST_RELEASE

    def check(self, name: str, value: typing.Any) -> None:
        """Raise ValueError for a value that is not allowed; None is always in range."""
        if self.choices or (self.pattern and value is not None):
            if not (self.pattern and self.pattern.fullmatch(value)):
                one_of(name, value, self.choices, self.hint)
        elif value is not None:
            signs = {">=": self.low, ">": self.above, "<=": self.high, "<": self.below}
            limits = {sign: limit for sign, limit in signs.items() if limit is not None}
            if not all(_HOLDS[sign](value, limit) for sign, limit in limits.items()):
                allowed = " and ".join(f"{sign} {limit}" for sign, limit in limits.items())
                raise ValueError(f"{name}: got {value}; allowed: {allowed}")


def setting(default: typing.Any = dataclasses.MISSING, **about: typing.Any) -> typing.Any:
    """A field of `TrialConfig` with its default and what `Setting` says of it."""
    return field(default=default, metadata={"setting": Setting(**about)})


def one_of(name: str, value: str, allowed: Collection[str], hint: str = "") -> None:
    """Raise ValueError unless the value is one of the allowed ones, with the nearest of them."""
    if value not in allowed:
        raise ValueError(
            f"{name}: got {value!r}{nearest(value, allowed)}; allowed: {', '.join(allowed)}{hint}"
        )


def are_texts(value: object) -> bool:
    """Whether it is a text, or several."""
    return isinstance(value, str | tuple | list) and all(isinstance(item, str) for item in value)


def ordered_subset(name: str, given: typing.Any, allowed: Collection[str]) -> tuple[str, ...]:
    """A subset of `allowed`, in its order, from names in any order or `a+b`; `none`: an empty one."""
    names = given
    if isinstance(names, str):
        names = [] if names in ("none", "") else names.split("+")
    for item in names:
        one_of(name, item, allowed, hint=", joined by +, or none")
    if len(set(names)) < len(names):
        raise ValueError(f"{name}: got {'+'.join(names)!r}; each name at most once")
    return tuple(item for item in allowed if item in names)


def nearest(given: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the entry of `allowed` that `given` probably means, or nothing.

    That is one with nearly the same letters, or the only one that begins with `given`, or the only one that
    has it between underscores. A guess further off (`optimizer`: `train_size`?) would mislead.
    """
    known = list(dict.fromkeys(allowed)) if given else []
    matches = (
        difflib.get_close_matches(given, known, n=1, cutoff=0.7)
        or [name for name in known if name.startswith(given)]
        or [name for name in known if given in name.split("_")]
    )
    return f" (did you mean {matches[0]!r}?)" if len(matches) == 1 else ""
