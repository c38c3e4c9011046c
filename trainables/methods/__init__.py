"""What gamma weighs: each term is a module of this package with a `TERM` and the loss that it is."""

import importlib
from typing import TYPE_CHECKING

from trainables.catalogue import TERMS
from trainables.extensions import functions
from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from trainables.methods.term import Term


def needs_of(config: TrialConfig) -> tuple[str, ...]:
    """What the term of a trial looks at, of `NEEDS`."""
    return TERMS[config.term].needs if config.uses("term") else ()


def term_of(config: TrialConfig) -> "Term | None":
    """The term that a trial is trained with; None if it has none."""
    if config.method == "fixmatch" and config.gamma:
        name = config.method
    elif config.uses("term"):
        name = config.term
    else:
        return None
    if ("term", name) in functions:
        from trainables.methods.own import own_term

        return own_term(name)
    term: Term = importlib.import_module(f"{__name__}.{name}").TERM
    return term
