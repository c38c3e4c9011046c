"""What several cells say: random effects, probability of improvement, augmentations one by one."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.proportion import proportion_confint
from synthetic import config, frame

from analysis.render.table import Table, to_latex
from analysis.sections.findings import findings
from analysis.sections.overview import overview
from analysis.stats.across_cells import across_cells
from analysis.stats.improvement import clopper_pearson, improvement, improvement_over_cells
from analysis.stats.one_by_one import one_by_one
from analysis.stats.paired import compare
from analysis.stats.pooling import pooled_comparisons
from analysis.stats.results import Results
from trainables.catalogue import TRANSFORMS
from trainables.trial import TrialConfig


def differences(k: int, n: int, tau: float, shared: float, chance: np.random.Generator) -> np.ndarray:
    """Paired differences (cells, seeds) with noise of SD 1, cells of SD `tau`, seeds of SD `shared`."""
    cells, seeds = tau * chance.normal(size=(k, 1)), shared * chance.normal(size=(1, n))
    return cells + seeds + chance.normal(size=(k, n))


@pytest.mark.parametrize(
    ("k", "n", "tau", "shared"), [(4, 5, 2, 1), (10, 3, 1, 0), (5, 6, 0, 0), (6, 4, 0, 3)]
)
def test_random_effects_against_an_analysis_of_variance(k: int, n: int, tau: float, shared: float) -> None:
    d = differences(k, n, tau, shared, np.random.default_rng(k))
    rows = [{"cell": c, "seed": s, "d": d[c, s]} for c, s in itertools.product(range(k), range(n))]
    table = anova_lm(smf.ols("d ~ C(cell) + C(seed)", pd.DataFrame(rows)).fit())
    of_cells, of_seeds, of_rest = table["sum_sq"] / table["df"]
    total = of_cells + of_seeds - of_rest
    freedom = total**2 / ((np.array([of_cells, of_seeds, of_rest]) ** 2 / table["df"]).sum())
    if total < max(of_cells, of_seeds):
        total, freedom = max((of_cells, k - 1), (of_seeds, n - 1))
    error = math.sqrt(total / (k * n))
    half = stats.t.ppf(0.975, max(freedom, min(k, n) - 1)) * error
    new = stats.t.ppf(0.975, k - 1) * math.sqrt(of_cells / n + error**2)
    assert across_cells(d) == pytest.approx(
        {
            "general_low": d.mean() - half,
            "general_high": d.mean() + half,
            "tau": math.sqrt(max(0, of_cells - of_rest) / n),
            "i_squared": max(0, 1 - of_rest / of_cells),
            "new_low": d.mean() - new,
            "new_high": d.mean() + new,
        }
    )


def test_too_little_for_cells_in_general() -> None:
    for d in (np.ones((2, 5)), np.ones((4, 1)), np.zeros((4, 0)), np.full((4, 5), 0.3)):
        assert all(map(math.isnan, across_cells(d).values()))


@pytest.mark.parametrize(("tau", "shared"), [(0.0, 0.0), (0.3, 0.7), (1.0, 0.0), (1.0, 0.7)])
def test_cells_in_general_are_covered(tau: float, shared: float) -> None:
    """1,000 studies of 4 cells and 5 seeds; pooled over its cells alone, one with τ = 1 SD covers 77 %."""
    chance = np.random.default_rng(8)
    mean, new, pooled = [], [], []
    for _ in range(1000):
        d = differences(4, 5, tau, shared, chance)
        found = across_cells(d)
        mean.append(found["general_low"] <= 0 <= found["general_high"])
        new.append(found["new_low"] <= tau * chance.normal() <= found["new_high"])
        half = stats.t.ppf(0.975, 4) * stats.sem(d.mean(axis=0))
        pooled.append(abs(d.mean()) <= half)
    assert np.mean(mean) >= 0.93
    assert np.mean(new) >= 0.93
    if tau and not shared:
        assert np.mean(pooled) <= 0.82


def test_exact_intervals_of_a_share() -> None:
    for n in (1, 3, 10):
        for wins in range(n + 1):
            low, high = clopper_pearson(np.array(float(wins)), np.array(float(n)))
            exact = stats.binomtest(wins, n).proportion_ci(0.95, "exact")
            assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_probability_of_improvement() -> None:
    """A tie is half a win. One half is excluded exactly where the sign test excludes it."""
    d = np.array([[1.0, 0.0], [2.0, 1e-17], [-1.0, 3.0]])
    assert improvement(d)["improvement"] == pytest.approx([2 / 3, 2 / 3])
    assert np.isnan(improvement(d[:0])["improvement_low"]).all()
    for n, wins in itertools.product((5, 6, 9), range(10)):
        found = improvement(np.where(np.arange(n) < wins, 1.0, -1.0)[:, None])
        outside = not found["improvement_low"][0] <= 0.5 <= found["improvement_high"][0]
        assert outside == (stats.binomtest(min(wins, n), n).pvalue <= 0.05)


def test_improvement_over_cells_counts_what_seeds_know() -> None:
    chance = np.random.default_rng(9)
    d = differences(6, 5, 0.5, 1, chance) + 0.3
    by_seed = (d > 0).mean(axis=0)
    share = by_seed.mean()
    effective = share * (1 - share) / (by_seed.var(ddof=1) / 5)
    effective *= (stats.t.ppf(0.975, 29) / stats.t.ppf(0.975, 4)) ** 2
    assert effective < 30
    expected = proportion_confint(share * effective, effective, method="beta")
    assert improvement_over_cells(d) == pytest.approx((share, *expected))
    # All agree: no more is known than from as many comparisons as seeds.
    assert improvement_over_cells(np.ones((6, 5))) == pytest.approx((1, 0.025 ** (1 / 5), 1))
    # Seeds agree on their share: not more than all comparisons.
    even = np.tile([[1.0], [-1.0]], (2, 5))
    assert improvement_over_cells(even) == pytest.approx((0.5, *proportion_confint(10, 20, method="beta")))
    assert all(map(math.isnan, improvement_over_cells(d[:, :1])))


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_improvement_over_cells_is_covered(correlation: float) -> None:
    chance, covered = np.random.default_rng(10), []
    for _ in range(1000):
        d = 0.5 + math.sqrt(correlation) * chance.normal(size=(1, 5))
        d = d + math.sqrt(1 - correlation) * chance.normal(size=(4, 5))
        _, low, high = improvement_over_cells(d)
        covered.append(low <= stats.norm.cdf(0.5) <= high)
    assert np.mean(covered) >= 0.94


Made = dict[TrialConfig, float | None]


def study(
    subsets: list[tuple[str, ...]], arms: tuple[str, ...] = ("ce", "0", "0.01"), seeds: int = 5
) -> Made:
    """rrc adds 6 points, hflip 2; solarize costs the term 3."""
    chance = np.random.default_rng(11)
    made: Made = {}
    for subset, arm, seed in itertools.product(subsets, arms, range(seeds)):
        value = 0.5 + 0.01 * seed + 0.06 * ("rrc" in subset) + 0.02 * ("hflip" in subset)
        value -= 0.03 * ("solarize" in subset) * (arm == "0.01")
        made[config(arm, seed, augmentations=subset)] = value + 0.003 * chance.normal()
    return made


def left_out() -> list[tuple[str, ...]]:
    return [TRANSFORMS, *(tuple(name for name in TRANSFORMS if name != out) for out in TRANSFORMS)]


def tables(trials: pd.DataFrame) -> dict[str, Table]:
    return {table.name: table for table in overview(Results(trials))}


def test_the_rows_of_cells_in_general() -> None:
    trials = frame(study(left_out()))
    (pooled,) = pooled_comparisons(trials)
    row = pooled[pooled["baseline"] == "siamese-0"].iloc[0]
    wide = trials.set_index(["cell", "seed", "arm"])["test_acc"].unstack("arm")  # noqa: PD010
    d = (wide["siamese-0.01"] - wide["siamese-0"]).unstack("seed").to_numpy()  # noqa: PD010
    assert row[list(across_cells(d))].to_dict() == pytest.approx(across_cells(d))
    assert tuple(row[["improvement", "improvement_low", "improvement_high"]]) == pytest.approx(
        improvement_over_cells(d)
    )
    table = tables(trials)["pooled-0-general"]
    shown = dict(table.rows)["γ = 10⁻² − γ = 0"]
    found = {key: 100 * value for key, value in across_cells(d).items()}
    assert [entry.text.replace("−", "-") for entry in shown] == [
        f"{100 * d.mean():+.1f}",
        f"{found['general_low']:+.1f} to {found['general_high']:+.1f}",
        f"{found['tau']:.1f}",
        f"{found['i_squared']:.0f} %",
        f"{found['new_low']:+.1f} to {found['new_high']:+.1f}",
    ]
    assert r"$\tau$" in to_latex(table)
    two = frame(study(left_out()[:2]))
    assert not any("general" in name for name in tables(two))


def test_the_full_set_against_each_with_one_left_out() -> None:
    """By scipy and Holm's rule: for each arm a family of four."""
    trials = frame(study(left_out()))
    found = one_by_one(trials)
    assert set(found["design"]) == {"left out"}
    assert len(found) == 4 * 4  # three arms and γ = 10⁻² minus its control
    values = trials.set_index(["augmentations", "arm", "seed"])["test_acc"].unstack("seed")  # noqa: PD010
    full = "+".join(TRANSFORMS)
    for arm in ("ce", "siamese-0", "siamese-0.01"):
        rows = found[(found["arm_label"] == arm) & found["baseline_label"].isna()].set_index("augmentation")
        smaller = {out: "+".join(name for name in TRANSFORMS if name != out) for out in TRANSFORMS}
        tests = {
            out: stats.ttest_rel(values.loc[full, arm], values.loc[smaller[out], arm]) for out in smaller
        }
        ordered = sorted(TRANSFORMS, key=lambda out: tests[out].pvalue)
        adjusted = np.maximum.accumulate([(4 - i) * tests[out].pvalue for i, out in enumerate(ordered)])
        for out, p in zip(ordered, np.minimum(adjusted, 1), strict=True):
            row = rows.loc[out]
            assert (row["larger"], row["smaller"], row["n"]) == (full, smaller[out], 5)
            assert row["delta"] == pytest.approx(
                (values.loc[full, arm] - values.loc[smaller[out], arm]).mean()
            )
            assert (row["p_t"], row["p_holm"]) == pytest.approx((tests[out].pvalue, p))
    both = values.xs("siamese-0.01", level="arm") - values.xs("siamese-0", level="arm")
    row = found[found["baseline_label"].notna() & (found["augmentation"] == "solarize")].iloc[0]
    assert row["delta"] == pytest.approx((both.loc[full] - both.loc["rrc+hflip+grayscale"]).mean())


