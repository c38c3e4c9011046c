"""Which trials belong together: named search spaces, and how a part of one is selected."""

from search_spaces.selection import Selection, add_selection_arguments, select, selection_from
from search_spaces.spaces import SPACES, Space

__all__ = ["SPACES", "Selection", "Space", "add_selection_arguments", "select", "selection_from"]
