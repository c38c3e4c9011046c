"""Which arm is compared with which, the tables of differences, and the sentences that they allow."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import config, frame

from analysis.render.table import Table
from analysis.render.text import after_colon
from analysis.sections.claims import claims_line
from analysis.sections.differences import difference_table
from analysis.sections.findings import cell_findings, findings
from analysis.stats.comparisons import arm_configs, claimed, comparisons, values_of
from analysis.stats.pooling import pooled_comparisons
from analysis.stats.results import Results
from search_spaces.families import families
from trainables.trial import TrialConfig

Values = Mapping[str, list[float | None]]


def study(values: Values, **fields: Any) -> pd.DataFrame:
    """A cell with these test accuracies by arm, a seed each."""
    return frame(results(values, **fields))


def results(values: Values, **fields: Any) -> dict[TrialConfig, float | None]:
    return {config(arm, seed, **fields): v for arm, row in values.items() for seed, v in enumerate(row)}


def table_of(trials: pd.DataFrame) -> Table:
    table = difference_table(comparisons(trials), "differences", "title")
    assert table
    return table


def rows(table: Table) -> dict[str, dict[str, str]]:
    return {
        title: dict(zip(table.columns, (entry.text for entry in entries), strict=True))
        for title, entries in table.rows
    }


def test_by_hand() -> None:
    """Differences of 0.1, 0.2, 0.3 in two cells: t = 2√3 with two degrees of freedom."""
    chance = (0.1, 0.3, 0.2)
    arms = {
        "ce": list(chance),
        "0": [luck + 0.1 for luck in chance],
        "0.01": [luck + 0.1 * (seed + 2) for seed, luck in enumerate(chance)],
    }
    both = {**results(arms, augmentations=("rrc",)), **results(arms, augmentations=("hflip",))}
    table = comparisons(frame(both))
    assert len(table) == 2 * (2 + 1)  # both arms against ce, and one against the control
    row = table[(table["cell"] == 1) & (table["baseline"] == "siamese-0")].iloc[0]
    assert (row["arm"], row["n"], row["wins"], row["dropped"]) == ("siamese-0.01", 3, 3, "")
    assert row["delta"] == pytest.approx(0.2)
    assert row["p_t"] == pytest.approx(0.07417990022744862, rel=1e-6)
    assert row["augmentations"] == "hflip"


def test_an_incomplete_cell() -> None:
    """Seeds that an arm lacks are left out for all, and named; an arm without results stays in the family."""
    trials = study(
        {"ce": [0.5, 0.6, 0.7], "0": [0.8, 0.9, None], "0.001": [0.25, None, None], "0.01": [None] * 3}
    )
    table = comparisons(trials)
    against_ce = table[table["baseline"] == "ce"].set_index("arm")
    assert against_ce["n"].to_dict() == {"siamese-0": 1, "siamese-0.001": 1, "siamese-0.01": 0}
    assert set(table["dropped"]) == {"1 2"}
    assert against_ce["p_t"].isna().all()
    assert against_ce.loc["siamese-0", "delta"] == pytest.approx(0.3)
    assert "seeds 1, 2" in table_of(trials).caption
    assert "3 against CE and 2 against γ = 0" in table_of(trials).caption
    assert len(comparisons(trials.iloc[:0])) == 0


def test_only_test_accuracy_has_p_values() -> None:
    values = np.linspace(0.1, 0.9, 9) ** 2
    metrics = {
        config(arm, seed): {"test_acc": values[3 * i + seed], "val_acc": values[3 * i + seed]}
        for i, arm in enumerate(("ce", "0", "0.01"))
        for seed in range(3)
    }
    table = comparisons(frame(metrics))
    assert table.loc[table["metric"] == "test_acc", "p_t"].notna().all()
    described = table[table["metric"] == "val_acc"]
    assert described[["p_t", "p_holm", "p_sign_flip", "delta_low_holm"]].isna().all(axis=None)
    assert described["delta_low"].notna().all()


def test_differences_for_people() -> None:
    table = table_of(study({"ce": [0.50, 0.62, 0.71], "0": [0.60, 0.70, 0.84], "0.01": [0.49, 0.60, 0.70]}))
    found = rows(table)
    assert list(found) == ["γ = 0 − CE", "γ = 10⁻² − CE", "γ = 10⁻² − γ = 0"]
    row = found["γ = 10⁻² − CE"]
    assert (row["Difference"], row["Wins"], row["p (sign flips)"]) == ("−1.3", "0 of 3", "0.250")
    # Of none of three, Clopper and Pearson's interval ends at 1 - 0.025^(1/3).
    assert row["P(higher)"] == "0.00 (0.00 to 0.71)"
    assert row["95 % interval"].startswith("−2.8 to +0.1")  # -1.333 ± 4.303 x 0.577 / sqrt(3)
    assert table.caption == (
        "Arm minus baseline, paired by seed, n = 3. Paired t-tests, which hold for a single look: no number"
        " of planned seeds is recorded. Adjusted after Holm for all comparisons with one baseline (2 against"
        " CE and 1 against γ = 0). P(higher): share of seeds in which the arm is higher, ties half,"
        " and its 95 % interval. Exact sign-flip p-values are joint for these comparisons (step-down max-T);"
        " with 3 seeds they are 0.25 at least, however many arms are compared."
    )


def test_one_seed_claims_nothing() -> None:
    trials = study({"ce": [0.5], "0.01": [0.75]})
    row = rows(table_of(trials))["γ = 10⁻² − CE"]
    assert list(row.values()) == ["+25.0", "–", "–", "1 of 1", "1.00 (0.03 to 1.00)", "–", "–", "1.000"]
    assert findings(Results(trials)) == ["Against CE nothing can be shown with 1 seed; it takes 3."]


def test_two_seeds_claim_nothing_however_alike() -> None:
    """Differences of 0.2 and 0.2001: t is in the thousands."""
    trials = study({"ce": [0.5, 0.6], "0.01": [0.7, 0.8001]})
    compared = comparisons(trials)
    assert compared["p_holm"].iloc[0] < 0.001
    assert not claimed(compared).any()
    assert findings(Results(trials)) == ["Against CE nothing can be shown with 2 seeds; it takes 3."]


@pytest.mark.parametrize(
    "alone", [{"0.01": [0.5], "0.1": [0.75]}, {"ce": [0.5]}, {"0": [0.5]}, {"ce": [None], "0": [None]}]
)
def test_without_a_baseline_there_is_no_difference(alone: Values) -> None:
    trials = study(alone)
    assert difference_table(comparisons(trials), "name", "title") is None
    assert findings(Results(trials)) == [
        "No arm has results for the same seeds as a baseline: nothing is compared."
    ]


def test_a_trial_that_is_there_twice_is_an_error() -> None:
    trials = study({"ce": [0.5, 0.6]})
    with pytest.raises(ValueError, match="ce, seed 0: there are two results"):
        values_of(pd.concat([trials, trials.iloc[:1]]), "test_acc")


def by_label(*configs: TrialConfig) -> dict[str, TrialConfig]:
    return arm_configs(frame(dict.fromkeys(configs, 0.5)))


def test_each_arm_has_its_matching_baseline() -> None:
    """With and without unlabelled images: each γ is compared with the control of its kind, and its match."""
    of = {
        size: [config(arm, 0, dataset="stl10", unlabeled_size=size) for arm in ("0", "0.01")]
        for size in (0, 5000)
    }
    found = families(by_label(config("ce", 0, dataset="stl10"), *of[0], *of[5000]))
    plain, more = "unlabeled_size=0", "unlabeled_size=5000"
    assert found["ce"] == dict.fromkeys(
        [f"siamese-{gamma} {kind}" for kind in (plain, more) for gamma in ("0", "0.01")], "ce"
    )
    assert found["siamese-0"] == {f"siamese-0.01 {kind}": f"siamese-0 {kind}" for kind in (plain, more)}
    assert found[plain] == {f"siamese-{g} {more}": f"siamese-{g} {plain}" for g in ("0", "0.01")}


def test_the_control_with_other_views_is_held_against_that_with_equal_ones() -> None:
    arms = [
        config("0", 0, augmentations=("grayscale",), views=views) for views in ("asymmetric", "symmetric")
    ]
    found = families(by_label(*arms))
    assert found == {"views=symmetric": {"siamese-0 views=asymmetric": "siamese-0 views=symmetric"}}


def test_widths_are_held_against_the_default() -> None:
    arms = [config("0.01", 0, hidden_dim=width) for width in (64, 2048)]
    found = families(by_label(config("0", 0), *arms))
    assert found["hidden_dim=2048"] == {"siamese-0.01 hidden_dim=64": "siamese-0.01 hidden_dim=2048"}
    # Without the default width, against the first of the space.
    two = families(by_label(config("0", 0), *(config("0.01", 0, hidden_dim=width) for width in (512, 64))))
    assert two["hidden_dim=512"] == {"siamese-0.01 hidden_dim=64": "siamese-0.01 hidden_dim=512"}
    # Whatever their width: the control has no projector.
    assert set(found["siamese-0"].values()) == {"siamese-0"}


def test_pooled_over_cells_with_the_same_arms() -> None:
    random = np.random.default_rng(0)
    parts = {}
    for augmentations in ((), ("rrc",), ("hflip",)):
        noise = random.normal(scale=0.01, size=(2, 4))
        arms = {"ce": list(0.5 + noise[0]), "0.01": list(0.55 + noise[1])}
        parts |= results(arms, augmentations=augmentations)
    other = results({"ce": [0.5]}, augmentations=("solarize",))
    trials = frame({**parts, **other})
    (pooled,) = pooled_comparisons(trials)
    by_seed = np.mean(
        [
            values_of(cell, "test_acc")["siamese-0.01"] - values_of(cell, "test_acc")["ce"]
            for _, cell in trials[trials["cell"] < 3].groupby("cell")
        ],
        axis=0,
    )
    row = pooled.iloc[0]
    assert (row["cells"], row["n"]) == (3, 4)
    assert (row["delta"], row["p_t"]) == pytest.approx((by_seed.mean(), stats.ttest_1samp(by_seed, 0).pvalue))
    table = difference_table(pooled, "pooled", "title")
    assert table
    assert "Mean over 3 cells within each seed: this holds for these cells only." in table.caption


def test_arms_of_one_name_are_pooled_only_where_they_are_the_same() -> None:
    """γ = 10⁻² of STL-10 uses unlabelled images, that of digits none: two sets of cells, not one."""
    parts: dict[TrialConfig, float | None] = {}
    for dataset, size in (("digits", 0), ("stl10", 5000)):
        for name in ("rrc", "grayscale"):
            arms = {"ce": [0.5, 0.6, 0.7], "0.01": [0.61, 0.70, 0.82]}
            fields = {"dataset": dataset, "unlabeled_size": size, "views": "asymmetric"}
            parts |= results(arms, augmentations=(name,), **fields)
    trials = frame(parts)
    # With a crop alone views cannot differ, which sets no cell apart.
    pooled = [table[["cells", "n"]].to_numpy().tolist() for table in pooled_comparisons(trials)]
    assert pooled == [[[2, 3]], [[2, 3]]]
    kinds = [table["kind"].iloc[0] for table in pooled_comparisons(trials)]
    assert kinds == ["unlabeled_size 0", "unlabeled_size 5000"]
    told = findings(Results(trials))
    assert told[1].startswith("Over 2 cells together (unlabeled_size 5000), and for these only: ")
    # Where views do differ, those without any are a set of their own.
    both = {
        t.replace(views=views, augmentations=(name, "hflip")): v
        for t, v in parts.items()
        for name, views in (("solarize", "symmetric"), ("grayscale", "asymmetric"), ("rrc", "symmetric"))
        if t.dataset == "digits" and t.augmentations == ("rrc",)
    }
    assert pooled_comparisons(frame(both)) == []


def test_pooling_does_not_mind_the_order_of_arms() -> None:
    parts = results({"ce": [0.5, 0.6], "0.01": [0.5, 0.7]}, augmentations=("rrc",))
    parts |= results({"0.01": [0.6, 0.8], "ce": [0.5, 0.6]}, augmentations=("hflip",))
    (pooled,) = pooled_comparisons(frame(parts))
    assert pooled[["cells", "n"]].to_numpy().tolist() == [[2, 2]]


def test_an_arm_without_results_is_named_and_keeps_its_row() -> None:
    trials = study({"ce": [0.5, 0.6, 0.7], "0": [0.6, 0.7, 0.81], "0.01": [None, None, None]})
    told = cell_findings(comparisons(trials))
    assert "γ = 10⁻² cannot be compared with CE: results are missing." in told
    assert list(rows(table_of(trials))) == ["γ = 0 − CE", "γ = 10⁻² − CE", "γ = 10⁻² − γ = 0"]
    assert rows(table_of(trials))["γ = 10⁻² − CE"]["Difference"] == "–"


def test_where_no_seed_is_whole_it_is_said() -> None:
    """Seed 0 lacks an arm in one cell, seed 1 in the other: there is nothing to pool, and no silence."""
    parts = results({"ce": [None, 0.6], "0.01": [0.5, 0.7]}, augmentations=("rrc",))
    parts |= results({"ce": [0.5, 0.6], "0.01": [0.6, None]}, augmentations=("hflip",))
    trials = frame(parts)
    assert findings(Results(trials))[0] == (
        "Over 2 cells together, and for these only: nothing is compared with CE, as no seed has finished"
        " all arms of such a comparison in all of them."
    )


def test_a_baseline_without_results_is_named_beside_one_that_has_them() -> None:
    parts = results(
        {"ce": [0.5, 0.6, 0.7], "0": [0.6, 0.7, 0.75], "0.01": [0.6, 0.65, 0.8]}, augmentations=("rrc",)
    )
    parts |= results(
        {"ce": [None] * 3, "0": [0.6, 0.7, 0.75], "0.01": [0.6, 0.69, 0.8]}, augmentations=("hflip",)
    )
    trials = frame(parts)
    told = findings(Results(trials))
    assert told[0].startswith(
        "Over 2 cells together, and for these only: nothing is compared with CE, as no seed"
    )
    assert told[1].startswith("Over 2 cells together, and for these only: against γ = 0 no difference")


def test_sets_of_cells_have_names_of_their_own() -> None:
    """They differ in the width of the projector, in views, or in nothing but where they are."""

    def kinds(*cells: dict[str, Any]) -> list[str]:
        parts: dict[TrialConfig, float | None] = {}
        for cell in cells:
            for name in (("grayscale",), ("solarize",)):
                fields = {"augmentations": name, **cell}
                parts |= results({"ce": [0.5, 0.6], "0.01": [0.6, 0.7]}, **fields)
        return [table["kind"].iloc[0] for table in pooled_comparisons(frame(parts))]

    assert kinds({"hidden_dim": 64}, {"hidden_dim": 128, "backbone": "vgg16"}) == [
        "hidden_dim 64",
        "hidden_dim 128",
    ]
    views = kinds({"views": "asymmetric"}, {"views": "symmetric", "backbone": "vgg16"})
    assert views == ["views asymmetric", "views symmetric"]
    apart = kinds(
        {"views": "asymmetric"},
        {"views": "symmetric", "backbone": "vgg16"},
        {"augmentations": ("rrc",), "backbone": "resnet18"},
        {"augmentations": ("hflip",), "backbone": "resnet18"},
    )
    assert apart[:2] == ["views asymmetric", "views symmetric"]
    assert len(set(apart)) == 3


@pytest.fixture
def controlled() -> dict[TrialConfig, float | None]:
    """Two cells, each with `ce` at twice the step and for twice the epochs in cells of their own."""
    parts: dict[TrialConfig, float | None] = {}
    for name in ("rrc", "hflip"):
        cell = {"augmentations": (name,), "epochs": 10}
        parts |= results({"ce": [0.50, 0.61, 0.70], "0": [0.60, 0.70, 0.81]}, **cell)
        parts |= results({"ce": [0.55, 0.66, 0.74]}, **cell, lr=0.02, weight_decay=5e-5)
        parts |= results({"ce": [0.61, None, 0.79]}, **cell | {"epochs": 20})
    return parts


def test_cross_entropy_with_another_budget_is_compared_though_it_is_another_cell(
    controlled: dict[TrialConfig, float | None],
) -> None:
    trials = frame(controlled)
    step, longer = "ce lr=0.02 weight_decay=5e-05", "ce epochs=20"
    compared = comparisons(trials)
    tested = compared.set_index(["cell", "baseline"])
    assert sorted(tested.index) == [(c, b) for c in (0, 3) for b in ("ce", longer, step)]
    assert set(tested["arm_label"]) == {"siamese-0"}
    assert tested.loc[(0, step), ["delta", "n", "dropped"]].tolist() == [pytest.approx(0.05333333), 3, ""]
    # The seed that the control lacks is left out for it alone.
    assert tested.loc[(0, longer), ["delta", "n", "dropped"]].tolist() == [pytest.approx(0.005), 2, "1"]
    assert tested.loc[(0, "ce"), "n"] == 3
    shown = rows(table_of(trials[trials["cell"].isin([0, 1, 2])]))
    assert list(shown) == [
        "γ = 0 − CE",
        "γ = 0 − CE (lr=0.02, weight_decay=5e-05)",
        "γ = 0 − CE (epochs=20)",
    ]
    assert table_of(trials[trials["cell"].isin([0, 1, 2])]).caption.endswith(
        "Left out, as not every arm has them: seed 1 against CE (epochs=20)."
    )
    (pooled,) = pooled_comparisons(trials)
    assert pooled[["baseline", "cells", "n"]].to_numpy().tolist() == [
        ["ce", 2, 3],
        [step, 2, 3],
        [longer, 2, 2],
    ]
    told = " ".join(findings(Results(trials)))
    assert "against CE (lr=0.02, weight_decay=5e-05)" in told
    assert "against CE (epochs=20) nothing can be shown with 2 seeds" in told


def test_arms_with_tuned_steps_are_compared_in_one_cell() -> None:
    """Each arm with the step that suits it, and cross-entropy for twice the epochs with a third one."""
    tuned: dict[str, Any] = {"tuned": ("lr",), "epochs": 10}
    trials = frame(
        results({"ce": [0.50, 0.61, 0.70]}, lr=0.1, **tuned)
        | results({"0": [0.60, 0.70, 0.81]}, lr=0.03, **tuned)
        | results({"0.1": [0.65, 0.71, 0.84], "0.2": [0.64, 0.75, 0.83]}, lr=0.01, **tuned)
        | results({"ce": [0.61, 0.72, 0.79]}, lr=0.2, **tuned | {"epochs": 20})
    )
    assert trials.groupby("cell")["arm_label"].unique().map(list).tolist() == [
        ["ce", "siamese-0", "siamese-0.1", "siamese-0.2"],
        ["ce"],
    ]
    names = [f"digits · convnet · rrc+hflip · epochs {epochs}" for epochs in (10, 20)]
    assert trials["cell_label"].unique().tolist() == names
    tested = comparisons(trials).groupby("baseline")["arm_label"].unique().map(list).to_dict()
    assert tested == {
        "ce": ["siamese-0", "siamese-0.1", "siamese-0.2"],
        "siamese-0": ["siamese-0.1", "siamese-0.2"],
        "ce epochs=20": ["siamese-0", "siamese-0.1", "siamese-0.2"],
    }
    assert {config.lr for config in arm_configs(trials[trials["cell"] == 0]).values()} == {0.1, 0.03, 0.01}


def test_several_values_of_a_tuned_field_tell_arms_apart() -> None:
    values: dict[str, list[float | None]] = {"ce": [0.5, 0.6, 0.8], "0.1": [0.6, 0.7, 0.7]}
    trials = frame(
        results(values, lr=0.1, tuned=("lr",))
        | results({"0": [0.5, 0.7, 0.7]}, lr=0.1, tuned=("lr",))
        | results({"0": [0.5, 0.7, 0.7]}, lr=0.2, tuned=("lr",))
    )
    assert sorted(set(trials["arm_label"])) == ["ce", "siamese-0 lr=0.1", "siamese-0 lr=0.2", "siamese-0.1"]
    control = comparisons(trials).set_index("baseline").loc["siamese-0"]
    assert (control["arm_label"], control["baseline_label"]) == ("siamese-0.1", "siamese-0 lr=0.1")


def test_a_sweep_is_no_control(controlled: dict[TrialConfig, float | None]) -> None:
    """Cells with all arms at another step are compared within themselves; another backbone is no control."""
    sweep = results({"ce": [0.5, 0.6], "0": [0.6, 0.7]}, epochs=10)
    sweep |= results({"ce": [0.5, 0.6], "0": [0.6, 0.7]}, epochs=10, lr=0.02)
    sweep |= results({"ce": [0.5, 0.6]}, epochs=20, lr=0.03)
    sweep |= results({"ce": [0.5, 0.6]}, epochs=10, backbone="resnet18")
    assert set(comparisons(frame(sweep))["baseline"]) == {"ce"}


def test_sentences_of_one_cell() -> None:
    """By hand: 10 ± 6.205 x 1/√3 (the quantile for 0.05 / 2 over two arms), 10 ± 4.303 x 10.54/√3."""
    trials = study({"ce": [0.50, 0.61, 0.70], "0": [0.60, 0.70, 0.81], "0.01": [0.61, 0.60, 0.90]})
    assert findings(Results(trials)) == [
        "γ = 0 has a higher test accuracy than CE: +10.0 points (Holm-adjusted interval +6.4 to +13.6,"
        " n = 3).",
        "Against CE no difference in test accuracy is shown for γ = 10⁻²: differences from −16.2 to +36.2"
        " points remain possible (Holm-adjusted intervals, n = 3); that is no evidence of equality.",
        "Against γ = 0 no difference in test accuracy is shown for γ = 10⁻²: differences from −23.7 to +23.7"
        " points remain possible (Holm-adjusted intervals, n = 3); that is no evidence of equality.",
        "In all, 1 of 3 comparisons allow a claim, in 2 families that are each adjusted by themselves. If no"
        " arm truly differed, one of them would do so with a probability of up to 10 %.",
        "This claim rests on t-tests, which take differences between seeds as normally distributed. The exact"
        " sign-flip test does not, and cannot tell yet: with 3 seeds its p is 0.25 at least; it takes 6.",
    ]


def test_differences_without_spread_are_told_and_not_tested() -> None:
    trials = study({"ce": [0.5, 0.6, 0.7], "0": [0.6, 0.7, 0.8], "0.01": [0.5, 0.62, 0.69]})
    told = findings(Results(trials))
    assert told[0] == (
        "γ = 0 differs from CE by +10.0 points of test accuracy in all 3 seeds: without any spread there is"
        " no test."
    )
    assert told[1].startswith("Against CE no difference in test accuracy is shown for γ = 10⁻²:")


def test_no_sentence_claims_more_than_its_interval() -> None:
    """150 random cells, half of them with effects: every claim has its adjusted interval beyond zero."""
    random = np.random.default_rng(1)
    claims = 0
    for effect in (0.0, 0.05) * 75:
        n = int(random.integers(2, 9))
        luck, noise = random.normal(0.6, 0.03, n), random.normal(scale=0.02, size=(3, n))
        trials = study({arm: list(luck + noise[i] + effect * i) for i, arm in enumerate(("ce", "0", "0.01"))})
        compared = comparisons(trials)
        for sentence in cell_findings(compared):
            claim = re.fullmatch(
                r"(.+) has a (higher|lower) test accuracy than (.+): ([+−][\d.]+) points"
                r" \(Holm-adjusted interval ([+−][\d.]+) to ([+−][\d.]+), n = (\d+)\)\.",
                sentence,
            )
            if claim:
                claims += 1
                low, high = (float(claim[i].replace("−", "-")) for i in (5, 6))
                assert int(claim[7]) == n >= 3
                assert low >= 0 if claim[2] == "higher" else high <= 0
            else:
                assert "no difference" in sentence or "nothing can be shown" in sentence
        sure = compared[claimed(compared)]
        assert ((sure["delta_low_holm"] > 0) | (sure["delta_high_holm"] < 0)).all()
        assert (sure["p_holm"] <= 0.05).all()
    assert claims > 50  # not vacuous


def test_sentences_of_many_cells_count_and_name_chance() -> None:
    parts = {}
    for a, b in itertools.product((False, True), repeat=2):
        augmentations = (("rrc",) if a else ()) + (("hflip",) if b else ())
        up = 0.1 if a else 0.0
        arms = {"ce": [0.50, 0.61, 0.70], "0.01": [0.505 + up, 0.60 + up, 0.70 + up]}
        parts |= results(arms, augmentations=augmentations)
    trials = frame(parts)
    sentences = findings(Results(trials))
    assert sentences[0].startswith(
        "Over 4 cells together, and for these only: γ = 10⁻² has a higher test accuracy than CE: +4.8 points"
    )
    assert sentences[1] == (
        "In single cells, against CE: 2 of 4 comparisons are higher and 0 lower by their adjusted intervals."
        " These are adjusted within each cell only: of 4 cells without any true difference 0.2 would show one"
        " on average."
    )
    assert sentences[2] == (
        "In all, 2 of 4 comparisons of single cells allow a claim, in 4 families that are each adjusted by"
        " themselves. If no arm truly differed, one of them would do so with a probability of up to 20 %."
    )


def test_claims_are_counted_over_all_families_and_beside_chance() -> None:
    """Families with too few seeds cannot claim anything; of many, the expected number says more."""
    row = {"n": 5, "delta": 0.015, "p_holm": 0.01, "delta_low_holm": 0.01, "delta_high_holm": 0.02}
    none = {**row, "p_holm": 0.5, "delta_low_holm": -0.01}
    one = pd.DataFrame([{**row, "baseline": "ce"}, {**none, "baseline": "ce"}])
    assert claims_line(one, ("baseline",)) == [
        "In all, 1 of 2 comparisons allow a claim. If no arm truly differed, one would do so with a"
        " probability of up to 5 %."
    ]
    assert claims_line(one.assign(n=2), ("baseline",)) == []
    many = pd.DataFrame(
        [{**row, "cell": c, "baseline": b, "n": 5 - 3 * (c == 7)} for c in range(8) for b in "ab"]
    )
    assert claims_line(many, ("cell", "baseline")) == [
        "In all, 14 of 14 comparisons allow a claim, in 14 families that are each adjusted by themselves. If"
        " no arm truly differed, up to 0.7 of these families would have one on average."
    ]


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("Against CE no difference is shown.", "against CE no difference is shown."),
        ("Nothing is compared.", "nothing is compared."),
        ("In all, 3 of 4 allow a claim.", "in all, 3 of 4 allow a claim."),
        ("Barlow Twins, γ = 10⁻², has more.", "Barlow Twins, γ = 10⁻², has more."),
        ("VICReg has more.", "VICReg has more."),
        ("γ = 0 has more.", "γ = 0 has more."),
    ],
)
def test_names_keep_their_letters_after_a_colon(sentence: str, told: str) -> None:
    assert after_colon(sentence) == told
