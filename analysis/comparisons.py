"""Every paired comparison of a study as one table: each cell, each baseline, each metric."""

import pandas as pd

from analysis.labels import METRICS
from analysis.paired import common_seeds, compare
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
                arms = [arm for arm in about.index if baseline == "ce" or about["gamma"][arm] > 0]
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
        return pd.DataFrame(columns=list(_COLUMNS))
    whole = pd.concat(tables, ignore_index=True)
    return whole[[*_COLUMNS, *(name for name in whole.columns if name not in _COLUMNS)]]
