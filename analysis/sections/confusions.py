"""Which classes the arms of a cell take for which: a matrix for each arm, and the most frequent pairs."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import confusions as plots
from analysis.plots.cache import FigureCache, Partial
from analysis.plots.kept import class_names, class_title, kept_arrays
from analysis.plots.projections import baseline_first, shown_arms
from analysis.render.section import Section
from analysis.render.table import Table, entries
from analysis.render.text import arm_title, number_of, span
from analysis.sections.figures import CELLS_WITH_FIGURES
from analysis.stats.confusions import Counts, confusion_counts, most_confused, row_shares
from analysis.trials import cells_of, finished
from study.ledger.ledger import Ledger
from trainables.metrics import PREDICTIONS

SHOWN_ARMS = 4
"""Most arms whose confusions are shown."""
SHOWN_PAIRS = 10
"""Most pairs of classes in the table."""
MOST_CLASSES = 2000
"""Most classes: a matrix of more takes too much memory, and nobody reads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusions:
    """The confusions of some arms on the test images.

    Attributes:
        counts: (K, K) by arm, added up over its seeds.
        seeds: of each arm, how many were read; `unread`, how many trials could not be.
        names: of the K classes; empty where they are not known.
    """

    counts: dict[str, Counts]
    seeds: dict[str, int]
    unread: int
    names: tuple[str, ...]


def read_confusions(cell: pd.DataFrame, ledger: Ledger) -> Confusions:
    """The confusions of at most `SHOWN_ARMS` arms of a cell, the baseline first."""
    done, unread = finished(cell), 0
    names = class_names(cell, ledger)
    counts: dict[str, Counts] = {}
    seeds: dict[str, int] = {}
    for arm in baseline_first(shown_arms(cell, SHOWN_ARMS)):
        for run_id in done.loc[done["arm_label"] == arm, "run_id"]:
            try:
                found = _read(ledger, run_id, len(names))
            except (OSError, ValueError):  # artifacts may have been deleted to save space
                unread += 1
                continue
            counts[arm] = _sum(counts[arm], found) if arm in counts else found
            seeds[arm] = seeds.get(arm, 0) + 1
    most = max((len(table) for table in counts.values()), default=0)
    whole = {arm: _sum(table, np.zeros((most, most), np.int64)) for arm, table in counts.items()}
    return Confusions(counts=whole, seeds=seeds, unread=unread, names=names)


def _read(ledger: Ledger, run_id: str, classes: int) -> Counts:
    """The confusions of one trial, of at least so many classes; ValueError for more than can be shown."""
    with kept_arrays(ledger, run_id, PREDICTIONS) as kept:
        labels, predicted = kept["labels"], kept["predicted"]
    count = max(classes, 1 + int(max(labels.max(initial=0), predicted.max(initial=0))))
    if count > MOST_CLASSES:
        raise ValueError(f"classes: got {count}; allowed: at most {MOST_CLASSES}")
    return confusion_counts(labels, predicted, count)


def _sum(one: Counts, other: Counts) -> Counts:
    """Both, with as many classes as the larger: the last ones may not occur in every trial's predictions."""
    size = max(len(one), len(other))
    return np.add(*(np.pad(table, (0, size - len(table))) for table in (one, other)))


def confusion_section(
    trials: pd.DataFrame, number: int, label: str, ledger: Ledger, cache: FigureCache
) -> tuple[Section, ...]:
    """The matrices and the table of one cell, to be unfolded; nothing if nothing could be read."""
    cell = cells_of(trials)[number]
    if trials["cell"].nunique() > CELLS_WITH_FIGURES or finished(cell).empty:
        return ()
    read = functools.cache(lambda: read_confusions(cell, ledger))
    rows = cache.numbers(f"confusions-{number}", cell, lambda: (_rows(read()), not read().unread))
    figures = cache.add(
        f"confusions-{number}",
        cell,
        lambda: _draw(read()),
        "Confusions of clean test images, mean over the finished seeds: of the images of each true class"
        f" (row), the share that is predicted as each class (column), in %.{_arms_note(cell)} Colours go by"
        " the square root of the share, so that rare confusions can be seen.",
        "Confusion matrices, a panel per arm",
    )
    table = _table(rows, cell, number, label)
    parts = (Section(figures=tuple(figures)), Section(tables=table, headed=False))
    section = Section(title="Confusion matrices", folded=True, parts=parts)
    return () if section.is_empty else (section,)


def confusion_tables(trials: pd.DataFrame, number: int, label: str, ledger: Ledger) -> tuple[Table, ...]:
    """The table of one cell; none if nothing could be read, or nothing was confused."""
    cell = cells_of(trials)[number]
    if trials["cell"].nunique() > CELLS_WITH_FIGURES or finished(cell).empty:
        return ()
    return _table(_rows(read_confusions(cell, ledger)), cell, number, label)


def _arms_note(cell: pd.DataFrame) -> str:
    every = cell["arm_label"].nunique()
    if every <= SHOWN_ARMS:
        return ""
    return f" {SHOWN_ARMS} of {every} arms: the baselines and those with the highest validation accuracy."


def _draw(found: Confusions) -> Figure | Partial | None:
    if not found.counts:
        return None
    figure = plots.draw({arm: row_shares(counts) for arm, counts in found.counts.items()}, found.names)
    return Partial(figure=figure, lacking=_lacking(found.unread)) if found.unread else figure


def _lacking(unread: int) -> str:
    return f"Without {number_of(unread, 'trial')} whose predictions could not be read."


def _rows(found: Confusions) -> list[dict[str, Any]]:
    """What the table shows, as plain values: a row for each of the most frequent confusions."""
    if not found.counts:
        return []
    shares = {arm: row_shares(counts) for arm, counts in found.counts.items()}
    first = next(iter(found.counts))
    images = found.counts[first].sum(1) // found.seeds[first]
    about = {"seeds": list(found.seeds.values()), "unread": found.unread}
    return [
        {
            "pair": f"{class_title(i, found.names)} → {class_title(j, found.names)}",
            "images": int(images[i]),
            "shares": {arm: float(matrix[i, j]) for arm, matrix in shares.items()},
            **about,
        }
        for i, j in most_confused(list(shares.values()), SHOWN_PAIRS)
    ]


def _table(rows: Sequence[dict[str, Any]], cell: pd.DataFrame, number: int, label: str) -> tuple[Table, ...]:
    if not rows:
        return ()
    first, arms = rows[0], list(rows[0]["shares"])
    lacking = f" {_lacking(first['unread'])}" if first["unread"] else ""
    return (
        Table(
            name=f"confusions-{number}",
            title=f"{label}: most frequent confusions",
            corner="True → predicted (%)",
            columns=(*map(arm_title, arms), "Images"),
            rows=tuple(
                (
                    row["pair"],
                    entries(*(f"{100 * row['shares'][arm]:.1f}" for arm in arms), str(row["images"])),
                )
                for row in rows
            ),
            caption="Share of the clean test images of a true class that is predicted as another class, in"
            f" %, mean over n = {span(set(first['seeds']))} seeds; the pairs with the highest mean over these"
            f" arms. Images: test images of the true class.{_arms_note(cell)} Not compared: no p-values."
            + lacking,
        ),
    )
