"""What a choice of γ by validation images is worth."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import config, frame

from analysis.sections.selected import selected_tables
from analysis.stats.selection import choices, select


def test_an_arm_is_chosen_by_the_other_seeds() -> None:
    validation = pd.DataFrame({"a": [0.9, 0.1, 0.1], "b": [0.3, 0.3, 0.3]}, index=[0, 1, 2])
    test = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}, index=[0, 1, 2])
    result = select(validation, test)
    # Without seed 0, a has 0.1; without 1 or 2, it has 0.5.
    assert result.chosen.tolist() == ["b", "a", "a"]
    assert result.test.tolist() == [4.0, 2.0, 3.0]
    assert (result.optimistic, result.optimistic_arm) == (5.0, "b")
    with pytest.raises(ValueError, match="takes at least two seeds, got 1"):
        select(validation.iloc[:1], test)
    with pytest.raises(ValueError, match="no result for a seed"):
        select(validation, test.mask(test == 5.0))


def test_choosing_on_the_test_images_promises_too_much() -> None:
    """Five arms that are all alike, n = 5: the best looks half a standard deviation better than it is."""
    results = []
    for seed in range(400):
        chance = np.random.RandomState(seed)
        validation, test = (pd.DataFrame(chance.normal(size=(5, 5))) for _ in range(2))
        results.append(select(validation, test))
    assert np.mean([r.optimistic for r in results]) == pytest.approx(1.163 / math.sqrt(5), abs=0.05)
    assert np.mean([r.test.mean() for r in results]) == pytest.approx(0.0, abs=0.06)


def test_the_interval_repeats_the_whole_choice_without_each_seed() -> None:
    """The jackknife by its definition, with scipy's quantile."""
    chance = np.random.default_rng(0)
    validation, test = (pd.DataFrame(chance.normal(size=(6, 3)), columns=list("abc")) for _ in range(2))
    result = select(validation, test)
    without = [
        select(validation.drop(index=seed), test.drop(index=seed)).test.mean() for seed in validation.index
    ]
    assert len({tuple(select(validation.drop(index=s), test).chosen) for s in range(6)}) > 1
    half = stats.t.ppf(0.975, 5) * math.sqrt(
        5 / 6 * sum((value - np.mean(without)) ** 2 for value in without)
    )
    mean = result.test.mean()
    assert (result.low, result.high) == pytest.approx((mean - half, mean + half))
    for seeds, spread in ((2, 1.0), (5, 0.0)):  # too few seeds; no spread
        few = select(validation.iloc[:seeds], test.iloc[:seeds] * spread)
        assert math.isnan(few.low)
        assert math.isnan(few.high)


def test_the_interval_covers_what_the_rule_is_worth() -> None:
    """600 studies of 5 seeds and 4 alike arms, validation and test correlated by 0.8, as where
    choices matter. SD / √n of the chosen values would cover 90 %.
    """
    chance = np.random.default_rng(1)
    covered, naive = [], []
    for _ in range(600):
        test = chance.normal(size=(5, 4))
        validation = 0.8 * test + 0.6 * chance.normal(size=(5, 4))
        result = select(pd.DataFrame(validation), pd.DataFrame(test))
        covered.append(result.low <= 0 <= result.high)
        naive.append(abs(result.test.mean()) <= stats.t.ppf(0.975, 4) * result.test.sem())
    assert np.mean(covered) >= 0.94
    assert np.mean(naive) <= 0.93


def text(trials: pd.DataFrame) -> dict[str, dict[str, str]]:
    (table,) = selected_tables(trials)
    return {
        title: dict(zip(table.columns, (entry.text for entry in entries), strict=True))
        for title, entries in table.rows
    }


def test_gamma_is_chosen_by_validation_images_of_the_other_seeds() -> None:
    """γ = 0 is a candidate, cross-entropy is not; both stand beside, over the same seeds."""
    validation = {"ce": [1.0] * 3, "0": [0.2] * 3, "0.001": [0.9, 0.1, 0.8], "0.01": [0.5, 0.6, 0.5]}
    test = {"ce": [0.7, 0.8, 0.9], "0": [0.3] * 3, "0.001": [0.1, 0.2, 0.3], "0.01": [0.4, 0.5, 0.6]}

    def made() -> pd.DataFrame:
        return frame(
            {
                config(arm, seed, val_fraction=0.1): {
                    "val_acc": validation[arm][seed],
                    "test_acc": test[arm][seed],
                }
                for arm in test
                for seed in range(3)
            }
        )

    # Without seed 0: 0.45 and 0.55, so 0.01; without 1: 0.85 and 0.5, so 0.001; without 2: 0.5 and 0.55.
    (row,) = text(made()).values()
    assert row == {
        "Selected": "40.0",  # of 0.4, 0.2, 0.6
        "95 % interval": row["95 % interval"],
        "n": "3",
        "γ (seeds)": "10⁻² (2 of 3), 10⁻³ (1 of 3)",
        "CE": "80.0",
        "γ = 0": "30.0",
        "Best on test (optimistic)": "50.0",
        "γ (best)": "10⁻²",
    }
    (choice,) = choices(made())
    low, high = max(choice.selected.low, 0), min(choice.selected.high, 1)
    assert row["95 % interval"] == f"{100 * low:.1f} to {100 * high:.1f}"
    validation["0"] = [0.7] * 3
    (row,) = text(made()).values()
    # 0.7 beats all means but 0.85 of 10⁻³ without seed 1.
    assert (row["Selected"], row["γ (seeds)"]) == ("26.7", "0 (2 of 3), 10⁻³ (1 of 3)")
    # The control with one γ > 0 is a choice as well.
    for arm in (validation, test):
        del arm["0.01"]
    (row,) = text(made()).values()
    assert row["γ (seeds)"] == "0 (2 of 3), 10⁻³ (1 of 3)"
    assert "Left out" not in selected_tables(made())[0].caption


def test_gamma_is_chosen_among_arms_that_differ_in_nothing_else() -> None:
    """Two γ with and without unlabelled images: two choices, and the seed that one arm lacks is named."""
    made = {
        config(arm, seed, dataset="stl10", val_fraction=0.1, unlabeled_size=size): {
            "val_acc": 0.5 + 0.01 * seed + (arm == "0.01") * 0.1,
            "test_acc": 0.6 + 0.01 * seed + size / 100_000,
        }
        for size in (0, 5000)
        for arm in ("0", "0.001", "0.01")
        for seed in range(3)
    }
    lacking = next(t for t in made if (t.unlabeled_size, t.seed, t.gamma) == (0, 1, 0.001))
    trials = frame({**made, lacking: None})
    read = {
        title: [row[name] for name in ("Selected", "95 % interval", "n", "γ (seeds)", "CE", "γ = 0")]
        for title, row in text(trials).items()
    }
    assert read == {  # of one cell, which need not be named
        "unlabeled_size=0": ["61.0", "–", "2", "10⁻² (2 of 2)", "–", "61.0"],
        # One arm is always chosen: mean ± 4.303 x 1 / √3.
        "unlabeled_size=5000": ["66.0", "63.5 to 68.5", "3", "10⁻² (3 of 3)", "–", "66.0"],
    }
    assert selected_tables(trials)[0].caption.endswith("Left out where an arm lacks them: seed 1.")
    fewer = trials[(trials["gamma"] == 0) | (trials["unlabeled_size"] == 7)]
    assert selected_tables(fewer) == []
