"""The report of a search: its numbers computed again, and what it says of them."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from analysis import live
from analysis.plots.search import history, pareto, shares, slices
from analysis.report import render_search
from analysis.sections.findings import cell_findings
from analysis.sections.search import search_findings
from analysis.sections.search_tables import final_tables, searched_table
from analysis.stats.importances import importances
from analysis.stats.search import SearchStudy, mean_of_runs
from analysis.trials import MixedData
from search_spaces import SPACES, Parameter, Search, loguniform, uniform, with_two_views
from search_spaces.ranges import Range
from study.ledger.look import Look
from study.ledger.records import PRUNED_TAG, TrialRecord
from study.ledger.search_members import Member, SearchTrial
from study.ledger.search_state import SearchState, load_search_state
from study.ledger.tracking_uri import LedgerError
from trainables.trial import TrialConfig

pytestmark = pytest.mark.usefixtures("without_pdfs")

FIXED = {
    "dataset": "digits",
    "train_size": 200,
    "val_fraction": 0.1,
    "backbone": "convnet",
    "feature_dim": 512,
    "epochs": 60,
    "lr_schedule": "cosine",
    "augmentations": ("rrc", "solarize"),
    "batch_size": 50,
}
TEST = {("ce", 1): (0.80, 0.81, 0.79), ("ce", 2): (0.82, 0.83, 0.82), ("siamese", 1): (0.90, 0.92, 0.89)}
"""Test accuracy of each finalist with the fresh seeds."""


PARAMETERS = (
    Parameter("lr", loguniform(1e-3, 1.0)),
    Parameter("gamma", loguniform(1e-4, 1e-1), when=with_two_views),
)


def searching(**changes: Any) -> Search:
    about = {"name": "s", "fixed": FIXED, "parameters": PARAMETERS, "trials": 3, "beside": "quickstart"}
    return Search(**{**about, **changes})


def record(
    trial: TrialConfig, metrics: dict[str, float], status: str = "FINISHED", **tags: str
) -> TrialRecord:
    about = {"data.sha256": "abc", "device": "cpu x", "threads": "1", "git.dirty": "false", "attempts": "1"}
    return TrialRecord(
        key=trial.key,
        run_id=f"run-{trial.key}",
        status=status,
        params=trial.to_params(),
        tags={**about, **tags},
        metrics=metrics,
        changed=1,
    )


def config(method: str, lr: float, seed: int = 0) -> TrialConfig:
    gamma = {"gamma": 0.01} if method == "siamese" else {}
    return TrialConfig(**{**FIXED, "method": method, "lr": lr, "seed": seed, **gamma})


def searched() -> dict[str, TrialRecord]:
    """Three configurations of `ce`, the third stopped early, and two of `siamese`, one diverged."""
    nan = {"search.s": "2", "failure": "NonFiniteLoss: train/ce is nan"}
    of = [
        record(
            config("ce", 0.1), {"val_acc": 0.9, "test_acc": 0.5, "train_seconds": 9.0}, **{"search.s": "1"}
        ),
        record(
            config("ce", 0.2), {"val_acc": 0.8, "test_acc": 0.6, "train_seconds": 8.0}, **{"search.s": "2"}
        ),
        record(config("ce", 0.3), {}, "KILLED", **{"search.s": "3", PRUNED_TAG: "12"}),
        record(config("siamese", 0.4), {"val_acc": 0.7, "test_acc": 0.7}, **{"search.s": "1"}),
        record(config("siamese", 0.9), {}, "FAILED", **nan),
    ]
    return {record.key: record for record in of}


def finals() -> dict[str, TrialRecord]:
    """The second of `ce` is better on the validation images of the fresh seeds."""
    found = {}
    for (method, rank), values in TEST.items():
        lr = {("ce", 1): 0.1, ("ce", 2): 0.2, ("siamese", 1): 0.4}[method, rank]
        for seed, test in enumerate(values, 1):
            metrics = {"test_acc": test, "val_acc": 0.8 + 0.01 * rank + 0.001 * seed, "train_seconds": 5.0}
            trial = config(method, lr, seed)
            found[trial.key] = record(trial, metrics, stage="final")
    return found


def study(records: dict[str, TrialRecord], **changes: Any) -> SearchStudy:
    return SearchStudy(load_search_state(searching(**changes), records, {}), records)


def text(found: SearchStudy, table: str) -> pd.DataFrame:
    return next(one for one in final_tables(found) if one.name == table).frame()


def test_finalists_with_their_fresh_seeds_alone() -> None:
    found = study({**searched(), **finals()})
    table = text(found, "finalists")
    assert list(table.columns) == ["CE 1", "CE 2", "Siamese 1"]
    assert list(table.loc["Validation accuracy in the search"]) == ["90.0", "80.0", "70.0"]
    for column, values in zip(table.columns, TEST.values(), strict=True):
        assert (
            table.loc["Test", column] == f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
        )
    configurations = text(found, "finalists-configurations")
    assert list(configurations.loc["gamma"]) == ["–", "–", "0.01"]
    assert list(configurations.loc["lr"]) == ["0.1", "0.2", "0.4"]


def test_the_baseline_is_chosen_by_validation_and_compared_on_test_images() -> None:
    found = study({**searched(), **finals()})
    assert found.baseline == "CE 2"
    table = found.compared[found.compared["metric"] == "test_acc"]
    assert table[["arm_label", "baseline", "dropped"]].to_numpy().tolist() == [["Siamese 1", "CE 2", ""]]
    ours, theirs = np.array(TEST["siamese", 1]), np.array(TEST["ce", 2])
    expected = ttest_rel(ours, theirs)
    row = table.iloc[0]
    assert row["delta"] == pytest.approx((ours - theirs).mean())
    assert row["p_t"] == pytest.approx(expected.pvalue)
    assert [row["delta_low"], row["delta_high"]] == pytest.approx(list(expected.confidence_interval(0.95)))
    (sentence, *_) = search_findings(found)
    assert sentence.startswith("Siamese 1 has a higher test accuracy than CE 2: +8.0 points (Holm-adjusted")
    assert "n = 3 fresh seeds" in sentence


def test_a_missing_seed_is_left_out_and_said() -> None:
    records = {**searched(), **finals()}
    del records[config("siamese", 0.4, 2).key]
    found = study(records)
    assert "(2 of 3)" in text(found, "finalists").loc["Test", "Siamese 1"]
    caption = next(t.caption for t in final_tables(found) if t.name == "finalists-differences")
    assert "n = 2" in caption
    assert "Left out, as not every arm has them: seed 2." in caption
    assert search_findings(found)[0] == "Against CE 2 nothing can be shown with 2 fresh seeds; it takes 3."


def family(**columns: Any) -> pd.DataFrame:
    about = {"metric": "test_acc", "baseline": "CE 1", "baseline_label": "CE 1", "delta": 0.05}
    about["verdict"] = "undecided"
    return pd.DataFrame({**columns, **{name: columns.get(name, value) for name, value in about.items()}})


def test_no_difference_is_never_equal() -> None:
    values = family(
        arm_label=["Siamese 1"], n=[3], p_holm=[0.4], delta_low_holm=[-0.1], delta_high_holm=[0.1]
    )
    (sentence,) = cell_findings(values, seed="fresh seed")
    assert sentence == (
        "Against CE 1 no difference in test accuracy is shown for Siamese 1: differences from −10.0 to +10.0"
        " points remain possible (Holm-adjusted intervals, n = 3 fresh seeds); that is no evidence of"
        " equality."
    )


def test_a_finalist_is_claimed_to_differ_by_its_own_seeds_alone() -> None:
    """One that has fewer seeds than others has their number in its sentence, and none with too few."""
    values = family(
        arm_label=["Siamese 1", "Siamese 2", "CE 2"],
        n=[5, 4, 2],
        p_holm=0.01,
        delta_low_holm=0.01,
        delta_high_holm=0.09,
    )
    sentences = cell_findings(values, seed="fresh seed")
    assert [sentence.partition(" has ")[0] for sentence in sentences[:2]] == ["Siamese 1", "Siamese 2"]
    assert ["n = 5 fresh seeds" in sentences[0], "n = 4 fresh seeds" in sentences[1]] == [True, True]
    assert "is shown for CE 2" in sentences[2]


def test_arms_of_another_space_stand_beside_where_data_and_epochs_are_the_same() -> None:
    beside = {
        trial.key: record(trial, {"val_acc": 0.5 + 0.1 * trial.seed, "test_acc": 0.4})
        for trial in SPACES["quickstart"]()
        if trial.method == "ce"
    }
    found = study({**searched(), **finals(), **beside})
    table = text(found, "finalists-beside")
    assert list(table.index) == ["CE 1", "CE 2", "Siamese 1", "quickstart: CE"]
    assert list(table.loc["quickstart: CE"]) == ["60.0 ± 10.0", "40.0 ± 0.0", "3"]
    other = study({**searched(), **finals(), **beside}, fixed={**FIXED, "epochs": 61})
    assert other.beside.empty


def test_searched_trials_are_shown_without_test_images() -> None:
    found = study(searched())
    table = searched_table(found, "ce", {config("ce", 0.3).key: 0.25})
    assert list(table.columns) == ["Validation accuracy", "epochs", "lr"]
    assert [row[0] for row in table.rows] == ["1", "2", "3"]
    assert [entry.text for entry in table.rows[2][1]] == ["(25.0)", "stopped after 12", "0.3"]
    assert [e.text for e in searched_table(found, "siamese", {}).rows[1][1]][:2] == ["–", "diverged"]


def test_what_stopping_early_saved_is_counted() -> None:
    sentences = search_findings(study(searched()))
    saved = "Stopping 1 of 5 configurations early took the search 192 epochs instead of 240 (80%)."
    assert saved in sentences  # how far the diverged one came is not known
    assert "1 configuration diverged: the loss was not finite." in sentences


class Reader:
    """A ledger that has these records and no curves."""

    uri, experiment, experiment_id = "sqlite:///x", "e", "1"

    def __init__(self, records: dict[str, TrialRecord]) -> None:
        self._records = records

    def trials(self) -> dict[str, TrialRecord]:
        return self._records

    def exists(self) -> bool:
        return False

    def studies(self) -> dict[str, dict[str, str]]:
        return {}

    def study_tags(self, space: str) -> dict[str, str]:
        return {}

    def tag_study(self, space: str, tags: dict[str, str]) -> None:
        raise LedgerError("it cannot be written")

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        return {12: 0.25}


def test_a_page_is_rendered_once_and_again_when_something_has_changed(tmp_path: Path) -> None:
    records = searched()
    found = load_search_state(searching(), records, {})
    first = render_search(found, Reader(records), tmp_path)  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text()
    assert "No finalist has been trained with fresh seeds yet: nothing is compared." in page
    assert "This search is incomplete: 1 of 6 configurations have not ended." in page
    assert not first.tables
    assert first.files
    assert not render_search(found, Reader(records), tmp_path).files  # type: ignore[arg-type]
    records = {**records, **finals()}
    found = load_search_state(searching(), records, {})
    again = render_search(found, Reader(records), tmp_path)  # type: ignore[arg-type]
    assert again.files
    assert again.tables[0].name == "finalists"
    assert (tmp_path / "tables/latex/finalists.tex").exists()
    assert "Siamese 1 has a higher test accuracy than CE 2" in (tmp_path / "report.md").read_text()
    assert len(pd.read_csv(tmp_path / "searched.csv")) == 5


def test_a_look_at_a_search_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how far each stage is, and records nothing."""
    monkeypatch.setattr(Look, "ledger", property(lambda look: Reader(records)))
    monkeypatch.setattr(Reader, "tag_study", None)
    look = Look(
        args=argparse.Namespace(),
        typed=(),
        uri="",
        experiment="e",
        artifact_root=tmp_path,
        folder=tmp_path,
        digests={},
        files=(),
        left="about 3 min left",
        every=300.0,
    )
    records = searched()
    page = live.render_search_so_far(look, searching(), records)
    assert "running: 5 of 6 configurations searched, about 3 min left · rendered 20" in page.read_text()
    records = {**records, **dict(list(finals().items())[:4])}
    live.render_search_so_far(look, searching(), records)
    said = "running: 5 of 6 configurations searched, 4 of 9 trials of finalists finished, about 3 min left ·"
    assert said in page.read_text()
    assert f"*{said}" in (tmp_path / "report.md").read_text()


