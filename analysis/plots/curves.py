"""The learning curves of trials, from their artifacts."""

import pandas as pd

from analysis.trials import finished
from study.ledger.ledger import Ledger


def read_curves(trials: pd.DataFrame, ledger: Ledger) -> tuple[pd.DataFrame, int]:
    """The histories of the finished trials, kept as `history.parquet`.

    Returns:
        Columns `arm_label`, `seed`, `epoch` and the metrics of each epoch, empty if there are none; and the
        number of trials whose history is missing or damaged.
    """
    tables, lacking = [], 0
    for trial in finished(trials)[["run_id", "arm_label", "seed"]].to_dict("records"):
        try:  # a run whose artifacts were deleted still has its metrics
            history = pd.read_parquet(ledger.artifact(trial["run_id"], "history.parquet"))
        except (OSError, ValueError):
            lacking += 1
            continue
        tables.append(history.assign(arm_label=trial["arm_label"], seed=trial["seed"]))
    nothing = pd.DataFrame(columns=["arm_label", "seed", "epoch"])
    return (pd.concat(tables, ignore_index=True) if tables else nothing), lacking
