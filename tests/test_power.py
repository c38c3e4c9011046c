"""What n seeds find and how many a difference takes: against statsmodels, and as plans and reports say it."""

import math

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower
from synthetic import BEGAN, TAGS, config, frame

from analysis.sections.planned_power import power_lines
from analysis.sections.seeds_needed import seeds_section
from analysis.stats import power
from analysis.stats.power import detectable, paired_power, sd_interval, seeds_needed
from analysis.stats.results import Results
from analysis.stats.spreads import cells_with, results_of, spreads, with_relatives
from study.ledger.records import TrialRecord
from study.planning.forecast import Forecast, describe_time
from trainables.data import Sizes
from trainables.trial import TrialConfig


def integral(effect: float, n: int, level: float) -> float:
    """Power by scipy's quadrature over the sample's SD: given that, |t| is large where the mean is."""
    critical, shift = stats.t.isf(level / 2, n - 1), effect * math.sqrt(n)

    def found(chi: float) -> float:
        bound = critical * chi / math.sqrt(n - 1)
        beyond = stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)
        return float(beyond * stats.chi.pdf(chi, n - 1))

    ends = (0.0 if n < 5 else stats.chi.ppf(1e-13, n - 1)), stats.chi.isf(1e-13, n - 1)
    return float(integrate.quad(found, *ends, limit=200)[0])


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_power_is_that_of_statsmodels(n: int, level: float) -> None:
    for effect in (0.0, 0.2, 1.0, 3.0):
        theirs = TTestPower().power(effect, n, level)  # for a few arguments NaN, as scipy's noncentral t
        expected = integral(effect, n, level)
        assert paired_power(2.0, 2 * effect, n, level) == pytest.approx(expected, abs=1e-6)
        assert paired_power(2.0, -2 * effect, n, level) == pytest.approx(expected, abs=1e-6)
        assert math.isnan(theirs) or theirs == pytest.approx(expected, abs=1e-6)
    # Not by their solver, which NaN leads astray: 4.3 SD for n = 3 at 0.05 / 3, where 5.7 have 80 %.
    assert integral(detectable(1.3, n, level) / 1.3, n, level) == pytest.approx(0.8, abs=1e-6)


def test_power_where_scipys_distribution_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "nctdtr", lambda *_: math.nan)
    for n, effect in ((2, 3.0), (5, 1.0), (100, 0.2)):
        assert paired_power(1.0, effect, n, 0.05) == pytest.approx(integral(effect, n, 0.05), abs=1e-6)


def test_power_is_how_often_a_difference_is_found() -> None:
    """20,000 studies of five seeds."""
    d = np.random.default_rng(0).normal(1.5, 1.0, size=(20_000, 5))
    found = stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05
    assert paired_power(1.0, 1.5, 5, 0.05) == pytest.approx(found.mean(), abs=0.01)


def test_seeds_needed() -> None:
    """Of the quickstart's differences between γ = 0 and cross-entropy with eight seeds: SD 1.264 points."""
    found = {
        (difference, m): seeds_needed(1.264, difference, 0.05 / m)
        for difference in (1, 2, 0.5)
        for m in (1, 3)
    }
    assert found == {(1, 1): 15, (1, 3): 20, (2, 1): 6, (2, 3): 8, (0.5, 1): 53, (0.5, 3): 70}
    for sd in (0.3, 1.0, 4.0):
        n = seeds_needed(sd, 1.0, 0.01, 0.9)
        assert integral(1 / sd, n, 0.01) >= 0.9 > integral(1 / sd, n - 1, 0.01)
    assert seeds_needed(0.01, 1.0, 0.05) == 3  # with fewer, nothing is claimed


def test_what_has_no_answer() -> None:
    assert math.isnan(detectable(1.0, 1, 0.05))
    assert math.isnan(detectable(math.nan, 5, 0.05))
    with pytest.raises(ValueError, match="difference: got 0; allowed: a number > 0"):
        seeds_needed(1.0, 0, 0.05)
    with pytest.raises(ValueError, match="sd: got nan; allowed: a number > 0"):
        seeds_needed(math.nan, 1.0, 0.05)


