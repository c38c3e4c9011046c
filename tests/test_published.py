"""Published numbers beside ours."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import config, frame

from analysis.render.table import Table
from analysis.sections.published import published_findings, published_tables
from analysis.stats.published import REQUIRED, THESIS, Published, match_published, read_published
from analysis.stats.summary import summarise
from search_spaces import SPACES, TABLES
from trainables.trial import FIELDS, TrialConfig, format_value, parse_value

HEAD = "table,dataset,backbone,augmentations,arm,metric,mean,std,runs"


def write(path: Path, *lines: str, head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def tables(trials: pd.DataFrame, published: Published) -> list[Table]:
    return published_tables(match_published(summarise(trials), trials, published), trials, published)


def sentences(trials: pd.DataFrame, published: Published) -> list[str]:
    return published_findings(match_published(summarise(trials), trials, published), published)


def rows(table: Table) -> dict[str, list[str]]:
    return {title: [entry.text for entry in entries] for title, entries in table.rows}


def test_the_thesis_is_whole() -> None:
    """Ten tables, four arms, three accuracies each; some of them as they are printed."""
    published = read_published()
    assert published.name == "thesis"
    assert published.rows.groupby("table").size().to_dict() == dict.fromkeys(TABLES, 12)
    assert published.rows["runs"].isna().sum() == published.rows["std"].notna().sum() == 48
    for number, cell in TABLES.items():
        part = published.rows[published.rows["table"] == number]
        for name, value in cell.items():
            assert set(part[name]) == {format_value(value) if name == "augmentations" else value}
    found = published.rows.set_index(["table", "arm", "metric"])["mean"]
    assert found["4.1", "ce", "test_acc"] == 86.15
    assert found["4.2", "siamese-0.001", "test_augfull_acc"] == 81.3
    assert found["4.8", "siamese-0.001", "test_acc"] == 79.6
    assert found["4.10", "ce", "test_augcrop_acc"] == 59.53


def test_the_space_thesis_has_a_trial_for_every_published_number_and_its_settings() -> None:
    published = read_published()
    trials = {(t.dataset, t.backbone, format_value(t.augmentations), t.arm): t for t in SPACES["thesis"]()}
    for row in published.rows.to_dict("records"):
        trial = trials[row["dataset"], row["backbone"], row["augmentations"], row["arm"]]
        told = {name: parse_value(name, row[name]) for name in published.settings if row[name]}
        there = trial.replace(**told)
        assert there.replace(seed=trial.seed) == trial


ACCURACIES = [0.80, 0.82, 0.81]


@pytest.fixture
def single(tmp_path: Path) -> Published:
    return read_published(
        write(
            tmp_path / "other.csv",
            "3,digits,convnet,hflip+rrc,ce,test_acc,84.0,,1",
            "3,digits,convnet,rrc+hflip,siamese-0.01,test_acc,99.0,,1",
            "3,digits,convnet,rrc+hflip,siamese-0.01,train_aug_acc,99.0,0.5,",
        )
    )


def ours(**fields: object) -> dict[TrialConfig, float | None]:
    arms = {"ce": ACCURACIES, "0.01": [0.9, 0.91, 0.92]}
    return {config(arm, seed, **fields): v for arm, row in arms.items() for seed, v in enumerate(row)}


def test_a_table_by_hand(single: Published) -> None:
    trials = frame(ours())
    (table,) = tables(trials, single)
    assert table.title == "Table 3 of other: digits · convnet · rrc+hflip"
    found = rows(table)
    half = stats.t.ppf(0.975, 2) * 1.0 * np.sqrt(1 + 1 / 3)  # SD of 80, 82, 81 is 1
    interval = f"{81 - half:.1f} to {81 + half:.1f}"
    assert found["Test, CE"] == ["84.0", "81.0 ± 1.0", "3", "−3.0", interval, "yes"]
    assert found["Test, γ = 10⁻²"][-1] == "no"
    # How many runs there were is not known: the difference only.
    assert found["Train (augmented), γ = 10⁻²"] == ["99.0 ± 0.5", "–", "0 of 3", "–", "–", "–"]
    assert "if it is a single run: 5 % of them lie outside even if nothing differs" in table.caption
    assert "If it is a mean of several runs, the range is too wide for it." in table.caption
    assert "How many runs were published is not known" in table.caption
    assert sentences(trials, single) == [
        "If they are single runs, 1 of 2 published accuracies (other) lie where one more run of ours would"
        " lie with 95 %; if they are means of several, that range is too wide for them. They share training"
        " runs, so this count has no p-value."
    ]


def test_two_seeds_have_no_prediction_and_missing_ones_are_told(single: Published) -> None:
    trials = frame({**ours(), config("ce", 2): None})
    (table,) = tables(trials, single)
    assert rows(table)["Test, CE"] == ["84.0", "80.0 / 82.0", "2 of 3", "−3.0", "–", "–"]
    assert "Ours is incomplete: 5 of 6 trials are finished." in table.caption


def test_other_cells_are_not_compared(single: Published) -> None:
    trials = frame(ours(augmentations=("rrc",)))
    assert tables(trials, single) == []
    assert sentences(trials, single) == []


def test_what_differs_from_the_published_setting_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "other.csv",
        "1,digits,convnet,rrc+hflip,ce,test_acc,84.0,,1,1000,0.01",
        head=f"{HEAD},epochs,lr",
    )
    trials = frame(ours(epochs=12, train_size=200, val_fraction=0.1))
    (table,) = tables(trials, read_published(path))
    assert table.caption.endswith(
        "Ours differs from what was published in epochs (12, published 1000), train_size (200, published"
        " all), val_fraction (0.1, published 0)."
    )


def test_what_the_source_does_not_say_is_named_where_ours_is_not_the_default(tmp_path: Path) -> None:
    """The thesis names no precision: bf16 is a difference, fp32 is none."""
    path = write(
        tmp_path / "other.csv",
        "1,digits,convnet,rrc+hflip,ce,test_acc,84.0,,1,1000,",
        head=f"{HEAD},epochs,precision",
    )
    (table,) = tables(frame(ours(precision="bf16")), read_published(path))
    assert table.caption.endswith("what was published in precision (bf16, published unknown).")
    (table,) = tables(frame(ours()), read_published(path))
    assert "Ours differs" not in table.caption
    assert set(read_published().rows["precision"]) == {""}


def test_each_variant_of_an_arm_is_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "other.csv", "1,stl10,convnet,rrc+hflip,siamese-0.01,test_acc,84.0,,1")
    kinds = [config("0.01", 0, dataset="stl10", unlabeled_size=size) for size in (0, 5000)]
    (table,) = tables(frame(dict.fromkeys(kinds, 0.5)), read_published(path))
    assert list(rows(table)) == ["Test, γ = 10⁻² (unlabeled_size=0)", "Test, γ = 10⁻² (unlabeled_size=5000)"]


def test_settings_of_an_arm_are_compared_where_they_matter(tmp_path: Path) -> None:
    """Asymmetric views were published for every arm: cross-entropy has no views, and is as published."""
    path = write(
        tmp_path / "other.csv",
        "1,digits,convnet,grayscale,ce,test_acc,84.0,,1,asymmetric",
        "1,digits,convnet,grayscale,siamese-0.01,test_acc,84.0,,1,asymmetric",
        head=f"{HEAD},views",
    )
    (table,) = tables(frame(ours(augmentations=("grayscale",))), read_published(path))
    assert table.caption.endswith("published in views (symmetric, published asymmetric: γ = 10⁻²).")
    (table,) = tables(frame(ours(augmentations=("grayscale",), views="asymmetric")), read_published(path))
    assert "Ours differs" not in table.caption


def test_a_published_number_counts_once_however_many_of_ours_it_is_held_against(tmp_path: Path) -> None:
    """It counts against the one trained as published: inside there (82), though outside the other (91)."""
    path = write(
        tmp_path / "other.csv", "1,digits,convnet,rrc+hflip,ce,test_acc,82.0,,1,20", head=f"{HEAD},epochs"
    )
    near = {config("ce", seed, epochs=20): value for seed, value in enumerate(ACCURACIES)}
    far = {config("ce", seed, epochs=10): value + 0.1 for seed, value in enumerate(ACCURACIES)}
    trials = frame({**far, **near})
    assert len(tables(trials, read_published(path))) == 2
    told = (
        "If they are single runs, {} of 1 published accuracies (other) lie where one more run of ours would"
        " lie with 95 %; if they are means of several, that range is too wide for them. They share training"
        " runs, so this count has no p-value."
    )
    assert sentences(trials, read_published(path)) == [told.format(1)]
    otherwise = " Ours was trained differently from 1 of them, or may have been: the tables say how."
    assert sentences(frame(far), read_published(path)) == [told.format(0) + otherwise]


@pytest.mark.parametrize(
    ("line", "head", "message"),
    [
        (
            "1,digits,convnet,rrc,ce,test_ac,84,,1",
            HEAD,
            "line 2: metric: got 'test_ac' .did you mean 'test_acc'",
        ),
        (
            "1,digits,convnet,rrc,siamese,test_acc,84,,1",
            HEAD,
            "line 2: arm: got 'siamese'; allowed: ce, siamese-0",
        ),
        ("1,digits,convnet,rrc,siamese-1e-3,test_acc,84,,1", HEAD, "arm: got 'siamese-1e-3'"),
        ("1,digits,convnet,crop,ce,test_acc,84,,1", HEAD, "augmentations: got 'crop'"),
        ("1,digits,convnet,rrc,ce,test_acc,840,,1", HEAD, "mean: got '840'; allowed: a number from 0 to 100"),
        ("1,digits,convnet,rrc,ce,test_acc,,,1", HEAD, "mean: got ''"),
        ("1,digits,convnet,rrc,ce,test_acc,84,x,1", HEAD, "std: got 'x'; allowed: .* or nothing"),
        ("1,digits,convnet", "table,dataset,backbone", "lacks the columns augmentations, arm"),
        ("", f"{HEAD},epoch", "has the column 'epoch' .did you mean 'epochs'"),
        (
            "1,digits,convnet,rrc,ce,test_acc,84,,1,many",
            f"{HEAD},epochs",
            "epochs: got 'many'; allowed: an integer",
        ),
        ("1,digits,convnet,rrc,ce,test_acc,84,,1,2,3", HEAD, "cannot be read: lines have more entries"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, line: str, head: str, message: str
) -> None:
    path = write(tmp_path / "other.csv", line, head=head)
    with pytest.raises(ValueError, match=message) as told:
        read_published(path)
    assert str(told.value).startswith(f"--published: {path}")
    assert "\n" not in str(told.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--published: .*nowhere\.csv cannot be read"):
        read_published(tmp_path / "nowhere.csv")


def test_comments_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(f"# from a paper\n\n{HEAD}\n\n# more\n1,digits,convnet,none,ce,test_acc,84,,1\n")
    assert len(read_published(path).rows) == 1
    assert set(REQUIRED) <= set(read_published().rows.columns) <= {*REQUIRED, *FIELDS}
    assert THESIS.exists()
