"""Spaces and searches in a file of your own: `--space my_study.py:one_by_one`."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from search_spaces.design import Trials
from search_spaces.search_design import Search
from search_spaces.searches import SEARCHES, add_search, remove_search
from search_spaces.spaces import SPACES, add_space, remove_space
from trainables.extensions.files import ExtensionError, OwnFile, load_file, loaded, space_functions
from trainables.setting import nearest
from trainables.trial import TrialConfig

IN_A_FILE = re.compile(r"(?P<path>.+?\.py)(:(?P<function>.*))?")
STEM = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_made_by: dict[str, OwnFile] = {}
"""The file of each space and search, by its name."""


def resolved(text: str) -> str:
    """The names in `--space`, with those in files loaded: `my_study.py:one_by_one` is `my_study.one_by_one`.

    Raises:
        ExtensionError: a file that cannot be loaded, two files of one name, a function that a file does not
            have, or that returns no trials.
    """
    parts = text.split(",")
    paths: dict[str, Path] = {}
    for match in filter(None, map(IN_A_FILE.fullmatch, parts)):
        path = Path(match["path"]).expanduser()
        if paths.setdefault(path.name, path).resolve() != path.resolve():
            raise ExtensionError(
                f"--space: got {str(paths[path.name])!r} and {str(path)!r}; allowed: files of different names"
            )
    names = [_in_a_file(part) if IN_A_FILE.fullmatch(part) else part for part in parts]
    for name in names:
        stem, dot, function = name.partition(".")
        if dot and name not in (*SPACES, *SEARCHES) and Path(f"{stem}.py").is_file():  # as a report calls it
            meant = f"{stem}.py:{function}"
            raise ExtensionError(f"--space: got {name!r} (did you mean {meant!r}?); allowed: the file's name")
    return ",".join(names)


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
    path = Path(match["path"]).expanduser()
    if not STEM.fullmatch(path.stem):
        raise ExtensionError(
            f"--space: got {path.name!r}; allowed: letters, digits, _ and - before .py, a letter or _ first"
        )
    file = load_file(path)
    _forget_older(file)
    return _made_known(file, match["function"] or "", text)


def know_again(names: str) -> None:
    """Make spaces and searches known in a process that was shipped their files, by their `resolved` names."""
    for text in names.split(","):
        stem, _, function = text.partition(".")
        for file in loaded():
            if file.stem == stem and function:
                _made_known(file, function, text)


def _made_known(file: OwnFile, function_name: str, text: str) -> str:
    """Add a space or search of a file to those that are known; returns its name. `text` is what was given."""
    name, function = _function(file, function_name, text)
    space = f"{file.stem}.{name}"
    made = _called(file, name, function)
    if isinstance(made, Search):
        add_search(space, _named(function, replace(made, name=space)))
    else:
        add_space(space, _named(function, made))
    _made_by[space] = file
    return space


def _forget_older(file: OwnFile) -> None:
    """Make the spaces of another version of a file unknown."""
    for space in [space for space, by in _made_by.items() if by.name == file.name and by is not file]:
        remove_space(space)
        remove_search(space)
        del _made_by[space]


def _function(file: OwnFile, name: str, text: str) -> tuple[str, Callable[[], Any]]:
    """The space of that name in a file, and its name; without a name, the only one."""
    known = space_functions(file)
    if not name and len(known) == 1:
        return next(iter(known.items()))
    if name not in known:
        spaces = (
            ", ".join(f"{file.name}:{other}" for other in known)
            or "none: it has no function without arguments"
        )
        raise ExtensionError(f"--space: got {text!r}{nearest(name, known)}; allowed: {spaces}")
    return name, known[name]


def _called(file: OwnFile, name: str, function: Callable[[], Any]) -> Any:
    """What a space or search of a file returns; ExtensionError with the line where that fails."""
    line = inspect.unwrap(function).__code__.co_firstlineno
    try:
        made = function()
    except Exception as error:  # of the user's code
        raise file.locate(error, line) from error
    if isinstance(made, Search):
        return made
    allowed = "trials, as trials(product(…), …) makes them, or a Search"
    if not isinstance(made, list | tuple):
        got = "nothing" if made is None else f"a {type(made).__name__}"
        raise file.error(line, f"{name}() returned {got}; allowed: {allowed}")
    for one in made:
        if not isinstance(one, TrialConfig):
            got = f"a {type(made).__name__} with {type(one).__name__}"
            raise file.error(line, f"{name}() returned {got}; allowed: {allowed}")
    if not made:
        raise file.error(line, f"{name}() returned no trials; allowed: one at least")
    return Trials(made, getattr(made, "notes", ()))


def _named(function: Callable[[], Any], made: Any) -> Callable[[], Any]:
    """A function that returns what was made, with the docstring of the one that made it."""

    def again() -> Any:
        return made

    again.__doc__ = function.__doc__
    return again
