"""The real command line, with real Ray and real MLflow, on a tiny study."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from scipy import stats
from statsmodels.stats.power import TTestPower
from studies import (
    ARMS,
    JOINED,
    REPORT,
    ROOT,
    SETTINGS,
    TINY,
    WITHOUT_TSNE,
    at_start,
    held,
    kill_tree,
    ledger,
    records,
    run,
    slowed_down,
    start,
    wait_for,
)
from webhooks import KEY, Hook

from analysis import tables
from search_spaces import SEARCHES, SPACES, select, tags
from study import measure
from study.planning.measurement import NO_WEIGHTS, OTHER_DATA
from study.run import main
from trainables import tune
from trainables.trial import TrialConfig


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two arms with two seeds were run from nothing."""
    folder, hook = tmp_path_factory.mktemp("study"), Hook()
    one_by_one = ["--max-concurrent", "1"]  # a process that trains takes four seconds to begin
    options = ("--seeds", "2", "--keep", "weights", "--report-every", "1s", "--notify", hook.address)
    done = run(folder, *TINY, *ARMS, *one_by_one, *options)
    hook.close()
    assert done.returncode == 0, done.stderr
    ((_, _, message),) = hook.got
    said = "4 of 4 trials finished.\nNot known yet: 2 seeds against CE; a claim takes 3.\n"
    assert json.loads(message)["text"].startswith(said)
    # Who has the address can write there: it is nowhere, and nor where the next command is shown.
    assert " --notify '***' --seeds 4\n" in done.stdout
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert KEY not in done.stdout + done.stderr
    assert not [path for path in left if KEY.encode() in path.read_bytes()]
    assert "could not be rendered" not in done.stdout
    assert 'class="live"' not in (folder / REPORT / "report.html").read_text()
    assert "4 planned: 0 done, 0 half-done, 0 failed, 4 new; to run: 4" in done.stdout
    cell = "digits/convnet/rrc+solarize: ce, siamese-0.01 x seeds 0-1, 3 epochs: 4 planned, 4 to run"
    assert f"1 cell:\n  {cell}\n" in done.stdout
    assert "digits · convnet · rrc+solarize" in done.stdout
    report = folder / REPORT / "report.html"
    closing = done.stdout.partition("\ncomplete: 4 trials\nverdict:  ")[2]
    assert f"\nreport:   {report}\n          {report.as_uri()}\ncompare:  mlflow ui " in closing
    assert "/runs?workflowType=machine_learning&viewStateShareKey=trials\n" in closing
    assert f"\nnext:     python {ROOT}/study/run.py --space quickstart " in closing
    assert " --seeds 4\n" in closing
    assert "Traceback" not in done.stderr
    return folder


def test_every_trial_is_one_finished_run(study: Path) -> None:
    found = records(study)
    assert found.keys() == {"ce/s0", "ce/s1", "siamese-0.01/s0", "siamese-0.01/s1"}
    for record in found.values():
        assert record.status == "FINISHED"
        config = TrialConfig.from_params(record.params)
        assert config.key == record.key
        assert (config.epochs, config.train_size) == (3, 50)
        expected = {
            "kind",
            "trial.key",
            "space",
            "arm",
            "data.sha256",
            "device",
            "threads",
            "host",
            "attempts",
        }
        expected |= {"version.torch", "version.ray", "version.study", "version.python"}
        assert expected <= record.tags.keys()
        assert record.tags["threads"] == "1"


def test_each_epoch_is_one_point_and_equals_the_history(study: Path) -> None:
    for arm, record in records(study).items():
        history = pd.read_parquet(ledger(study).artifact(record.run_id, "history.parquet"))
        assert list(history["epoch"]) == [1, 2, 3]
        names = {"train/loss", "train/ce", "train/acc", "val/acc", "lr", "epoch_seconds", "images_per_second"}
        names |= {"train/bt"} if arm.startswith("siamese") else set()
        assert set(history.columns) == {"epoch", "timestamp"} | names
        for name in names:
            points = ledger(study).client.get_metric_history(record.run_id, name)
            assert [(p.step, p.value, p.timestamp) for p in sorted(points, key=lambda p: p.step)] == list(
                zip(history["epoch"], history[name], history["timestamp"], strict=True)
            )
        # What MLflow's page "System metrics" shows; as often as that takes nothing, the last epoch always.
        points = ledger(study).client.get_metric_history(
            record.run_id, "system/process_memory_usage_megabytes"
        )
        assert [point.step for point in points] == [1, 3]
        assert 100 < points[-1].value <= record.metrics["memory_peak_mb"] + 5
        assert record.metrics["cpu_seconds"] > 0