def test_one_by_one_for_people() -> None:
    trials = frame(study(left_out()))
    results = Results(trials)
    table = tables(trials)["left-out-0"]
    assert table.title == "digits · convnet: the full set minus each with one left out"
    shown = {title: entries[0].text for title, entries in table.rows}
    effect = results.one_by_one[0].iloc[0]["delta"]
    assert effect == pytest.approx(0.06, abs=0.005)
    assert shown["CE: rrc"] == f"{100 * effect:+.1f}"
    assert list(shown)[:4] == [f"CE: {name}" for name in TRANSFORMS]
    assert "with rrc+hflip+grayscale+solarize minus the same without the augmentation" in table.caption
    told = [sentence for sentence in findings(results) if sentence.startswith("One by one: ")]
    assert told[0].startswith(
        "One by one: the test accuracy of CE is higher with rrc+hflip+grayscale+solarize than with"
        " hflip+grayscale+solarize: +"
    )
    assert any(
        "no effect on the test accuracy of CE is shown for grayscale and solarize" in sentence
        for sentence in told
    )
    claims = int((results.one_by_one[0]["p_holm"] <= 0.05).sum())
    assert told[-1] == (
        f"One by one: in all, {claims} of 16 comparisons allow a claim, in 4 families that are each adjusted"
        " by themselves. If no arm truly differed, one of them would do so with a probability of up to 20 %."
    )
    assert set(results.frames) == {"summary.csv", "paired.csv", "pooled.csv", "one_by_one.csv"}


