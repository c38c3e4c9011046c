"""Our results beside published ones: the difference, and what one more run of ours would give."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.render.table import Entry, Table
from analysis.render.text import NO_VALUE, arm_title, format_points, join_and, slug
from analysis.sections.cells import entry
from analysis.stats.published import Published, PublishedComparison, nearest_predictions
from analysis.trials import cell_labels, finished
from trainables.metrics import ACCURACIES


def published_tables(
    comparisons: Sequence[PublishedComparison], trials: pd.DataFrame, published: Published
) -> list[Table]:
    """A table for each published table and each cell of ours that it can be compared with."""
    groups: dict[tuple[str, int], list[PublishedComparison]] = {}
    for comparison in comparisons:
        place = comparison.published["table"], int(comparison.ours["cell"])
        groups.setdefault(place, []).append(comparison)
    return [
        Table(
            name=slug(f"published-{published.name}-{number}-{cell}"),
            title=f"Table {number} of {published.name}: {cell_labels(trials)[cell]}",
            corner="Accuracy (%)",
            columns=("Published", "Ours", "n", "Difference", "One more run (95 %)", "Published inside"),
            rows=tuple(
                (f"{ACCURACIES[one.published['metric']]}, {arm_title(one.ours['arm_label'])}", _entries(one))
                for one in members
            ),
            caption=_caption(members, trials[trials["cell"] == cell]),
        )
        for (number, cell), members in groups.items()
    ]


def _entries(comparison: PublishedComparison) -> tuple[Entry, ...]:
    row, ours, predicted = comparison.published, comparison.ours, comparison.predicted
    spread = "" if np.isnan(row["std"]) else f" ± {row['std']:.1f}"
    count = f"{ours['n']}" if ours["n"] == ours["planned"] else f"{ours['n']} of {ours['planned']}"
    # Bold belongs to the cell's own table, and n has a column here.
    own = ours.copy()
    own[["planned", "best"]] = ours["n"], False
    return (
        Entry(text=f"{row['mean']:.1f}{spread}"),
        entry(own),
        Entry(text=count),
        Entry(text=format_points((100 * ours["mean"] - row["mean"]) / 100)),
        Entry(text=f"{predicted[0]:.1f} to {predicted[1]:.1f}" if predicted else NO_VALUE),
        Entry(text=("yes" if comparison.inside else "no") if predicted else NO_VALUE),
    )


def _caption(comparisons: Sequence[PublishedComparison], cell: pd.DataFrame) -> str:
    text = "Difference: ours minus published, in points."
    if any(one.predicted for one in comparisons):
        text += (
            " One more run: where the accuracy of one more seed of ours would lie with 95 %, n >= 3. This"
            " is compared with a published number if it is a single run: 5 % of them lie outside even if"
            " nothing differs. If it is a mean of several runs, the range is too wide for it."
        )
    if any(np.isnan(one.published["runs"]) for one in comparisons):
        text += " How many runs were published is not known: the difference only."
    if (done := len(finished(cell))) < len(cell):
        text += f" Ours is incomplete: {done} of {len(cell)} trials are finished."
    if differing := _differences(comparisons):
        text += f" Ours differs from what was published in {', '.join(differing)}."
    return text


def _differences(comparisons: Sequence[PublishedComparison]) -> list[str]:
    """`epochs (10, published 1000)`, with the arms where it is not all of them."""
    arms = list(dict.fromkeys(one.ours["arm_label"] for one in comparisons))
    affected: dict[tuple[str, str], set[str]] = {}
    for one in comparisons:
        for difference in one.differing.items():
            affected.setdefault(difference, set()).add(one.ours["arm_label"])
    texts = []
    for (name, text), labels in affected.items():
        named = join_and([arm_title(arm) for arm in arms if arm in labels])
        texts.append(f"{name} ({text}{'' if len(labels) == len(arms) else f': {named}'})")
    return texts


def published_findings(comparisons: Sequence[PublishedComparison], published: Published) -> list[str]:
    """How many published numbers lie where one more run of ours would, if they are single runs."""
    nearest = nearest_predictions(comparisons)
    if not nearest:
        return []
    inside = sum(one.inside for one in nearest)
    differing = sum(bool(one.differing) for one in nearest)
    return [
        f"If they are single runs, {inside} of {len(nearest)} published accuracies ({published.name}) lie"
        " where one more run of ours would lie with 95 %; if they are means of several, that range is too"
        " wide for them. They share training runs, so this count has no p-value."
        + (
            f" Ours was trained differently from {differing} of them, or may have been: the tables say how."
            if differing
            else ""
        )
    ]
