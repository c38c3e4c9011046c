"""The curves that trials kept: one row an epoch of each finished trial."""

import contextlib
from pathlib import Path

import pandas as pd

from analysis.trials import finished
from study.ledger import Ledger


def read_curves(trials: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """The histories of the finished trials, which a trial keeps as `history.parquet`.

    Args:
        trials: of `analysis.trials.load`.
        ledger: where their artifacts are.

    Returns:
        Columns `arm_label`, `seed`, `epoch` and the metrics of each epoch; empty where nothing was kept.
    """
    tables = []
    for trial in finished(trials)[["run_id", "arm_label", "seed"]].to_dict("records"):
        path: Path | None = None
        with contextlib.suppress(OSError):  # a run whose artifacts were deleted has its metrics still
            path = ledger.artifact(trial["run_id"], "history.parquet")
        if path is not None:
            with contextlib.suppress(ValueError):  # damaged
                tables.append(pd.read_parquet(path).assign(arm_label=trial["arm_label"], seed=trial["seed"]))
    return (
        pd.concat(tables, ignore_index=True)
        if tables
        else pd.DataFrame(columns=["arm_label", "seed", "epoch"])
    )
