"""The results of each cell: mean and standard deviation over seeds, and the best arm."""

from collections.abc import Hashable

import numpy as np
import pandas as pd

from analysis.stats.comparisons import TESTED, values_of
from analysis.stats.paired import best, common_seeds
from analysis.trials import cells_of, finished, metric_names
from trainables.metrics import ACCURACIES


def summarise(trials: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the finished seeds, in full precision.

    Returns:
        One row per `cell`, arm (`arm`, `arm_label`) and `metric`, with `dataset`, `backbone`,
        `augmentations`, `gamma`; `mean` and `std` (ddof = 1, NaN for one seed) are fractions; `n` values, of
        `finished` and of `planned` trials; `values` by seed and `run_ids` as text with spaces between.
        `best`, in rows of test accuracy: whether the arm has the highest mean, as printed, over the `shared`
        seeds that all arms of the cell have.
    """
    metrics = [*ACCURACIES, *(name for name in metric_names(trials) if name not in ACCURACIES)]
    trials = trials.reindex(columns=[*trials.columns, *(name for name in ACCURACIES if name not in trials)])
    bold: dict[Hashable, tuple[list[str], int]] = {n: best_arms(cell) for n, cell in cells_of(trials).items()}
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
                    "best": metric == TESTED and label in bold[cell][0],
                    "shared": bold[cell][1],
                }
            )
    return pd.DataFrame(rows)


def best_arms(cell: pd.DataFrame) -> tuple[list[str], int]:
    """The arms that tables emphasise, the best first, and over how many seeds: those that all arms have."""
    if TESTED not in cell:
        return [], 0
    values, _ = common_seeds(values_of(cell, TESTED))
    if values.notna().any().sum() < 2:
        return [], len(values)  # there is nothing to be better than
    return best(values), len(values)
