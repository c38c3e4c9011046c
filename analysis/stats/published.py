"""Our results beside published ones: ours, theirs, the difference, and what one more run of ours would give.

A published number carries no p-value here: it was made by other code, on an unknown number of seeds or on
one, often the best of several.
"""

import argparse
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.render.table import Entry, Table
from analysis.render.text import METRICS, NO_VALUE, arm_text, joined, points, slug
from analysis.sections.cells import entry
from analysis.stats.paired import FEWEST, prediction_interval
from trainables.arms import Arm
from trainables.trial import FIELDS, TrialConfig, format_value, nearest, parse_value

THESIS = Path(__file__).parents[1] / "published" / "thesis.csv"
REQUIRED = ("table", "dataset", "backbone", "augmentations", "arm", "metric", "mean", "std", "runs")


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
    if row["metric"] not in METRICS:
        hint = nearest(row["metric"], METRICS)
        raise ValueError(f"metric: got {row['metric']!r}{hint}; allowed: {', '.join(METRICS)}")
    Arm.parse(row["arm"])
    _config(row)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A published number beside one of ours.

    Attributes:
        published: its row of the file.
        ours: the row of `analysis.sections.cells.summarise`.
        between: where one more run of ours would lie with 95 %, in per cent, where the published number is a
            single run's and there are seeds enough; else None.
        differing: `epochs` -> `10, published 1000` for each field in which ours was trained otherwise.
    """

    published: Mapping[Hashable, Any]
    ours: pd.Series
    between: tuple[float, float] | None
    differing: Mapping[str, str]

    @property
    def inside(self) -> bool:
        """Whether the published number lies `between`."""
        return bool(self.between and self.between[0] <= self.published["mean"] <= self.between[1])


def hold(summary: pd.DataFrame, trials: pd.DataFrame, published: Published) -> list[Held]:
    """Every published number that one of ours can be held against, with each of these.

    Args:
        summary: of `analysis.sections.cells.summarise`.
        trials: of which it is.
        published: what to hold them against.
    """
    cell = ["dataset", "backbone", "augmentations"]
    fields = trials.drop_duplicates(["cell", "arm_label"]).set_index(["cell", "arm_label"])
    ours = dict(list(summary.groupby([*cell, "arm", "metric"], sort=False)))
    settings = [*dict.fromkeys([*published.settings, "train_size", "val_fraction"])]
    found = []
    for row in published.rows.to_dict("records"):
        places = ours.get(tuple(row[name] for name in (*cell, "arm", "metric")))
        if places is None:
            continue
        there = _config(row)
        for _, place in places.iterrows():
            here = fields.loc[(place["cell"], place["arm_label"])]
            found.append(
                Held(
                    published=row,
                    ours=place,
                    between=_prediction(row, place),
                    differing=_differing(here, there, settings),
                )
            )
    return found


def _config(row: Mapping[Hashable, Any]) -> TrialConfig:
    """What was trained, with fields that do not matter for the arm at their defaults."""
    fields = {str(name): parse_value(str(name), row[name]) for name in row if name in FIELDS}
    return TrialConfig(**{**fields, **Arm.parse(row["arm"]).fields, "seed": 0})


def _prediction(row: Mapping[Hashable, Any], place: pd.Series) -> tuple[float, float] | None:
    values = np.array([100 * float(value) for value in place["values"].split()])
    return prediction_interval(values) if row["runs"] == 1 and len(values) >= FEWEST else None


def _differing(here: pd.Series, there: TrialConfig, settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in settings:
        ours, published = here[name], getattr(there, name)
        ours = None if ours is None or ours != ours else ours  # noqa: PLR0124  # pandas' NaN for None
        if ours != published:
            found[name] = f"{_plain(ours)}, published {_plain(published)}"
    return found


def _plain(value: object) -> str:
    return "all" if value is None else f"{value:g}" if isinstance(value, float | np.number) else str(value)


def published_tables(held: Sequence[Held], trials: pd.DataFrame, published: Published) -> list[Table]:
    """A table for each published table and each cell of ours that it speaks of.

    Args:
        held: of `hold`.
        trials: for which it is.
        published: likewise.
    """
    groups: dict[tuple[str, int], list[Held]] = {}
    for one in held:
        groups.setdefault((one.published["table"], int(one.ours["cell"])), []).append(one)
    return [
        _table(number, members, trials[trials["cell"] == cell], published)
        for (number, cell), members in groups.items()
    ]


def _table(number: str, held: Sequence[Held], cell: pd.DataFrame, published: Published) -> Table:
    return Table(
        name=slug(f"published-{published.name}-{number}-{held[0].ours['cell']}"),
        title=f"Table {number} of {published.name}: {cell['cell_label'].iloc[0]}",
        corner="Accuracy (%)",
        columns=("Published", "Ours", "n", "Difference", "One more run (95 %)", "Published inside"),
        rows=tuple(
            (f"{METRICS[one.published['metric']]}, {arm_text(one.ours['arm_label'])}", _entries(one))
            for one in held
        ),
        caption=_caption(held, cell),
    )


def _entries(held: Held) -> tuple[Entry, ...]:
    row, place, between = held.published, held.ours, held.between
    there = f"{row['mean']:.1f}" + ("" if np.isnan(row["std"]) else f" ± {row['std']:.1f}")
    counted = f"{place['n']}" if place["n"] == place["planned"] else f"{place['n']} of {place['planned']}"
    # What is bold in the cell's own table is not at issue here, and n has a column.
    shown = entry(
        pd.concat([place.drop(["planned", "best"]), pd.Series({"planned": place["n"], "best": False})])
    )
    return (
        Entry(text=there),
        shown,
        Entry(text=counted),
        Entry(text=points((100 * place["mean"] - row["mean"]) / 100)),
        Entry(text=f"{between[0]:.1f} to {between[1]:.1f}" if between else NO_VALUE),
        Entry(text=("yes" if held.inside else "no") if between else NO_VALUE),
    )


def _caption(held: Sequence[Held], cell: pd.DataFrame) -> str:
    text = "Difference: ours minus published, in points."
    if any(one.between for one in held):
        text += (
            " One more run: where the accuracy of one more seed of ours would lie with 95 %, for published"
            " single runs and n >= 3; 5 % of them lie outside even if nothing differs."
        )
    if any(np.isnan(one.published["runs"]) for one in held):
        text += " How many runs were published is not known: the difference only."
    done = int((cell["status"] == "FINISHED").sum())
    if done < len(cell):
        text += f" Ours is incomplete: {done} of {len(cell)} trials are finished."
    differing = _differences(held)
    if differing:
        text += f" Ours differs from what was published in {', '.join(differing)}."
    return text


def _differences(held: Sequence[Held]) -> list[str]:
    """`epochs (10, published 1000)`, and for which arms where it is not for all."""
    arms = list(dict.fromkeys(one.ours["arm_label"] for one in held))
    of: dict[tuple[str, str], list[str]] = {}
    for one in held:
        for item in one.differing.items():
            of.setdefault(item, []).append(one.ours["arm_label"])
    found = []
    for (name, text), having in of.items():
        named = [arm_text(arm) for arm in arms if arm in having]
        found.append(f"{name} ({text}{'' if len(named) == len(arms) else f': {joined(named)}'})")
    return found


def published_findings(held: Sequence[Held], published: Published) -> list[str]:
    """How many published single runs lie where one more run of ours would; none where there are none.

    A number that several of ours can be held against counts once, against the one that was trained most
    nearly as published (of equals the first).
    """
    nearest_to: dict[tuple[object, ...], Held] = {}
    for one in held:
        which = tuple(one.published[name] for name in REQUIRED)
        before = nearest_to.get(which)
        if one.between and (before is None or len(one.differing) < len(before.differing)):
            nearest_to[which] = one
    if not nearest_to:
        return []
    inside = sum(one.inside for one in nearest_to.values())
    differing = sum(bool(one.differing) for one in nearest_to.values())
    otherwise = (
        f" Ours was trained otherwise than {differing} of them: the tables say how." if differing else ""
    )
    return [
        f"Of {len(nearest_to)} published single-run accuracies ({published.name}), {inside} lie where one"
        " more run of ours would lie with 95 %. They share training runs, so this count has no p-value."
        + otherwise
    ]