def test_each_added_to_none() -> None:
    trials = frame(study([(), *((name,) for name in TRANSFORMS)], arms=("ce",)))
    found = one_by_one(trials)
    assert found["design"].unique().tolist() == ["added"]
    assert found["augmentation"].tolist() == list(TRANSFORMS)
    assert set(found["smaller"]) == {"none"}
    assert found["larger"].tolist() == list(TRANSFORMS)
    caption = tables(trials)["added-0"].caption
    assert caption.startswith("Test accuracy with the augmentation that is named alone minus that with none,")
    told = findings(Results(trials))
    assert told[0].endswith("nothing is compared within cells.")
    assert told[1].startswith("One by one: the test accuracy of CE is higher with rrc than with none: +")


@pytest.mark.parametrize(
    "subsets",
    [
        [("rrc",), ("hflip",)],  # neither is more than the other
        [("rrc",), ("rrc", "hflip", "solarize")],  # they differ in two
        [(), ("rrc",), ("hflip",), ("rrc", "hflip")],  # every combination: main effects
    ],
)
def test_nothing_is_left_out_or_added(subsets: list[tuple[str, ...]]) -> None:
    trials = frame(study(subsets, arms=("ce",)))
    assert one_by_one(trials).empty
    assert not {"left-out-0", "added-0"} & tables(trials).keys()


def test_two_cells_are_compared_once() -> None:
    found = one_by_one(frame(study([("rrc",), ("rrc", "hflip")], arms=("ce",))))
    assert found[["design", "augmentation", "larger", "smaller"]].to_numpy().tolist() == [
        ["left out", "hflip", "rrc+hflip", "rrc"]
    ]


def test_missing_trials_cost_their_seed_or_their_row() -> None:
    made = study(left_out(), arms=("ce",))
    lacking = next(t for t in made if t.seed == 2 and t.augmentations == TRANSFORMS)
    without = TRANSFORMS[1:]
    gone = {t: None if t is lacking or t.augmentations == without else value for t, value in made.items()}
    found = one_by_one(frame(gone)).set_index("augmentation")
    assert found["n"].to_dict() == {"rrc": 0, "hflip": 4, "grayscale": 4, "solarize": 4}
    assert set(found["dropped"]) == {"2"}
    assert found["p_holm"].drop("rrc").min() == pytest.approx(4 * found["p_t"].min())
    assert tables(frame(gone))["left-out-0"].caption.endswith(
        "Left out, as a trial of them is missing: seed 2."
    )
    nothing = frame(dict.fromkeys(made))
    assert findings(Results(nothing)) == [
        "No arm has results for the same seeds as a baseline: nothing is compared."
    ]
    assert not any(name.startswith("left-out") for name in tables(nothing))


def test_compare_has_the_columns_of_improvement() -> None:
    values = pd.DataFrame({"ce": [0.5, 0.6, 0.7], "a": [0.6, 0.6, 0.6]})
    assert compare(values, "ce").loc["a", "improvement"] == pytest.approx(0.5)
