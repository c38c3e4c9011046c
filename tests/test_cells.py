"""Tables of single cells on numbers that one can compute by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import config, frame

from analysis.render.files import write_tables
from analysis.render.table import Table
from analysis.sections.cells import cell_table, cell_tables, diagnostics_table
from analysis.stats.comparisons import comparisons
from analysis.stats.results import Results
from analysis.stats.summary import best_arms, summarise
from analysis.trials import cell_labels


def texts(table: Table) -> dict[str, list[str]]:
    return {title: [entry.text for entry in entries] for title, entries in table.rows}


@pytest.fixture
def trials() -> pd.DataFrame:
    """n = 3, 2, 1 and 0 finished seeds of three."""
    values = {"ce": [0.5, 0.6, 0.7], "0": [0.8, 0.9, None], "0.001": [0.25, None, None], "0.01": [None] * 3}
    return frame({config(arm, seed): v for arm, row in values.items() for seed, v in enumerate(row)})


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
    table = cell_table(summarise(trials), trials, 0)
    assert table.columns == ("CE", "γ = 0", "γ = 10⁻³", "γ = 10⁻²")
    assert texts(table)["Test"] == ["60.0 ± 10.0", "80.0 / 90.0 (2 of 3)", "25.0 (1 of 3)", "– (0 of 3)"]
    assert table.caption.startswith(
        "Accuracy in %, mean ± standard deviation over n = 0–3 seeds. 6 of 12 trials missing."
    )
    runs = [entry.runs for entry in table.rows[0][1]]
    assert [len(ids) for ids in runs] == [3, 2, 1, 0]
    assert runs[0][0] == f"run-{config('ce', 0).key}"


def test_a_cell_without_any_result_still_has_a_table() -> None:
    trials = frame({config("ce", 0): None})
    assert texts(cell_table(summarise(trials), trials, 0)) == {"Test": ["– (0 of 1)"]}
    assert comparisons(trials).empty


def test_a_result_that_is_no_number_is_told_and_not_averaged() -> None:
    """MLflow keeps infinity as the largest number."""
    odd = [float("nan"), 1.7976931348623157e308, 0.5, 0.7]
    trials = frame({config("ce", seed): value for seed, value in enumerate(odd)})
    table = cell_table(summarise(trials), trials, 0)
    assert texts(table)["Test"] == ["50.0 / 70.0 (2 of 4)"]
    assert "2 finished trials without a finite test accuracy." in table.caption
    assert "missing" not in table.caption


def test_arms_of_one_name_are_told_apart_by_what_differs() -> None:
    trials = frame({config("0.01", 0): 0.5, config("0.01", 0, lambd=0.1): 0.75, config("ce", 0): 0.25})
    table = cell_table(summarise(trials), trials, 0)
    assert table.columns == ("γ = 10⁻² (lambd=0.0051)", "γ = 10⁻² (lambd=0.1)", "CE")
    assert texts(table)["Test"] == ["50.0", "75.0", "25.0"]


def test_arms_that_differ_in_several_fields_name_those_that_are_not_at_their_default() -> None:
    asymmetric = {"augmentations": ("solarize",), "views": "asymmetric"}
    kinds = [{"augmentations": ("solarize",)}, asymmetric, {**asymmetric, "second_view": "clean"}]
    trials = frame({config("0.01", 0, **kind): 0.5 for kind in kinds})
    assert cell_table(summarise(trials), trials, 0).columns == (
        "γ = 10⁻² (views=symmetric)",
        "γ = 10⁻² (views=asymmetric)",
        "γ = 10⁻² (views=asymmetric, second_view=clean)",
    )


def test_cells_are_labelled_by_what_varies() -> None:
    varied = [config("ce", 0), config("ce", 0, train_size=200), config("ce", 0, augmentations=())]
    trials = frame(dict.fromkeys(varied, 0.5))
    assert cell_labels(trials) == {
        0: "digits · convnet · rrc+hflip · train_size none",
        1: "digits · convnet · rrc+hflip · train_size 200",
        2: "digits · convnet · none (views alike) · train_size none",
    }
    assert list(trials["group"]) == [0, 1, 0]
    assert list(trials["subset"]) == ["rrc+hflip", "rrc+hflip", "none (views alike)"]


def test_a_field_that_does_not_matter_in_a_cell_does_not_set_it_apart() -> None:
    """Without flips there is no probability of flips: these cells differ in their augmentations alone."""
    subsets = (("rrc", "hflip"), ("rrc",), ())
    trials = frame({config("ce", 0, augmentations=subset, hflip_p=1): 0.5 for subset in subsets})
    assert list(trials["group"]) == [0, 0, 0]
    assert cell_labels(trials)[0] == "digits · convnet · rrc+hflip"
    both = frame({config("ce", 0, hflip_p=p): 0.5 for p in (0.5, 1)})
    assert list(cell_labels(both).values()) == [
        f"digits · convnet · rrc+hflip · hflip_p {p}" for p in (0.5, 1.0)
    ]


def bold(trials: pd.DataFrame) -> list[bool]:
    table = cell_table(summarise(trials), trials, 0)
    return [entry.bold for entry in dict(table.rows)["Test"]]


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_bold_means_the_same_at_any_number_of_seeds(seeds: int) -> None:
    """The highest mean, and one that is printed as the same: 61.04 and 60.96, but not 60.94."""
    luck = np.linspace(-0.05, 0.05, seeds) if seeds > 1 else np.zeros(1)
    means = {"ce": 0.6096, "0": 0.6104, "0.001": 0.6094, "0.01": 0.3}
    values = {arm: mean + luck for arm, mean in means.items()}
    trials = frame({config(arm, seed): v for arm, row in values.items() for seed, v in enumerate(row)})
    assert bold(trials) == [True, True, False, False]
    assert best_arms(trials) == (["siamese-0", "ce"], seeds)  # the best first
    caption = cell_table(summarise(trials), trials, 0).caption
    assert caption.endswith(
        "Bold: the highest mean test accuracy, and every mean that reads the same to one decimal. It does not"
        " say which arms differ: their differences do."
    )


def test_files(trials: pd.DataFrame, tmp_path: Path) -> None:
    results = Results(trials)
    write_tables(results.frames, cell_tables(results, 0), tmp_path)
    read = pd.read_csv(tmp_path / "summary.csv")
    assert list(read.columns[:11]) == [
        *("dataset", "backbone", "augmentations", "arm", "gamma", "metric"),
        *("n", "planned", "mean", "std", "run_ids"),
    ]
    tested = read[(read["arm"] == "ce") & (read["metric"] == "test_acc")]
    assert tested["mean"].item() == pytest.approx(0.6, rel=1e-15)  # full precision
    columns = pd.read_csv(tmp_path / "paired.csv").columns
    assert {"baseline", "n", "delta", "delta_low_holm", "wins", "p_t", "p_holm", "p_floor"} <= set(columns)
    markdown = (tmp_path / "tables.md").read_text()
    assert "| **80.0 / 90.0 (2 of 3)** |" in markdown
    latex = (tmp_path / "tables.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    assert (tmp_path / "latex/cell-0.tex").read_text() in latex
    assert not set("γ−–±") & set(latex)


def test_tables_of_an_earlier_selection_are_removed(trials: pd.DataFrame, tmp_path: Path) -> None:
    tables = cell_tables(Results(trials), 0)
    write_tables({}, tables, tmp_path)
    write_tables({}, tables[:1], tmp_path)
    (tmp_path / "latex/mine.tex").write_text("a manuscript")
    write_tables({}, tables[1:], tmp_path)
    assert {path.name for path in (tmp_path / "latex").glob("*.tex")} == {
        *("differences-0.tex", "seeds-0.tex"),
        "mine.tex",
    }


def test_diagnostics_say_what_is_missing_and_what_an_arm_does_not_have() -> None:
    values = {
        config("ce", 0): {"test_acc": 0.5, "silhouette": -0.25, "test_ce": 12.0},
        config("ce", 1): {"test_acc": 0.5, "silhouette": -0.75, "test_ce": 9.0},
        config("0.01", 0): {"test_acc": 0.5, "silhouette": 0.5, "test_ce": 1.0, "z_effective_rank": 3.25},
        config("0.01", 1): None,
    }
    trials = frame(values)
    table = diagnostics_table(summarise(trials), trials, 0)
    assert table
    shown = texts(table)
    assert {title: row for title, row in shown.items() if row != ["–", "–"]} == {
        "Test cross-entropy": ["12.0 / 9.0", "1.0 (1 of 2)"],
        "Effective rank of z": ["–", "3.250 (1 of 2)"],
        "Silhouette of h": ["−0.250 / −0.750", "0.500 (1 of 2)"],
    }
    # What these trials are too old for is missing, what no arm of them could have is not spoken of.
    assert shown["Linear probe on h (%)"] == shown["ECE if perfectly calibrated (%)"] == ["–", "–"]
    assert not {"Linear probe on z (%)", "Validation calibration error (ECE) (%)"} & shown.keys()
    assert diagnostics_table(summarise(frame({config("ce", 0): 0.5})), trials, 0) is None
