"""Which trials belong together: named search spaces, and how a part of one is selected.

All that a space in a file of your own needs is here.
"""

from search_spaces.design import (
    add_one_in,
    arms,
    exclude,
    leave_one_out,
    pairs,
    powerset,
    product,
    trials,
)
from search_spaces.searches import (
    SEARCHES,
    Parameter,
    Search,
    choice,
    integers,
    loguniform,
    uniform,
)
from search_spaces.selection import Selection, add_selection_arguments, search_from, select, selection_from
from search_spaces.spaces import SPACES, TABLES, Space, tags
from trainables.catalogue import AUGMENTATIONS, TERMS, TRANSFORMS

__all__ = [
    "AUGMENTATIONS",
    "SEARCHES",
    "SPACES",
    "TABLES",
    "TERMS",
    "TRANSFORMS",
    "Parameter",
    "Search",
    "Selection",
    "Space",
    "add_one_in",
    "add_selection_arguments",
    "arms",
    "choice",
    "exclude",
    "integers",
    "leave_one_out",
    "loguniform",
    "pairs",
    "powerset",
    "product",
    "search_from",
    "select",
    "selection_from",
    "tags",
    "trials",
    "uniform",
]
