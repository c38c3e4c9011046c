"""Spaces and searches in a file of your own: `--space my_study.py:one_by_one`."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.design import Trials
from search_spaces.search_design import Search
from search_spaces.searches import add_search
from search_spaces.spaces import add_space
from trainables.extensions.files import ExtensionError, OwnFile, load_file, loaded, space_functions
from trainables.setting import nearest
from trainables.trial import TrialConfig

IN_A_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<function>\w*))?")
STEM = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def resolved(text: str) -> str:
    """The names in `--space`, with those in files loaded: `my_study.py:one_by_one` is `my_study.one_by_one`.

    Raises:
        ExtensionError: a file that cannot be loaded, a function that it does not have, or that returns no
            trials.
    """
    return ",".join(_in_a_file(part) if IN_A_FILE.fullmatch(part) else part for part in text.split(","))


def described() -> list[str]:
    """What the loaded files define besides spaces, in lines for people."""
    lines = []
    for file in loaded():
        items = [f"{item.kind} {item.name} ({item.code})" for item in file.items]
        lines.append(f"{file.name}: {', '.join(items) or 'no term, augmentation, backbone or metric'}")
    return lines


def _in_a_file(text: str) -> str:
    match = IN_A_FILE.fullmatch(text)
    assert match  # noqa: S101  # for the type checker: the caller has matched it
    path = Path(match["path"])
    if not STEM.fullmatch(path.stem):
        raise ExtensionError(
            f"--space: got {path.name!r}; allowed: a file whose name has letters, digits, _ and -, before .py"
        )
    file = load_file(path)
    function = _function(file, match["function"] or "", text)
    name = f"{file.stem}.{function.__name__}"
    made = _called(file, function)
    if isinstance(made, Search):
        add_search(name, _named(function, replace(made, name=name)))
    else:
        add_space(name, _named(function, made))
    return name


def _function(file: OwnFile, name: str, text: str) -> Callable[[], Any]:
    """The space of that name in a file; without a name, the only one."""
    known = space_functions(file)
    if not name and len(known) == 1:
        return next(iter(known.values()))
    if name not in known:
        spaces = (
            ", ".join(f"{file.name}:{other}" for other in known)
            or "none: it has no function without arguments"
        )
        raise ExtensionError(f"--space: got {text!r}{nearest(name, known)}; allowed: {spaces}")
    return known[name]


def _called(file: OwnFile, function: Callable[[], Any]) -> Any:
    """What a space or search of a file returns; ExtensionError with the line where that fails."""
    try:
        made = function()
    except Exception as error:  # of the user's code
        raise file.locate(error) from error
    if isinstance(made, Search):
        return made
    if not isinstance(made, list | tuple) or not all(isinstance(trial, TrialConfig) for trial in made):
        line = function.__code__.co_firstlineno
        raise ExtensionError(
            f"{file.name}:{line}: {function.__name__}() returned {_kind(made)}; allowed: trials, as"
            " trials(product(…), …) makes them, or a Search"
        )
    return Trials(made, getattr(made, "notes", ()))


def _kind(made: Any) -> str:
    if isinstance(made, list | tuple) and made:
        return f"a {type(made).__name__} of {type(made[0]).__name__}"
    return type(made).__name__


def _named(function: Callable[[], Any], made: Any) -> Callable[[], Any]:
    """A function that returns what was made, with the docstring of the one that made it."""

    def again() -> Any:
        return made

    again.__doc__ = function.__doc__
    return again
