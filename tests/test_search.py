"""A search through the real command line, killed twice ; what it leaves, and what goes on with it."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies import (
    ROOT,
    WITHOUT_TSNE,
    at_start,
    held,
    kill_tree,
    ledger,
    outcome,
    run,
    saved_states,
    start,
    wait_for,
)

from search_spaces import folder_name
from study.ledger.records import PRUNED_TAG, TrialRecord
from trainables import tune
from trainables.metrics import OBJECTIVES
from trainables.storage.bundles import read_bundle
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig

SETTINGS = ("epochs=20", "train_size=50", "batch_size=25", "feature_dim=32", "hidden_dim=32")
SET = [word for setting in SETTINGS for word in ("--set", setting)]
SEARCH = ["--space", "search", *SET, "--trials", "5", "--finalists", "1", "--seeds", "2"]
REPORT = f"reports/{folder_name('search', assign=SETTINGS)}"
FEW = TrialConfig(
    dataset="digits",
    train_size=50,
    val_fraction=0.1,
    backbone="convnet",
    feature_dim=16,
    augmentations=("rrc",),
    method="ce",
    epochs=2,
    batch_size=25,
    seed=0,
)
"""A trial of a few images."""


def records(folder: Path, stage: str) -> list[TrialRecord]:
    return [record for record in ledger(folder).trials().values() if record.tags["stage"] == stage]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder in which a search came to its end after two kills, one of them among the finalists."""
    folder, note = tmp_path_factory.mktemp("search"), tmp_path_factory.mktemp("start") / "held"
    (folder / "runs").mkdir()
    shutil.copy(empty_store, folder / "runs/mlflow.db")
    for stage in ("search", "final"):  # each time the first run of it is FINISHED, and its bundle still there
        held_there = at_start(note.parent, held(note, finishing="after", stage=stage))
        one = ["--max-concurrent", "1"] if stage == "final" else []  # processes take seconds to begin
        process = start(folder, *SEARCH, *one, environment=held_there)
        wait_for(note.exists, process, 120)
        kill_tree(process)
        note.unlink()
        assert [record.tags["stage"] for record in ledger(folder).trials().values()].count(stage) >= 1
    done = run(folder, *SEARCH, "--max-concurrent", "1", environment=at_start(note.parent, WITHOUT_TSNE))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "\ncomplete: 10 configurations searched, 4 trials of finalists\nverdict:  " in done.stdout
    assert re.fullmatch("next:     python .* --trials 10", done.stdout.splitlines()[-1])
    return folder


def test_two_kills_leave_as_many_trials_and_none_twice(search: Path) -> None:
    searched, finals = records(search, "search"), records(search, "final")
    assert Counter(record.params["method"] for record in searched) == {"ce": 5, "siamese": 5}
    assert Counter(record.params["method"] for record in finals) == {"ce": 2, "siamese": 2}
    runs = ledger(search).client.search_runs([ledger(search).experiment_id], "tags.kind = 'trial'")
    assert len(runs) == len({run.data.tags["trial.key"] for run in runs}) == 14
    for method in ("ce", "siamese"):
        numbers = [int(r.tags["search.search"]) for r in searched if r.params["method"] == method]
        assert len(set(numbers)) == 5
    assert {record.params["seed"] for record in searched} == {"0"}
    assert {record.params["seed"] for record in finals} == {"1", "2"}
    assert {record.status for record in finals} == {"FINISHED"}
    assert all("search.search" not in record.tags for record in finals)


def test_some_are_stopped_early_and_others_are_whole(search: Path) -> None:
    searched = records(search, "search")
    pruned = [record for record in searched if PRUNED_TAG in record.tags]
    assert pruned
    for record in searched:
        points = ledger(search).history(record.run_id, "val/acc")
        if record in pruned:
            assert record.status == "KILLED"
            assert not record.metrics
            assert list(points) == list(range(1, int(record.tags[PRUNED_TAG]) + 1))
            assert int(record.tags[PRUNED_TAG]) < 20
            assert any(state.parent.name == record.key for state in saved_states(search))
        else:
            assert record.status == "FINISHED"
            assert list(points) == list(range(1, 21))
            # What the searcher goes by is what the last epoch measured.
            assert record.metrics["val_acc"] == points[20]


def test_finalists_are_the_best_of_each_method(search: Path) -> None:
    for method in ("ce", "siamese"):
        done = [r for r in records(search, "search") if r.params["method"] == method and r.metrics]
        best = max(done, key=lambda r: (r.metrics["val_acc"], -int(r.tags["search.search"])))
        for record in records(search, "final"):
            if record.params["method"] == method:
                assert {**record.params, "seed": "0"} == best.params


def test_the_same_command_again_runs_and_renders_nothing(search: Path) -> None:
    before = {record.run_id: record.changed for record in ledger(search).trials().values()}
    again = run(search, *SEARCH)
    assert again.returncode == 0
    assert "4 done, 0 half-done, 0 failed, 0 new; to run: 0" in again.stdout
    assert "report.html (unchanged)" in again.stdout
    assert {record.run_id: record.changed for record in ledger(search).trials().values()} == before


