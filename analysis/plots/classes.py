"""How classes look in figures: a colour and a marker each, and their names, so that colour is never all.

Shapes: N images, K classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patheffects import withStroke

from analysis.plots.kept import drawn_title

Points = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

CLASS_COLOURS = (
    *("#008074", "#c2cb05", "#15cce3", "#571c90", "#5b6300"),
    *("#fcbcad", "#7b66ff", "#6f343e", "#f5348e", "#af8847"),
)
"""Ten colours at least 17 CIEDE2000 apart for everybody, colour-blind or not, and 3 in lightness where a
printer makes them grey. (The least of `petroff10` are 12 and 0.1, of `tab10` 1 and 1.) Found by
`benchmarks/class_colours.py`, and ordered so that the first ones are the furthest apart."""
MARKERS = ("o", "^", "s", "D")
NAMED = 20
"""Most classes whose names stand among their points."""


def look(c: int) -> tuple[str, str]:
    """Colour and marker of a class: neighbours differ in both; they repeat after 40 classes."""
    tens, ones = divmod(c, len(CLASS_COLOURS))
    return CLASS_COLOURS[ones], MARKERS[(ones + tens) % len(MARKERS)]


def scatter(axes: Axes, points: Points, labels: Labels, size: float) -> None:
    """Points (N, 2) by class; pixels in a PDF too, where thousands of shapes would be slow to display."""
    # In random order: otherwise the last class would hide the others wherever they meet.
    order = np.random.default_rng(0).permutation(len(labels))
    looks = [look(int(c)) for c in labels[order]]
    colours, x, y = [colour for colour, _ in looks], *points[order].T
    drawn = axes.scatter(x, y, c=colours, s=size, linewidths=0, rasterized=True)
    shapes = {own: MarkerStyle(own) for own in MARKERS}
    paths = {own: shape.get_path().transformed(shape.get_transform()) for own, shape in shapes.items()}
    drawn.set_paths([paths[own] for _, own in looks])


def name_classes(
    axes: Axes, points: Points, labels: Labels, panel: tuple[float, float], fontsize: float = 7.5
) -> None:
    """Write the number of each class at the median of its points (N, 2), on a white halo.

    Numbers that would cover each other are moved apart. Nothing for more than `NAMED` classes. `panel` is the
    size of the axes in inches.
    """
    classes = np.unique(labels)
    if len(classes) > NAMED:
        return
    medians = np.array([np.median(points[labels == c], axis=0) for c in classes])
    letters = np.array([[0.65 * len(str(c)) + 0.3, 1.0] for c in classes])
    low, high = (np.array(limits) for limits in zip(axes.get_xlim(), axes.get_ylim(), strict=True))
    places = apart((medians - low) / (high - low), letters * fontsize / 72 / panel)
    halo = [withStroke(linewidth=2, foreground="white")]
    for c, (x, y) in zip(classes, places, strict=True):
        text = axes.text(x, y, str(c), fontsize=fontsize, fontweight="bold", color="0.1")
        text.set(transform=axes.transAxes, ha="center", va="center", path_effects=halo)


def apart(centres: Points, sizes: Points, rounds: int = 200) -> Points:
    """Centres (K, 2) of boxes of these sizes (K, 2), moved until none overlaps another and all are in 0–1.

    Each round pushes overlapping boxes apart, half the overlap each, along the axis where that is shorter.
    """
    # Centres of one place would all be pushed along one line: a hair in different directions to begin with.
    angles = 2.4 * np.arange(len(centres))
    places, half = centres + 1e-4 * np.stack([np.cos(angles), np.sin(angles)], axis=1), sizes / 2
    i, j = np.triu_indices(len(places), 1)
    for _ in range(rounds):
        gap = places[j] - places[i]
        overlap = half[i] + half[j] - np.abs(gap)
        meeting = np.flatnonzero((overlap > 1e-9).all(1))
        if not len(meeting):
            break
        for pair in meeting:
            axis = int(overlap[pair].argmin())
            push = 0.51 * overlap[pair, axis] * (1 if gap[pair, axis] >= 0 else -1)
            places[i[pair], axis] -= push
            places[j[pair], axis] += push
        places = np.clip(places, half, 1 - half)
    return places


def legend(figure: Figure, classes: int, names: Sequence[str] = (), *, fontsize: float) -> None:
    """Name the classes below the panels, unless there are more than can be distinguished."""
    columns = len(CLASS_COLOURS)
    if classes > columns * len(MARKERS):
        return
    texts = [
        str(c) if drawn_title(c, names) == str(c) else f"{c} {drawn_title(c, names)}" for c in range(classes)
    ]
    longest = max(map(len, texts))
    # In inches: a marker, a gap, and letters of this size.
    fitting = int(0.97 * figure.get_figwidth() / ((0.62 * longest + 2.2) * fontsize / 72))
    if plain := fitting >= min(classes, columns):
        # Legends are filled column by column: each column has one colour.
        order = [c for column in range(columns) for c in range(column, classes, columns)]
    else:
        order = list(range(classes))
    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker) for colour, marker in map(look, order)
    ]
    figure.legend(
        handles,
        [texts[c] for c in order],
        loc="outside lower center",
        ncols=min(classes, columns) if plain else max(1, min(fitting, classes)),
        frameon=False,
        fontsize=fontsize,
        title="class",
        title_fontsize=fontsize,
        handlelength=1,
        handletextpad=0.2,
        columnspacing=0.9,
    )
