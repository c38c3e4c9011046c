"""Figures show what they are given: every point, every interval, nothing where there is nothing."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from scipy import stats
from synthetic import config, frame, results
from test_overview import model, powerset_study

from analysis.plots import accuracy, effects, style
from analysis.plots.cache import FigureCache, digest_of
from analysis.plots.projections import Embedding, shown_arms
from analysis.sections import figures
from analysis.sections.cells import cell_table
from analysis.stats.comparisons import claimed, comparisons, values_of
from analysis.stats.factors import effects_of
from analysis.stats.pooling import pooled_comparisons
from analysis.stats.summary import summarise
from analysis.trials import cell_labels
from study.ledger.ledger import Ledger

ARMS = {"ce": [0.5, 0.6, 0.7], "0": [0.62, 0.7, 0.81], "0.01": [0.8, 0.9, None]}


@pytest.fixture
def trials() -> pd.DataFrame:
    return frame({config(arm, seed): v for arm, row in ARMS.items() for seed, v in enumerate(row)})


def test_every_seed_is_a_point_and_every_arm_a_mean(trials: pd.DataFrame) -> None:
    figure = accuracy.accuracy_by_arm(trials, {"test_acc": "Test"})
    (axes,) = figure.axes
    *seeds, first, second, third = axes.lines
    np.testing.assert_allclose([line.get_ydata()[0] for line in seeds], ARMS["ce"])
    assert np.isnan(seeds[2].get_ydata()[2])  # seed 2 of the last arm is missing
    means = [float(line.get_ydata()[0]) for line in (first, second, third)]
    assert means == pytest.approx([0.6, 0.71, 0.85])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["CE", "γ = 0", "γ = 10⁻²"]


def test_a_metric_that_was_measured_later_is_a_change(trials: pd.DataFrame) -> None:
    """It changes no state of its run, but what a report shows."""
    before = digest_of(trials)
    assert digest_of(trials.copy()) == before
    assert digest_of(trials.assign(knn_acc=0.5)) != before
    assert digest_of(trials.assign(test_acc=trials["test_acc"] + 1e-9)) != before


def curves(**columns: float) -> pd.DataFrame:
    rows = [
        {"arm_label": arm, "seed": seed, "epoch": epoch, **{k: v + 0.1 * seed for k, v in columns.items()}}
        for arm in ("ce", "siamese-0")
        for seed in range(3)
        for epoch in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def test_learning_curves_have_the_range_of_the_seeds() -> None:
    figure = accuracy.learning_curves(curves(**{"train/acc": 0.5, "val/acc": 0.4}), ["ce", "siamese-0"])
    assert figure
    train, validation = figure.axes
    assert (train.get_title(), validation.get_title()) == ("Training accuracy", "Validation accuracy")
    np.testing.assert_allclose(train.lines[0].get_ydata(), [0.6, 0.6, 0.6])
    band = train.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.5, 0.7))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CE", "γ = 0"]


def test_without_a_validation_split_the_loss_is_shown() -> None:
    figure = accuracy.learning_curves(curves(**{"train/acc": 0.5, "train/ce": 1.0}), ["ce", "siamese-0"])
    assert figure
    assert [axes.get_title() for axes in figure.axes] == ["Training accuracy", "Cross-entropy"]
    assert accuracy.learning_curves(pd.DataFrame(columns=["arm_label", "seed", "epoch"]), ["ce"]) is None


def test_accuracy_against_gamma_has_t_intervals(trials: pd.DataFrame) -> None:
    arms = ["ce", "siamese-0.01", "siamese-0"]
    figure = accuracy.accuracy_by_gamma({"a cell": values_of(trials, "test_acc")}, arms)
    assert figure
    (axes,) = figure.axes
    bars = [container for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert len(bars) == 2
    low, high = bars[0].lines[2][0].get_segments()[0][:, 1]
    values = np.array(ARMS["0"], float)
    expected = stats.t.interval(0.95, 2, values.mean(), values.std(ddof=1) / np.sqrt(3))
    assert (low, high) == pytest.approx(expected)
    (baseline,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert baseline.get_ydata()[0] == pytest.approx(0.6)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "10⁻²"]


def test_one_gamma_or_two_arms_of_one_gamma_make_no_curve(trials: pd.DataFrame) -> None:
    values = {"a cell": values_of(trials, "test_acc")}
    assert accuracy.accuracy_by_gamma(values, ["siamese-0"]) is None
    assert accuracy.accuracy_by_gamma(values, ["siamese-0 a", "siamese-0 b"]) is None


def test_arms_that_differ_in_more_than_gamma_have_a_line_each() -> None:
    """With and without unlabelled images, and a control that both share."""
    labels = [
        "ce",
        "siamese-0",
        *(f"siamese-{g} lambd={v}" for v in ("0.1", "0.2") for g in ("0.001", "0.01")),
    ]
    values = pd.DataFrame({label: [0.5 + i / 10, 0.52 + i / 10] for i, label in enumerate(labels)})
    figure = accuracy.accuracy_by_gamma({"a cell": values, "empty": values.iloc[:0]}, labels)
    assert figure
    axes, empty = figure.axes
    lines = {line.get_label(): line for line in axes.lines if str(line.get_label()).startswith("lambd")}
    assert list(lines) == ["lambd=0.1", "lambd=0.2"]
    assert [list(np.round(line.get_ydata(), 6)) for line in lines.values()] == [
        [0.61, 0.71, 0.81],
        [0.61, 0.91, 1.01],
    ]
    assert lines["lambd=0.1"].get_color() != lines["lambd=0.2"].get_color()
    # Beside each other: intervals would hide each other otherwise.
    places = [line.get_xdata() for line in lines.values()]
    assert (np.abs(places[0] - places[1]) > 0.05).all()
    assert [text.get_text() for text in empty.texts] == ["no results"]


def test_no_colour_comes_twice() -> None:
    for count in (3, 9, 10, 40):
        arms = ["ce", *(f"siamese-{i}" for i in range(count))]
        colours = {to_hex(colour) for colour in style.arm_colours(arms).values()}
        assert len(colours) == count + 1


def filled(forest: Figure) -> list[bool]:
    """Of each mark in a forest, whether it is filled."""
    marks = [line for line in forest.axes[0].lines if line.get_marker() in ("o", "D")]
    return [line.get_markerfacecolor() != "white" for line in marks for _ in line.get_xdata()]


def test_the_forest_has_every_cell_and_the_pooled_difference() -> None:
    both = {
        config(arm, seed, augmentations=augmentations): value
        for augmentations in (("rrc",), ("hflip",))
        for arm, row in {**ARMS, "0.01": [0.8, 0.9, 0.85]}.items()
        for seed, value in enumerate(row)
    }
    trials = frame(both)
    compared = comparisons(trials)
    tested = compared[(compared["metric"] == "test_acc") & (compared["baseline"] == "ce")]
    (pooled,) = pooled_comparisons(trials)
    figure = effects.forest(tested, cell_labels(trials), pooled[pooled["baseline"] == "ce"])
    assert figure
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["digits · convnet · rrc", "digits · convnet · hflip", "together"]
    points = np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() in ("o", "D")])
    expected = 100 * pd.concat([tested["delta"], pooled.loc[pooled["baseline"] == "ce", "delta"]])
    np.testing.assert_allclose(np.sort(points), np.sort(expected))
    assert filled(figure) == [True] * 6
    assert claimed(tested).all()
    unsure = effects.forest(tested.assign(n=2), cell_labels(trials))
    assert unsure
    assert filled(unsure) == [False] * 4
    assert effects.forest(tested.assign(n=0), {}) is None


def test_effects_have_a_matrix_each() -> None:
    found = effects_of(frame(powerset_study(model)))
    figure = effects.effects_figure({column: table for column, (table, _) in found.items()})
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["CE", "γ = 0", "γ = 10⁻²", "γ = 10⁻² − γ = 0"]
    matrix = next(axes for axes in figure.axes if axes.get_title() == "CE")
    assert len(matrix.texts) == 6
    assert "+3.0" in [text.get_text() for text in matrix.texts]  # rrc with hflip
    assert not any("−0.0" in text.get_text() for text in matrix.texts)


def test_trade_offs_and_cost_have_a_point_a_trial() -> None:
    configs = [config(arm, seed) for arm in ("ce", "0.01") for seed in range(4)]
    trials = frame({c: results(c) for c in configs[:-1]} | {configs[-1]: None})
    trade = accuracy.trade_offs(trials)
    cost = accuracy.cost(trials)
    assert trade
    assert cost
    assert [axes.get_xlabel() for axes in trade.axes] == ["Agreement of two views", "Calibration error (ECE)"]
    assert [sum(len(c.get_offsets()) for c in axes.collections) for axes in trade.axes] == [7, 7]
    dots = sum(len(line.get_xdata()) for line in cost.axes[0].lines if line.get_marker() == "o")
    assert dots == 7
    nothing = frame(dict.fromkeys(configs, None))
    assert accuracy.trade_offs(nothing) is None
    assert accuracy.cost(nothing) is None


def test_arms_are_told_apart_and_the_baseline_is_grey() -> None:
    arms = ["ce", *(f"siamese-{i}" for i in range(9))]
    colours = style.arm_colours(arms)
    assert colours["ce"] == style.BASELINE_COLOUR
    assert len({str(colour) for colour in colours.values()}) == 10
    # A colour belongs to an arm, not to its place: without the baseline they are the same.
    assert style.arm_colours(arms[1:])["siamese-3"] == colours["siamese-3"]


def test_files_have_type_that_can_be_searched_and_no_date(trials: pd.DataFrame, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        figure = accuracy.accuracy_by_arm(trials, {"test_acc": "Test"})
        written.append(style.save(figure, tmp_path, name))
    (png, pdf), (other_png, other_pdf) = written
    assert png.read_bytes() == other_png.read_bytes()
    content = pdf.read_bytes()
    assert content == other_pdf.read_bytes()
    assert b"CreationDate" not in content
    assert re.search(rb"/FontFile2", content)  # TrueType, not outlines
    assert mpl.rcParams["pdf.fonttype"] == 3  # nobody else's figures are changed


def test_nine_long_names_stay_within_the_page() -> None:
    """The arms of the space `unlabelled`."""
    sizes = (0, 5000)
    configs = [config("ce", seed, dataset="stl10") for seed in range(3)]
    configs += [
        config(gamma, seed, dataset="stl10", unlabeled_size=size)
        for size in sizes
        for gamma in ("0", "0.0001", "0.001", "0.01")
        for seed in range(3)
    ]
    trials = frame({c: results(c) for c in configs})
    compared = comparisons(trials)
    tested = compared[(compared["metric"] == "test_acc") & (compared["baseline"] == "ce")]
    figure = effects.forest(tested, cell_labels(trials))
    assert figure
    figure.draw_without_rendering()
    page, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert page.x0 <= legend.x0
    assert legend.x1 <= page.x1
    cost = accuracy.cost(trials)
    assert cost
    cost.draw_without_rendering()
    # Slanted names begin apart: their right ends are a tick from each other.
    ends = [text.get_window_extent().x1 for text in cost.axes[0].get_xticklabels()]
    assert len(ends) == 9
    assert min(np.diff(ends)) > 5


TERMS_TRIED = ("vicreg", "wmse", "ntxent", "supcon", "simsiam", "byol", "kl", "mse")


@pytest.fixture
def rivals() -> pd.DataFrame:
    """CE, the control, and eight terms at three weights, two seeds each."""
    given = {"embedding_dim": 8, "val_fraction": 0.1}
    arms: list[tuple[str, dict[str, object]]] = [("ce", {}), ("0", {})]
    arms += [(gamma, {"term": term}) for term in TERMS_TRIED for gamma in ("0.01", "0.1", "1")]
    return frame(
        {
            config(arm, seed, **given, **fields): 0.5 + 0.01 * place + 0.001 * seed
            for place, (arm, fields) in enumerate(arms)
            for seed in range(2)
        }
    )


def test_many_arms_have_their_names_beside_the_panels(rivals: pd.DataFrame) -> None:
    figure = accuracy.accuracy_by_arm(rivals, {"test_acc": "Test"})
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert (names[0], names[1], names[-1], len(names)) == ("CE", "γ = 0", "MSE, γ = 1", 26)
    one, other, *means = axes.lines
    np.testing.assert_allclose(one.get_xdata(), [0.5 + 0.01 * place for place in range(26)])
    np.testing.assert_allclose([float(line.get_xdata()[0]) for line in means], other.get_xdata() - 0.0005)
    figure.draw_without_rendering()  # a warning, hence an error, where there is no room


def test_many_settings_have_a_panel_each_against_gamma(rivals: pd.DataFrame) -> None:
    arms = list(dict.fromkeys(rivals["arm_label"]))
    values = values_of(rivals, "test_acc")
    figure = accuracy.accuracy_by_gamma({"digits": values}, arms)
    assert figure
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown][:2] == ["VICReg", "W-MSE"]
    assert len(shown) == len(TERMS_TRIED)
    points = shown[1].containers[0].lines[0]
    np.testing.assert_allclose(
        points.get_ydata(), values[["siamese-0", "wmse-0.01", "wmse-0.1", "wmse-1"]].mean()
    )
    assert [text.get_text() for text in shown[1].get_xticklabels()] == ["0", "10⁻²", "0.1", "1"]


def test_a_long_legend_makes_the_figure_higher(rivals: pd.DataFrame) -> None:
    arms = list(dict.fromkeys(rivals["arm_label"]))
    rows = [{"arm_label": arm, "seed": 0, "epoch": e, "train/acc": 0.1 * e} for arm in arms for e in (1, 2)]
    figure = accuracy.learning_curves(pd.DataFrame(rows), arms)
    assert figure
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y0 >= 0
    assert legend.y1 < min(axes.get_window_extent().y0 for axes in figure.axes)


def test_of_many_arms_baselines_and_the_best_have_embeddings(rivals: pd.DataFrame) -> None:
    best = ["kl-1", "mse-0.01", "mse-0.1", "mse-1"]
    assert shown_arms(rivals) == ["ce", "siamese-0", *best]
    few = rivals[rivals["arm_label"].isin(["ce", "vicreg-0.1"])]
    assert shown_arms(few) == ["ce", "vicreg-0.1"]


def test_embeddings_are_drawn_again_only_for_another_state_of_the_seed_that_they_show(
    trials: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[str] = []
    monkeypatch.setattr(
        FigureCache, "add", lambda self, name, source, *_, **how: digests.append(digest_of(source)) or []
    )
    panel = Embedding(arm="ce", values=np.zeros((4, 2)), labels=np.arange(4), index=np.arange(4))
    monkeypatch.setattr(figures, "read", lambda *_: [panel])
    monkeypatch.setattr(figures, "class_names", lambda *_: ())
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path)
    other = trials.assign(changed=trials["changed"].where(trials["seed"] > 0, trials["changed"] + 1))
    for cell in (trials, trials[trials["seed"] < 2], other):
        figures.embedding_figures(cell, 0, ledger, FigureCache(tmp_path))
    assert len(digests) == 6
    assert digests[0] == digests[1] == digests[2] == digests[3] != digests[4]


def test_a_table_of_many_arms_is_turned_round(rivals: pd.DataFrame) -> None:
    table = cell_table(summarise(rivals), rivals, 0)
    assert table.columns == ("Test",)
    assert [title for title, _ in table.rows][:2] == ["CE", "γ = 0"]
    assert [(name, row[0].text) for name, row in table.rows if row[0].bold] == [("MSE, γ = 1", "75.0 / 75.1")]
    few = rivals[rivals["arm_label"].isin(["ce", "vicreg-0.1"])]
    assert cell_table(summarise(few), few, 0).columns == ("CE", "VICReg, γ = 0.1")