def test_trials_on_different_data_are_not_mixed(tmp_path: Path) -> None:
    records = searched()
    other = record(config("ce", 0.5), {"val_acc": 0.1}, **{"search.s": "4", "data.sha256": "other"})
    records[other.key] = other
    found = load_search_state(searching(trials=4), records, {})
    with pytest.raises(MixedData, match="its trials were trained on different data"):
        render_search(found, Reader(records), tmp_path)  # type: ignore[arg-type]


def members(values: dict[float, float]) -> list[Member]:
    """Of lr and weight decay the first alone matters."""
    rng = np.random.default_rng(0)
    made = []
    for number, (lr, value) in enumerate(values.items(), 1):
        trial = config("ce", lr).replace(weight_decay=round(float(rng.uniform(0.001, 1)), 3))
        one = SearchTrial(config=trial, state="finished", objectives=(value,), epochs=60, run_id="r")
        made.append(Member(config=trial, method="ce", number=number, trials={0: one}))
    return made


TWO = (Parameter("lr", loguniform(1e-3, 1.0)), Parameter("weight_decay", uniform(0.001, 1.0)))


def test_what_matters_has_the_larger_share() -> None:
    search = searching(parameters=TWO)
    known = members({round(lr, 3): np.log10(lr) for lr in np.geomspace(0.002, 0.9, 24)})
    table = importances(search, known)
    assert table is not None
    assert list(table.index) == ["lr", "weight_decay"]
    assert table.loc["lr", "share"] > 0.8
    assert table["share"].sum() == pytest.approx(1)
    assert (table["low"] <= table["high"]).all()
    assert importances(search, known[:3]) is None
    assert importances(search, members({0.1: 0.5, 0.2: 0.5, 0.3: 0.5, 0.4: 0.5})) is None


