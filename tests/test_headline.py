"""What a report begins with: its question, its answer in a sentence, and one figure."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from synthetic import config, frame

from analysis.plots.differences import differences, shown_families
from analysis.plots.panels import panel_boxes
from analysis.plots.style import DENSITY, legend_below, panels_of, save, sideways_panels
from analysis.render.page import PANELS
from analysis.sections.findings import findings, sign_flip_findings
from analysis.sections.front import main_table
from analysis.sections.headline import headline
from analysis.stats.comparisons import comparisons
from analysis.stats.results import Results
from search_spaces.seeds import SeedPlan

LUCK = (0.0, 0.013, -0.008, 0.004, -0.011, 0.009)
"""Of six seeds, the same for all arms."""


def study(arms: Mapping[str, float | None], seeds: int = 5, **fields: Any) -> dict[Any, float | None]:
    """Accuracies that are so much above 0.5 in each arm on average; None: without a result."""
    values: dict[Any, float | None] = {}
    for place, (arm, gain) in enumerate(arms.items()):
        noise = np.random.default_rng(place).normal(scale=0.001, size=seeds)
        for seed, own in enumerate(noise - noise.mean()):
            trial = config(arm.partition(" ")[0], seed, **fields, **_term(arm))
            values[trial] = None if gain is None else 0.5 + gain + LUCK[seed] + own
    return values


def _term(arm: str) -> dict[str, str]:
    term = arm.partition(" ")[2]
    return {"term": term} if term else {}


def said(values: Mapping[Any, float | None], margin: float | None = None) -> tuple[str, Sequence[str]]:
    trials = frame(values)
    if margin is not None:
        seeds = trials["seed"].nunique()
        trials["seed_plan"] = SeedPlan(low=seeds, high=seeds, margin=margin, date="2026-01-01").to_json()
    found = headline(Results(trials))
    return found.question, found.answers


def test_the_term_is_asked_about_before_the_second_view() -> None:
    question, answers = said(study({"ce": 0.0, "0": 0.05, "0.01": 0.08}))
    assert question == "Does Barlow Twins improve test accuracy?"
    assert answers[0].startswith(
        "Yes: against the control γ = 0, test accuracy is higher with γ = 10⁻² by 3.0 points ("
    )
    assert answers[0].endswith(") (n = 5 seeds).")
    assert answers[1].startswith("Against CE, test accuracy is higher with γ = 10⁻² by 8.0 points (")
    assert " and γ = 0 by 5.0 points (" in answers[1]


@pytest.mark.parametrize(
    ("gains", "begin"),
    [
        (
            {"0.001": -0.04, "0.01": -0.05},
            "No: against the control γ = 0, test accuracy is lower with γ = 10⁻² by 5.0",
        ),
        (
            {"0.001": 0.04, "0.01": -0.05},
            "It depends on the arm: against the control γ = 0, test accuracy is higher",
        ),
        ({"0.001": 0.0, "0.01": 0.0}, "Not shown: against the control γ = 0, differences from −"),
        (
            {"0.001": 0.04, "0.01": 0.0},
            "Yes: against the control γ = 0, test accuracy is higher with γ = 10⁻³ by",
        ),
    ],
)
def test_what_the_intervals_allow(gains: dict[str, float], begin: str) -> None:
    _, (first, *_) = said(study({"0": 0.0, **gains}))
    assert first.startswith(begin.format("against the control γ = 0"))
    if 0.0 in gains.values() and 0.04 in gains.values():
        assert "; for γ = 10⁻² no difference is shown (" in first


def test_a_no_takes_every_arm() -> None:
    lower = {"0": 0.0, "0.001": 0.0, "0.01": -0.05}
    _, (first,) = said(study(lower))
    assert first.startswith(
        "Not shown: against the control γ = 0, test accuracy is lower with γ = 10⁻² by 5.0"
    )
    assert "; for γ = 10⁻³ no difference is shown (" in first
    _, (first,) = said(study(lower), margin=1.0)  # γ = 10⁻³ is known to make no difference worth having
    assert first.startswith("No: against the control γ = 0, test accuracy is lower with γ = 10⁻² by 5.0")


@pytest.mark.parametrize("gain", [0.05, -0.05])
def test_only_what_asks_for_yes_or_no_gets_it(gain: float) -> None:
    asked, (first,) = said(study({"ce": 0.0, "1 vicreg": gain, "0.01": gain}))
    assert asked == "Which arms improve on cross-entropy alone?"
    assert first.startswith("Against CE, test accuracy is ")
    narrow = study({"ce": 0.0, "0.01": gain}, hidden_dim=256)
    other = {trial: value for trial, value in narrow.items() if trial.method != "ce"}
    asked, (first,) = said(study({"0.01": 0.0}) | other)
    assert asked == "Does hidden_dim change test accuracy?"
    assert first.startswith("Yes: against γ = 10⁻² (hidden_dim=2048), test accuracy is ")


def test_a_margin_allows_a_no() -> None:
    _, (first,) = said(study({"0": 0.0, "0.01": 0.0}), margin=1.0)
    assert first.startswith("No: the difference from the control γ = 0 is smaller than 1 point: from −0.")


def test_without_spread_there_is_no_test() -> None:
    _, (first,) = said(
        {config(arm, seed): 0.5 + 0.1 * (arm == "0.01") for arm in ("0", "0.01") for seed in range(3)}
    )
    assert first == (
        "Not shown: against the control γ = 0, differences are the same in all seeds, and without any spread"
        " there is no test (n = 3 seeds)."
    )


def test_what_is_open_is_said_once() -> None:
    _, answers = said(study({"ce": 0.0, "0": 0.0, "0.01": 0.1}, seeds=2))
    assert answers == ("Not known yet: 2 seeds against the control γ = 0; a claim takes 3.",)
    _, answers = said(study({"ce": 0.0, "0.01": None}))
    assert answers == ("Not known yet: 0 seeds against CE; a claim takes 3.",)


@pytest.mark.parametrize(
    ("arms", "question"),
    [
        (("ce", "0"), "Does a second view improve test accuracy?"),
        (("ce", "0.01"), "Does a second view with Barlow Twins improve test accuracy?"),
        (("0", "1 vicreg"), "Does VICReg improve test accuracy?"),
        (("ce", "0", "1 vicreg", "0.01"), "Does one of 2 consistency terms improve test accuracy?"),
        (("ce", "1 vicreg", "0.01"), "Which arms improve on cross-entropy alone?"),
        (("ce",), "Which of these arms has the highest test accuracy?"),
    ],
)
def test_the_question_is_that_of_the_arms(arms: Sequence[str], question: str) -> None:
    assert said(study(dict.fromkeys(arms, 0.0)))[0] == question


def test_many_arms_are_counted() -> None:
    arms = {"0": 0.0, **{str(gamma): 0.05 for gamma in (0.001, 0.002, 0.003, 0.004, 0.005)}}
    _, (first,) = said(study(arms))
    assert "γ = 10⁻³ by" in first
    assert " and 2 other arms (n = 5 seeds)." in first


def test_cells_of_the_same_arms_answer_together() -> None:
    values = study({"ce": 0.0, "0": 0.05}) | study({"ce": 0.0, "0": 0.03}, augmentations=("rrc",))
    _, (first,) = said(values)
    assert first.startswith("Yes: against CE, test accuracy is higher with γ = 0 by 4.0 points (")
    assert first.endswith("(n = 5 seeds, mean over 2 cells).")


def test_sets_of_cells_with_arms_of_their_own_answer_one_by_one() -> None:
    values = {}
    sets = ((("rrc",), 0.01), (("hflip",), 0.01), (("rrc", "hflip"), 0.02), (("rrc", "solarize"), 0.02))
    for subset, lambd in sets:
        values |= study({"0": 0.0, "0.01": 0.05}, augmentations=subset, lambd=lambd)
    _, answers = said(values)
    assert len(answers) == 2
    assert all("mean over 2 cells, lambd 0.0" in answer for answer in answers)
    assert answers[0].startswith("Yes: ")
    assert answers[1].startswith("Against ")


def test_cells_that_cannot_be_averaged_are_counted() -> None:
    values = study({"ce": 0.0, "0": 0.05})
    for number, gammas in enumerate((("0.1",), ("0.2",), ("0.3",), ("0.4",), ("0.5",))):
        arms = {"ce": 0.0, **dict.fromkeys(gammas, 0.05)}
        values |= study(arms, augmentations=("rrc",), lr=0.01 * (number + 1))
    _, (first,) = said(values)
    assert first.startswith(
        "In some cells: 6 of 6 comparisons with CE are higher and 0 lower (6 cells, n = 5;"
    )


def test_claims_and_the_exact_test_are_reconciled() -> None:
    """Three seeds: 0.25 at least. Six: 2/64 = 0.031, below 0.05, so that nothing is to be said."""
    few = findings(Results(frame(study({"ce": 0.0, "0": 0.05}, seeds=3))))
    assert few[-1].startswith("This claim rests on t-tests, which take differences between seeds as normally")
    assert few[-1].endswith("with 3 seeds its p is 0.25 at least; it takes 6.")
    six = comparisons(frame(study({"ce": 0.0, "0": 0.05}, seeds=6)))
    assert sign_flip_findings(six[six["metric"] == "test_acc"]) == []
    three = comparisons(frame(study({"ce": 0.0, "0": 0.05, "0.01": 0.06, "0.1": 0.06}, seeds=3)))
    assert sign_flip_findings(three[three["metric"] == "test_acc"])[0].startswith("These claims rest on")


def families(*counts: int) -> dict[str, pd.DataFrame]:
    compared = comparisons(frame(study({"ce": 0.0, "0": 0.05, "0.01": 0.02, "0.1": -0.03})))
    tested = compared[compared["metric"] == "test_acc"].reset_index(drop=True)
    return {f"family {number}": tested.head(count) for number, count in enumerate(counts)}


def test_every_difference_has_a_line_with_its_numbers() -> None:
    figure = differences(families(3, 2))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "γ = 0",
        "γ = 10⁻²",
        "γ = 0.1",
        "γ = 0",
        "γ = 10⁻²",
    ]
    texts = [text.get_text() for text in axes.texts]
    assert "family 0" in texts
    assert sum(text.startswith("+5.0  (+") for text in texts) == 2


def test_a_figure_with_too_many_lines_keeps_the_largest_differences() -> None:
    shown, left = shown_families(families(3, 2), 2)
    assert left == 3
    assert list(shown) == ["family 0"]
    assert list(shown["family 0"]["arm_label"]) == ["siamese-0", "siamese-0.1"]
    assert shown_families(families(3, 2), 5)[1] == 0


def test_panels_are_cut_where_nothing_overlaps(tmp_path: Path) -> None:
    figure, grid = panels_of(2)
    for axes in grid:
        axes.plot([0, 1], [0, 1], label="a")
        axes.set_title("t")
    legend_below(figure, grid[0])
    png, _ = save(figure, tmp_path, "two")
    with Image.open(png) as image:
        (left, right), (legend,) = json.loads(image.info[PANELS])
        assert left[0] == 0
        assert left[2] == right[0]
        assert right[2] == image.width
        assert left[3] == legend[1]
        assert legend[3] == image.height
        column = image.convert("L").crop((left[2] - 1, 0, left[2] + 1, left[3]))
        assert column.getextrema() == (255, 255)  # the cut runs through white


def laid_out(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def test_panels_that_need_each_other_stay_together() -> None:
    sideways, grid = sideways_panels(2, ["ce", "siamese-0"])
    for axes in grid:
        axes.plot([0, 1], [0, 1])
    assert panel_boxes(laid_out(sideways), DENSITY) == []  # the names are at the left
    alone, _ = panels_of(1)
    assert panel_boxes(laid_out(alone), DENSITY) == []
    untitled, grid = panels_of(9)  # three rows, and titles above the first
    for axes in grid[:3]:
        axes.set_title("t")
    assert panel_boxes(laid_out(untitled), DENSITY) == []
    for axes in grid:
        axes.set_title("t")
    assert [len(row) for row in panel_boxes(laid_out(untitled), DENSITY)] == [3, 3, 3]


def test_without_results_there_is_no_main_table() -> None:
    assert main_table([]) == []
