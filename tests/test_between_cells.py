"""Contrasts of effects between cells."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from synthetic import config, frame

from analysis.sections.between_cells import between_cells_table
from analysis.stats.between_cells import between_cells
from search_spaces.seeds import SeedPlan
from trainables.trial import TrialConfig

HERE = {"ce": [0.50, 0.61, 0.70, 0.58], "0": [0.52, 0.60, 0.74, 0.61], "0.1": [0.56, 0.66, 0.75, 0.66]}
THERE = {"ce": [0.40, 0.45, 0.52, 0.44], "0": [0.47, 0.55, 0.61, 0.50], "0.1": [0.48, 0.53, 0.63, 0.53]}


def cell(values: dict[str, list[Any]], **fields: Any) -> dict[TrialConfig, Any]:
    return {config(arm, seed, **fields): v for arm, row in values.items() for seed, v in enumerate(row)}


def test_by_hand() -> None:
    trials = frame(cell(HERE) | cell(THERE, augmentations=("rrc",)))
    found = between_cells(trials)
    assert found[["cell", "reference", "arm_label", "baseline_label"]].to_numpy().tolist() == [
        [1, 0, "siamese-0", "ce"],
        [1, 0, "siamese-0.1", "siamese-0"],
    ]
    here, there = ({name: np.array(row) for name, row in rows.items()} for rows in (HERE, THERE))
    contrasts = [there[a] - there[b] - (here[a] - here[b]) for a, b in (("0", "ce"), ("0.1", "0"))]
    assert found["delta"].tolist() == pytest.approx([d.mean() for d in contrasts])
    p = [stats.ttest_1samp(d, 0).pvalue for d in contrasts]
    assert found["p_t"].tolist() == pytest.approx(p)
    smaller, larger = sorted(p)
    expected = {smaller: 2 * smaller, larger: max(larger, 2 * smaller)}
    assert found["p_holm"].tolist() == pytest.approx([expected[value] for value in p])
    low, high = stats.t.interval(0.95, 3, contrasts[0].mean(), stats.sem(contrasts[0]))
    assert found.loc[0, ["delta_low", "delta_high"]].tolist() == pytest.approx([low, high])


def test_significant_here_and_not_there_is_no_difference() -> None:
    """The same effect in both cells, in one of them with more noise."""
    noisy = {"ce": [0.40, 0.45, 0.52, 0.44], "0": [0.44, 0.45, 0.59, 0.46]}
    clear = {"ce": [0.40, 0.45, 0.52, 0.44], "0": [0.431, 0.482, 0.549, 0.471]}
    found = between_cells(frame(cell(clear) | cell(noisy, augmentations=("rrc",))))
    assert found["verdict"].tolist() == ["undecided"]
    assert found["p_holm"].item() > 0.5


def test_what_one_cell_lacks_is_left_out() -> None:
    lacking = {**THERE, "0": [0.47, None, 0.61, 0.50]}
    without = {arm: row for arm, row in THERE.items() if arm != "0.1"}
    trials = frame(
        cell(HERE)
        | cell(lacking, augmentations=("rrc",))
        | cell(without, augmentations=("hflip",))
        | cell({"ce": [0.5, 0.6, 0.7, 0.6]}, epochs=7)
    )
    found = between_cells(trials)
    assert found[["cell", "arm_label", "n", "dropped"]].to_numpy().tolist() == [
        [1, "siamese-0", 3, "1"],
        [1, "siamese-0.1", 3, "1"],
        [2, "siamese-0", 4, ""],
    ]
    # Contrasts of different seeds are one family all the same.
    p = found["p_t"].to_numpy()
    steps = np.maximum.accumulate(np.sort(p) * [3, 2, 1])
    assert found["p_holm"].to_numpy()[np.argsort(p)] == pytest.approx(np.minimum(steps, 1))
    effects = [np.subtract(cell["0"], cell["ce"]) for cell in (without, HERE)]
    assert p[2] == pytest.approx(stats.ttest_1samp(effects[0] - effects[1], 0).pvalue)
    low, high = stats.t.interval(
        1 - 0.05 * p[2] / found["p_holm"][2], 3, *_mean_and_error(effects[0] - effects[1])
    )
    assert found.loc[2, ["delta_low_holm", "delta_high_holm"]].tolist() == pytest.approx([low, high])
    assert found["p_sign_flip_joint"].isna().all()
    table = between_cells_table(found, trials)
    assert table is not None
    assert "n = 3–4." in table.caption
    assert (
        "No joint sign flips: not all rows have the same seeds. Seeds that an arm of one of the two"
        in table.caption
    )
    assert table.caption.endswith("lacks: 1 in rrc.")
    chosen = between_cells(trials, [("siamese-0.1", "ce"), ("vicreg-1", "ce")])
    assert chosen[["cell", "arm_label", "baseline_label"]].to_numpy().tolist() == [[1, "siamese-0.1", "ce"]]
    assert between_cells(frame(cell(HERE))).empty
    assert between_cells(frame(cell({"ce": [0.5]}) | cell({"ce": [0.5]}, epochs=7))).empty


def test_a_seed_that_any_arm_of_a_cell_lacks_is_left_out() -> None:
    lacking = {**THERE, "0.1": [None, 0.53, 0.63, 0.53]}
    found = between_cells(frame(cell(HERE) | cell(lacking, augmentations=("rrc",))))
    assert found[["arm_label", "n", "dropped"]].to_numpy().tolist() == [
        ["siamese-0", 3, "0"],
        ["siamese-0.1", 3, "0"],
    ]
    trials = frame(cell(HERE) | cell(lacking, augmentations=("rrc",)))
    assert between_cells(trials, [("siamese-0", "ce")])["n"].tolist() == [
        3
    ]  # as in the cell's own comparisons


def test_a_cell_without_results_stays_in_the_family_and_costs_the_others_nothing_else() -> None:
    nothing = {arm: [None] * 4 for arm in HERE}
    two = cell(HERE) | cell(THERE, augmentations=("rrc",))
    found = between_cells(frame(two | cell(nothing, augmentations=("hflip",))))
    assert found["n"].tolist() == [4, 4, 0, 0]
    assert found["verdict"].tolist()[2:] == ["missing", "missing"]
    alone = between_cells(frame(two))
    smallest = alone["p_t"].min()
    assert found["p_holm"].min() == pytest.approx(4 * smallest)
    assert found["p_sign_flip_joint"].notna().tolist() == [True, True, False, False]


def test_cells_that_were_declared_on_different_days_have_one_plan() -> None:
    trials = frame(cell(HERE) | cell(THERE, augmentations=("rrc",)))
    plans = [SeedPlan(low=3, high=8, margin=1, date=f"2026-01-0{day}").to_json() for day in (1, 2)]
    found = between_cells(trials.assign(seed_plan=trials["cell"].map(dict(enumerate(plans)))))
    assert set(found["rule"]) == {"range"}
    assert set(found["planned_on"]) == {"2026-01-02"}
    other = SeedPlan(low=3, high=9, margin=1).to_json()
    found = between_cells(trials.assign(seed_plan=trials["cell"].map({0: plans[0], 1: other})))
    assert set(found["rule"]) == {"anytime"}


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(stats.sem(values))


def test_the_table_names_both_cells() -> None:
    trials = frame(cell(HERE) | cell(THERE, augmentations=("rrc",)))
    table = between_cells_table(between_cells(trials), trials)
    assert table is not None
    assert [title for title, _ in table.rows] == [
        "γ = 0 − CE: rrc",
        "γ = 0.1 − γ = 0: rrc",
    ]
    assert "less the same in digits · convnet · rrc+hflip" in table.caption
    assert between_cells_table(between_cells(frame(cell(HERE))), trials) is None