def test_figures_have_what_they_are_given() -> None:
    frame = pd.DataFrame(
        {
            "method": ["ce"] * 4,
            "number": [1, 2, 3, 4],
            "value": [0.5, 0.7, np.nan, 0.6],
            "stopped": [np.nan, np.nan, 0.2, np.nan],
            "lr": [0.1, 0.2, 0.3, 0.4],
            "batch_size": [25, 50, 25, 25],
        }
    )
    drawn = history(frame, "val_acc")
    dots, stopped, best = drawn.axes[0].lines
    assert list(dots.get_ydata()) == [0.5, 0.7, 0.6]
    assert list(stopped.get_ydata()) == [0.2]
    assert list(best.get_ydata()) == [0.5, 0.7, 0.7, 0.7]
    ranges = {
        "lr": Range(kind="float", low=0.01, high=1.0, log=True),
        "batch_size": Range(kind="categorical", choices=(25, 50)),
    }
    sliced = slices({"ce": (frame, list(ranges.items()))}, "val_acc")
    assert [axes.get_xlabel() for axes in sliced.axes[:3]] == ["lr", "batch_size", "lr"]
    assert [label.get_text() for label in sliced.axes[1].get_xticklabels()] == ["25", "50"]
    share = pd.DataFrame({"share": [0.7, 0.3], "low": [0.6, 0.1], "high": [0.9, 0.4]}, index=["lr", "b"])
    assert isinstance(shares({"ce": share}), Figure)
    done = frame.dropna(subset="value").assign(val_acc=[0.5, 0.7, 0.6], train_seconds=[1.0, 3.0, 2.0])
    front = pareto(done, "train_seconds", "val_acc", [True, True, False]).axes[0].lines[0]
    assert list(front.get_xdata()) == [1.0, 3.0]


