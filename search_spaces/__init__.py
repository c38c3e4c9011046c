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
from search_spaces.names import folder_name
from search_spaces.ranges import choice, integers, loguniform, uniform
from search_spaces.search_design import (
    Parameter,
    Search,
    for_methods,
    with_a_term,
    with_projector,
    with_two_views,
)
from search_spaces.searches import SEARCHES
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
    "folder_name",
    "for_methods",
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
    "with_a_term",
    "with_projector",
    "with_two_views",
]
