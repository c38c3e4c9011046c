"""The consistency terms, each a module with a `TERM` and the loss that it is."""

import types
from collections.abc import Mapping

from trainables.methods import barlow_twins
from trainables.methods.term import Term
from trainables.trial import TrialConfig

TERMS: Mapping[str, Term] = types.MappingProxyType({term.name: term for term in (barlow_twins.TERM,)})
"""Every term by its name in `TrialConfig.term`."""


def term_of(config: TrialConfig) -> Term | None:
    """The term that a trial is trained with; None where it has none."""
    return TERMS[config.term] if config.uses("term") else None