def test_the_report_shows_test_images_for_finalists_only(search: Path) -> None:
    text = (search / f"{REPORT}/report.md").read_text()
    finals, _, searched = text.partition("### Searched configurations")
    assert "| Test  " in finals
    assert "test" not in searched.partition("## Held fixed")[0].lower()
    frame = pd.read_csv(search / f"{REPORT}/searched.csv")
    assert len(frame) == 10
    assert not [name for name in frame.columns if "test" in name]
    page = (search / f"{REPORT}/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert 'src="http' not in page


def test_analysis_scripts_answer_alone(search: Path, tmp_path: Path) -> None:
    for script in ("report", "tables"):
        done = subprocess.run(
            [sys.executable, ROOT / f"analysis/{script}.py", *SEARCH, "--out", f"{script}-alone"],
            cwd=search,
            env={**os.environ, **at_start(tmp_path, WITHOUT_TSNE)},  # which the report has
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    alone = (search / "report-alone/report.md").read_text()
    ours = (search / f"{REPORT}/report.md").read_text()
    assert alone.partition("## Where this comes from")[0] == ours.partition("## Where this comes from")[0]


def test_more_trials_go_on_from_what_is_there(search: Path) -> None:
    plan = run(search, *SEARCH, "--trials", "6", "--plan")
    assert plan.returncode == 0
    assert "; to search: 1" in plan.stdout
    assert "forecast: " in plan.stdout
    assert "then: the best 1 of each method x 2 fresh seeds, 4 trials at most" in plan.stdout


def test_more_seeds_a_configuration_train_the_missing_ones_only(search: Path) -> None:
    before = ledger(search).trials()
    more = ["--only", "method=ce", "--seeds-per-configuration", "2", "--no-report", "--max-concurrent", "1"]
    done = run(search, *SEARCH, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "search search: 5 configurations of each of ce, 2 seeds each, by val_acc\n" in done.stdout
    after = ledger(search).trials()
    kept = {key: (record.run_id, record.status, record.changed) for key, record in before.items()}
    assert kept == {key: (after[key].run_id, after[key].status, after[key].changed) for key in before}
    members = [r for r in after.values() if r.params["method"] == "ce" and "search.search" in r.tags]
    numbers = {seed: [r for r in members if r.params["seed"] == seed] for seed in ("0", "1")}
    first = sorted(r.tags["search.search"] for r in numbers["0"] if r.status == "FINISHED")
    assert sorted(record.tags["search.search"] for record in numbers["1"]) == first  # none of those stopped
    assert "in the ledger already" in done.stdout  # the finalist has had this seed
    by_configuration = {
        record.tags["search.search"]: [record.metrics["val_acc"], other.metrics["val_acc"]]
        for record in numbers["0"]
        for other in numbers["1"]
        if record.tags["search.search"] == other.tags["search.search"]
    }
    best = max(by_configuration, key=lambda number: (sum(by_configuration[number]), -int(number)))
    (chosen,) = [record for record in numbers["0"] if record.tags["search.search"] == best]
    for seed in ("2", "3"):
        fresh = TrialConfig.from_params({**chosen.params, "seed": seed})
        assert after[fresh.key].status == "FINISHED"


def test_a_grid_goes_on_with_what_a_search_stopped_early(search: Path) -> None:
    """The last test on this folder: its search has one more finished member afterwards."""
    record = next(record for record in records(search, "search") if PRUNED_TAG in record.tags)
    epoch = int(record.tags[PRUNED_TAG])
    fields = {name: value for name, value in record.params.items() if name != "seed" and value != "none"}
    fields |= {"augmentations": record.params["augmentations"]}
    arms = ["--only", "arm=ce" if record.params["method"] == "ce" else "arm=siamese-0"]
    assigned = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    grid = run(search, "--space", "quickstart", *arms, *assigned, "--seeds", "1", "--no-report")
    assert grid.returncode == 0, grid.stdout + grid.stderr
    assert f"resumes after epoch {epoch}\n" in grid.stdout
    after = ledger(search).trials()[record.key]
    assert (after.run_id, after.status) == (record.run_id, "FINISHED")
    assert PRUNED_TAG not in after.tags
    assert after.tags["attempts"] == str(int(record.tags["attempts"]) + 1)
    outcome(ledger(search), after)  # each epoch is one point


def test_no_result_that_tune_sees_holds_a_test_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune.tune, "report", reports.append)
    monkeypatch.setattr(tune, "_granted_device", lambda share: "cpu")
    config, request = FEW, {"cpu": 1, "gpu": 0}
    tune.run_job(tune.job(config, data_dir=tmp_path, storage=str(tmp_path), tags={}, request=request))
    bundle = read_bundle(Storage(str(tmp_path)), config.key)
    secret = {name: value for name, value in bundle.result.metrics.items() if name not in OBJECTIVES}
    assert {"test_acc", "test_ece", "test_aug_acc", "knn_acc"} <= secret.keys()
    assert [name for name in OBJECTIVES if "test" in name] == []
    assert reports[-1]["objectives"].keys() == OBJECTIVES.keys()
    rows = [report["row"] for report in reports if "row" in report]
    assert rows[-1]["val/acc"] == reports[-1]["objectives"]["val_acc"]
    for path, value in leaves(reports):
        assert "test" not in path
        assert "final" not in path
        if isinstance(value, float):
            # By value, too: a metric under another name. (Accuracies may be equal by chance: these may not.)
            assert value not in {
                secret[name] for name in ("test_ce", "test_ece", "silhouette", "view_cosine")
            }


def test_a_loss_that_is_no_number_is_a_failure_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune.tune, "report", reports.append)
    monkeypatch.setattr(tune, "_granted_device", lambda share: "cpu")
    about = {"storage": str(tmp_path), "tags": {}, "request": {"cpu": 1, "gpu": 0}}
    tune.run_job(tune.job(FEW.replace(lr=1e30), data_dir=tmp_path, **about))
    assert re.fullmatch(r"NonFiniteLoss: train/\w+ is (nan|inf) in epoch \d of 2", reports[-1]["failure"])
    assert "Traceback" in reports[-1]["traceback"]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, f"{path}/{name}")
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, path)
    else:
        yield path, node
