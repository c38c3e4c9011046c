"""What an interval speaks for: new seeds on these test images, or new seeds and new test images."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.plots.cache import FigureCache
from analysis.plots.kept import DAMAGED
from analysis.render.table import Table, entries
from analysis.render.text import NO_VALUE, difference_title, format_points, interval, span
from analysis.sections.figures import CELLS_WITH_FIGURES
from analysis.stats.comparisons import TESTED, ComparedArms, compared_arms, values_of
from analysis.stats.images import crossed
from analysis.stats.paired import common_seeds
from analysis.stats.results import Results
from analysis.trials import finished
from study.ledger.ledger import Ledger
from trainables.metrics import PREDICTIONS

_ERRORS = ("error_seeds", "error_images")
_NUMBERS = ("delta", *_ERRORS, "error", "df")
_INTERVALS = ("seeds_low", "seeds_high", "both_low", "both_high")
_ABOUT = ("cell", "arm_label", "baseline", "baseline_label", "n", "images", "unread")
_COLUMNS = (*_ABOUT, *_NUMBERS, *_INTERVALS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Of one trial on all test images, (I,): their classes, and whether the predicted ones are right."""

    labels: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]


def over_images(trials: pd.DataFrame, ledger: Ledger, cache: FigureCache | None = None) -> pd.DataFrame:
    """The differences of each cell over seeds, and over seeds and test images (`stats.images.crossed`).

    Predictions are an artifact of each trial. They are read for studies of at most `CELLS_WITH_FIGURES`
    cells, and with a cache only where trials have changed.

    Returns:
        One row per cell × arm × baseline: `cell, arm_label, baseline` (the family's name), `baseline_label`,
        `n` seeds that every arm of the cell has, `images`, `unread` (trials whose predictions could not be
        read); `delta`, `error_seeds, error_images, error, df` as in `Crossed`; 95 % intervals `seeds_low,
        seeds_high` for new seeds and `both_low, both_high` for new seeds and images. Fractions; NaN with
        fewer than two seeds, or where a trial could not be read.
    """
    if trials["cell"].nunique() > CELLS_WITH_FIGURES or TESTED not in trials:
        return pd.DataFrame(columns=list(_COLUMNS))
    members: dict[int, list[ComparedArms]] = {}
    for group in compared_arms(trials):
        members.setdefault(group.cell, []).append(group)
    rows: list[dict[str, Any]] = []
    for number, groups in members.items():
        compute = partial(_of_cell, groups, ledger)
        source = pd.concat([group.trials for group in groups])
        rows += compute()[0] if cache is None else cache.numbers(f"over-images-{number}", source, compute)
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _of_cell(groups: Sequence[ComparedArms], ledger: Ledger) -> tuple[list[dict[str, Any]], bool]:
    """The rows of one cell, and whether they are whole: no trial was unreadable."""
    read = functools.cache(partial(_read, ledger))
    rows = [row for group in groups for row in _rows(group, read)]
    return rows, not any(row["unread"] for row in rows)


def _rows(group: ComparedArms, read: Callable[[str], Predictions | None]) -> Iterator[dict[str, Any]]:
    values, _ = common_seeds(values_of(group.trials, TESTED)[list(group.configs)])
    done = finished(group.trials)
    runs = dict(zip(zip(done["arm_label"], done["seed"], strict=True), done["run_id"], strict=True))
    for family, pairs in group.families.items():
        for arm, baseline in pairs.items():
            row = {"cell": group.cell, "arm_label": arm, "baseline": family, "baseline_label": baseline}
            present = values[[arm, baseline]].dropna().index
            pairs_of_runs = [(runs[arm, seed], runs[baseline, seed]) for seed in present]
            yield row | {"n": len(present)} | _difference([(read(a), read(b)) for a, b in pairs_of_runs])


def _difference(pairs: Sequence[tuple[Predictions | None, Predictions | None]]) -> dict[str, Any]:
    """The columns that take predictions; only what is lacking if a trial has none, or there is one seed."""
    there = [one for pair in pairs for one in pair if one is not None]
    unread = 2 * len(pairs) - len(there)
    alike = all(np.array_equal(one.labels, there[0].labels) for one in there)
    if unread or not alike or len(pairs) < 2 or len(there[0].labels) < 2:
        return {"unread": unread}
    correct = np.array([[one.correct for one in pair if one is not None] for pair in pairs], np.int8)
    found = crossed(correct[:, 0] - correct[:, 1])
    (seeds_low, seeds_high), (both_low, both_high) = found.over_seeds(), found.over_both()
    return {
        "unread": 0,
        **{name: getattr(found, name) for name in ("images", *_NUMBERS)},
        **dict(zip(_INTERVALS, (seeds_low, seeds_high, both_low, both_high), strict=True)),
    }


def _read(ledger: Ledger, run_id: str) -> Predictions | None:
    """None if they are gone or damaged: artifacts may have been deleted to save space."""
    try:
        with (
            ledger.artifacts.reading(run_id, PREDICTIONS) as path,
            np.load(path, allow_pickle=False) as arrays,
        ):
            labels = arrays["labels"]
            return Predictions(labels=labels, correct=arrays["predicted"] == labels)
    except (OSError, *DAMAGED):
        return None


def generality_tables(results: Results, number: int, label: str) -> tuple[Table, ...]:
    """The table of one cell; none if nothing was read."""
    if results.images.empty:
        return ()
    rows = results.images[results.images["cell"] == number]
    shown = rows.dropna(subset="delta")
    if shown.empty:
        return ()
    texts = [
        (
            format_points(row["delta"]),
            interval(row["seeds_low"], row["seeds_high"]),
            interval(row["both_low"], row["both_high"]),
            *(NO_VALUE if np.isnan(row[name]) else f"{100 * row[name]:.2f}" for name in _ERRORS),
        )
        for row in rows.to_dict("records")
    ]
    titles = map(difference_title, rows["arm_label"], rows["baseline_label"])
    table = Table(
        name=f"generality-{number}",
        title=f"{label}: new seeds and new images",
        corner="Test accuracy (points)",
        columns=(
            "Difference",
            "New seeds",
            "New seeds and test images",
            "SE: seeds",
            "SE: images",
        ),
        rows=tuple((title, entries(*row)) for title, row in zip(titles, texts, strict=True)),
        caption=f"Arm minus baseline, paired by seed and image: n = {span(set(shown['n']))},"
        f" {span(set(shown['images'].astype(int)))} test images. New seeds: the 95 % t interval over seeds,"
        " which speaks for new seeds tested on these same images. New seeds and test images: the 95 %"
        " interval of crossed random effects (variance components of seeds x images, degrees of freedom"
        " after Satterthwaite), which speaks for new seeds tested on new images of the same kind. SE:"
        f" standard error over seeds, and what new images add. {_training_images(results.trials, number)}"
        " All are for a number of seeds fixed beforehand, and not adjusted for several comparisons."
        + (f" {NO_VALUE}: predictions could not be read." if rows["unread"].any() else ""),
    )
    return (table,)


def _training_images(trials: pd.DataFrame, number: int) -> str:
    """What the intervals of a cell say about other training images."""
    cell = trials[trials["cell"] == number]
    if "fold" in trials and (cell["fold"] == "seed").all():
        return "Each seed trains on its own predefined fold, so both intervals speak for other folds, too."
    if "data_seed" not in trials or cell["data_seed"].isna().any():
        return "No interval speaks for other training images: all trials have the same."
    return "Each seed has its own choice of training images, so both intervals speak for new choices, too."
