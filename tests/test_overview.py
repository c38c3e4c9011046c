"""Tables over cells on results that were put together from known effects."""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from synthetic import config, frame, results

from analysis.render.table import Table
from analysis.sections.cells import cell_tables
from analysis.sections.overview import overview
from analysis.sections.published import published_tables
from analysis.sections.seeds_needed import seeds_section
from analysis.stats.comparisons import comparisons
from analysis.stats.factors import effects_of
from analysis.stats.published import match_published, read_published
from analysis.stats.results import Results
from analysis.trials import cell_labels
from search_spaces import select
from trainables.catalogue import TRANSFORMS
from trainables.trial import TrialConfig

NOISE = np.random.default_rng(5).normal(scale=0.001, size=4096)


def powerset_study(
    accuracy: Callable[[TrialConfig], float], arms: tuple[str, ...] = ("ce", "0", "0.01"), seeds: int = 4
) -> dict[TrialConfig, float | None]:
    """All 16 subsets: accuracies of a model plus a noise of 0.1 points."""
    subsets = [
        tuple(name for name, on in zip(TRANSFORMS, switches, strict=True) if on)
        for switches in itertools.product((False, True), repeat=4)
    ]
    trials = [config(arm, seed, augmentations=s) for s in subsets for arm in arms for seed in range(seeds)]
    return {t: accuracy(t) + noise for t, noise in zip(trials, NOISE, strict=False)}


def model(trial: TrialConfig) -> float:
    """rrc +6 points; hflip +2, and 3 more with rrc; the term -1, and solarize another -2 with it."""
    on = set(trial.augmentations)
    value = 0.5 + 0.01 * trial.seed + 0.06 * ("rrc" in on) + 0.02 * ("hflip" in on)
    value += 0.03 * ({"rrc", "hflip"} <= on)
    return value - bool(trial.gamma) * (0.01 + 0.02 * ("solarize" in on))


def tables(trials: pd.DataFrame) -> dict[str, Table]:
    return {t.name: t for t in overview(Results(trials))}


def column(table: Table, name: str) -> dict[str, str]:
    at = table.columns.index(name)
    return {title: entries[at].text for title, entries in table.rows}


@pytest.fixture(scope="module")
def trials() -> pd.DataFrame:
    return frame(powerset_study(model))


@pytest.fixture(scope="module")
def found(trials: pd.DataFrame) -> dict[str, Table]:
    """The tables of `trials`, which take a second."""
    return tables(trials)


def test_effects_are_found(trials: pd.DataFrame) -> None:
    found = effects_of(trials)
    assert list(found) == [
        ("ce", None),
        ("siamese-0", None),
        ("siamese-0.01", None),
        ("siamese-0.01", "siamese-0"),
    ]
    ce, dropped = found["ce", None]
    assert dropped == []
    # Coded ∓ ½: a main effect is the mean over both settings of the other.
    expected = {"rrc": 0.06 + 0.015, "hflip": 0.02 + 0.015, "rrc:hflip": 0.03, "grayscale": 0.0}
    for term, effect in expected.items():
        assert ce.loc[term, "effect"] == pytest.approx(effect, abs=0.0007), term
    term, _ = found["siamese-0.01", "siamese-0"]
    assert term.loc["solarize", "effect"] == pytest.approx(-0.02, abs=0.001)
    assert term.loc["rrc", "effect"] == pytest.approx(0, abs=0.001)
    assert len(ce) == 10


def test_effects_for_people(found: dict[str, Table]) -> None:
    shown = column(found["effects-0"], "CE")
    assert shown["rrc"] == "+7.6 (+7.5 to +7.6)*"
    assert not shown["solarize"].endswith("*")
    assert "rrc × hflip" in shown


def test_effects_take_a_complete_powerset_or_are_not_there(trials: pd.DataFrame) -> None:
    some = trials[trials["subset"] != "rrc"]
    assert effects_of(some) == {}
    assert "effects-0" not in tables(some)


def test_a_seed_that_a_subset_lacks_is_left_out_and_named() -> None:
    results = powerset_study(model)
    missing = next(t for t in results if t.seed == 2 and t.arm == "ce")
    trials = frame({**results, missing: None})
    found = effects_of(trials)
    assert found["ce", None][1] == [2]
    assert found["siamese-0", None][1] == []
    assert "Left out, as a trial of them is missing: seed 2." in tables(trials)["effects-0"].caption


def test_subsets_by_arm(trials: pd.DataFrame, found: dict[str, Table]) -> None:
    table = found["subsets-0"]
    assert table.columns == ("CE", "γ = 0", "γ = 10⁻²")
    assert len(table.rows) == 16
    row = trials[(trials["subset"] == "rrc") & (trials["arm"] == "ce")]["test_acc"]
    assert column(table, "CE")["rrc"] == f"{100 * row.mean():.1f} ± {100 * row.std(ddof=1):.1f}"
    assert all(len(entry.runs) == 4 for _, entries in table.rows for entry in entries)


def test_differences_by_subset_carry_adjusted_intervals(
    trials: pd.DataFrame, found: dict[str, Table]
) -> None:
    table = found["subset-differences-siamese-0-0"]
    compared = comparisons(trials)
    row = compared[(compared["baseline"] == "siamese-0") & (compared["metric"] == "test_acc")].iloc[0]
    low, high = 100 * row["delta_low_holm"], 100 * row["delta_high_holm"]
    text = column(table, "γ = 10⁻² − γ = 0")["none (views alike)"]
    assert text == f"{100 * row['delta']:+.1f} ({low:+.1f} to {high:+.1f})*".replace("-", "−")
    assert "of 16 without any true difference, 0.8 would carry a mark on average" in table.caption


