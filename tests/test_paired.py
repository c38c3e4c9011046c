"""Comparisons of arms, and effects of factors, against numbers computed otherwise, and by simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.stats import paired
from analysis.stats.factors import effects
from analysis.stats.paired import best, common_seeds, compare, describe_differences, holm, pool


def cell(n: int, arms: int = 4, *, seed: int = 0, effect: float = 0.0) -> pd.DataFrame:
    """A cell whose arms share their seeds' luck; `effect` is of every arm, in SD of a difference."""
    chance = np.random.RandomState(seed)
    luck = chance.normal(size=(n, 1))
    noise = chance.normal(size=(n, arms + 1)) / math.sqrt(2)  # so that a difference has SD 1
    noise[:, 1:] += effect
    return pd.DataFrame(luck + noise, columns=["ce", *(f"siamese-{i}" for i in range(arms))])


def described(values: pd.DataFrame) -> dict[str, np.ndarray]:
    """As `compare` with `ce`, without a frame: three times as fast."""
    return describe_differences(values.to_numpy()[:, 1:] - values.to_numpy()[:, :1])


def test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, SD 1, standard error 1/√3, t = 2√3 with two degrees of freedom."""
    values = pd.DataFrame({"ce": [0.0, 0.0, 0.0], "a": [1.0, 2.0, 3.0]})
    row = compare(values, "ce").loc["a"]
    assert (row["n"], row["wins"], row["delta"]) == (3, 3, 2.0)
    assert row["p_t"] == pytest.approx(0.07417990022744862, rel=1e-12)
    half = 4.302652729911275 / math.sqrt(3)  # the quantile of t with two degrees of freedom
    assert (row["delta_low"], row["delta_high"]) == pytest.approx((2 - half, 2 + half), rel=1e-9)
    assert row["p_sign_flip"] == row["p_floor"] == 0.25
    assert row["p_holm"] == row["p_t"]  # one arm
    assert row["delta_low_holm"] == pytest.approx(row["delta_low"])


@pytest.mark.parametrize("n", [2, 3, 5, 12, 20])
def test_against_scipy(n: int) -> None:
    values = cell(n, seed=n, effect=0.5)
    table = compare(values, "ce")
    for arm, row in table.iterrows():
        test = stats.ttest_rel(values[arm], values["ce"])
        interval = test.confidence_interval(0.95)
        assert row["p_t"] == pytest.approx(test.pvalue, rel=1e-9)
        assert (row["delta_low"], row["delta_high"]) == pytest.approx(tuple(interval), rel=1e-9)
        flips = stats.permutation_test(
            ((values[arm] - values["ce"]).to_numpy(),),
            np.mean,
            permutation_type="samples",
            n_resamples=np.inf if n <= 12 else 9999,
            rng=np.random.default_rng(1),
        )
        assert row["p_sign_flip"] == pytest.approx(flips.pvalue, abs=1e-12 if n <= 12 else 0.02)
        assert row["wins"] == (values[arm] > values["ce"]).sum()


def test_holm_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """In order: 4 x 0.005, 3 x 0.01, 2 x 0.03, and then no smaller than the one before."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels calls it each time, a second in a long run
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.01, np.nan])).tolist() == pytest.approx([0.02, math.nan], nan_ok=True)
    assert len(holm(np.array([]))) == 0
    for seed in range(20):
        p = np.random.RandomState(seed).uniform(size=7) ** 3
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_an_adjusted_interval_leaves_out_zero_exactly_where_p_does(seed: int) -> None:
    table = compare(cell(6, seed=seed, effect=1.2), "ce")
    outside = (table["delta_low_holm"] > 0) | (table["delta_high_holm"] < 0)
    assert (outside == (table["p_holm"] <= 0.05)).all()
    assert (table["delta_low_holm"] <= table["delta_low"] + 1e-12).all()
    assert (table["delta_high_holm"] >= table["delta_high"] - 1e-12).all()


def test_the_family_does_not_shrink_because_trials_fail() -> None:
    values = cell(5, arms=2, effect=2.0)
    alone = compare(values, "ce").loc["siamese-0"]
    values["siamese-1"] = np.nan
    table = compare(values, "ce")
    assert table.loc["siamese-0", "p_holm"] == pytest.approx(2 * alone["p_t"])
    missing = table.loc["siamese-1"]
    assert (missing["n"], missing["wins"]) == (0, 0)
    assert missing.drop(["n", "wins", "rule"]).isna().all()


