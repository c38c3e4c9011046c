"""Tables and embedding layouts on numbers that one can compute by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import embeddings
from analysis.comparisons import comparisons, difference_caption, difference_table
from analysis.labels import arm_latex, arm_text
from analysis.tables import caption, cell_table, summarise, to_latex, to_markdown, write_tables
from analysis.trials import cell_labels
from search_spaces.names import arm_labels, name_cells
from trainables.trial import FIELDS, TrialConfig, format_value


def trial(arm: str, seed: int, **fields: object) -> TrialConfig:
    method = {"method": "ce"} if arm == "ce" else {"method": "siamese", "gamma": float(arm)}
    defaults = {"dataset": "digits", "backbone": "convnet", "augmentations": ("rrc", "hflip")}
    return TrialConfig(**{**defaults, **fields, **method, "seed": seed})


def frame(results: dict[TrialConfig, float | None]) -> pd.DataFrame:
    """What `analysis.trials.load` gives for trials with these test accuracies; None: not finished."""
    labels, cell_names = arm_labels(tuple(results)), name_cells(tuple(results))
    cells = list(dict.fromkeys(t.cell for t in results))
    return pd.DataFrame(
        {
            **{name: getattr(t, name) for name in FIELDS},
            "augmentations": format_value(t.augmentations),
            "key": t.key,
            "name": t.name,
            "status": "MISSING" if value is None else "FINISHED",
            "run_id": f"run-{t.key}",
            "changed": 0,
            "failure": None,
            "cell": cells.index(t.cell),
            "cell_label": cell_names[t.cell],
            "arm": t.arm,
            "arm_label": labels[t],
            "test_acc": value,
        }
        for t, value in results.items()
    )


@pytest.fixture
def trials() -> pd.DataFrame:
    """n = 3, 2, 1 and 0 finished seeds of three."""
    values = {"ce": [0.5, 0.6, 0.7], "0": [0.8, 0.9, None], "0.001": [0.25, None, None], "0.01": [None] * 3}
    return frame({trial(arm, seed): v for arm, row in values.items() for seed, v in enumerate(row)})


def test_summary_by_hand(trials: pd.DataFrame) -> None:
    summary = summarise(trials)
    rows = summary[summary["metric"] == "test_acc"].set_index("arm")
    assert rows["n"].to_dict() == {"ce": 3, "siamese-0": 2, "siamese-0.001": 1, "siamese-0.01": 0}
    assert set(rows["planned"]) == {3}
    assert rows.loc["ce", "mean"] == pytest.approx(0.6)
    assert rows.loc["ce", "std"] == pytest.approx(0.1)  # ddof = 1: sqrt((0.01 + 0 + 0.01) / 2)
    assert rows.loc["siamese-0", "std"] == pytest.approx(0.1 / np.sqrt(2))
    assert np.isnan(rows.loc["siamese-0.001", "std"])
    assert np.isnan(rows.loc["siamese-0.01", "mean"])
    assert len(rows.loc["ce", "run_ids"].split()) == 3


def test_entries_tell_n_and_what_is_missing(trials: pd.DataFrame) -> None:
    summary = summarise(trials)
    table = cell_table(summary, 0)
    assert table.loc["test_acc"].to_dict() == {
        "ce": "60.0 ± 10.0",
        "siamese-0": "80.0 / 90.0 (2 of 3)",
        "siamese-0.001": "25.0 (1 of 3)",
        "siamese-0.01": "– (0 of 3)",
    }
    assert caption(summary, 0) == (
        "Accuracy in %, mean ± standard deviation over n = 0–3 seeds. 6 of 12 trials are missing."
    )


def test_a_cell_without_any_result_still_has_a_table() -> None:
    trials = frame({trial("ce", 0): None}).drop(columns="test_acc")
    assert cell_table(summarise(trials), 0).loc["test_acc", "ce"] == "– (0 of 1)"


def test_markdown_latex_and_csv(trials: pd.DataFrame, tmp_path: Path) -> None:
    summary = summarise(trials)
    title = cell_labels(trials)[0]
    assert title == "digits · convnet · rrc+hflip"
    markdown = to_markdown(cell_table(summary, 0), title, "Caption.")
    assert "| Test           | 60.0 ± 10.0 |" in markdown
    assert "γ = 10⁻³" in markdown
    latex = to_latex(cell_table(summary, 0), title, "50 % of a_b.")
    assert r"60.0 $\pm$ 10.0" in latex
    assert r"$\gamma = 10^{-3}$" in latex
    assert r"digits $\cdot$ convnet $\cdot$ rrc+hflip. 50 \% of a\_b." in latex
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    write_tables(summary, comparisons(trials), {0: title}, tmp_path)
    read = pd.read_csv(tmp_path / "summary.csv")
    assert {
        "dataset",
        "backbone",
        "augmentations",
        "arm",
        "gamma",
        "metric",
        "n",
        "planned",
        "mean",
        "std",
    } <= set(read.columns)
    assert (
        read.loc[(read["arm"] == "ce") & (read["metric"] == "test_acc"), "mean"].item()
        == summary[(summary["arm"] == "ce") & (summary["metric"] == "test_acc")]["mean"].item()
    )


def test_arms_of_one_name_are_told_apart_by_what_differs() -> None:
    trials = frame({trial("0.01", 0): 0.5, trial("0.01", 0, lambd=0.1): 0.75, trial("ce", 0): 0.25})
    table = cell_table(summarise(trials), 0)
    assert list(table.columns) == ["siamese-0.01 lambd=0.0051", "siamese-0.01 lambd=0.1", "ce"]
    assert list(table.loc["test_acc"]) == ["50.0", "75.0", "25.0"]


def test_cells_are_labelled_by_what_varies() -> None:
    varied = [trial("ce", 0), trial("ce", 0, train_size=200), trial("ce", 0, augmentations=())]
    assert cell_labels(frame(dict.fromkeys(varied, 0.5))) == {
        0: "digits · convnet · rrc+hflip · train_size none",
        1: "digits · convnet · rrc+hflip · train_size 200",
        2: "digits · convnet · none (views alike) · train_size none",
    }


@pytest.mark.parametrize(
    ("label", "text", "latex"),
    [
        ("ce", "CE", "CE"),
        ("siamese-0", "γ = 0", r"$\gamma = 0$"),
        ("siamese-0.001", "γ = 10⁻³", r"$\gamma = 10^{-3}$"),
        ("siamese-1e-05", "γ = 10⁻⁵", r"$\gamma = 10^{-5}$"),
        ("siamese-0.005", "γ = 0.005", r"$\gamma = 0.005$"),
        ("siamese-1", "γ = 1", r"$\gamma = 1$"),
        ("siamese-0.01 hidden_dim=4", "γ = 10⁻², hidden_dim=4", r"$\gamma = 10^{-2}$, hidden\_dim=4"),
    ],
)
def test_arm_names(label: str, text: str, latex: str) -> None:
    assert arm_text(label) == text
    assert arm_latex(label) == latex


def test_the_seed_shown_is_the_lowest_common_one(trials: pd.DataFrame) -> None:
    assert embeddings.shown_seed(trials) == 0
    two_arms = frame({trial("ce", 0): 0.5, trial("ce", 1): 0.5, trial("0", 1): 0.5, trial("0", 0): None})
    assert embeddings.shown_seed(two_arms) == 1
    assert embeddings.shown_seed(frame({trial("ce", 0): None})) is None


@pytest.fixture
def panels() -> list[embeddings.Embedding]:
    """Three clusters, and the same turned, mirrored and scaled."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    centres = np.array([[9.0, 0, 0, 0], [0, 6.0, 0, 0], [-9.0, -6.0, 0, 0]])
    h = centres[labels] + random.normal(size=(60, 4)) * 0.1
    turn, _ = np.linalg.qr(random.normal(size=(4, 4)))
    index = np.arange(60)
    return [
        embeddings.Embedding(arm="ce", h=h, labels=labels, index=index),
        embeddings.Embedding(arm="siamese-0.01", h=-h @ turn, labels=labels, index=index),
    ]