def test_pooled_over_subsets(found: dict[str, Table]) -> None:
    table = found["pooled-0"]
    assert table.title == "digits · convnet: 16 subsets together"
    assert column(table, "Difference")["γ = 10⁻² − γ = 0"] == "−2.0"  # -1, and -2 in half of the cells


def test_groups_by_arm_average_over_subsets_within_each_seed() -> None:
    small = powerset_study(model, arms=("ce", "0.01"))
    other = {t.replace(backbone="resnet18"): value - 0.1 for t, value in small.items()}
    lacking = next(t for t in other if t.seed == 3 and t.arm == "ce")
    trials = frame({**small, **other, lacking: None})
    found = tables(trials)
    table = found["groups"]
    assert [title for title, _ in table.rows] == ["digits · convnet", "digits · resnet18"]
    part = trials[(trials["backbone"] == "resnet18") & (trials["arm"] == "ce") & (trials["seed"] != 3)]
    by_seed = 100 * part.groupby("seed")["test_acc"].mean()
    assert column(table, "CE")["digits · resnet18"] == f"{by_seed.mean():.1f} ± {by_seed.std(ddof=1):.1f}"
    assert column(table, "n") == {"digits · convnet": "4 of 4 seeds", "digits · resnet18": "3 of 4 seeds"}
    assert "Left out where a trial of them is missing: seed 3." in table.caption
    assert "Left out, as not every arm has them: seed 3." in found["pooled-all"].caption
    assert {"subsets-0", "subsets-1", "effects-0", "effects-1", "pooled-0", "pooled-1"} <= found.keys()


def test_a_difference_stands_under_its_own_baseline() -> None:
    """With a crop alone views do not differ, and the control is called otherwise than beside grayscale."""
    made = {
        config(arm, seed, augmentations=augmentations, views=views): 0.5
        + 0.01 * seed
        + i / 10
        + seed**2 / 100
        for augmentations in (("rrc",), ("grayscale",))
        for i, (arm, views) in enumerate(
            [("ce", "symmetric"), ("0", "asymmetric"), ("0", "symmetric"), ("0.001", "symmetric")]
        )
        for seed in range(3)
    }
    table = tables(frame(made))["subset-differences-siamese-0-0"]
    assert table.columns == ("γ = 10⁻³ − γ = 0", "γ = 10⁻³ − γ = 0 (views=symmetric)")
    empty = {title: [entry.text == "–" for entry in entries] for title, entries in table.rows}
    assert empty == {"rrc": [False, True], "grayscale": [True, False]}


def test_no_arm_is_set_off_where_another_is_not_in_every_subset() -> None:
    """γ = 0 is better in both, but there is one of it with a crop and two with grayscale."""
    made = {
        config(arm, seed, augmentations=augmentations, views=views, backbone=backbone): 0.5
        + seed / 10
        + 0.2 * (arm == "0")
        for backbone in ("convnet", "vgg16")
        for augmentations in (("rrc",), ("grayscale",))
        for arm, views in (("ce", "symmetric"), ("0", "asymmetric"), ("0", "symmetric"))
        for seed in range(3)
    }
    table = tables(frame(made))["groups"]
    assert not any(entry.bold for _, entries in table.rows for entry in entries)
    assert "–: not in every subset under this name." in table.caption
    assert "Bold" not in table.caption


def test_arms_of_one_name_have_no_effect_of_augmentations() -> None:
    """Where the width of the projector goes with the crop, a difference may be of either."""
    made = {
        config(arm, seed, augmentations=(*a, *b), hidden_dim=64 if a else 128): 0.5 + seed / 10 + len(a) / 10
        for a in ((), ("rrc",))
        for b in ((), ("hflip",))
        for arm in ("ce", "0", "0.01")
        for seed in range(4)
    }
    assert list(effects_of(frame(made))) == [("ce", None), ("siamese-0", None)]


def test_nothing_is_averaged_where_every_arm_lacks_a_cell() -> None:
    made = {
        config(arm, seed, augmentations=(name,), backbone=backbone): None
        if name == lacks
        else 0.5 + seed / 10
        for backbone in ("convnet", "vgg16")
        for arm, lacks in (
            ("ce", "rrc" if backbone == "vgg16" else ""),
            ("0", "hflip" if backbone == "vgg16" else ""),
        )
        for name in ("rrc", "hflip")
        for seed in range(3)
    }
    table = tables(frame(made))["groups"]
    assert column(table, "n") == {"digits · convnet": "3 of 3 seeds", "digits · vgg16": "0 of 3 seeds"}


def test_one_cell_has_no_overview() -> None:
    assert tables(frame({config("ce", 0): 0.5, config("0.01", 0): 0.6})) == {}


def test_without_a_validation_split_nothing_is_selected(trials: pd.DataFrame) -> None:
    assert "selected" not in tables(trials)


def test_no_two_tables_of_a_report_have_one_title_or_name() -> None:
    trials = frame({trial: results(trial) for trial in select("thesis", seeds=2).trials})
    found, published = Results(trials), read_published()
    tables = overview(found) + list(seeds_section(found).tables)
    for cell in cell_labels(trials):
        tables += cell_tables(found, cell)
    tables += published_tables(match_published(found.summary, trials, published), trials, published)
    for given in ([table.title for table in tables], [table.name for table in tables]):
        assert [text for text, count in Counter(given).items() if count > 1] == []
    told = [table.title for table in tables if table.name.startswith("subset-differences-")]
    assert told == [f"cifar10 · resnet18: differences to {arm} by augmentations" for arm in ("CE", "γ = 0")]
