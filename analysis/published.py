"""Our results beside published ones: ours, theirs, the difference, and what one more run of ours would give.

A published number carries no p-value here: it was made by other code, on an unknown number of seeds or on
one, often the best of several.
"""

import argparse
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import entry
from analysis.formats import Entry, Table
from analysis.labels import METRICS, NO_VALUE, arm_text, points
from analysis.paired import prediction_interval
from trainables.trial import DEFAULTS, FIELDS, format_value, nearest, parse_value

THESIS = Path(__file__).parent / "published" / "thesis.csv"
REQUIRED = ("table", "dataset", "backbone", "augmentations", "arm", "metric", "mean", "std", "runs")
FEWEST = 3
"""Seeds that a prediction interval takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Numbers from elsewhere.

    Attributes:
        name: of the file, without its ending.
        rows: columns `REQUIRED` (accuracies in per cent; `runs` NaN where it is not known) and fields of
            `TrialConfig` as text, as they were there.
    """

    name: str
    rows: pd.DataFrame

    @property
    def settings(self) -> list[str]:
        """The fields that the file tells beside those that a row is found by."""
        return [name for name in self.rows.columns if name not in REQUIRED]


def add_published_argument(parser: argparse.ArgumentParser) -> None:
    """`--published`, which `read_published` reads."""
    parser.add_argument(
        "--published",
        metavar="FILE",
        type=Path,
        default=THESIS,
        help="CSV with published numbers to compare with (default: those of the thesis,"
        " analysis/published/thesis.csv, which shows the format)",
    )


def read_published(path: Path = THESIS) -> Published:
    """Read a file of published numbers; lines that begin with # are comments.

    Raises:
        ValueError: it cannot be read as one; the message names the line, what it has and what is allowed.
    """
    try:
        lines = path.read_text().splitlines()
        skipped = [number for number, line in enumerate(lines) if line.startswith("#") or not line.strip()]
        rows = pd.read_csv(path, skiprows=skipped, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"--published: {path} cannot be read: {error}") from None
    if not isinstance(rows.index, pd.RangeIndex):  # pandas' way to deal with them
        raise ValueError(f"--published: {path} cannot be read: lines have more entries than the first")
    missing = [name for name in REQUIRED if name not in rows.columns]
    unknown = [name for name in rows.columns if name not in (*REQUIRED, *FIELDS)]
    if missing or unknown:
        what = f"lacks the columns {', '.join(missing)}" if missing else f"has the column {unknown[0]!r}"
        hint = nearest(unknown[0], (*REQUIRED, *FIELDS)) if unknown and not missing else ""
        raise ValueError(
            f"--published: {path} {what}{hint}; allowed: {', '.join(REQUIRED)}, and fields of TrialConfig"
        )
    numbers = [number for number in range(len(lines)) if number not in skipped][1:]
    for number, row in zip(numbers, rows.to_dict("records"), strict=True):
        try:
            _check(row)
        except ValueError as error:
            raise ValueError(f"--published: {path}, line {number + 1}: {error}") from None
    for name in ("mean", "std", "runs"):
        rows[name] = pd.to_numeric(rows[name].replace("", np.nan))
    rows["augmentations"] = [
        format_value(parse_value("augmentations", text)) for text in rows["augmentations"]
    ]
    return Published(name=path.stem, rows=rows)


def _check(row: Mapping[Hashable, Any]) -> None:
    for name in {str(key) for key in row} - set(REQUIRED) | {"dataset", "backbone", "augmentations"}:
        parse_value(name, row[name])
    if row["metric"] not in METRICS:
        hint = nearest(row["metric"], METRICS)
        raise ValueError(f"metric: got {row['metric']!r}{hint}; allowed: {', '.join(METRICS)}")
    if row["arm"] != "ce":
        weight = row["arm"].removeprefix("siamese-")
        canonical = "siamese-" + repr(float(weight)).removesuffix(".0") if _is_number(weight) else ""
        if row["arm"] != canonical:
            raise ValueError(f"arm: got {row['arm']!r}; allowed: ce, siamese-0, siamese-0.001, …")
    for name, optional, high in (("mean", False, 100.0), ("std", True, 100.0), ("runs", True, np.inf)):
        text = row[name]
        if not (optional and text == "") and not (_is_number(text) and 0 <= float(text) <= high):
            limits = f"a number from 0 to {high:g}" if np.isfinite(high) else "a number"
            raise ValueError(f"{name}: got {text!r}; allowed: {limits}{' or nothing' if optional else ''}")


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def published_tables(summary: pd.DataFrame, trials: pd.DataFrame, published: Published) -> list[Table]:
    """A table for each published table and each cell of ours that it speaks of.

    Args:
        summary: of `analysis.cells.summarise`.
        trials: of which it is.
        published: what to hold them against.
    """
    cells = trials.drop_duplicates("cell").set_index("cell")
    tables = []
    for number, rows in published.rows.groupby("table", sort=False):
        for keys, part in rows.groupby(["dataset", "backbone", "augmentations"], sort=False):
            match = (cells[["dataset", "backbone", "augmentations"]] == list(keys)).all(axis="columns")
            tables += [
                table
                for cell in cells.index[match]
                if (table := _table(str(number), part, summary[summary["cell"] == cell], trials, published))
            ]
    return tables