def test_standing_without_members_has_no_finalists() -> None:
    found = SearchState(search=searching(), members={"ce": (), "siamese": ()})
    assert found.missing == 6
    assert found.final_selection().trials == ()


def several_seeds() -> dict[str, TrialRecord]:
    """Two configurations of `ce` with three seeds each, a third that was stopped early with its first one."""
    values = {0.1: (0.9, 0.5, 0.52), 0.2: (0.7, 0.72, 0.74)}
    tags = {0.1: {"search.s": "1"}, 0.2: {"search.s": "2"}}
    of = [
        record(
            config("ce", lr, seed),
            {"val_acc": value, "test_acc": 0.3, "train_seconds": 1.0 + seed},
            **tags[lr],
        )
        for lr, by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]
    of.append(record(config("ce", 0.3), {}, "KILLED", **{"search.s": "3", PRUNED_TAG: "12"}))
    return {record.key: record for record in of}


def test_a_configuration_of_several_seeds_is_one_row_with_its_mean_and_error(tmp_path: Path) -> None:
    records = several_seeds()
    fresh = {
        t.key: t for t in (record(config("ce", 0.2, s), {"test_acc": 0.6, "val_acc": 0.7}) for s in (3, 4, 5))
    }
    found = study({**records, **fresh}, seeds_per_configuration=3, finalists=1)
    mean, error = np.mean([0.7, 0.72, 0.74]), np.std([0.7, 0.72, 0.74], ddof=1) / np.sqrt(3)
    best = f"{100 * mean:.1f} ± {100 * error:.1f}"
    table = searched_table(found, "ce", {config("ce", 0.3).key: 0.25})
    assert list(table.columns) == ["Validation accuracy", "epochs", "n", "lr"]
    assert [row[0] for row in table.rows] == ["2", "1", "3"]  # by the mean, not by the best seed
    assert [entry.text for entry in table.rows[0][1]] == [best, "60", "3", "0.2"]
    assert [entry.text for entry in table.rows[2][1]] == ["(25.0)", "stopped after 12", "0", "0.3"]
    assert len(table.rows[0][1][0].runs) == 3
    assert "mean ± standard error over n seeds" in table.caption
    finalists = next(t for t in final_tables(found) if t.name == "finalists")
    assert finalists.frame().loc["Validation accuracy in the search", "CE 1"] == best
    assert "The first row is the mean of 3 seeds ± its standard error" in finalists.caption
    saved = "Stopping 1 of 3 configurations early took the search 372 epochs instead of 540 (69%)."
    assert saved in search_findings(found)
    render_search(found.state, Reader({**records, **fresh}), tmp_path)  # type: ignore[arg-type]
    written = pd.read_csv(tmp_path / "searched.csv").set_index("number")
    assert written.loc[2, ["val_acc", "val_acc_error", "seeds"]].tolist() == pytest.approx([mean, error, 3])
    report = (tmp_path / "report.md").read_text()
    assert (
        "configurations searched by validation accuracy, 3 seeds each (2 to the last epoch, 1 stopped"
        in report
    )
    assert "one seed each" not in report
    assert "in the order of suggestion, mean of 3 seeds each" in report