def test_artifacts_are_whole_and_give_the_metrics(study: Path) -> None:
    for record in records(study).values():
        files = {f.path for f in ledger(study).client.list_artifacts(record.run_id)}
        always = {"config.json", "history.parquet", "predictions.npz", "embeddings.npz", "views.npz"}
        assert files == always | {"weights.safetensors"} == record.kept
        config = json.loads(ledger(study).artifact(record.run_id, "config.json").read_text())
        assert config["key"] == record.key
        assert TrialConfig.from_params(config).key == record.key
        kept = np.load(io.BytesIO(ledger(study).artifact(record.run_id, "predictions.npz").read_bytes()))
        assert record.metrics["test_acc"] == np.mean(kept["predicted"] == kept["labels"])
        assert record.metrics["test_aug_acc"] == np.mean(kept["predicted_aug"] == kept["labels"])
        for name in ("test_augcrop", "test_augfull"):
            predicted = kept[name.replace("test", "logits")].argmax(1)
            assert record.metrics[f"{name}_acc"] == np.mean(predicted == kept["labels"])
        assert record.metrics["val_acc"] == np.mean(kept["val_logits"].argmax(1) == kept["val_labels"])
        views = kept["logits_augfull"][kept["view2_index"]].argmax(1), kept["logits_view2"].argmax(1)
        assert record.metrics["view_agreement"] == np.mean(views[0] == views[1])


def test_bundles_are_gone(study: Path) -> None:
    assert list((study / "runs/results").iterdir()) == []


def test_the_same_command_again_runs_and_renders_nothing(study: Path) -> None:
    before = {r.run_id: r.changed for r in records(study).values()}
    rendered = {p: p.stat().st_mtime_ns for p in (study / "reports").rglob("*")}
    runs = len(ledger(study).client.search_runs([ledger(study).experiment_id]))
    again = run(study, *TINY, *ARMS, "--seeds", "2")
    assert again.returncode == 0
    assert "4 done, 0 half-done, 0 failed, 0 new; to run: 0" in again.stdout
    assert "report.html (unchanged)" in again.stdout
    assert {r.run_id: r.changed for r in records(study).values()} == before
    assert {p: p.stat().st_mtime_ns for p in (study / "reports").rglob("*")} == rendered
    assert len(ledger(study).client.search_runs([ledger(study).experiment_id])) == runs


