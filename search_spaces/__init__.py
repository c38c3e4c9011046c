"""Which trials belong together: named search spaces, and how a part of one is selected."""

from search_spaces.selection import Selection, add_selection_arguments, select, selection_from
from search_spaces.spaces import SPACES, TABLES, Space, tags

__all__ = [
    "SPACES",
    "TABLES",
    "Selection",
    "Space",
    "add_selection_arguments",
    "select",
    "selection_from",
    "tags",
]
