"""Sign-flip tests, of single arms and joint, against loops over all patterns and by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.stats.paired import compare
from analysis.stats.sign_flips import sign_flips


def step_down(d: np.ndarray) -> list[float]:
    """The joint p-values by the definition: scipy's |t| of every pattern, arm by arm from the largest."""
    observed = np.abs(stats.ttest_1samp(d, 0).statistic)
    patterns = np.array(list(itertools.product((1, -1), repeat=len(d))))
    t = np.abs(stats.ttest_1samp(patterns[:, :, None] * d, 0, axis=1).statistic)  # patterns × arms
    order = np.argsort(-observed)
    p, before = [0.0] * d.shape[1], 0.0
    for j, arm in enumerate(order):
        largest = t[:, order[j:]].max(axis=1)
        before = max(before, np.mean(largest >= observed[arm] * (1 - 1e-9)))
        p[arm] = before
    return p


@pytest.mark.parametrize(("n", "m"), [(3, 1), (4, 3), (6, 4), (8, 2)])
def test_against_every_pattern(n: int, m: int) -> None:
    for seed in range(5):
        chance = np.random.default_rng(seed)
        d = chance.normal(size=(n, 1)) + chance.normal(size=(n, m)) * [1, 5, 0.1, 2][:m] + 0.7
        found = sign_flips(d)
        assert found["p_sign_flip_joint"] == pytest.approx(step_down(d), abs=1e-12)
        single = [step_down(d[:, [arm]])[0] for arm in range(m)]
        assert found["p_sign_flip"] == pytest.approx(single, abs=1e-12)
        assert (found["p_sign_flip_joint"] >= found["p_sign_flip"] - 1e-12).all()


def test_six_seeds_are_enough_for_any_number_of_arms() -> None:
    """Where every arm wins every seed, its joint p is 2 / 2⁶; Holm over 20 would make it 0.625."""
    d = np.random.default_rng(0).uniform(1, 2, size=(6, 20))
    found = sign_flips(d)
    assert found["p_sign_flip_joint"] == pytest.approx(2 / 2**6)
    assert found["p_sign_flip"] == pytest.approx(2 / 2**6)


def test_ties_of_sums_count() -> None:
    """0.1 + 0.2 - 0.3 is not zero in floating point, and the same sum in another order is another number."""
    assert sign_flips(np.array([[0.1], [0.2], [-0.3]]))["p_sign_flip"] == pytest.approx([1.0])
    assert sign_flips(np.array([[0.1], [0.2], [0.3]]))["p_sign_flip"] == pytest.approx([0.25])
    # Arms that are multiples of each other have equal statistics, and equal p-values.
    one = np.array([0.3, 0.1, 0.2, -0.1])
    found = sign_flips(np.column_stack([one, 3 * one, -0.7 * one, one[::-1]]))
    assert len({round(p, 12) for p in found["p_sign_flip_joint"][:3]}) == 1


def test_arms_without_spread_or_difference_have_a_p() -> None:
    """A constant difference is as extreme as one can be. None at all, or a rounding error, says nothing."""
    noise = np.array([1e-17, 0.0, -1e-17, 0.0])
    found = sign_flips(np.column_stack([np.full(4, 0.2), np.zeros(4), noise]))
    assert found["p_sign_flip"].tolist() == [2 / 2**4, 1, 1]
    assert found["p_sign_flip_joint"].tolist() == [2 / 2**4, 1, 1]
    for empty in (np.zeros((0, 3)), np.zeros((3, 0))):
        assert np.isnan(sign_flips(empty)["p_sign_flip_joint"]).all()


def test_many_arms_are_compared_in_parts() -> None:
    """More than sixteen, where the largest statistic is carried from one part to the next."""
    d = np.random.default_rng(1).normal(size=(5, 37)) + 0.5
    assert sign_flips(d)["p_sign_flip_joint"] == pytest.approx(step_down(d), abs=1e-12)


def test_missing_arms_keep_their_share_of_the_level() -> None:
    values = pd.DataFrame(np.random.default_rng(2).normal(size=(6, 3)), columns=["ce", "a", "b"])
    values[["a", "b"]] += 4
    whole = compare(values, "ce")
    assert whole["p_sign_flip_joint"].tolist() == [2 / 2**6] * 2
    table = compare(values.assign(b=np.nan), "ce")
    assert table["p_sign_flip_joint"].to_numpy() == pytest.approx([4 / 2**6, np.nan], nan_ok=True)


def test_above_sixteen_seeds_patterns_are_drawn() -> None:
    """Close to the normal distribution of the largest of two independent arms."""
    d = np.random.default_rng(3).normal(loc=[0.35, 0.0], size=(40, 2))
    t = np.abs(stats.ttest_1samp(d, 0).statistic)
    found = sign_flips(d)["p_sign_flip_joint"]
    assert found[0] == pytest.approx(1 - (1 - 2 * stats.t.sf(t[0], 39)) ** 2, abs=0.01)


@pytest.mark.parametrize("noise", ["normal", "t with 2 df"])
def test_a_family_makes_a_false_claim_in_five_per_cent_at_most(noise: str) -> None:
    """800 families of four arms that share a baseline, n = 7: one differs truly, three do not."""
    chance = np.random.default_rng(4)
    false = []
    for _ in range(800):
        values = chance.normal(size=(7, 5)) if noise == "normal" else chance.standard_t(2, size=(7, 5))
        d = values[:, 1:] - values[:, :1]
        d[:, 0] += 3
        false.append((sign_flips(d)["p_sign_flip_joint"][1:] <= 0.05).any())
    assert np.mean(false) <= 0.075  # 5 % and three standard errors