def test_few_seeds_and_no_spread_say_nothing() -> None:
    one = compare(cell(1), "ce").loc["siamese-0"]
    assert one["n"] == 1
    assert one[["delta_low", "p_t", "p_holm"]].isna().all()
    assert (one["p_sign_flip"], one["p_floor"]) == (1.0, 1.0)
    constant = compare(pd.DataFrame({"ce": [0.1, 0.2, 0.3], "a": [0.2, 0.3, 0.4]}), "ce").loc["a"]
    assert constant["delta"] == pytest.approx(0.1)
    assert constant[["delta_low", "delta_low_holm", "p_t", "p_holm"]].isna().all()
    assert constant["p_sign_flip"] == 0.25
    assert len(compare(cell(3)[["ce"]], "ce")) == 0
    nothing = compare(cell(3).iloc[:0], "ce")
    assert nothing["n"].tolist() == [0] * 4


def test_unequal_seeds_are_refused_or_dropped() -> None:
    values = cell(4, arms=2)
    values.loc[2, "siamese-1"] = np.nan
    with pytest.raises(ValueError, match="no result for a seed"):
        compare(values, "ce")
    left, dropped = common_seeds(values)
    assert list(left.index) == [0, 1, 3]
    assert dropped == [2]
    values["siamese-1"] = np.nan  # missing as a whole is no reason to drop everything
    left, dropped = common_seeds(values)
    assert (len(left), dropped) == (4, [])


def test_pooled_over_cells() -> None:
    cells = [cell(5, seed=seed, effect=1.0) for seed in range(3)]
    values, dropped = pool(cells)
    row = compare(values, "ce").loc["siamese-1"]
    by_seed = np.mean([c["siamese-1"] - c["ce"] for c in cells], axis=0)
    test = stats.ttest_1samp(by_seed, 0)
    assert (row["n"], dropped) == (5, [])
    assert (row["delta"], row["p_t"]) == pytest.approx((by_seed.mean(), test.pvalue))
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_a_seed_that_one_cell_lacks_is_left_out_everywhere() -> None:
    cells = [cell(5, seed=seed, effect=1.0) for seed in range(3)]
    cells[1].loc[3, "ce"] = np.nan
    values, dropped = pool([cells[0], cells[1], cells[2].drop(index=4)])
    assert (list(values.index), dropped) == ([0, 1, 2], [3, 4])


def test_an_arm_that_one_cell_lacks_as_a_whole_takes_no_seed_from_the_others() -> None:
    cells = [cell(5, seed=seed) for seed in range(2)]
    cells[0]["siamese-2"] = np.nan
    values, dropped = pool(cells)
    assert (len(values), dropped) == (5, [])
    assert values["siamese-2"].isna().all()
    assert values["siamese-1"].notna().all()
    assert compare(values, "ce")["n"].to_dict()["siamese-2"] == 0


def test_baselines_of_their_own() -> None:
    """One family, of which each arm is compared with another: the adjustment is over all of them."""
    values = cell(6, seed=3, effect=0.4)
    table = compare(values, {"siamese-1": "siamese-0", "siamese-3": "siamese-2"})
    assert list(table.index) == ["siamese-1", "siamese-3"]
    assert table.loc["siamese-3", "delta"] == pytest.approx(
        (values["siamese-3"] - values["siamese-2"]).mean()
    )
    assert table["p_holm"].min() == pytest.approx(2 * table["p_t"].min())


def powerset(seeds: int, spread: float = 0.0) -> pd.DataFrame:
    """rrc adds 3, hflip 1, and 2 more together; seeds differ."""
    chance = np.random.RandomState(0)
    rows = []
    for seed, rrc, hflip, solarize in itertools.product(range(seeds), *[(False, True)] * 3):
        value = 10 * seed + 3 * rrc + hflip + 2 * (rrc and hflip) + spread * chance.normal()
        rows.append({"seed": seed, "rrc": rrc, "hflip": hflip, "solarize": solarize, "value": value})
    return pd.DataFrame(rows)


def test_effects_by_hand() -> None:
    """On average over hflip, rrc adds 3 + 2/2; rrc adds 2 more with hflip than without."""
    table = effects(powerset(3, spread=1e-6), ["rrc", "hflip", "solarize"])
    assert table.index.tolist() == ["rrc", "hflip", "solarize", "rrc:hflip", "rrc:solarize", "hflip:solarize"]
    assert table["effect"].to_numpy() == pytest.approx([4, 2, 0, 2, 0, 0], abs=1e-5)
    assert (table["low"] < table["effect"]).all()
    assert (table["p_holm"] >= table["p"]).all()


def test_effects_against_contrasts_of_cell_means() -> None:
    """An effect is a difference of means within each seed, tested by scipy over seeds."""
    factors = ["rrc", "hflip", "solarize"]
    values = powerset(4, spread=1.0)
    values.loc[values["rrc"], "value"] += values["seed"] ** 2  # seeds react differently
    table = effects(values, factors)
    by = values.groupby(["seed", *factors])["value"].mean()
    for a, b in itertools.combinations(factors, 2):
        mean = by.groupby(["seed", a, b]).mean().unstack([a, b])  # noqa: PD010  # nothing to aggregate
        change = (mean[True, True] - mean[False, True]) - (mean[True, False] - mean[False, False])
        main = by.groupby(["seed", a]).mean().unstack()  # noqa: PD010
        for term, contrast in ((f"{a}:{b}", change), (a, main[True] - main[False])):
            test = stats.ttest_1samp(contrast, 0)
            row = table.loc[term]
            assert (row["n"], row["effect"]) == (4, pytest.approx(contrast.mean()))
            assert row["p"] == pytest.approx(test.pvalue)
            assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])
    assert (table["claimed"] == (table["p_holm"] <= 0.05)).all()


