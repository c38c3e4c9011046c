"""Every paired comparison of a study: each cell, each family of baselines, each metric; and over cells."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.formats import Table, texts
from analysis.labels import METRICS, arm_text, difference_text, interval, p_value, points
from analysis.paired import COLUMNS, LEVEL, Vector, compare, describe_differences, pool
from trainables.trial import ARM_FIELDS, DEFAULTS, format_value

CE = "ce"
"""Cross-entropy alone: the baseline of the thesis's claim."""
CONTROL = "siamese-0"
"""Two views without the term: the baseline of the effect of the term itself."""
FEWEST = 3
"""Seeds for a claim: two differences that happen to be close make a t as large as one likes."""
TESTED = "test_acc"
"""The one metric that has p-values; the others describe."""
_ADJUSTED = ("p_t", "p_holm", "p_sign_flip", "p_floor", "delta_low_holm", "delta_high_holm")
"""Columns of the tested metric alone."""
_OPTIONS = tuple(name for name in ARM_FIELDS if name not in ("method", "gamma"))
_ABOUT = ("dataset", "backbone", "augmentations", "arm", "gamma")
_COLUMNS = ("cell", *_ABOUT, "arm_label", "metric", "baseline", "baseline_label")


def families(about: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Which arm of a cell is held against which, by family: `{baseline: {arm: its baseline}}`.

    - `ce`: every arm of two views.
    - `siamese-0`: every γ > 0, against the control with the same views and unlabelled images.
    - `unlabeled_size=0`, `views=symmetric`, …: arms that differ from another in that one field alone, against
      the one that has the field's default (or the first value of the space).

    Args:
        about: a row an arm, by label: `arm`, `gamma` and the fields that make the arm.
    """
    found: dict[str, dict[str, str]] = {}
    two_views = about[about["method"] == "siamese"]
    alone = [label for label in about.index if about["arm"][label] == CE]
    found[CE] = {arm: alone[0] for arm in two_views.index if alone}
    same = ("views", "unlabeled_size")
    controls = {tuple(row[list(same)]): label for label, row in two_views.iterrows() if row["gamma"] == 0}
    found[CONTROL] = {
        str(label): str(controls[tuple(row[list(same)])])
        for label, row in two_views.iterrows()
        if row["gamma"] > 0 and tuple(row[list(same)]) in controls
    }
    for name in _OPTIONS:
        # What the control has no use for is set to its default there: that is no value of the study.
        using = two_views if name in same else two_views[two_views["gamma"] > 0]
        values = list(dict.fromkeys(using[name]))
        if len(values) < 2:
            continue
        reference = DEFAULTS[name] if DEFAULTS[name] in values else values[0]
        others = ["gamma", *(option for option in _OPTIONS if option != name)]
        having = {
            tuple(row[others]): str(label) for label, row in two_views.iterrows() if row[name] == reference
        }
        found[f"{name}={format_value(reference)}"] = {
            str(label): having[tuple(row[others])]
            for label, row in two_views.iterrows()
            if row[name] != reference and tuple(row[others]) in having
        }
    return {name: pairs for name, pairs in found.items() if pairs}


def values_of(cell: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Seeds × arm labels of one cell's finished trials: also arms and seeds without a value.

    Raises:
        ValueError: a trial is there twice.
    """
    # By hand: a pivot of a few rows takes milliseconds, and a large study asks for hundreds.
    columns = (cell[name].tolist() for name in ("status", "arm_label", "seed", metric))
    arms: dict[str, dict[int, float]] = {}
    for status, arm, seed, value in zip(*columns, strict=True):
        seeds = arms.setdefault(arm, {})
        if status == "FINISHED":
            if seed in seeds:
                raise ValueError(f"{arm}, seed {seed}: there are two results")
            seeds[seed] = value
    rows = sorted({seed for seeds in arms.values() for seed in seeds})
    table = np.array([[seeds.get(seed, np.nan) for seeds in arms.values()] for seed in rows], float)
    return pd.DataFrame(
        table.reshape(len(rows), len(arms)), index=pd.Index(rows, name="seed"), columns=list(arms)
    )


def comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    """Hold the arms of each cell against their baselines, paired by seed.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × baseline × metric: `cell, dataset, backbone, augmentations, arm, arm_label,
        gamma, metric, baseline` (of `families`), `baseline_label`, then the columns of
        `analysis.paired.compare`, and `dropped`: the seeds that an arm of the cell lacks, which are left out
        for all of them.
    """
    metrics = [name for name in METRICS if name in trials.columns]
    rows: dict[str, list[object]] = {name: [] for name in (*_COLUMNS, *COLUMNS, "dropped")}
    for cell, planned in trials.groupby("cell", sort=False):
        about = planned.drop_duplicates("arm_label").set_index("arm_label")
        arms, pairs = list(about.index), families(about)
        if not pairs or not metrics:
            continue
        known = {str(label): row for label, row in about[list(_ABOUT)].to_dict("index").items()}
        for metric, values, dropped in _values(planned, arms, metrics):
            for baseline, held in pairs.items():
                columns = [[arms.index(arm) for arm in side] for side in (held, held.values())]
                found = describe_differences(values[:, columns[0]] - values[:, columns[1]])
                if metric != TESTED:
                    found |= {name: np.full(len(held), np.nan) for name in _ADJUSTED}
                for i, (arm, against) in enumerate(held.items()):
                    row: dict[str, object] = {str(name): value for name, value in known[arm].items()}
                    row |= {name: column[i] for name, column in found.items()}
                    row |= {"cell": cell, "arm_label": arm, "metric": metric, "dropped": dropped}
                    row |= {"baseline": baseline, "baseline_label": against}
                    for name, column in rows.items():
                        column.append(row[name])
    return pd.DataFrame(rows)


def _values(
    cell: pd.DataFrame, arms: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, Vector, str]]:
    """For each metric that a cell has: values (seeds, arms) without seeds that an arm lacks, and these."""
    for metric in metrics:
        wide = values_of(cell, metric)[list(arms)]
        values = wide.to_numpy()
        there = ~np.isnan(values)
        some = there.any(axis=1) if len(values) else np.zeros(0, bool)
        if not some.any():
            continue
        whole = there[:, there.any(axis=0)].all(axis=1)
        dropped = wide.index[some & ~whole]
        yield metric, values[whole], " ".join(str(seed) for seed in dropped)


