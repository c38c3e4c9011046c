"""What a choice of γ by validation images is worth."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from analysis.stats.comparisons import TESTED, arm_configs, values_of
from analysis.stats.paired import FEWEST
from search_spaces.families import LEVEL, families
from trainables.arms import CE, CONTROL
from trainables.trial import TrialConfig

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected:
    """What a rule that chooses an arm is worth.

    Attributes:
        chosen: the chosen arm by seed.
        test: its test value, by seed.
        low, high: 95 % interval of the rule's expected test value; NaN with fewer than three seeds
            or without any spread.
        optimistic: the highest mean test value of an arm, too high: it is chosen on the test images.
        optimistic_arm: that arm.
    """

    chosen: pd.Series
    test: pd.Series
    low: float
    high: float
    optimistic: float
    optimistic_arm: str


def select(validation: pd.DataFrame, test: pd.DataFrame) -> Selected:
    """Choose an arm for each seed by mean validation value over the *other* seeds.

    Neither the test images nor the seed's own validation images influence what is reported for it. Ties go
    to the first arm. Both frames are seeds × candidate arms.

    The chosen values are not independent: any two seeds share most of the seeds that chose their arms. So
    their standard deviation says too little about their mean. The interval is that of the jackknife (Efron &
    Stein 1981): the whole choice is repeated without each of the n seeds, and the mean has the variance
    (n - 1)/n · Σ (mean without a seed - their mean)², with t(n - 1). It is too wide rather than too narrow.

    Raises:
        ValueError: fewer than two seeds, or a value is missing.
    """
    if len(validation) < 2:
        raise ValueError(f"choosing by the other seeds takes at least two seeds, got {len(validation)}")
    test = test.loc[validation.index, validation.columns]
    if validation.isna().to_numpy().any() or test.isna().to_numpy().any():
        raise ValueError("an arm has no result for a seed")
    by_validation, by_test = validation.to_numpy(float), test.to_numpy(float)
    places = _choices(by_validation)
    reported = by_test[np.arange(len(places)), places]
    low, high = _jackknife(by_validation, by_test)
    means = test.mean()
    return Selected(
        chosen=pd.Series(validation.columns[places], validation.index),
        test=pd.Series(reported, test.index),
        low=low,
        high=high,
        optimistic=float(means.max()),
        optimistic_arm=str(means.idxmax()),
    )


def _choices(validation: Vector) -> npt.NDArray[np.intp]:
    """For each of n seeds the place of the arm with the highest mean over the others; (n, arms) to (n,)."""
    n = len(validation)
    return np.array([np.delete(validation, seed, axis=0).mean(axis=0).argmax() for seed in range(n)])


def _jackknife(validation: Vector, test: Vector) -> tuple[float, float]:
    """95 % interval of the mean chosen test value, from (n seeds, arms) each."""

    def worth(seeds: npt.NDArray[np.intp]) -> float:
        return float(test[seeds, _choices(validation[seeds])].mean())

    n = len(test)
    if n < FEWEST:
        return math.nan, math.nan
    without = np.array([worth(np.delete(np.arange(n), seed)) for seed in range(n)])
    half = -float(stdtrit(n - 1, LEVEL / 2)) * math.sqrt((n - 1) * without.var())
    mean = worth(np.arange(n))
    return (mean - half, mean + half) if half > 1e-12 else (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A choice of γ within a cell, of which γ = 0 is one where it was trained.

    Attributes:
        cell_label: the cell.
        arms: the candidates: γ = 0 first, then arms that differ in γ alone.
        selected: what choosing among them is worth.
        beside: mean test accuracy over the same seeds of `ce` and `siamese-0`; NaN where one lacks a seed.
        dropped: seeds that a candidate lacks.
    """

    cell_label: str
    arms: tuple[str, ...]
    selected: Selected
    beside: dict[str, float]
    dropped: tuple[int, ...]


def choices(trials: pd.DataFrame) -> Iterator[Choice]:
    """The choices that a study allows: those with two candidates and two seeds that both have."""
    if "val_acc" not in trials or TESTED not in trials:
        return
    for label, cell in trials.groupby("cell_label", sort=False):
        validation, test = (values_of(cell, metric) for metric in ("val_acc", TESTED))
        measured = {arm for arm in test if validation[arm].notna().any() and test[arm].notna().any()}
        configs = arm_configs(cell)
        controls = families(configs).get(CONTROL, {})
        kinds: dict[TrialConfig, list[str]] = {}
        for arm, trial in configs.items():
            if trial.gamma and arm in measured:
                kinds.setdefault(trial.replace(gamma=1.0, seed=0), []).append(arm)
        for arms in kinds.values():
            control = controls.get(arms[0])
            candidates = [control, *arms] if control and control in measured else arms
            whole = (validation[candidates].notna() & test[candidates].notna()).all(axis=1)
            if len(candidates) < 2 or whole.sum() < 2:
                continue
            beside = {CE: CE if CE in test else None, CONTROL: control if control in test else None}
            yield Choice(
                cell_label=str(label),
                arms=tuple(candidates),
                selected=select(validation.loc[whole, candidates], test.loc[whole, candidates]),
                beside={
                    name: math.nan if arm is None else float(test.loc[whole, arm].mean(skipna=False))
                    for name, arm in beside.items()
                },
                dropped=tuple(int(seed) for seed in whole.index[~whole]),
            )