def test_pca_panels_are_turned_onto_the_first(panels: list[embeddings.Embedding]) -> None:
    (first, variance), (second, same) = embeddings.pca_layouts(panels)
    np.testing.assert_allclose(second, first, atol=1e-9)
    assert variance == pytest.approx(same)
    assert 0.99 < variance <= 1


def test_tsne_is_repeatable_and_begins_from_the_first(panels: list[embeddings.Embedding]) -> None:
    first, second = embeddings.tsne_layouts(panels)
    again, _ = embeddings.tsne_layouts(panels)
    np.testing.assert_array_equal(first, again)
    centre = [[layout[panels[0].labels == c].mean(0) for c in range(3)] for layout in (first, second)]
    # Distances were kept, so the clusters stay where the first panel has them.
    for c in range(3):
        nearest = np.argmin([np.linalg.norm(centre[1][c] - other) for other in centre[0]])
        assert nearest == c


def test_a_collapsed_arm_is_told_and_the_others_drawn(panels: list[embeddings.Embedding]) -> None:
    """t-SNE of equal points ends the process; half precision overflows to infinity."""
    first = panels[0]
    odd = {
        "siamese-0.1": (np.ones((60, 4)), "collapsed: all features alike"),
        "siamese-1": (np.full((60, 4), np.inf), "features are not finite"),
        "siamese-10": (np.arange(60.0)[:, None], "too few images or features"),
    }
    flawed = [
        embeddings.Embedding(arm=arm, h=h, labels=first.labels, index=first.index)
        for arm, (h, _) in odd.items()
    ]
    figure = embeddings.draw([*flawed, *panels])
    for axes, (_, reason) in zip(figure.axes, odd.values(), strict=False):
        assert [text.get_text() for text in axes.texts] == [reason]
    assert len(figure.legends[0].get_texts()) == 3
    assert embeddings.draw(flawed).legends == []


def test_a_figure_has_a_panel_an_arm(panels: list[embeddings.Embedding]) -> None:
    figure = embeddings.draw(panels)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["CE", "γ = 10⁻²"]
    assert len(figure.axes) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]