def claimed(compared: pd.DataFrame) -> pd.Series:
    """Which comparisons allow a claim: True where the adjusted interval leaves out zero and n is enough."""
    beyond = (compared["delta_low_holm"] > 0) | (compared["delta_high_holm"] < 0)
    return beyond & (compared["p_holm"] <= LEVEL) & (compared["n"] >= FEWEST)


def pooled_comparisons(trials: pd.DataFrame) -> list[pd.DataFrame]:
    """Hold arms against their baselines over all cells that have the same arms, in test accuracy.

    Returns:
        For each set of arms that at least two cells have, one row an arm × baseline: `arm_label, baseline,
        baseline_label, cells`, the columns of `analysis.paired.compare` and `dropped`.
    """
    cells = [cell for _, cell in trials.groupby("cell", sort=False)]
    sets = [tuple(dict.fromkeys(cell["arm_label"])) for cell in cells]
    found = []
    for arms in dict.fromkeys(sets):
        members = [cell for cell, having in zip(cells, sets, strict=True) if having == arms]
        if len(members) < 2 or TESTED not in trials:
            continue
        values, dropped = pool([values_of(cell, TESTED) for cell in members])
        about = members[0].drop_duplicates("arm_label").set_index("arm_label")
        tables = [
            compare(values, held)
            .rename_axis("arm_label")
            .reset_index()
            .assign(baseline=baseline, baseline_label=list(held.values()))
            for baseline, held in families(about).items()
        ]
        if tables:
            whole = pd.concat(tables, ignore_index=True)
            found.append(whole.assign(cells=len(members), dropped=" ".join(map(str, dropped))))
    return found


DIFFERENCE_COLUMNS = (
    "Difference",
    "95 % interval",
    "Holm-adjusted",
    "Wins",
    "p (t)",
    "p (Holm)",
    "p (sign flips)",
)


def difference_table(compared: pd.DataFrame, name: str, title: str) -> Table | None:
    """Differences in test accuracy as people read them, in points; None where there are none.

    Args:
        compared: rows of `comparisons` for one cell, or of `pooled_comparisons`.
        name: of the table.
        title: of the table.
    """
    if "metric" in compared:
        compared = compared[compared["metric"] == TESTED]
    shown = compared[compared["n"] > 0]
    if shown.empty:
        return None
    rows = tuple(
        (difference_text(row["arm_label"], row["baseline_label"]), texts(*_in_words(row)))
        for row in shown.to_dict("records")
    )
    return Table(
        name=name,
        title=title,
        corner="Test accuracy (points)",
        columns=DIFFERENCE_COLUMNS,
        rows=rows,
        caption=_difference_caption(compared, shown),
    )


def _in_words(row: Mapping[Hashable, Any]) -> list[str]:
    return [
        points(row["delta"]),
        interval(row["delta_low"], row["delta_high"]),
        interval(row["delta_low_holm"], row["delta_high_holm"]),
        f"{row['wins']} of {row['n']}",
        p_value(row["p_t"]),
        p_value(row["p_holm"]),
        p_value(row["p_sign_flip"]),
    ]


def _difference_caption(compared: pd.DataFrame, shown: pd.DataFrame) -> str:
    n, floor = int(shown["n"].max()), float(shown["p_floor"].min())
    sizes = compared["baseline"].value_counts(sort=False)
    named = _joined([f"{size} against {baseline_text(str(name))}" for name, size in sizes.items()])
    lowest = max(int(size) for size in sizes) * floor
    adjusted = f", {min(lowest, 1):.2g} after Holm over {max(sizes)}" if max(sizes) > 1 else ""
    text = (
        f"Arm minus baseline, paired by seed, n = {n}; t-test and its 95 % interval, adjusted after Holm for"
        f" all comparisons with one baseline ({named}). Exact sign-flip p-values are not adjusted; with {n}"
        f" {'seed' if n == 1 else 'seeds'} they are {floor:.2g} at least{adjusted}."
    )
    if "cells" in compared:
        cells = int(compared["cells"].iloc[0])
        text += f" Mean over {cells} cells within each seed: this speaks for these cells only."
    dropped = str(shown["dropped"].iloc[0])
    left_out = f" Left out, as not every arm has them: {seeds_text(dropped.split())}." if dropped else ""
    return text + left_out


def baseline_text(family: str) -> str:
    """What the arms of a family are held against: `CE`, `γ = 0`, `views=symmetric`."""
    return arm_text(family) if family in (CE, CONTROL) else family


def seeds_text(seeds: Sequence[object]) -> str:
    """`seed 2`, `seeds 2, 3`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _joined(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
