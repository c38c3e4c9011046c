"""What `study/run.py` says without options: what one can do with it, and the spaces."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from search_spaces import SEARCHES, SPACES

EXAMPLES = {
    "--space quickstart --plan": "what would run, and for how long; creates nothing",
    "--space quickstart": "train its trials, then render its report",
    "--list-spaces": "what the spaces below are made of",
    "--help": "all options",
}


def welcome(prog: str) -> str:
    """A first screen for somebody who does not know what to type; `prog` is how the command was called."""
    command = f"python {prog}" if prog.endswith(".py") else prog
    width = max(map(len, EXAMPLES))
    return "\n".join(
        [
            "Train the trials of a space that are not finished yet, then render a report.",
            "",
            *(f"  {command} {options:<{width}}  {does}" for options, does in EXAMPLES.items()),
            "",
            "Spaces:",
            *_listed(SPACES),
            "",
            "Searches, which first look for good settings:",
            *_listed(SEARCHES),
            "",
            "Or a function in a file of your own: --space my_study.py:name.",
        ]
    )


def listing() -> str:
    """What `--list-spaces` prints: a line for each space and search."""
    return "\n".join(f"{name}: {_first_line(space)}" for name, space in {**SPACES, **SEARCHES}.items())


def _first_line(space: Callable[[], Any]) -> str:
    """What a space or search is, from its docstring."""
    return (space.__doc__ or "no description").splitlines()[0]


def _listed(spaces: Mapping[str, Callable[[], Any]]) -> list[str]:
    """A line each: the name, and the question that stands at the beginning of its description."""
    width = max(map(len, (*SPACES, *SEARCHES)))
    return [
        f"  {name:<{width}}  {re.split(r'(?<=[?]) |[:.] ', _first_line(space))[0].rstrip('.')}"
        for name, space in spaces.items()
    ]
