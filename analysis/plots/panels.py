"""Where the panels of a figure are, so that a narrow page can stack them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Box = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels from the upper left corner."""
Extent = tuple[float, float, float, float]
"""The same, before it is rounded."""
UNTITLED_ROWS = 2
"""Most rows of panels under one title that can be divided: of more, the first column alone has the names."""
PAD = 4


def panel_boxes(figure: Figure, density: float) -> list[list[Box]]:
    """Rows of boxes that cover a figure which is laid out, at so many pixels per inch; empty: indivisible.

    Panels are separated where nothing of them overlaps. A row without titles stays with the one above it, a
    legend below is a row by itself. A figure whose panels share the names at its left, or that has a colour
    bar or a text of its own, is not divided.
    """
    panels = [axes for axes in figure.axes if axes.axison or axes.texts or axes.has_data()]
    if len(panels) < 2 or figure.texts or figure.get_suptitle() or any(map(_leans_on_others, panels)):
        return []
    scale = density / figure.dpi
    width, height = (round(scale * length) for length in figure.bbox.size)

    def extent(axes: Axes) -> Extent:
        box = axes.get_tightbbox() or axes.get_window_extent()
        return scale * box.x0, height - scale * box.y1, scale * box.x1, height - scale * box.y0

    found = {axes: extent(axes) for axes in panels}
    legends = [legend.get_window_extent() for legend in figure.legends]
    under = min((height - scale * box.y1 for box in legends), default=height)
    if max(bottom for _, _, _, bottom in found.values()) > under + 1:
        return []  # a legend beside the panels
    rows = _titled(_apart(panels, lambda axes: found[axes][1::2]))
    cuts = [0, *(_between(above, below, found, 1) for above, below in pairwise(rows))]
    boxes = []
    for row, top, bottom in zip(rows, cuts, [*cuts[1:], round(under) - 1], strict=True):
        columns = _apart(row, lambda axes: found[axes][::2])
        lower = len(_apart(row, lambda axes: found[axes][1::2]))
        if lower > UNTITLED_ROWS:
            return []
        edges = [0, *(_between(a, b, found, 0) for a, b in pairwise(columns)), width]
        boxes.append([(left, top, right, bottom) for left, right in pairwise(edges)])
    for box in legends:
        left, right = max(round(scale * box.x0) - PAD, 0), min(round(scale * box.x1) + PAD, width)
        boxes.append([(left, round(under) - 1, right, height)])
    return boxes


def _leans_on_others(axes: Axes) -> bool:
    """Whether a panel cannot be read alone: a colour bar, or one whose names stand at another."""
    siblings = axes.get_shared_y_axes().get_siblings(axes)
    named = bool(axes.yaxis.get_tick_params(which="major").get("labelleft", True))
    return axes.get_label() == "<colorbar>" or (len(siblings) > 1 and not named)


def _apart(panels: Sequence[Axes], span: Callable[[Axes], tuple[float, float]]) -> list[list[Axes]]:
    """Groups of panels that overlap in one direction, in its order."""
    groups: list[list[Axes]] = []
    end = float("-inf")
    for axes in sorted(panels, key=lambda axes: span(axes)[0]):
        low, high = span(axes)
        if low >= end - 1:
            groups.append([])
        groups[-1].append(axes)
        end = max(end, high)
    return groups


def _titled(rows: Sequence[list[Axes]]) -> list[list[Axes]]:
    """Rows, each with those below it that have no titles."""
    merged: list[list[Axes]] = []
    for row in rows:
        if merged and not all(axes.get_title() for axes in row):
            merged[-1] = merged[-1] + row
        else:
            merged.append(list(row))
    return merged


def _between(
    first: Sequence[Axes],
    second: Sequence[Axes],
    found: Mapping[Axes, Extent],
    low: int,
) -> int:
    """Where to cut between two groups: in the middle of the gap; `low` 0 for columns, 1 for rows."""
    end, begin = max(found[axes][low + 2] for axes in first), min(found[axes][low] for axes in second)
    return round((end + begin) / 2)
