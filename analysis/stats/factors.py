"""What each augmentation does, and how augmentations change each other's effects."""

import itertools
from collections.abc import Sequence

import pandas as pd

from analysis.stats.comparisons import TESTED, arm_configs, values_of
from analysis.stats.paired import holm
from search_spaces.families import LEVEL, families
from trainables.arms import CONTROL
from trainables.catalogue import AUGMENTATIONS
from trainables.trial import ARM_FIELDS, TrialConfig

Column = tuple[str, str | None]
"""Whose effects: the label of an arm, and of the control that is subtracted, if any."""
Effects = dict[Column, tuple[pd.DataFrame, list[int]]]
"""Effects of the augmentations by column, with the seeds that are left out."""


def effects(values: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Main effects of switches and their interactions, with a block per seed.

    Least squares of `value ~ seed + (all factors)**2`, each switch coded ∓ ½: a main effect is the mean
    change when it is switched on; an interaction, how much larger that change is with the other on than off.
    `values` has a row per trial: `seed`, `value`, and a bool column for each of the `factors`; every
    combination of switches for every seed.

    Returns:
        One row per term (`rrc`, `rrc:hflip`), with `effect`, `low`, `high` (95 %), `p`, `p_holm` over all
        terms.

    Raises:
        ValueError: combinations are missing or duplicated: the effects would depend on each other.
    """
    import statsmodels.api as sm

    cells = values.groupby(["seed", *factors])["value"].count()
    expected = values["seed"].nunique() * 2 ** len(factors)
    if len(cells) != expected or (cells != 1).any() or values["value"].isna().any():
        raise ValueError(
            f"effects take every combination of {', '.join(factors)} once for every seed: {expected} trials,"
            f" got {int(values['value'].notna().sum())}"
        )
    switches = values[list(factors)].astype(float) - 0.5
    terms = [(name,) for name in factors] + list(itertools.combinations(factors, 2))
    design = pd.DataFrame({":".join(term): switches[list(term)].prod(axis="columns") for term in terms})
    blocks = pd.get_dummies(values["seed"], prefix="seed", dtype=float)
    names = list(design.columns)
    if len(values) <= len(names) + blocks.shape[1]:
        raise ValueError(f"{len(values)} trials are too few for {len(names)} terms: take more seeds")
    fit = sm.OLS(values["value"], design.join(blocks)).fit()
    bounds = fit.conf_int(alpha=LEVEL)
    table = pd.DataFrame({"effect": fit.params, "low": bounds[0], "high": bounds[1], "p": fit.pvalues})
    table = table.loc[names]
    return table.assign(p_holm=holm(table["p"].to_numpy(float))).rename_axis("term")


def effects_of(group: pd.DataFrame) -> Effects:
    """Main effects and interactions of the augmentations on test accuracy, where every combination was run.

    Returns:
        For each arm, and for each γ > 0 minus its control: the table of `effects`, and the seeds that are
        left out because one of their trials is missing. Empty if combinations were not planned.
    """
    subsets = [frozenset(text.split("+")) - {"none"} for text in dict.fromkeys(group["augmentations"])]
    used = frozenset().union(*subsets)
    factors = [name for name in AUGMENTATIONS if name in used]
    if len(factors) < 2 or len(subsets) != 2 ** len(factors) or TESTED not in group:
        return {}
    values = {
        subset: values_of(cell, TESTED)
        for (_, cell), subset in zip(group.groupby("cell", sort=False), subsets, strict=True)
    }
    about = _arms_of_one_kind(group)
    columns: dict[Column, dict[frozenset[str], pd.Series]] = {
        (arm, None): {s: v[arm] for s, v in values.items() if arm in v} for arm in about
    }
    for arm, control in families(about).get(CONTROL, {}).items():
        both = {s: v[arm] - v[control] for s, v in values.items() if arm in v and control in v}
        columns[arm, control] = both
    return {
        column: fitted
        for column, by_subset in columns.items()
        if len(by_subset) == len(subsets) and (fitted := _fit(by_subset, factors))
    }


def _arms_of_one_kind(group: pd.DataFrame) -> dict[str, TrialConfig]:
    """A trial of each arm that is the same in all cells, not several arms with one label."""
    kinds: dict[str, dict[object, TrialConfig]] = {}
    for _, cell in group.groupby("cell", sort=False):
        for arm, trial in arm_configs(cell).items():
            # Views have their default where they do not matter: in some subsets of any study.
            values = tuple(getattr(trial, name) for name in ARM_FIELDS if name != "views")
            kinds.setdefault(arm, {}).setdefault(values, trial)
    return {arm: next(iter(trials.values())) for arm, trials in kinds.items() if len(trials) == 1}


def _fit(
    by_subset: dict[frozenset[str], pd.Series], factors: list[str]
) -> tuple[pd.DataFrame, list[int]] | None:
    wide = pd.DataFrame(by_subset)
    whole = wide.dropna()
    terms = len(factors) + len(list(itertools.combinations(factors, 2)))
    if len(whole) < 2 or len(whole) * (wide.shape[1] - 1) <= terms:
        return None  # too few trials for so many terms
    tables = [
        pd.DataFrame({"seed": whole.index, "value": column, **{name: name in subset for name in factors}})
        for subset, column in zip(by_subset, whole.to_numpy().T, strict=True)
    ]
    dropped = [int(seed) for seed in wide.index if seed not in whole.index]
    return effects(pd.concat(tables, ignore_index=True), factors), dropped
