"""The results of one cell: mean ± standard deviation over seeds, and the table that people read."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.comparisons import TESTED, values_of
from analysis.formats import Entry, Table
from analysis.labels import METRICS, NO_VALUE, arm_text
from analysis.paired import SMALLEST_FOR_BOLD, best, common_seeds
from analysis.trials import finished, metric_names

SUMMARY_COLUMNS = (
    *("dataset", "backbone", "augmentations", "arm", "gamma", "metric"),
    *("n", "planned", "mean", "std", "run_ids"),
    *("cell", "arm_label", "finished", "values"),
)


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the finished seeds, in full precision.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × metric with `SUMMARY_COLUMNS`: fractions; `n` values, of `finished` and of
        `planned` trials; `std` with ddof = 1, NaN for one seed; `values` by seed and `run_ids` as text with
        spaces between.
    """
    others = [name for name in metric_names(trials) if name not in METRICS]
    metrics = [*METRICS, *others]
    trials = trials.reindex(columns=[*trials.columns, *(name for name in METRICS if name not in trials)])
    rows = []
    for (cell, label), planned in trials.groupby(["cell", "arm_label"], sort=False):
        done = finished(planned).sort_values("seed")
        first = planned.iloc[0]
        about = {name: first[name] for name in ("dataset", "backbone", "augmentations", "arm", "gamma")}
        runs, results = done["run_id"].to_numpy(), done[metrics].to_numpy(float)
        for metric, column in zip(metrics, results.T, strict=True):
            present = ~np.isnan(column)
            values = column[present]
            rows.append(
                {
                    **about,
                    "metric": metric,
                    "n": len(values),
                    "planned": len(planned),
                    "mean": values.mean() if len(values) else np.nan,
                    "std": values.std(ddof=1) if len(values) > 1 else np.nan,
                    "run_ids": " ".join(runs[present]),
                    "cell": cell,
                    "arm_label": label,
                    "finished": len(done),
                    "values": " ".join(repr(float(value)) for value in values),
                }
            )
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def cell_table(summary: pd.DataFrame, trials: pd.DataFrame, cell: int) -> Table:
    """One cell as people read it: rows are accuracies, columns arms, entries in per cent.

    Entries are `mean ± SD` over n >= 3 seeds, both values for two, the value for one. Where fewer seeds
    have a value than are planned, the entry says how many. In the row of test accuracy the best arm is bold,
    with those that are not distinguishable from it where there are seeds enough to tell.

    Args:
        summary: of `summarise`.
        trials: of which it is.
        cell: its number.
    """
    part = summary[(summary["cell"] == cell) & summary["metric"].isin(list(METRICS))]
    planned = trials[trials["cell"] == cell]
    arms = list(dict.fromkeys(part["arm_label"]))
    known = set(part.loc[part["n"] > 0, "metric"]) or {TESTED}
    if "rrc" in part["augmentations"].iloc[0].split("+"):
        known.discard("test_augcrop_acc")  # the same images as under the cell's own augmentations
    bold = bold_arms(planned)
    places = part.set_index(["metric", "arm_label"])
    rows = tuple(
        (
            title,
            tuple(entry(places.loc[(metric, arm)], bold=metric == TESTED and arm in bold) for arm in arms),
        )
        for metric, title in METRICS.items()
        if metric in known
    )
    return Table(
        name=f"cell-{cell}",
        title=str(planned["cell_label"].iloc[0]),
        corner="Accuracy (%)",
        columns=tuple(map(arm_text, arms)),
        rows=rows,
        caption=_caption(part, bold),
    )


def bold_arms(cell: pd.DataFrame, metric: str = TESTED) -> list[str]:
    """The arm of the highest mean, first, and those not distinguishable from it (`analysis.paired.best`)."""
    if metric not in cell:
        return []
    values, _ = common_seeds(values_of(cell, metric), drop=True)
    first, alike = best(values)
    return [] if first is None else [first, *alike]


def entry(row: pd.Series, *, bold: bool = False) -> Entry:
    """What people read of a row of `summarise`."""
    values = [100 * float(value) for value in row["values"].split()]
    if not values:
        text = NO_VALUE
    elif len(values) <= 2:
        text = " / ".join(f"{value:.1f}" for value in values)
    else:
        text = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
    if row["n"] != row["planned"]:
        text += f" ({row['n']} of {row['planned']})"
    return Entry(text=text, bold=bold, runs=tuple(row["run_ids"].split()))


def _caption(part: pd.DataFrame, bold: Sequence[str]) -> str:
    """What stands under a cell's table."""
    tested = part[part["metric"] == TESTED]
    seeds = sorted(set(tested["n"]))
    spread = "mean ± standard deviation over" if seeds[-1] > 2 else "values of"
    n = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    text = f"Accuracy in %, {spread} n = {n} {'seed' if n == '1' else 'seeds'}."
    missing = int((tested["planned"] - tested["finished"]).sum())
    if missing:
        text += f" {missing} of {int(tested['planned'].sum())} trials are missing."
    odd = int((tested["finished"] - tested["n"]).sum())
    if odd:
        text += f" {odd} finished {'trial has' if odd == 1 else 'trials have'} no finite test accuracy."
    if len(tested) > 1 and bold:
        text += f" {bold_caption(seeds[-1])}"
    return text


def bold_caption(n: int) -> str:
    """What bold means in a table over `n` seeds."""
    if n < SMALLEST_FOR_BOLD:
        return f"Bold: the highest mean test accuracy, no more; n < {SMALLEST_FOR_BOLD} is too few to tell."
    return (
        "Bold: the highest mean test accuracy and the arms not distinguishable from it (paired t-tests of all"
        " pairs, Holm); that is not to say that they are equal."
    )