def test_importances_and_the_front_count_a_configuration_once() -> None:
    search = searching(parameters=TWO, seeds_per_configuration=2)
    single = members({round(lr, 3): np.log10(lr) for lr in np.geomspace(0.002, 0.9, 8)})
    pairs = []
    for member in single:
        first = member.trials[0]
        (value,) = first.objectives or ()
        around = [replace(first, objectives=(value + shift,)) for shift in (-0.25, 0.25)]
        pairs.append(replace(member, trials=dict(enumerate(around)), planned=2))
    one, two = importances(search.replace(seeds_per_configuration=1), single), importances(search, pairs)
    assert one is not None
    pd.testing.assert_frame_equal(one, two)
    found = study(several_seeds(), seeds_per_configuration=3)
    seconds = mean_of_runs(found, "train_seconds")
    assert seconds == {config("ce", lr).key: pytest.approx(2.0) for lr in (0.1, 0.2)}


def test_many_methods_have_a_panel_and_a_colour_each() -> None:
    names = ["ce", "control", "barlow_twins", *(f"method-{i}" for i in range(9))]
    rows = [{"method": m, "number": 1, "value": 0.5, "stopped": np.nan, "val_acc_error": 0.1} for m in names]
    drawn = history(pd.DataFrame(rows), "val_acc")
    assert [axes.get_title() for axes in drawn.axes[:3]] == ["CE", "Control", "Barlow Twins"]
    assert len(drawn.axes) == 12
    assert drawn.get_figwidth() < 16
    dots = [axes.lines[0].get_color() for axes in drawn.axes]
    assert len({str(colour) for colour in dots}) == 12
    ((bar,),) = [container.lines[2] for container in drawn.axes[0].containers]
    assert [segment[:, 1].tolist() for segment in bar.get_segments()] == [[0.4, 0.6]]


def test_methods_with_fields_of_their_own_are_named_and_compared(tmp_path: Path) -> None:
    methods = {"ce": {"method": "ce"}, "control": {"method": "siamese", "gamma": 0.0}, "wide": WIDE}
    known = [
        config("ce", 0.1),
        config("siamese", 0.2).replace(gamma=0.0),
        config("siamese", 0.3).replace(**WIDE),
    ]
    records = [record(trial, {"val_acc": 0.5}, **{"search.s": "1"}) for trial in known]
    for i, trial in enumerate(known):
        records += [
            record(trial.replace(seed=seed), {"val_acc": 0.5, "test_acc": 0.5 + 0.1 * i + 0.01 * seed * i})
            for seed in (1, 2, 3)
        ]
    by_key = {record.key: record for record in records}
    found = study(by_key, methods=methods, trials=1)
    assert list(found.finalists) == ["CE 1", "Control 1", "wide 1"]
    tested = found.compared[found.compared["metric"] == "test_acc"].set_index(["arm_label", "baseline"])
    deltas = {("Control 1", "CE 1"): 0.12, ("wide 1", "CE 1"): 0.24, ("wide 1", "Control 1"): 0.12}
    assert dict(tested["delta"]) == pytest.approx(deltas)
    # Two comparisons with one baseline, and one with the other: the families are adjusted apart.
    assert tested.loc[("wide 1", "Control 1"), "p_holm"] == tested.loc[("wide 1", "Control 1"), "p"]
    assert any("Control: Control 1, chosen likewise" in table.caption for table in final_tables(found))
    render_search(found.state, Reader(by_key), tmp_path)  # type: ignore[arg-type]
    report = (tmp_path / "report.md").read_text()
    assert (
        "CE: one view, cross-entropy alone. Control: method siamese, gamma 0.0. wide: method siamese,"
        in report
    )
    assert "Searched configurations: wide" in report


WIDE = {"method": "siamese", "embedding_dim": 512}