def _table(
    number: str, rows: pd.DataFrame, ours: pd.DataFrame, trials: pd.DataFrame, published: Published
) -> Table | None:
    lines, singles = [], 0
    for row in rows.to_dict("records"):
        places = ours[(ours["arm"] == row["arm"]) & (ours["metric"] == row["metric"])]
        for _, place in places.iterrows():
            inside = _inside(row, place)
            singles += inside is not None
            lines.append(
                (f"{METRICS[row['metric']]}, {arm_text(place['arm_label'])}", _entries(row, place, inside))
            )
    if not lines:
        return None
    cell = trials[trials["cell"] == ours["cell"].iloc[0]]
    return Table(
        name=re.sub("[^A-Za-z0-9]+", "-", f"published-{published.name}-{number}-{ours['cell'].iloc[0]}"),
        title=f"Table {number} of {published.name}: {cell['cell_label'].iloc[0]}",
        corner="Accuracy (%)",
        columns=("Published", "Ours", "n", "Difference", "One more run (95 %)", "Published inside"),
        rows=tuple(lines),
        caption=_caption(rows, cell, published, bool(singles)),
    )


def _inside(row: Mapping[Hashable, Any], place: pd.Series) -> tuple[float, float] | None:
    """The prediction interval in per cent where the published number is a single run's; else None."""
    values = np.array([100 * float(value) for value in place["values"].split()])
    if row["runs"] != 1 or len(values) < FEWEST:
        return None
    return prediction_interval(values)


def _entries(
    row: Mapping[Hashable, Any], place: pd.Series, between: tuple[float, float] | None
) -> tuple[Entry, ...]:
    there = f"{row['mean']:.1f}" + ("" if np.isnan(row["std"]) else f" ± {row['std']:.1f}")
    ours = 100 * place["mean"]
    counted = f"{place['n']}" if place["n"] == place["planned"] else f"{place['n']} of {place['planned']}"
    inside = NO_VALUE
    if between:
        inside = "yes" if between[0] <= row["mean"] <= between[1] else "no"
    # What is bold in the cell's own table is not at issue here, and n has a column.
    shown = entry(
        pd.concat([place.drop(["planned", "best"]), pd.Series({"planned": place["n"], "best": False})])
    )
    return (
        Entry(text=there),
        shown,
        Entry(text=counted),
        Entry(text=points((ours - row["mean"]) / 100)),
        Entry(text=f"{between[0]:.1f} to {between[1]:.1f}" if between else NO_VALUE),
        Entry(text=inside),
    )


def _caption(rows: pd.DataFrame, cell: pd.DataFrame, published: Published, singles: bool) -> str:
    text = "Difference: ours minus published, in points."
    if singles:
        text += (
            " One more run: where the accuracy of one more seed of ours would lie with 95 %, for published"
            " single runs and n >= 3; 5 % of them lie outside even if nothing differs."
        )
    if rows["runs"].isna().any():
        text += " How many runs were published is not known: the difference only."
    done = int((cell["status"] == "FINISHED").sum())
    if done < len(cell):
        text += f" Ours is incomplete: {done} of {len(cell)} trials are finished."
    differing = _differing(rows, cell, published.settings)
    if differing:
        text += f" Ours differs from what was published in {', '.join(differing)}."
    return text


def _differing(rows: pd.DataFrame, cell: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """`epochs (10, published 1000)` for each field in which a cell is not as published."""
    found = []
    known = [*settings, *(name for name in ("train_size", "val_fraction") if name not in settings)]
    for name in known:
        given = rows[name].iloc[0] if name in settings else format_value(DEFAULTS[name])
        there = parse_value(name, given)
        ours = cell[name].iloc[0]
        here = None if ours is None or ours != ours else ours  # noqa: PLR0124  # pandas' NaN for None
        if here != there:
            found.append(f"{name} ({_plain(here)}, published {_plain(there)})")
    return found


def _plain(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float | np.number) else str(value)


def published_findings(summary: pd.DataFrame, trials: pd.DataFrame, published: Published) -> list[str]:
    """How many published single runs lie where one more run of ours would; none where there are none."""
    inside = [
        entries[-1].text
        for table in published_tables(summary, trials, published)
        for _, entries in table.rows
        if entries[-1].text in ("yes", "no")
    ]
    if not inside:
        return []
    return [
        f"Of {len(inside)} published single-run accuracies ({published.name}), {inside.count('yes')} lie"
        " where one more run of ours would lie with 95 %. They share training runs, so this count has no"
        " p-value; where ours was trained differently, its table says so."
    ]
