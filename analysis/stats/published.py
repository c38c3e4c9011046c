"""Published results: reading them, and matching them with ours.

A published number has no p-value here: it comes from other code, and from an unknown number of seeds or from
one, often the best of several.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.paired import FEWEST, prediction_interval
from trainables.arms import Arm
from trainables.metrics import ACCURACIES
from trainables.setting import nearest
from trainables.trial import FIELDS, TrialConfig, format_value, parse_value

THESIS = Path(__file__).parents[1] / "published" / "thesis.csv"
REQUIRED = ("table", "dataset", "backbone", "augmentations", "arm", "metric", "mean", "std", "runs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Numbers from elsewhere, under the name of their file.

    The rows have the columns `REQUIRED` (accuracies in per cent; `runs` NaN if unknown), and fields of
    `TrialConfig` as text, with the published settings, empty where the source does not say.
    """

    name: str
    rows: pd.DataFrame

    @property
    def settings(self) -> list[str]:
        """The fields in the file beside those that identify a row."""
        return [name for name in self.rows.columns if name not in REQUIRED]


def read_published(path: Path = THESIS) -> Published:
    """Read a file of published numbers; lines that begin with # are comments.

    Raises:
        ValueError: the file is invalid; the message names the line, the value and what is allowed.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise ValueError("it is no regular file")
        lines = path.read_text().splitlines()
        skipped = [number for number, line in enumerate(lines) if line.startswith("#") or not line.strip()]
        rows = pd.read_csv(path, skiprows=skipped, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"--published: {path} cannot be read: {error}") from None
    if not isinstance(rows.index, pd.RangeIndex):  # what pandas makes of them
        raise ValueError(f"--published: {path} cannot be read: lines have more entries than the first")
    allowed = f"allowed: {', '.join(REQUIRED)}, and fields of TrialConfig"
    if missing := [name for name in REQUIRED if name not in rows.columns]:
        raise ValueError(f"--published: {path} lacks the columns {', '.join(missing)}; {allowed}")
    for name in rows.columns.difference([*REQUIRED, *FIELDS], sort=False):
        hint = nearest(name, (*REQUIRED, *FIELDS))
        raise ValueError(f"--published: {path} has the column {name!r}{hint}; {allowed}")
    numbers = [number for number in range(1, len(lines) + 1) if number - 1 not in skipped][1:]
    for number, row in zip(numbers, rows.to_dict("records"), strict=True):
        try:
            _check(row)
        except ValueError as error:
            raise ValueError(f"--published: {path}, line {number}: {error}") from None
    for name in ("mean", "std", "runs"):
        rows[name] = pd.to_numeric(rows[name].replace("", np.nan))
    rows["augmentations"] = [
        format_value(parse_value("augmentations", text)) for text in rows["augmentations"]
    ]
    return Published(name=path.stem, rows=rows)


def _check(row: Mapping[Hashable, Any]) -> None:
    if row["metric"] not in ACCURACIES:
        hint = nearest(row["metric"], ACCURACIES)
        raise ValueError(f"metric: got {row['metric']!r}{hint}; allowed: {', '.join(ACCURACIES)}")
    Arm.parse(row["arm"])
    _config(row)
    for name, optional, high in (("mean", False, 100.0), ("std", True, 100.0), ("runs", True, np.inf)):
        number = pd.to_numeric(row[name], errors="coerce")
        if not (optional and row[name] == "") and not (np.isfinite(number) and 0 <= number <= high):
            allowed = "a number" + (f" from 0 to {high:g}" if np.isfinite(high) else "")
            allowed += " or nothing" if optional else ""
            raise ValueError(f"{name}: got {row[name]!r}; allowed: {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedComparison:
    """A published number (a row of its file) beside one of ours (a row of `summarise`).

    One more run of ours lies in `predicted` with 95 % probability, in per cent; None unless the published
    number counts as a single run's and there are enough seeds. `differing` fields: `epochs` -> `10, published
    1000`; where the source does not say, those that are not our default: `precision` -> `bf16, published
    unknown`.
    """

    published: Mapping[Hashable, Any]
    ours: pd.Series
    predicted: tuple[float, float] | None
    differing: Mapping[str, str]

    @property
    def inside(self) -> bool:
        """Whether the published number lies within `predicted`."""
        return bool(self.predicted and self.predicted[0] <= self.published["mean"] <= self.predicted[1])


def match_published(
    summary: pd.DataFrame, trials: pd.DataFrame, published: Published
) -> list[PublishedComparison]:
    """Each published number with each of ours that it can be compared with."""
    cell = ["dataset", "backbone", "augmentations"]
    fields = trials.drop_duplicates(["cell", "arm_label"]).set_index(["cell", "arm_label"])
    ours = dict(list(summary.groupby([*cell, "arm", "metric"], sort=False)))
    settings = [*dict.fromkeys([*published.settings, "train_size", "val_fraction", "fold"])]
    return [
        PublishedComparison(
            published=row,
            ours=place,
            predicted=_predict(row, place),
            differing=_differing(fields.loc[(place["cell"], place["arm_label"])], row, settings),
        )
        for row in published.rows.to_dict("records")
        if (matches := ours.get(tuple(row[name] for name in (*cell, "arm", "metric")))) is not None
        for _, place in matches.iterrows()
    ]


def _config(row: Mapping[Hashable, Any]) -> TrialConfig:
    """What was trained; fields that do not matter for the arm, or are not told, at their defaults."""
    told = [str(name) for name in row if name in FIELDS and name not in _unsaid(row)]
    fields = {name: parse_value(name, row[name]) for name in told}
    return TrialConfig(**{**fields, **Arm.parse(row["arm"]).fields, "seed": 0})


def _unsaid(row: Mapping[Hashable, Any]) -> set[str]:
    """The settings that the source does not tell."""
    return {str(name) for name, text in row.items() if name not in REQUIRED and text == ""}


def _predict(row: Mapping[Hashable, Any], place: pd.Series) -> tuple[float, float] | None:
    values = np.array([100 * float(value) for value in place["values"].split()])
    return prediction_interval(values) if row["runs"] == 1 and len(values) >= FEWEST else None


def _differing(here: pd.Series, row: Mapping[Hashable, Any], settings: Sequence[str]) -> dict[str, str]:
    there, unsaid = _config(row), _unsaid(row)
    differing = {}
    for name in settings:
        ours, published = None if pd.isna(here[name]) else here[name], getattr(there, name)
        if ours != published:
            text = "unknown" if name in unsaid else _value_text(published)
            differing[name] = f"{_value_text(ours)}, published {text}"
    return differing


def _value_text(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float | np.number) else str(value)


def nearest_predictions(comparisons: Sequence[PublishedComparison]) -> list[PublishedComparison]:
    """One comparison for each published number that counts as a single run's.

    If several of ours match, the one with the fewest differing fields, and of these the first.
    """
    nearest_to: dict[tuple[object, ...], PublishedComparison] = {}
    for comparison in comparisons:
        number = tuple(comparison.published[name] for name in REQUIRED)
        other = nearest_to.get(number)
        if comparison.predicted and (other is None or len(comparison.differing) < len(other.differing)):
            nearest_to[number] = comparison
    return list(nearest_to.values())