def test_the_interval_of_a_standard_deviation() -> None:
    low, high = stats.chi2.ppf([0.025, 0.975], 4)
    assert sd_interval(2.0, 5) == pytest.approx((math.sqrt(16 / high), math.sqrt(16 / low)))
    sds = np.random.default_rng(0).normal(size=(4000, 3)).std(axis=1, ddof=1)
    held = [low <= 1 <= high for low, high in (sd_interval(sd, 3) for sd in sds)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


ACCURACIES = {
    "ce": [0.80, 0.82, 0.81, 0.79],
    "0": [0.83, 0.83, 0.85, 0.81],
    "0.01": [0.81, 0.86, 0.82, 0.84],
}
SD_0_CE = float(np.std(np.subtract(ACCURACIES["0"], ACCURACIES["ce"]), ddof=1))


def measured(seeds: int = 4, **fields: object) -> dict[TrialConfig, float]:
    return {
        config(arm, seed, **fields): value
        for arm, values in ACCURACIES.items()
        for seed, value in enumerate(values[:seeds])
    }


def records(values: dict[TrialConfig, float], **about: object) -> list[TrialRecord]:
    defaults = {"run_id": "r", "status": "FINISHED", "tags": TAGS, "changed": BEGAN}
    return [
        TrialRecord(
            **{**defaults, "key": trial.key, "params": trial.to_params(), "metrics": {"test_acc": v}, **about}
        )
        for trial, v in values.items()
    ]


def test_spreads_are_those_of_the_seeds_that_two_arms_share() -> None:
    values = measured()
    del values[config("0.01", 3)]
    results = results_of(records(values), "test_acc")
    found = {(one.arm, one.baseline): one for one in spreads(cells_with(values), results)}
    for (arm, baseline), seeds in {
        ("siamese-0", "ce"): 4,
        ("siamese-0.01", "ce"): 3,
        ("siamese-0.01", "siamese-0"): 3,
    }.items():
        ours, theirs = (
            np.array(ACCURACIES[name.removeprefix("siamese-")])[:seeds] for name in (arm, baseline)
        )
        one = found[arm, baseline]
        assert (one.n, one.comparisons) == (seeds, 1 if baseline == "siamese-0" else 2)
        assert one.sd == pytest.approx((ours - theirs).std(ddof=1))
        assert one.level == 0.05 / one.comparisons


def test_two_seeds_are_too_few_and_equal_differences_have_no_spread() -> None:
    (one,) = spreads(
        cells_with([config("ce", 0), config("0", 0)]),
        {config("ce", 0): {0: 0.5, 1: 0.6, 2: 0.7}, config("0", 0): {0: 0.6, 1: 0.7, 2: 0.8}},
    )
    assert not one.known
    values = measured(seeds=2)
    assert not any(one.known for one in spreads(cells_with(values), results_of(records(values), "test_acc")))


def test_the_nearest_relative_has_the_dataset_and_the_backbone() -> None:
    """Not the cell with most equal fields: another dataset varies otherwise."""
    near = measured(dataset="digits", epochs=3, batch_size=20, lr=0.5)
    nearer = {t: 2 * v for t, v in measured(dataset="digits", epochs=3, batch_size=20).items()}
    other = {t: 3 * v for t, v in measured(dataset="cifar10").items()}
    results = results_of(records(near | nearer | other), "test_acc")
    wanted = spreads(cells_with([config(arm, 0) for arm in ("ce", "0", "0.5")]), {})
    found = with_relatives(wanted, spreads(cells_with(results), results))
    assert [(one.arm, one.baseline) for one in found] == [
        ("siamese-0", "ce"),
        ("siamese-0.5", "ce"),
        ("siamese-0.5", "siamese-0"),
    ]
    same, another, third = (one.relative for one in found)
    assert {one.trial.lr for one in (same, another, third) if one} == {0.01}
    assert same
    assert found[0].sd == pytest.approx(2 * SD_0_CE)
    # γ = 0.5 was trained nowhere: of the comparisons with the same baseline, the one that varies most.
    assert another
    assert (another.arm, another.baseline) == ("siamese-0.01", "ce")
    assert third
    assert (third.arm, third.baseline) == ("siamese-0.01", "siamese-0")
    assert with_relatives(wanted, []) == wanted


def test_results_are_of_finished_trials_on_one_version_of_their_data() -> None:
    now, before = measured(seeds=4), dict.fromkeys(measured(seeds=3), 0.5)
    old = records(before, tags={**TAGS, "data.sha256": "e" * 64})
    assert results_of([*old, *records(now)], "test_acc")[config("ce", 0)] == dict(enumerate(ACCURACIES["ce"]))
    assert results_of(records(now, status="RUNNING"), "test_acc") == {}
    assert results_of(records(now, key="another protocol"), "test_acc") == {}
    assert results_of(records(now, metrics={"test_acc": math.nan}), "test_acc") == {}
    assert results_of(records(now, params={"seed": "0", "method": "of the future"}), "test_acc") == {}


def test_a_plan_says_what_its_seeds_find() -> None:
    values = measured()
    trials = [config(arm, seed) for arm in ACCURACIES for seed in range(6)]
    asked: list[TrialConfig] = []

    def cost(more: list[TrialConfig]) -> str:
        asked.extend(more)
        return "an hour"

    found, needed, source = power_lines(trials, records(values), cost)
    pairs = [("0", "ce", 2), ("0.01", "ce", 2), ("0.01", "0", 1)]
    sds = [np.std(np.subtract(ACCURACIES[a], ACCURACIES[b]), ddof=1) for a, b, _ in pairs]
    effects = [100 * detectable(sd, 6, 0.05 / m) for sd, (_, _, m) in zip(sds, pairs, strict=True)]
    assert found == (
        f"power: 6 seeds find differences of {min(effects):.1f} (siamese-0 against ce) to {max(effects):.1f}"
        " points (siamese-0.01 against siamese-0) with 80 %, tested at 0.05 / 2"
    )
    counts = [seeds_needed(sd, 0.01, 0.05 / m) for sd, (_, _, m) in zip(sds, pairs, strict=True)]
    assert needed.startswith(f"  1 point takes {min(counts)} to {max(counts)} seeds (")
    assert needed.endswith(f"; {3 * (max(counts) - 6)} trials more, an hour")
    assert len(asked) == 3 * (max(counts) - 6)
    assert {trial.arm for trial in asked} == {"ce", "siamese-0", "siamese-0.01"}
    spread = f"{100 * min(sds):.1f} to {100 * max(sds):.1f}"
    assert source == f"  SD of the paired differences: {spread} points, from 4 seeds"


def test_a_plan_names_the_relative_that_stands_in() -> None:
    trials = [config(arm, seed, backbone="resnet18") for arm in ("ce", "0") for seed in range(5)]
    made = records(measured(epochs=3, lr=0.5))
    *_, source = power_lines(trials, made, lambda _: "")
    text = (
        f"  SD of the paired differences: {100 * SD_0_CE:.1f} points, from 4 seeds of its nearest relative,"
    )
    text += " as it is not measured itself: digits/convnet/rrc+hflip with epochs 3, lr 0.5"
    assert source == text
    several = [*trials, *(config(arm, seed, epochs=3, lr=0.5) for arm in ("ce", "0") for seed in range(5))]
    *_, source = power_lines(several, made, lambda _: "")
    assert "; 1 of 2 cells have those of their nearest relatives, of digits/convnet" in source


def test_a_plan_without_results_or_comparisons() -> None:
    trials = [config(arm, 0) for arm in ("ce", "0")]
    assert power_lines(trials, [], lambda _: "") == [
        "power: not known before two arms of a cell have 3 seeds in common"
    ]
    assert power_lines(trials[:1], [], lambda _: "") == []
    found, *_ = power_lines(trials, records(measured()), lambda _: "")
    assert found == "power: 1 seed finds nothing; tested at 0.05"


def test_time_of_more_seeds_is_told_where_all_of_it_is_known() -> None:
    trial, other = config("ce", 0), config("ce", 0, backbone="resnet18")
    sizes = Sizes(epoch=100, train=100, validation=0, test=50)
    forecast = Forecast({trial: sizes, other: sizes})
    forecast.learn(trial, sizes, 50.0, 10.0)
    assert describe_time(forecast, [trial] * 4, slots=2) == "2 min 12 s, 2 trials at once"
    assert describe_time(forecast, [trial, other], slots=2) == ""
    assert describe_time(forecast, [trial], slots=None) == ""


def test_a_report_says_what_its_seeds_find() -> None:
    seconds = {"train_seconds": 100.0, "evaluate_seconds": 20.0}
    values = {trial: {"test_acc": v, **seconds} for trial, v in measured().items()}
    results = Results(frame(values))
    needed = results.seeds_needed.set_index(["arm_label", "baseline_label"])
    row = needed.loc["siamese-0", "ce"]
    assert (row["n"], row["planned"], row["comparisons"]) == (4, 4, 2)
    assert row["sd"] == pytest.approx(SD_0_CE)
    assert integral(row["detectable"] / SD_0_CE, 4, 0.025) == pytest.approx(0.8, abs=1e-6)
    n = int(row["seeds"])
    assert integral(0.01 / SD_0_CE, n, 0.025) >= 0.8 > integral(0.01 / SD_0_CE, n - 1, 0.025)
    assert row["hours"] == pytest.approx(n * 3 * 120 / 3600)
    section = seeds_section(results)
    most = int(needed["seeds"].max())
    assert section.paragraphs[0].startswith(
        f"To find a true difference of 1 point in every comparison with 80 % power takes {most} seeds of all"
        " arms ("
    )
    assert "by the interval of the SD); planned are 4. That is " in section.paragraphs[0]
    (table,) = section.tables
    assert table.rows[0][0] == "γ = 0 − CE"
    texts = [entry.text for entry in table.rows[0][1]]
    assert texts[:5] == ["4", f"{100 * SD_0_CE:.2f}", "4", f"{100 * row['detectable']:.2f}", str(n)]
    assert "stands in" not in table.caption


def test_a_report_of_several_cells_has_a_row_a_baseline_and_names_stand_ins() -> None:
    values = {**measured(), **dict.fromkeys(config(a, s, epochs=3) for a in ("ce", "0") for s in range(5))}
    results = Results(frame(values))
    section = seeds_section(results)
    (table,) = section.tables
    titles = [title for title, _ in table.rows]
    assert titles == [
        "digits · convnet · epochs 1000 – against CE",
        "digits · convnet · epochs 1000 – against γ = 0",
        "digits · convnet · epochs 3 – against CE",
    ]
    unmeasured = results.seeds_needed.iloc[-1]
    assert (unmeasured["sd"], unmeasured["planned"]) == (pytest.approx(SD_0_CE), 5)
    assert "stands in: of digits · convnet · rrc+hflip · epochs 1000 for digits" in table.caption
    assert table.rows[2][1][-1].text == "–"  # how long it takes is not known
    empty = Results(frame(dict.fromkeys(values)))
    assert seeds_section(empty).is_empty
