"""Which trials belong together: named search spaces, and how a part of one is selected."""

from search_spaces.search_design import Search
from search_spaces.searches import SEARCHES
from search_spaces.selection import Selection, add_selection_arguments, search_from, select, selection_from
from search_spaces.spaces import SPACES, TABLES, Space, tags

__all__ = [
    "SEARCHES",
    "SPACES",
    "TABLES",
    "Search",
    "Selection",
    "Space",
    "add_selection_arguments",
    "search_from",
    "select",
    "selection_from",
    "tags",
]
