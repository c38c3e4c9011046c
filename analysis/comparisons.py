"""Every paired comparison of a study as one table: each cell, each baseline, each metric."""

import math

import pandas as pd

from analysis.labels import METRICS, MINUS, NO_VALUE, arm_text
from analysis.paired import COLUMNS, common_seeds, compare
from analysis.trials import finished

BASELINES = ("ce", "siamese-0")
"""Cross-entropy alone: the thesis's claim; two views without the term: the effect of the term itself."""
TESTED = "test_acc"
"""The one metric that has p-values; the others describe."""
_P_VALUES = ("p_t", "p_holm", "p_sign_flip", "p_floor")
_COLUMNS = ("cell", "dataset", "backbone", "augmentations", "arm", "arm_label", "gamma", "metric", "baseline")


def comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    """Hold the arms of each cell against each baseline, paired by seed.

    Args:
        trials: of `analysis.trials.load`.

    Returns:
        One row a cell × arm × baseline × metric: `cell, dataset, backbone, augmentations, arm, arm_label,
        gamma, metric, baseline`, then the columns of `analysis.paired.compare`, and `dropped`: the seeds that
        an arm of the cell lacks, which are left out for all of them. Only γ > 0 is held against `siamese-0`.
    """
    metrics = [name for name in METRICS if name in trials.columns]
    tables = []
    for cell, planned in trials.groupby("cell", sort=False):
        about = planned.drop_duplicates("arm_label").set_index("arm_label")
        done = finished(planned)
        for metric in metrics:
            # Not pivot_table: this raises where a trial is there twice.
            wide = done.pivot(index="seed", columns="arm_label", values=metric)  # noqa: PD010
            values = wide.reindex(columns=about.index)
            if values.isna().to_numpy().all():
                continue
            values, dropped = common_seeds(values, drop=True)
            for baseline in BASELINES:
                arms = [arm for arm in about.index if baseline == "ce" or (about["gamma"][arm] or 0) > 0]
                if baseline not in values.columns:
                    continue
                table = compare(values[[baseline, *(arm for arm in arms if arm != baseline)]], baseline)
                if metric != TESTED:
                    table[[*_P_VALUES, "delta_low_holm", "delta_high_holm"]] = float("nan")
                for name in ("dataset", "backbone", "augmentations", "arm", "gamma"):
                    table[name] = about.loc[table.index, name]
                extra = {"cell": cell, "metric": metric, "baseline": baseline, "arm_label": table.index}
                tables.append(table.assign(**extra, dropped=" ".join(map(str, dropped))))
    if not tables:
        return pd.DataFrame(columns=[*_COLUMNS, *COLUMNS, "dropped"])
    whole = pd.concat(tables, ignore_index=True)
    return whole[[*_COLUMNS, *(name for name in whole.columns if name not in _COLUMNS)]]


def difference_table(compared: pd.DataFrame, cell: int) -> pd.DataFrame:
    """A cell's differences in test accuracy as people read them, in points; empty where there are none.

    Args:
        compared: of `comparisons`.
        cell: its number.

    Returns:
        Text, a row for each (label of the arm, of the baseline), columns `Difference`, `95 % interval`,
        `Holm-adjusted`, `Wins`, `p (t)`, `p (Holm)`, `p (sign flips)`.
    """
    part = compared[(compared["cell"] == cell) & (compared["metric"] == TESTED) & (compared["n"] > 0)]
    rows = {}
    for _, row in part.iterrows():
        rows[row["arm_label"], row["baseline"]] = {
            "Difference": _points(row["delta"]),
            "95 % interval": _range(row["delta_low"], row["delta_high"]),
            "Holm-adjusted": _range(row["delta_low_holm"], row["delta_high_holm"]),
            "Wins": f"{row['wins']} of {row['n']}",
            "p (t)": _p(row["p_t"]),
            "p (Holm)": _p(row["p_holm"]),
            "p (sign flips)": _p(row["p_sign_flip"]),
        }
    table = pd.DataFrame(list(rows.values()))
    table.index = pd.Index(list(rows), tupleize_cols=False)
    return table


def difference_caption(compared: pd.DataFrame, cell: int) -> str:
    """What stands under a cell's differences; empty where there are none."""
    part = compared[(compared["cell"] == cell) & (compared["metric"] == TESTED)]
    shown = part[part["n"] > 0]
    if shown.empty:
        return ""
    n, family = int(shown["n"].max()), part["baseline"].value_counts()
    sizes = " and ".join(f"{family[name]} against {arm_text(name)}" for name in family.index.sort_values())
    text = (
        f"Differences in test accuracy in points, paired by seed, n = {n}; t-test and its interval, adjusted"
        f" after Holm for all arms of the cell ({sizes}). Exact sign-flip p-values, not adjusted, are at"
        f" least {shown['p_floor'].min():.2g} with {n} {'seed' if n == 1 else 'seeds'}."
    )
    dropped = str(shown["dropped"].iloc[0])
    named = f" Left out, as not every arm has them: seeds {dropped.replace(' ', ', ')}." if dropped else ""
    return text + named


def _points(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{100 * value:+.1f}".replace("-", MINUS)


def _range(low: float, high: float) -> str:
    return NO_VALUE if math.isnan(low) else f"{_points(low)} to {_points(high)}"


def _p(value: float) -> str:
    if math.isnan(value):
        return NO_VALUE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