def test_two_seeds_claim_no_effect_however_alike() -> None:
    table = effects(powerset(2, spread=1e-6), ["rrc", "hflip", "solarize"])
    assert table.loc["rrc", "p_holm"] < 0.001
    assert not table["claimed"].any()


@pytest.mark.parametrize("reaction", [0.0, 1.0])
def test_effects_cover_where_seeds_react_differently(reaction: float) -> None:
    """200 studies of 3 seeds; a residual of all trials together would cover 79 % with reactions of 1 SD."""
    chance, covered, claims = np.random.default_rng(6), [], []
    switches = np.array(list(itertools.product((False, True), repeat=2)))
    for _ in range(200):
        seeds = np.repeat(np.arange(3), 4)
        on = np.tile(switches, (3, 1))
        value = chance.normal(size=12) + ((on - 0.5) * reaction * chance.normal(size=(3, 2))[seeds]).sum(
            axis=1
        )
        trials = pd.DataFrame({"seed": seeds, "value": value, "a": on[:, 0], "b": on[:, 1]})
        table = effects(trials, ["a", "b"])
        covered.append(((table["low"] <= 0) & (table["high"] >= 0)).to_numpy()[:2])
        claims.append(table["claimed"].any())
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(claims) <= 0.09


@pytest.mark.parametrize("fault", ["missing", "doubled", "no value", "one seed of one factor"])
def test_effects_take_a_complete_powerset(fault: str) -> None:
    values, factors = powerset(2, spread=1.0), ["rrc", "hflip", "solarize"]
    if fault == "missing":
        values = values.iloc[1:]
    elif fault == "doubled":
        values = pd.concat([values, values.iloc[:1]])
    elif fault == "no value":
        values.loc[0, "value"] = np.nan
    else:
        values, factors = values[(values["seed"] == 0) & ~values["hflip"] & ~values["solarize"]], ["rrc"]
    with pytest.raises(
        ValueError, match=r"every combination of rrc, hflip, solarize once|at least two seeds, got 1"
    ):
        effects(values, factors)


def test_the_best_arm_and_those_that_read_the_same() -> None:
    """80.04 and 79.96 are both printed as 80.0; 79.94 is not. The same at any number of seeds."""
    for n in (1, 3, 12):
        means = {"ce": 0.7994, "a": 0.7996, "b": 0.8004, "c": 0.5, "missing": math.nan}
        luck = np.linspace(-0.1, 0.1, n) if n > 1 else np.zeros(1)
        values = pd.DataFrame({arm: mean + luck for arm, mean in means.items()})
        assert best(values) == ["b", "a"]
    assert best(values.iloc[:0]) == []
    assert best(values[["ce"]]) == ["ce"]


def test_seventeen_seeds_have_the_floor_of_random_patterns() -> None:
    values = pd.DataFrame({"ce": np.zeros(17), "arm": np.linspace(1, 2, 17)})
    row = compare(values, "ce").loc["arm"]
    assert row["p_floor"] == pytest.approx(2e-5)
    assert row["p_floor"] <= row["p_sign_flip"] == row["p_sign_flip_joint"] < 1e-4


def test_prediction_interval() -> None:
    values = np.array([1.0, 2.0, 3.0])
    half = 4.302652729911275 * math.sqrt(4 / 3)
    assert paired.prediction_interval(values) == pytest.approx((2 - half, 2 + half))
    assert all(map(math.isnan, paired.prediction_interval(values[:2])))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_null_cells(n: int) -> None:
    """1,400 cells without an effect each: claims in 7 % of them at most; 95 % intervals cover 93 to 97 %."""
    tables = [described(cell(n, seed=seed)) for seed in range(1400)]
    claims = np.mean([(table["p_holm"] <= 0.05).any() for table in tables])
    covered = np.mean([((table["delta_low"] <= 0) & (table["delta_high"] >= 0)).mean() for table in tables])
    assert claims <= 0.07
    assert 0.93 <= covered <= 0.97
    flips = np.mean([(table["p_sign_flip"] <= 0.05).mean() for table in tables])
    assert flips <= 0.055


def test_true_effects_are_found() -> None:
    """Two standard deviations of a difference at n = 5: a claim in 60 % of the cells at least."""
    tables = [described(cell(5, seed=seed, effect=2.0)) for seed in range(500)]
    assert np.mean([(table["p_holm"] <= 0.05).any() for table in tables]) >= 0.6
