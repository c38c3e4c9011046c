"""The results of one cell: mean ± standard deviation over seeds, and the table that people read."""

import numpy as np
import pandas as pd

from analysis.render.table import Entry, Table
from analysis.render.text import METRICS, arm_text, number_of, span, spread_text
from analysis.stats.comparisons import TESTED, settings_note, values_of
from analysis.stats.paired import SMALLEST_FOR_BOLD, best, common_seeds
from analysis.trials import finished, metric_names

SUMMARY_COLUMNS = (
    *("dataset", "backbone", "augmentations", "arm", "gamma", "metric"),
    *("n", "planned", "mean", "std", "run_ids"),
    *("cell", "arm_label", "finished", "values", "best", "shared"),
)


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the finished seeds, in full precision.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × metric with `SUMMARY_COLUMNS`: fractions; `n` values, of `finished` and of
        `planned` trials; `std` with ddof = 1, NaN for one seed; `values` by seed and `run_ids` as text with
        spaces between. `best`, in rows of test accuracy: whether the arm has the highest mean over the
        `shared` seeds that all arms of the cell have, or is not distinguishable from that one.
    """
    others = [name for name in metric_names(trials) if name not in METRICS]
    metrics = [*METRICS, *others]
    trials = trials.reindex(columns=[*trials.columns, *(name for name in METRICS if name not in trials)])
    rows = []
    bold = {
        int(planned["cell"].iloc[0]): best_arms(planned) for _, planned in trials.groupby("cell", sort=False)
    }
    for (cell, label), planned in trials.groupby(["cell", "arm_label"], sort=False):
        done = finished(planned).sort_values("seed")
        first = planned.iloc[0]
        number = int(first["cell"])
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
                    "best": metric == TESTED and label in bold[number][0],
                    "shared": bold[number][1],
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
    places = part.set_index(["metric", "arm_label"])
    rows = tuple(
        (
            title,
            tuple(entry(places.loc[(metric, arm)]) for arm in arms),
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
        caption=_caption(part, settings_note(planned)),
    )


def best_arms(cell: pd.DataFrame) -> tuple[list[str], int]:
    """The arms that tables set off (the best first), and how many seeds say so: those that all arms have."""
    if TESTED not in cell:
        return [], 0
    values, _ = common_seeds(values_of(cell, TESTED), drop=True)
    if values.notna().any().sum() < 2:
        return [], len(values)  # there is nothing to be better than
    first, alike = best(values)
    return ([] if first is None else [first, *alike]), len(values)


def entry_of(values: pd.Series, planned: int, runs: tuple[str, ...]) -> Entry:
    """What people read of values over seeds, and how many there are where some are missing."""
    known = [float(value) for value in values.dropna()]
    missing = f" ({len(known)} of {planned})" if len(known) != planned else ""
    return Entry(text=spread_text(known) + missing, runs=runs)


def entry(row: pd.Series) -> Entry:
    """What people read of a row of `summarise`."""
    text = spread_text([float(value) for value in row["values"].split()])
    if row["n"] != row["planned"]:
        text += f" ({row['n']} of {row['planned']})"
    return Entry(text=text, bold=bool(row["best"]), runs=tuple(row["run_ids"].split()))


def _caption(part: pd.DataFrame, settings: str) -> str:
    """What stands under a cell's table."""
    tested = part[part["metric"] == TESTED]
    seeds = sorted(set(tested["n"]))
    spread = "mean ± standard deviation over" if seeds[-1] > 2 else "values of"
    text = f"Accuracy in %, {spread} n = {span(seeds)} {'seed' if seeds == [1] else 'seeds'}."
    text += settings
    missing = int((tested["planned"] - tested["finished"]).sum())
    if missing:
        text += f" {missing} of {number_of(int(tested['planned'].sum()), 'trial')} missing."
    odd = int((tested["finished"] - tested["n"]).sum())
    if odd:
        text += f" {number_of(odd, 'finished trial')} without a finite test accuracy."
    return " ".join([text, *bold_caption(tested)])


def bold_caption(tested: pd.DataFrame) -> list[str]:
    """What bold means in a table of these rows of `summarise`; nothing where nothing is.

    Args:
        tested: rows of test accuracy.
    """
    shared = set(tested.loc[tested["best"], "shared"])
    if len(set(tested["arm_label"])) < 2 or not shared:
        return []
    few = f"n < {SMALLEST_FOR_BOLD} is too few to tell arms apart"
    over = " over the seeds that every arm has" if (tested["n"] > tested["shared"]).any() else ""
    if max(shared) < SMALLEST_FOR_BOLD:
        return [f"Bold: the highest mean test accuracy{over}, no more; {few}."]
    but = f" ({few}: there it is the highest mean alone)" if min(shared) < SMALLEST_FOR_BOLD else ""
    return [
        f"Bold: the highest mean test accuracy{over} and the arms not distinguishable from it (paired t-tests"
        f" of all pairs, Holm); that is not to say that they are equal{but}."
    ]
