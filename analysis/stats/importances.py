"""Which parameters of a search matter: functional ANOVA (Hutter et al. 2014) over ended configurations."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
import pandas as pd

from search_spaces import Search
from study.ledger.optuna_study import make_study
from study.ledger.search_members import Member

FEWEST = 4
"""Fewest finished configurations."""
FORESTS, TREES = 16, 32
"""Forests on configurations drawn with replacement, and trees in each."""
ENDS = (0.1, 0.9)
"""Quantiles over these forests that are shown as the range of a share."""


def importances(search: Search, members: Sequence[Member]) -> pd.DataFrame | None:
    """The share of the variance of the first objective that each parameter explains by itself.

    A configuration counts once, with its mean over seeds.

    Returns:
        One row per parameter, the most important first: `share`, and `low` and `high` over forests on
        configurations drawn with replacement. Conditional parameters are left out. None for fewer than
        `FEWEST` configurations of the method with a value, or if all values are equal.
    """
    single = search.replace(objectives=search.objectives[:1])
    done = [_by_first(member) for member in members if member.state == "finished"]
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


def _by_first(member: Member) -> Member:
    """A finished member with the values of its first objective alone."""
    values = {seed: (trial.objectives or ())[:1] for seed, trial in member.trials.items()}
    trials = {s: dataclasses.replace(trial, objectives=values[s]) for s, trial in member.trials.items()}
    return dataclasses.replace(member, trials=trials)


def _shares(search: Search, members: Sequence[Member], seed: int) -> pd.Series:
    study = make_study(search, "shares", members, {})
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forests on few trials
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return pd.Series(shares, dtype=float)
