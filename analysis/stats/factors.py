"""What each augmentation does, and how augmentations change each other's effects."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.stats.comparisons import TESTED, arm_configs, compared_arms, shared_rule, values_of
from analysis.stats.paired import describe_differences, is_claimed
from analysis.stats.sequential import FIXED, Rule
from search_spaces.families import families
from trainables.arms import CONTROL
from trainables.catalogue import AUGMENTATIONS
from trainables.trial import ARM_FIELDS, TrialConfig

Column = tuple[str, str | None]
"""Whose effects: the label of an arm, and of the control that is subtracted, if any."""
Effects = dict[Column, tuple[pd.DataFrame, list[int]]]
"""Effects of the augmentations by column, with the seeds that are left out."""


def effects(values: pd.DataFrame, factors: Sequence[str], rule: Rule = FIXED) -> pd.DataFrame:
    """Main effects of switches and their interactions: one contrast a seed, and a t-test over seeds.

    A main effect is the mean change when a switch is turned on, over all settings of the others; an
    interaction, how much larger that change is with the other switch on than off. In each seed it is the
    coefficient of the least squares of `value ~ (all factors)**2`, each switch coded ∓ ½. Seeds are the
    replicates: mean ± t(n - 1) · SD / √n over their contrasts (or by another `rule`),
    which holds where seeds react differently to a factor. One
    residual variance for all trials would not, as it takes such reactions to be the same.

    `values` has a row per trial: `seed`, `value`, and a bool column for each of the `factors`; every
    combination of switches for every seed.

    Returns:
        One row per term (`rrc`, `rrc:hflip`), with `n` seeds, `effect`, `low`, `high` (95 %), `p`, `p_holm`
        over all terms, and `claimed`: p_holm is at most 0.05, with at least three seeds. NaN without spread.

    Raises:
        ValueError: combinations are missing or duplicated: the effects would depend on each other; or there
            are fewer than two seeds.
    """
    cells = values.groupby(["seed", *factors])["value"].count()
    n = values["seed"].nunique()
    expected = n * 2 ** len(factors)
    if len(cells) != expected or (cells != 1).any() or values["value"].isna().any():
        raise ValueError(
            f"effects take every combination of {', '.join(factors)} once for every seed: {expected} trials,"
            f" got {int(values['value'].notna().sum())}"
        )
    if n < 2:
        raise ValueError(f"effects take at least two seeds, got {n}: seeds are the replicates")
    ordered = values.sort_values(["seed", *factors])
    switches = ordered[list(factors)].head(2 ** len(factors)).to_numpy(float) - 0.5
    terms = [(i,) for i in range(len(factors))] + list(itertools.combinations(range(len(factors)), 2))
    design = np.column_stack([switches[:, list(term)].prod(axis=1) for term in terms])
    # The columns of a complete design are orthogonal: least squares is a projection onto each.
    contrasts = ordered["value"].to_numpy(float).reshape(n, -1) @ design / (design**2).sum(axis=0)
    found = describe_differences(contrasts, rule)
    names = [":".join(factors[i] for i in term) for term in terms]
    table = pd.DataFrame(
        {
            "n": n,
            "effect": found["delta"],
            "low": found["delta_low"],
            "high": found["delta_high"],
            "p": found["p"],
            "p_holm": found["p_holm"],
        },
        index=pd.Index(names, name="term"),
    )
    return table.assign(claimed=is_claimed(found))


def effects_of(group: pd.DataFrame) -> Effects:
    """Main effects and interactions of the augmentations on test accuracy, where every combination was run.

    Returns:
        For each arm, and for each γ > 0 minus its control: the table of `effects`, and the seeds that are
        left out because one of their trials is missing. Empty if combinations were not planned.
    """
    subsets = subsets_of(group)
    used = frozenset().union(*subsets)
    factors = [name for name in AUGMENTATIONS if name in used]
    if len(factors) < 2 or len(subsets) != 2 ** len(factors):
        return {}
    rule, _, _ = shared_rule(list(compared_arms(group)))
    columns = accuracies_by_subset(group)
    return {
        column: fitted
        for column, by_subset in columns.items()
        if len(by_subset) == len(subsets) and (fitted := _fit(by_subset, factors, rule))
    }


def subsets_of(group: pd.DataFrame) -> list[frozenset[str]]:
    """The subsets of augmentations of the cells of a group, one each, in their order."""
    return [frozenset(text.split("+")) - {"none"} for text in dict.fromkeys(group["augmentations"])]


def accuracies_by_subset(group: pd.DataFrame) -> dict[Column, dict[frozenset[str], pd.Series]]:
    """Test accuracy by seed, for each arm and each γ > 0 minus its control, and each subset that has them."""
    if TESTED not in group:
        return {}
    values = {
        subset: values_of(cell, TESTED)
        for (_, cell), subset in zip(group.groupby("cell", sort=False), subsets_of(group), strict=True)
    }
    about = _arms_of_one_kind(group)
    columns: dict[Column, dict[frozenset[str], pd.Series]] = {
        (arm, None): {s: v[arm] for s, v in values.items() if arm in v} for arm in about
    }
    for arm, control in families(about).get(CONTROL, {}).items():
        both = {s: v[arm] - v[control] for s, v in values.items() if arm in v and control in v}
        columns[arm, control] = both
    return columns


def _arms_of_one_kind(group: pd.DataFrame) -> dict[str, TrialConfig]:
    """A trial of each arm that is the same in all cells, not several arms with one label."""
    kinds: dict[str, dict[object, TrialConfig]] = {}
    for _, cell in group.groupby("cell", sort=False):
        for arm, trial in arm_configs(cell).items():
            # These have their default where they do not matter: in some subsets of any study.
            values = tuple(
                getattr(trial, name) for name in ARM_FIELDS if name not in ("views", "second_view")
            )
            kinds.setdefault(arm, {}).setdefault(values, trial)
    return {arm: next(iter(trials.values())) for arm, trials in kinds.items() if len(trials) == 1}


def _fit(
    by_subset: dict[frozenset[str], pd.Series], factors: list[str], rule: Rule
) -> tuple[pd.DataFrame, list[int]] | None:
    wide = pd.DataFrame(by_subset)
    whole = wide.dropna()
    if len(whole) < 2:
        return None
    tables = [
        pd.DataFrame({"seed": whole.index, "value": column, **{name: name in subset for name in factors}})
        for subset, column in zip(by_subset, whole.to_numpy().T, strict=True)
    ]
    dropped = [int(seed) for seed in wide.index if seed not in whole.index]
    return effects(pd.concat(tables, ignore_index=True), factors, rule), dropped
