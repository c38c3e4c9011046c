"""The consistency terms: each is a module of this package with a `TERM` and the loss that it is.

Imports the standard library alone; a term's module, which imports PyTorch, is loaded when it is trained.
"""

import importlib
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.methods.term import Term
    from trainables.trial import TrialConfig

TERMS: Mapping[str, str] = types.MappingProxyType({"barlow_twins": "Barlow Twins"})
"""Every term by its name in `TrialConfig.term`, which is also the name of its module, with its title."""


def term_of(config: "TrialConfig") -> "Term | None":
    """The term that a trial is trained with; None if it has none."""
    if not config.uses("term"):
        return None
    term: Term = importlib.import_module(f"{__name__}.{config.term}").TERM
    return term