def test_comparisons_by_hand() -> None:
    """Two cells; differences of 0.1, 0.2 and 0.3 are two standard errors of 0.1 / sqrt(3) times sqrt(3)."""
    results = {}
    for augmentations in (("rrc",), ("hflip",)):
        for seed, luck in enumerate((0.1, 0.3, 0.2)):
            results[trial("ce", seed, augmentations=augmentations)] = luck
            results[trial("0", seed, augmentations=augmentations)] = luck + 0.1
            results[trial("0.01", seed, augmentations=augmentations)] = luck + 0.1 * (seed + 2)
    table = comparisons(frame(results))
    assert len(table) == 2 * (2 + 1)  # both arms against ce, and one against the control
    row = table[(table["cell"] == 1) & (table["baseline"] == "siamese-0")].iloc[0]
    assert row["arm"] == "siamese-0.01"
    assert (row["n"], row["wins"], row["dropped"]) == (3, 3, "")
    assert row["delta"] == pytest.approx(0.2)
    assert row["p_t"] == pytest.approx(0.07417990022744862, rel=1e-6)  # t = 2 sqrt(3), two degrees of freedom
    assert row["augmentations"] == "hflip"


def test_comparisons_of_an_incomplete_study(trials: pd.DataFrame) -> None:
    """Seeds that an arm lacks are left out for all, and named; an arm without results stays in the family."""
    table = comparisons(trials)
    against_ce = table[table["baseline"] == "ce"].set_index("arm")
    assert against_ce["n"].to_dict() == {"siamese-0": 1, "siamese-0.001": 1, "siamese-0.01": 0}
    assert set(table["dropped"]) == {"1 2"}
    assert against_ce["p_t"].isna().all()
    assert against_ce.loc["siamese-0", "delta"] == pytest.approx(0.3)
    assert len(comparisons(trials.iloc[:0])) == 0


def test_only_test_accuracy_has_p_values(trials: pd.DataFrame) -> None:
    whole = trials.assign(test_acc=np.linspace(0.1, 0.9, len(trials)) ** 2, status="FINISHED")
    table = comparisons(whole.assign(val_acc=whole["test_acc"]))
    assert table.loc[table["metric"] == "test_acc", "p_t"].notna().all()
    described = table[table["metric"] == "val_acc"]
    assert described[["p_t", "p_holm", "p_sign_flip", "delta_low_holm"]].isna().all(axis=None)
    assert described["delta_low"].notna().all()


def test_differences_for_people() -> None:
    values = {"ce": [0.50, 0.62, 0.71], "0": [0.60, 0.70, 0.84], "0.01": [0.49, 0.60, 0.70]}
    trials = frame({trial(arm, seed): v for arm, row in values.items() for seed, v in enumerate(row)})
    compared = comparisons(trials)
    table = difference_table(compared, 0)
    assert list(table.index) == [("siamese-0", "ce"), ("siamese-0.01", "ce"), ("siamese-0.01", "siamese-0")]
    row = table.iloc[1]
    assert (row["Difference"], row["Wins"], row["p (sign flips)"]) == ("−1.3", "0 of 3", "0.250")
    assert row["95 % interval"].startswith("−2.8 to +0.1")  # -1.333 ± 4.303 x 0.577 / sqrt(3)
    assert difference_caption(compared, 0) == (
        "Differences in test accuracy in points, paired by seed, n = 3; t-test and its interval, adjusted"
        " after Holm for all arms of the cell (2 against CE and 1 against γ = 0). Exact sign-flip p-values,"
        " not adjusted, are at least 0.25 with 3 seeds."
    )


def test_differences_of_one_seed_claim_nothing(tmp_path: Path) -> None:
    trials = frame({trial("ce", 0): 0.5, trial("0.01", 0): 0.75})
    compared = comparisons(trials)
    row = difference_table(compared, 0).iloc[0]
    assert row.to_dict() == {
        "Difference": "+25.0",
        "95 % interval": "–",
        "Holm-adjusted": "–",
        "Wins": "1 of 1",
        "p (t)": "–",
        "p (Holm)": "–",
        "p (sign flips)": "1.000",
    }
    write_tables(summarise(trials), compared, {0: "a cell"}, tmp_path)
    latex = (tmp_path / "tables.tex").read_text()
    assert r"$\gamma = 10^{-2}$ $-$ CE & +25.0 & -- & -- & 1 of 1" in latex
    assert r"95 \% interval" in latex
    assert not set("γ−–±") & set(latex)
    assert "| γ = 10⁻² − CE |" in (tmp_path / "tables.md").read_text()
    assert "1.000 |" in (tmp_path / "tables.md").read_text()


def test_without_a_baseline_there_is_no_difference() -> None:
    for alone in (
        {trial("0.01", 0): 0.5, trial("0.1", 0): 0.75},
        {trial("ce", 0): 0.5},
        {trial("0", 0): 0.5},
    ):
        compared = comparisons(frame(alone))
        assert difference_table(compared, 0).empty
        assert difference_caption(compared, 0) == ""
