"""What the arms were trained on: some images, and the views that the first training step made of them.

Shapes: n images, S pixels height and width.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from analysis.plots.kept import drawn_title
from analysis.render.text import arm_title

Images = npt.NDArray[np.uint8]
ALIKE = 0.5
"""Mean difference, of 255 grey levels, up to which images count as the same: processors round differently."""
MOST_GROUPS = 6
"""Most groups of arms that a figure has rows for."""
NAME, COLUMN, GAP, TITLES, LINE = 0.75, 0.68, 0.04, 0.22, 0.17
"""Inches of the names of rows, of an image, between images, of their titles, and of a line above rows."""
UNBROKEN = "\u00a0=\u00a0"
LETTERS = 13
"""Letters an inch of a line above rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one trial kept: images (n, 3, S, S), their views, and their classes (n,), -1 where unlabelled."""

    original: Images
    views: tuple[Images, ...]
    labels: npt.NDArray[np.int64]

    def is_like(self, other: "Sample") -> bool:
        """Whether it has the same images in the same views."""
        ours, theirs = (self.original, *self.views), (other.original, *other.views)
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def _alike(one: Images, other: Images) -> bool:
    return one.shape == other.shape and bool((_distance(one, other) <= ALIKE).all())


def _distance(one: Images, other: Images) -> npt.NDArray[np.float64]:
    """Mean absolute difference of each image, (n,)."""
    return np.abs(one.astype(np.int16) - other).mean(axis=(1, 2, 3))


def groups_of_arms(samples: Mapping[str, Sample]) -> list[tuple[list[str], Sample]]:
    """The samples that differ, each with the labels of the arms that have it, in their order."""
    groups: list[tuple[list[str], Sample]] = []
    for arm, sample in samples.items():
        for arms, known in groups:
            if known.is_like(sample):
                arms.append(arm)
                break
        else:
            groups.append(([arm], sample))
    return groups


def group_title(arms: Sequence[str]) -> str:
    """`CE`, `γ = 0, 10⁻³, 10⁻²`: the arms of a group, what they have in common said once."""
    said, before = "", None
    for title in map(arm_title, arms):
        head, equals, weight = title.rpartition("γ = ")
        alike = equals and head == before
        said += (", " if alike else "; ") + (weight if alike else title)
        before = head if equals else None
    return said.removeprefix("; ")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """Images (n, 3, S, S) side by side; `heading` stands above them, and a title above each image."""

    name: str
    images: Images
    heading: str = ""
    titles: tuple[str, ...] = ()


def draw(samples: Mapping[str, Sample], names: Sequence[str] = ()) -> Figure | None:
    """Rows of originals and views, a group of rows for arms that saw the same; None without samples.

    Pixels are shown as they are, not smoothed. The originals stand above each group that has others than the
    group before it.
    """
    rows: list[_Row] = []
    shown: Images | None = None
    for arms, sample in groups_of_arms(samples)[:MOST_GROUPS]:
        if shown is None or not _alike(shown, sample.original):
            shown, titles = sample.original, tuple(_class_name(label, names) for label in sample.labels)
            rows.append(_Row(name="original", images=shown, titles=titles))
        for number, view in enumerate(sample.views, 1):
            name = f"view {number}" if len(sample.views) > 1 else "view"
            rows.append(
                _Row(
                    name=name,
                    images=view,
                    heading=group_title(arms).replace(" = ", UNBROKEN) if number == 1 else "",
                )
            )
    return _drawn(rows) if rows else None


def _class_name(label: int, names: Sequence[str]) -> str:
    name = "unlabelled" if label < 0 else drawn_title(int(label), names)
    return name if len(name) <= 11 else f"{name[:10]}…"


def _drawn(rows: Sequence[_Row]) -> Figure:
    strips = [_strip(row.images) for row in rows]
    longest = max(len(row.images) for row in rows)
    across = longest * max(COLUMN, 4 / longest)
    headings = [textwrap.wrap(row.heading, round(LETTERS * across)) for row in rows]
    above = [
        TITLES if row.titles else LINE * len(lines) + 0.1 if lines else GAP
        for row, lines in zip(rows, headings, strict=True)
    ]
    pixel = across / max(strip.shape[1] for strip in strips)
    height = sum(above) + sum(len(strip) for strip in strips) * pixel + 0.05
    width = NAME + across + 0.1
    figure = Figure(figsize=(width, height))

    def write(x: float, y: float, text: str, **look: Any) -> None:
        figure.text(x / width, y / height, text, **look)

    y = height
    for row, strip, lines, space in zip(rows, strips, headings, above, strict=True):
        y -= space
        step = strip.shape[1] * pixel / len(row.images)
        write(NAME, y + 0.05, "\n".join(lines), fontsize=8.5, va="bottom", fontweight="bold")
        for place, title in enumerate(row.titles):
            write(NAME + (place + 0.5) * step, y + 0.04, title, fontsize=7, ha="center", color="0.35")
        tall, wide = (side * pixel for side in strip.shape[:2])
        y -= tall
        write(NAME - 0.08, y + tall / 2, row.name, fontsize=8, ha="right", va="center")
        axes = figure.add_axes((NAME / width, y / height, wide / width, tall / height))
        axes.imshow(strip, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    return figure


def _strip(images: Images) -> Images:
    """Images (n, 3, S, S) side by side on white, (S, W, 3): an axes for each would take a second to draw."""
    size = images.shape[-1]
    padded = np.pad(
        images, ((0, 0), (0, 0), (0, 0), (0, max(1, round(GAP * size / COLUMN)))), constant_values=255
    )
    return np.concatenate(list(padded.transpose(0, 2, 3, 1)), axis=1)
