"""p-values and intervals for several looks, against scipy and against simulation."""

import numpy as np
import pytest
from scipy import integrate, stats

from analysis.stats.paired import adjust, verdicts
from analysis.stats.sequential import (
    MIXTURE,
    SHARE_OF_OTHERS,
    Rule,
    always_valid_interval,
    always_valid_p,
    nominal_level,
    range_interval,
    range_p,
    rule_for,
    t_interval,
    t_p,
)
from search_spaces.seeds import SeedPlan

RULES = (Rule(), Rule(name="range", low=3, high=12), Rule(name="anytime"))


def drawn(n: int = 12, m: int = 5, mean: float = 0.8) -> np.ndarray:
    return np.random.default_rng(1).normal(mean, 1, (n, m))


def test_the_t_rule_is_scipys() -> None:
    d = drawn()
    expected = stats.ttest_1samp(d, 0)
    assert t_p(d) == pytest.approx(expected.pvalue, rel=1e-12)
    low, high = t_interval(d, np.full(5, 0.03))
    interval = expected.confidence_interval(0.97)
    assert low == pytest.approx(interval.low, rel=1e-12)
    assert high == pytest.approx(interval.high, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_the_e_value_mixes_likelihood_ratios_of_t(n: int) -> None:
    """Of the t-statistic for an effect δ against none, over δ ~ N(0, 1 / c²), by numerical integration."""
    paths = np.random.default_rng(n).normal(0.7, 1, (n, 3))
    for d in paths.T:
        found = []
        for k in range(2, n + 1):
            t = d[:k].mean() / (d[:k].std(ddof=1) / np.sqrt(k))
            against = stats.t.pdf(t, k - 1)
            mixed, _ = integrate.quad(
                lambda effect, t=t, k=k: (
                    stats.nct.pdf(t, k - 1, effect * np.sqrt(k)) * stats.norm.pdf(effect, 0, MIXTURE**-0.5)
                ),
                -15,
                15,
                points=(-3, 0, 3),
                limit=300,
            )
            found.append(mixed / against)
        assert always_valid_p(d[:, None])[0] == pytest.approx(min(1, 1 / max(1, *found)), rel=1e-5)


def test_the_interval_holds_what_no_look_has_excluded() -> None:
    d, level = drawn(), np.full(5, 0.05)
    low, high = always_valid_interval(d, level)
    for bound, outwards in ((low, -1e-6), (high, 1e-6)):
        assert (always_valid_p(d - bound - outwards) <= 0.05).all()
        assert (always_valid_p(d - bound + outwards) > 0.05).all()
    low, high = range_interval(d, level, 3, 12)
    for bound, outwards in ((low, -1e-6), (high, 1e-6)):
        assert (range_p(d - bound - outwards, 3, 12) <= 0.05).all()
        assert (range_p(d - bound + outwards, 3, 12) > 0.05).all()


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [(3, 5, 0.0230), (3, 10, 0.0123), (3, 20, 0.0078), (5, 10, 0.0175)],
)
def test_the_constant_level_of_a_range(low: int, high: int, level: float) -> None:
    """As found with 200,000 other paths; of a single look it is the level itself."""
    assert nominal_level(0.05, low, high) == pytest.approx(level, rel=0.02)
    assert nominal_level(0.05, high, high) == 0.05
    assert nominal_level(0.01, low, high) < nominal_level(0.05, low, high) / 3


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_an_interval_excludes_zero_where_p_says_so(rule: Rule) -> None:
    d = drawn(m=40, mean=0.5)
    p = rule.p(d)
    for level in (0.05, 0.01):
        low, high = rule.interval(d, np.full(40, level))
        assert ((low > 0) | (high < 0)).tolist() == (p <= level).tolist()
        assert (low <= high).all()


@pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: rule.name)
def test_a_claim_stands_when_seeds_are_added(rule: Rule) -> None:
    d = drawn(m=200, mean=0.6)
    p = np.array([rule.p(d[:n]) for n in range(3, 13)])
    assert (np.diff(p, axis=0) <= 0).all()


def test_a_claim_ends_when_the_mean_changes_its_sign() -> None:
    d = np.array([0.0200, 0.0201, 0.0199, -0.2])[:, None]
    rule = Rule(name="range", low=3, high=8)
    assert verdicts(adjust(d[:3], rule), None) == ["claimed"]
    after = adjust(d, rule)
    assert after["p_holm"] < 0.01  # of all looks
    assert (after["delta_low_holm"] + after["delta_high_holm"]) / 2 == pytest.approx(d.mean())  # of the last
    assert after["delta_low_holm"] < 0 < after["delta_high_holm"]
    assert verdicts(after, 5) == ["undecided"]


def test_fewer_seeds_than_a_range_begins_with_are_no_look() -> None:
    d = drawn(m=20)
    rule = Rule(name="range", low=5, high=8)
    assert np.isnan(rule.p(d[:4])).all()
    low, high = rule.interval(d[:4], np.full(20, 0.05))
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()
    assert not np.isnan(rule.p(d[:5])).any()


def test_no_spread_has_no_test() -> None:
    d = np.column_stack([np.full(6, 0.1), np.zeros(6), np.arange(6.0)])
    for rule in RULES:
        low, high = rule.interval(d, np.full(3, 0.05))
        assert np.isnan(rule.p(d)).tolist() == [True, True, False]
        assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]
        assert np.isnan(rule.p(d[:1])).all()


def test_what_was_planned_decides_which_rule_holds() -> None:
    fixed, declared = SeedPlan(low=5, high=5), SeedPlan(low=3, high=12)
    assert rule_for(None, 4).name == "t"
    assert [rule_for(fixed, n).name for n in (3, 5, 6)] == ["anytime", "t", "anytime"]
    names = ["anytime", "range", "range", "range", "anytime"]
    assert [rule_for(declared, n).name for n in (2, 3, 7, 12, 13)] == names


def test_looks_outside_of_the_plan_share_a_tenth_of_the_level() -> None:
    d = drawn(m=50)
    expected = np.minimum(always_valid_p(d) / SHARE_OF_OTHERS, 1)
    assert Rule(name="anytime").p(d).tolist() == expected.tolist()


def test_verdicts() -> None:
    columns = {
        "n": np.array([5, 5, 5, 5, 0, 2, 2]),
        "p_holm": np.array([0.01, 0.05, 0.3, 0.3, np.nan, 0.001, 0.9]),
        "delta_low_holm": np.array([0.01, -0.02, -0.004, -0.004, np.nan, 0.02, -0.001]),
        "delta_high_holm": np.array([0.02, -1e-9, 0.0049, 0.006, np.nan, 0.03, 0.001]),
    }
    expected = [
        "claimed",
        "claimed",
        "small",
        "undecided",
        "missing",
        "undecided",
        "undecided",
    ]  # n = 2: never
    assert verdicts(columns, 0.5) == expected
    assert verdicts(columns, None)[2] == "undecided"


@pytest.mark.parametrize("plan", [SeedPlan(low=3, high=3), SeedPlan(low=3, high=12)], ids=str)
def test_few_false_claims_whenever_one_looks(plan: SeedPlan) -> None:
    """400 cells without a true difference, four arms, looks at 3, 4, …, 12: 5.5 % at most, give or take."""
    chance = np.random.default_rng(3)
    false = 0
    for _ in range(400):
        values = chance.normal(size=(12, 5))
        d = values[:, 1:] - values[:, :1]
        false += any("claimed" in verdicts(adjust(d[:n], rule_for(plan, n)), None) for n in range(3, 13))
    assert false <= stats.binom.ppf(0.999, 400, 0.055)