def test_the_report_holds_the_numbers_and_nothing_from_outside(study: Path) -> None:
    html = (study / REPORT / "report.html").read_text()
    found = records(study)
    for arm in ("ce", "siamese-0.01"):
        values = [100 * found[f"{arm}/s{seed}"].metrics["test_acc"] for seed in (0, 1)]
        assert re.search(rf"<td>(<strong>)?{values[0]:.1f} / {values[1]:.1f}(</strong>)?</td>", html)
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)[^"]*"', html) == []
    summary = pd.read_csv(study / REPORT / "tables/summary.csv")
    row = summary[(summary["arm"] == "ce") & (summary["metric"] == "test_acc")].iloc[0]
    assert row["mean"] == pytest.approx(np.mean([found[f"ce/s{s}"].metrics["test_acc"] for s in (0, 1)]))
    assert row["n"] == row["planned"] == 2
    for name in ("accuracy-0", "curves-0", "embeddings-train-0", "embeddings-test-0"):
        for suffix in ("png", "pdf"):
            assert (study / f"{REPORT}/figures/{name}.{suffix}").stat().st_size > 5000


def test_embeddings_answer_alone(study: Path, tmp_path: Path) -> None:
    """The scripts of tables and of the report are started alone by test_search."""
    done = subprocess.run(
        [sys.executable, ROOT / "analysis/embeddings.py", *TINY, *ARMS, "--seeds", "2", "--out", "again"],
        cwd=study,
        env={**os.environ, **at_start(tmp_path, WITHOUT_TSNE)},  # which the report has
        capture_output=True,
        text=True,
        check=True,
    )
    assert "wrote again/" in done.stdout
    tables = (study / REPORT / "tables/tables.tex").read_text()
    # Accuracies, differences, diagnostics, over seeds and test images, seeds needed.
    assert tables.count(r"\toprule") >= 4


def test_several_spaces_are_one_study(study: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Planning, measuring and tables, of trials that the ledger has from one of the spaces."""
    (here / "runs").mkdir()
    shutil.copy(study / "runs/mlflow.db", here / "runs/mlflow.db")
    joined = [*JOINED, *ARMS, "--seeds", "2"]
    data = ["--data-dir", str(study / "data")]
    assert main([*joined, *data, "--plan"]) == 0
    assert capsys.readouterr().out.startswith("4 planned: 4 done, 0 half-done, 0 failed, 0 new; to run: 0\n")
    assert measure.main([*joined, *data, "--metric", "knn_acc", "--plan"]) == 0
    assert "knn_acc" in capsys.readouterr().out
    assert tables.main(joined) == 0
    assert "digits · convnet · rrc+solarize" in capsys.readouterr().out
    assert next(here.glob("reports/thesis+quickstart-*/tables/paired.csv")).read_text()
    assert [*ledger(here).studies()] == ["quickstart"]  # whose seed plan counts: there is none to declare


MEASURED = ("linear_probe_acc", "z_effective_rank", "test_acc")


@pytest.fixture
def unmeasured(study: Path, here: Path) -> list[str]:
    """A copy of the study's database without `MEASURED`, in this folder; what to type for them."""
    (here / "runs").mkdir()
    shutil.copy(study / "runs/mlflow.db", here / "runs/mlflow.db")
    for name in MEASURED:
        execute("delete from metrics where key = ?", f"final/{name}")
        execute("delete from latest_metrics where key = ?", f"final/{name}")
    chosen = [*TINY, *ARMS, "--seeds", "2", "--data-dir", str(study / "data")]
    return [*chosen, "--metric", ",".join(MEASURED)]


def execute(statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect("runs/mlflow.db")) as database, database:
        database.execute(statement, values)


def points(folder: Path) -> list[list[float]]:
    """All values that were ever logged of `MEASURED`, run by run."""
    names = [f"final/{name}" for name in MEASURED]
    client, runs = ledger(folder).client, sorted(record.run_id for record in records(folder).values())
    return [[p.value for name in names for p in client.get_metric_history(run, name)] for run in runs]


def test_metrics_are_measured_again_without_training(
    study: Path, here: Path, unmeasured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = records(study)
    assert measure.main([*unmeasured, "--plan"]) == 0
    assert "linear_probe_acc: 4 to measure\n" in capsys.readouterr().out
    assert not any("test_acc" in record.metrics for record in records(here).values())

    assert measure.main(unmeasured) == 0
    out = capsys.readouterr().out
    assert out.count("digits/convnet/rrc+solarize/") == 4
    assert "linear_probe_acc: 4 measured\nz_effective_rank: 2 measured, 2 never have it (γ > 0)\n" in out
    after = records(here)
    assert {name: record.metrics for name, record in after.items()} == {
        name: record.metrics for name, record in before.items()
    }
    how = after["ce/s0"].tags["measured.linear_probe_acc"]
    assert how.startswith("from weights.safetensors, predictions.npz on cpu ")
    logged = points(here)
    assert [len(values) for values in logged] == [len(values) for values in points(study)]

    assert measure.main([*unmeasured, "--force"]) == 0
    assert capsys.readouterr().out.count("as logged") == 4 + 2 + 4
    assert measure.main(unmeasured) == 0
    assert "linear_probe_acc: 4 have it already\n" in capsys.readouterr().out
    assert points(here) == logged  # each once


def test_a_value_that_has_changed_is_told_and_replaced(
    study: Path, here: Path, unmeasured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = records(here)["ce/s1"]
    ledger(here).add_measured(found.run_id, {"test_acc": 0.99}, "by hand", timestamp=1000)
    assert measure.main([*unmeasured[:-1], "test_acc", "--only", "seed=1", "--force"]) == 0
    accuracy = records(study)["ce/s1"].metrics["test_acc"]
    assert f"ce/s1  test_acc {accuracy!r}, 0.99 was logged\n" in capsys.readouterr().out
    assert records(here)["ce/s1"].metrics["test_acc"] == accuracy


def test_what_a_trial_lacks_is_told(
    study: Path, here: Path, unmeasured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {name: record.run_id for name, record in records(here).items()}
    execute("delete from tags where key = 'artifacts' and run_uuid = ?", runs["ce/s0"])
    execute("update tags set value = 'x' where key = 'data.sha256' and run_uuid = ?", runs["ce/s1"])
    execute("update runs set artifact_uri = ? where run_uuid = ?", str(here), runs["siamese-0.01/s0"])
    assert measure.main([*unmeasured[:-1], "linear_probe_acc"]) == 1
    out = capsys.readouterr().out
    cell = "digits/convnet/rrc+solarize"
    assert "linear_probe_acc: 1 measured, 3 not measured\n" in out
    lines = [line.partition(" (digits/")[::2] for line in out.splitlines() if line.startswith("  ")]
    reasons = {name.removeprefix(f"{cell.removeprefix('digits/')}/"): reason for reason, name in lines}
    failed = reasons.pop("siamese-0.01/s0)")
    assert failed.startswith("  1 trial: failed: ")
    assert "weights.safetensors" in failed
    assert reasons == {
        "ce/s0)": f"  1 trial: {NO_WEIGHTS}",
        "ce/s1)": f"  1 trial: {OTHER_DATA}",
    }
    assert f"{cell}/siamese-0.01/s0  FAILED\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metric knn_acc", "--space: required; allowed: quickstart"),
        (
            "--space quickstart --metric knn_ac",
            "--metric: got 'knn_ac' (did you mean 'knn_acc'?); allowed: train_aug",
        ),
        ("--space quickstart", "the following arguments are required: --metric"),
        (
            "--space quickstart --metric knn_acc",
            "--experiment: no experiment 'siamese-barlow-twins' at sqlite",
        ),
    ],
)
def test_bad_input_to_measure_is_one_line_and_creates_nothing(
    here: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        measure.main(arguments.split())
    out, err = capsys.readouterr()
    check_is_one_line(here, message, ended.value.code, out, err)


def test_no_metric_is_measured_beside_another_driver(
    here: Path, unmeasured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from study.recording.locks import file_lock

    with file_lock(here / "runs/.driver.lock", "--output: runs"), pytest.raises(SystemExit) as ended:
        measure.main(unmeasured)
    assert ended.value.code == 2
    assert f"is in use by process {os.getpid()} on {socket.gethostname()}" in capsys.readouterr().err


def test_a_second_driver_is_told_who_works(study: Path) -> None:
    from study.recording.locks import file_lock

    with file_lock(study / "runs/.driver.lock", "--output: runs"):
        second = run(study, *TINY, *ARMS)
    assert second.returncode == 2
    assert f"is in use by process {os.getpid()} on {socket.gethostname()}" in second.stderr
    assert "wait for it with --wait, or take another" in second.stderr


def test_a_second_driver_waits_if_asked_to(study: Path) -> None:
    from study.recording.locks import file_lock

    with file_lock(study / "runs/.driver.lock", "--output: runs"):
        second = start(study, *TINY, *ARMS, "--seeds", "2", "--wait")
        assert second.stdout is not None
        line = second.stdout.readline()
        assert f"is in use by process {os.getpid()}" in line
        assert line.endswith(": waiting\n")
        time.sleep(1)
        assert second.poll() is None
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "to run: 0" in out


def check_numbers_from_the_client(study: Path) -> None:
    """What the report of the extended study says of its one comparison, from MLflow's client and scipy."""
    client = MlflowClient(f"sqlite:///{study}/runs/mlflow.db")
    runs = client.search_runs([ledger(study).experiment_id], "tags.kind = 'trial'")
    arms: dict[str, list[tuple[float, np.ndarray]]] = {"ce": [], "siamese": []}
    for run_ in sorted(runs, key=lambda found: int(found.data.params["seed"])):
        kept = np.load(client.download_artifacts(run_.info.run_id, "predictions.npz", str(study)))
        right = (kept["predicted"] == kept["labels"]).astype(float)
        arms[run_.data.params["method"]].append((run_.data.metrics["final/test_acc"], right))
    d = np.array([ours[0] - theirs[0] for ours, theirs in zip(arms["siamese"], arms["ce"], strict=True)])
    tables = study / REPORT / "tables"

    def row(name: str) -> pd.Series:
        table = pd.read_csv(tables / f"{name}.csv")
        return table[table["metric"] == "test_acc"].iloc[0] if "metric" in table else table.iloc[0]

    mixed = [1.0]  # likelihood ratios of t after 2, 3, 4 seeds, over effects of N(0, 1 / 0.1)
    for k in (2, 3, 4):
        t = d[:k].mean() / (d[:k].std(ddof=1) / np.sqrt(k))
        effects = np.linspace(-16, 16, 6401)
        ratio = stats.nct.pdf(t, k - 1, effects * np.sqrt(k)) / stats.t.pdf(t, k - 1)
        weights = stats.norm.pdf(effects, 0, 0.1**-0.5)
        mixed.append(float(np.trapezoid(np.nan_to_num(ratio) * weights, effects)))
    paired = row("paired")
    assert (paired["rule"], paired["planned"], paired["seeds"]) == ("anytime", 2, 4)
    assert paired["p"] == pytest.approx(min(1.0, 10 / max(mixed)), rel=1e-3)
    assert paired["p_t"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-9)

    needed = row("seeds_needed")
    assert needed["sd"] == pytest.approx(d.std(ddof=1), rel=1e-12)
    effect = TTestPower().solve_power(nobs=4, alpha=0.05, power=0.8)
    assert needed["detectable"] == pytest.approx(effect * d.std(ddof=1), rel=1e-4)

    x = np.array([ours[1] - theirs[1] for ours, theirs in zip(arms["siamese"], arms["ce"], strict=True)])
    seeds, images = x.shape
    by_seed, by_image = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    seed = images * by_seed.var(ddof=1)
    image = seeds * by_image.var(ddof=1)
    rest = ((x - by_seed - by_image + x.mean()) ** 2).sum() / ((seeds - 1) * (images - 1))
    variance = (max(seed - rest, 0) + max(image - rest, 0) + rest) / x.size
    over_images = row("images")
    assert over_images["delta"] == pytest.approx(d.mean(), rel=1e-9)
    assert over_images["error"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    assert over_images["error_seeds"] == pytest.approx(stats.sem(d), rel=1e-9)


def test_more_seeds_run_only_the_difference(
    study: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seeds until decided, killed on the way."""
    before = {name: r.changed for name, r in records(study).items()}
    more = [*TINY, *ARMS, "--seeds", "3..4", "--until", "decided", "--max-concurrent", "1"]
    process = start(study, *more, environment=at_start(here, held(here / "held", finishing="after")))
    wait_for((here / "held").exists, process)
    kill_tree(process)  # one step after a trial's run is FINISHED: its bundle is still there
    ended = {key for key, r in ledger(study).trials().items() if r.status == "FINISHED"}
    assert [path.stem in ended for path in (study / "runs/results").glob("*.zip")].count(True) == 1
    with contextlib.chdir(study):
        assert main([*more, "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "6 planned: 5 done" in plan
    assert re.search(r"--until decided: 1 trials at least, 3 at most: [\d.]+ s to [\d.]+ s\n", plan)
    done = run(study, *more, environment=at_start(here, WITHOUT_TSNE))
    assert done.returncode == 0, done.stderr
    assert "2 seeds were planned" in done.stdout
    assert "this is another look, after 4" in done.stdout
    assert "complete: 8 trials, 1 of 1 cells undecided after 4, the most that were declared\n" in done.stdout
    after = {name: r.changed for name, r in records(study).items()}
    assert after.keys() - before.keys() == {
        f"{arm}/s{seed}" for arm in ("ce", "siamese-0.01") for seed in (2, 3)
    }
    assert {name: after[name] for name in before} == before
    runs = ledger(study).client.search_runs([ledger(study).experiment_id], "tags.kind = 'trial'")
    assert len(runs) == 8

    check_numbers_from_the_client(study)


@pytest.mark.usefixtures("blank_store")
def test_trials_on_data_that_have_changed_are_shown_and_trained_again_on_request(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.RandomState(0)
    for split, count in (("train", 30), ("test", 10)):
        for name in ("a", "b"):
            for i in range(count):
                path = tmp_path / f"data/mine/{split}/{name}/{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.randint(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    arguments = [*TINY, "--only", "arm=ce", "--seeds", "1", "--set", "dataset=folder:mine"]
    arguments += ["--set", "train_size=none"]
    chosen = select(
        "quickstart", only=["arm=ce"], seeds=1, assign=[*SETTINGS, "dataset=folder:mine", "train_size=none"]
    )
    (trial,) = chosen.trials
    with monkeypatch.context() as patch:  # as a worker does it; what comes next finds its result
        patch.setattr(tune.tune, "report", lambda row: None)
        patch.setattr(tune, "_granted_device", lambda share: "cpu")
        about = {"storage": str(tmp_path / "runs"), "tags": tags("quickstart", trial)}
        tune.run_job(tune.job(trial, data_dir=tmp_path / "data", request={"cpu": 1, "gpu": 0}, **about))
    assert main([*arguments, "--no-report"]) == 0
    assert "1 planned: 1 done" in capsys.readouterr().out
    before = records(tmp_path)["ce/s0"]

    changed = tmp_path / "data/mine/test/a/0.png"
    changed.write_bytes((tmp_path / "data/mine/test/b/0.png").read_bytes())
    assert main(arguments) == 1
    again = capsys.readouterr().out
    assert "0 done, 0 half-done, 0 failed, 1 stale (their data have changed), 0 new; to run: 0" in again
    assert "stale:    the data of 1 trials have changed since they were trained\nrerun:" in again
    assert "(0 of 1)" in next(tmp_path.glob("reports/quickstart-*/tables/tables.md")).read_text()
    assert records(tmp_path)["ce/s0"] == before

    assert main([*arguments, "--plan", "--rerun-stale"]) == 0
    assert "1 stale (their data have changed), 0 new; to run: 1" in capsys.readouterr().out
    rerun = run(tmp_path, *arguments, "--rerun-stale", "--no-report")
    assert rerun.returncode == 0, rerun.stderr
    after = records(tmp_path)["ce/s0"]
    assert after.tags["data.sha256"] != before.tags["data.sha256"]
    assert after.metrics["test_ce"] != before.metrics["test_ce"]
    old = ledger(tmp_path).client.get_run(before.run_id)
    assert (old.data.tags["kind"], old.info.status) == ("stale", "FINISHED")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--space quikstart", "unknown space 'quikstart' (did you mean 'quickstart'?); allowed: quickstart"),
        (
            "--space thesis --space quickstart",
            "--space: got twice; allowed: once, as --space thesis,quick",
        ),
        ("--space quickstart,thsis", "unknown space 'thsis' (did you mean 'thesis'?); allowed: quickstart,"),
        ("--space thesis,search", "--space: got 'thesis,search'; 'search' is a search, which cannot be joi"),
        ("--space thesis,thesis", "--space: got 'thesis,thesis'; each name at most once"),
        (
            "--space search --set lr=0.1,0.2",
            "--set: got lr=0.1,0.2 with a search; allowed: one value of",
        ),
        ("--space quickstart --set epochs=3,x", "--set: epochs: got 'x'; allowed: an integer"),
        ("--space quickstart --sede 3", "unrecognized arguments: --sede 3"),
        ("--plan", "--space: required; allowed: quickstart"),
        ("--space quickstart --set epoch=3", "--set: unknown field 'epoch' (did you mean 'epochs'?)"),
        ("--space quickstart --only batch=3", "--only: unknown key 'batch' (did you mean 'batch_size'?)"),
        ("--space quickstart --set epochs=many", "--set: epochs: got 'many'; allowed: an integer"),
        ("--space quickstart --set gamma=-1", "--set: gamma: got -1.0; allowed: >= 0"),
        ("--space quickstart --set batch_size=500", "batch_size: got 500; allowed: at most the 200 training"),
        ("--space quickstart --set train_size=5", "train_size: got 5; allowed: at least one image of each"),
        ("--space quickstart --set unlabeled_size=5", "--set: unlabeled_size: got 5; allowed: 0 for digits"),
        (
            "--space ablations --only dataset=cifar10 --set dataset=folder:pets",
            "folder:pets: there is no folder data/pets; allowed: a folder with train/<class>/ and",
        ),
        (
            "--space quickstart --set dataset=folder:../pets",
            "--set: dataset: got 'folder:../pets'; allowed: cifar10, stl10, digits, folder:NAME or",
        ),
        (
            "--space ablations --only dataset=stl10 --set dataset=cifar10",
            "--set: unlabeled_size: got 5000; allowed: 0 for cifar10",
        ),
        (
            "--space ablations --set unlabeled_size=200000 --only dataset=stl10",
            "unlabeled_size: got 200000; allowed: at most the 100000 unlabelled images of stl10",
        ),
        (
            "--space ablations --only dataset=cifar10 --set train_size=45001",
            "train_size: got 45001; allowed: at most 4500 images a class of cifar10 beside val_fraction=0.1",
        ),
        ("--space quickstart --set backbone=resnet81", "backbone: got 'resnet81' (did you mean 'resnet18'?)"),
        (
            "--space quickstart --address ray://127.0.0.1:1",
            "--address: got 'ray://127.0.0.1:1'; allowed: HOST:PORT",
        ),
        ("--space quickstart --seeds 0", "--seeds: got 0; allowed: an integer >= 1"),
        ("--space quickstart --only arm=ce --only gamma=0.01", "--only gamma: no trial has '0.01'"),
        ("--space quickstart --tracking-uri http://127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("--space quickstart --tracking-uri mlruns", "--tracking-uri: got 'mlruns'; allowed: sqlite:///FILE"),
        ("--space quickstart --address 127.0.0.1:1", "--address: no Ray answers at 127.0.0.1:1"),
        ("--space quickstart --address nowhere", "--address: got 'nowhere'; allowed: HOST:PORT"),
        ("--space quickstart --output file/runs", "--output: got 'file/runs', but "),
        ("--space quickstart --data-dir file/data", "--data-dir: got 'file/data', but "),
        ("--space quickstart --cpus-per-trial 1000", "--cpus-per-trial: got 1000; allowed: at most the "),
        ("--space quickstart --gpus-per-trial 1.5", "--gpus-per-trial: got 1.5; allowed: 0 to 1, or a whole"),
        ("--space quickstart --max-failures -1", "--max-failures: got -1; allowed: an integer >= 0"),
        ("--space quickstart --budget 2", "argument --budget: got '2'; allowed: a time such as 90s, 30m, 2h"),
        ("--space quickstart --probe", "--probe: allowed with --plan only"),
        (
            "--space quickstart --storage x3://bucket",
            "storage: got 'x3://bucket'; allowed: an absolute",
        ),
        ("--space quickstart --storage file/x", "--storage: got '"),
        ("--space quickstart --max-concurrent 0", "--max-concurrent: got 0; allowed: an integer >= 1"),
        ("--space quickstart --trials 9", "--trials: got with 'quickstart'; allowed with a search: search"),
        (
            "--space quickstart --sampler tpe",
            "--sampler: got with 'quickstart'; allowed with a search: search",
        ),
        ("--space serch", "unknown space 'serch' (did you mean 'search'?)"),
        ("--space search --sampler grid", "argument --sampler: invalid choice: 'grid'"),
        ("--space search --objective test_acc", "--objective: got 'test_acc'"),
        (
            "--space search --objective val_acc,val_ece --scheduler asha",
            "--scheduler: got 'asha' with several objectives; allowed: none",
        ),
        ("--space search --set train_size=60", "batch_size: got 100; allowed: at most the 60 training"),
    ],
)
def test_bad_input_is_one_line_and_creates_nothing(
    here: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    out, err = capsys.readouterr()
    check_is_one_line(here, message, ended.value.code, out, err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--space quikstart", "unknown space 'quikstart' (did you mean 'quickstart'?); allowed: quickstart"),
        ("--space quickstart --address 127.0.0.1:1", "--address: no Ray answers at 127.0.0.1:1"),
        ("--space quickstart --output file/runs", "--output: got 'file/runs', but "),
    ],
)
def test_so_it_is_in_a_process_of_its_own(tmp_path: Path, arguments: str, message: str) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path, *arguments.split())
    check_is_one_line(tmp_path, message, done.returncode, done.stdout, done.stderr)


def check_is_one_line(folder: Path, message: str, code: object, out: str, err: str) -> None:
    assert code == 2
    assert out == ""
    usage, *folded = err.strip().splitlines()  # long lists of what is allowed take two lines
    assert usage.startswith("usage: ")
    assert 1 <= len(folded) <= 2
    line = " ".join(folded)
    assert line.startswith(f"study/run.py: error: {message}") or message in line
    assert "Traceback" not in err
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_plan_creates_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "--space", "quickstart", "--plan", "--keep", "weights")
    assert done.returncode == 0
    assert "12 planned: 0 done, 0 half-done, 0 failed, 12 new; to run: 12" in done.stdout
    # Four bytes for each of 165,098 weights and statistics, in half of the arms 328,320 more of a projector.
    assert "weights:  to be kept of 12 trials: 15.8 MB, 660 kB to 2.0 MB each\n" in done.stdout
    assert "power: not known before two arms of a cell have 3 seeds in common" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("space", "lines"), [
    ("thesis,controls", ["space thesis: 250 trials", "space controls: 235 trials", "together: 385"]),
    ("ablations", ["space ablations: 1600 trials", "64 cells:", "1600 planned: 0 done,"]),
])  # fmt: skip
def test_plan_of_a_large_space_imports_neither_torch_nor_ray(
    space: str, lines: list[str], tmp_path: Path
) -> None:
    code = (
        f"import sys; from study.run import main; main(['--space', '{space}', '--plan']);"
        "print('loaded', sorted({'torch', 'torchvision', 'ray'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded []"
    for line in lines:
        assert f"\n{line}" in f"\n{done.stdout}"
    assert list(tmp_path.iterdir()) == []


def test_list_spaces(tmp_path: Path) -> None:
    done = run(tmp_path, "--list-spaces")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [*SPACES, *SEARCHES]
    assert done.stdout.startswith("quickstart: One cell on scikit-learn's digits")


@pytest.mark.usefixtures("blank_store")
def test_a_budget_ends_a_study_in_order(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, "--only", "arm=ce", "--seeds", "1", "--set", "epochs=3000", "--no-report"]
    began = time.monotonic()
    ended = run(tmp_path, *arguments, "--budget", "40s", environment=slowed_down(tmp_path))
    assert 40 <= time.monotonic() - began < 80
    assert ended.returncode == 1, ended.stderr
    assert "the budget of 40.0 s is used up: 1 of 1 trials are missing\nresume:   python " in ended.stdout
    assert {r.status for r in records(tmp_path).values()} == {"KILLED"}
    assert main([*arguments, "--plan"]) == 0
    assert "1 planned: 0 done, 1 half-done, 0 failed, 0 new; to run: 1" in capsys.readouterr().out
    assert list(tmp_path.glob("runs/checkpoints/*/0*"))
