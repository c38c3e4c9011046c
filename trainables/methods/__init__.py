"""The consistency terms: each is a module of this package with a `TERM` and the loss that it is."""

import importlib
from typing import TYPE_CHECKING

from trainables.trial import TrialConfig

if TYPE_CHECKING:
    from trainables.methods.term import Term


def term_of(config: TrialConfig) -> "Term | None":
    """The term that a trial is trained with; None if it has none."""
    if not config.uses("term"):
        return None
    term: Term = importlib.import_module(f"{__name__}.{config.term}").TERM
    return term
