"""Which parameters of a search matter: functional ANOVA (Hutter et al. 2014) over the trials that ended."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
import pandas as pd

from search_spaces import Search
from study.ledger.optuna_study import make_study
from study.ledger.search_state import SearchTrial

FEWEST = 4
"""Fewest finished trials."""
FORESTS, TREES = 16, 32
"""Forests on trials drawn with replacement, and trees in each."""
ENDS = (0.1, 0.9)
"""Quantiles over these forests that are shown as the range of a share."""


def importances(search: Search, members: Sequence[SearchTrial]) -> pd.DataFrame | None:
    """The share of the variance of the first objective that each parameter explains by itself.

    Returns:
        One row per parameter, the most important first: `share`, and `low` and `high` over forests on trials
        drawn with replacement. Conditional parameters are left out. None for fewer than `FEWEST` trials of
        the method with a value, or if all values are equal.
    """
    single = search.replace(objectives=search.objectives[:1])
    done = [
        dataclasses.replace(member, objectives=member.objectives[:1])
        for member in members
        if member.objectives is not None
    ]
    if len(done) < FEWEST or len({member.objectives for member in done}) < 2:
        return None
    share = _shares(single, done, 0)
    rng = np.random.default_rng(0)
    drawn = []
    for forest in range(FORESTS):
        sample = [done[i] for i in rng.integers(len(done), size=len(done))]
        if len({member.objectives for member in sample}) > 1:
            drawn.append(_shares(single, sample, forest))
    spread = pd.DataFrame(drawn).reindex(columns=share.index).fillna(0.0)
    low, high = spread.quantile(ENDS[0]), spread.quantile(ENDS[1])
    return pd.DataFrame({"share": share, "low": low, "high": high}).sort_values(
        "share", ascending=False, kind="stable"
    )


def _shares(search: Search, members: Sequence[SearchTrial], seed: int) -> pd.Series:
    study = make_study(search, "shares", members, {})
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forests on few trials
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return pd.Series(shares, dtype=float)
