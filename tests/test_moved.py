"""An output that was renamed or copied: everything is read, and what is new lands in the new place."""

import contextlib
import io
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import Made, config, fill, results

from analysis.plots.projections import read
from analysis.report import render
from analysis.sections import figures
from analysis.trials import load
from search_spaces import Selection
from study.ledger.ledger import Ledger

pytestmark = pytest.mark.usefixtures("without_pdfs")

CONFIGS = [config(arm, seed) for seed in range(2) for arm in ("ce", "0.01")]
SELECTION = Selection(space="test", trials=tuple(CONFIGS), steps=("a test",))
LATER = config("0.1", 0)


def artifacts_of(seed: int) -> dict[str, bytes]:
    """All that a report reads, for 12 images."""
    random = np.random.default_rng(seed)
    labels, index = np.arange(12) % 3, np.arange(12)
    kept = {
        f"{split}_{name}": array
        for split in ("train", "test")
        for name, array in {"h": random.normal(size=(12, 4)), "labels": labels, "index": index}.items()
    }
    arrays = {
        "embeddings.npz": kept,
        "predictions.npz": {"labels": labels, "predicted": random.integers(3, size=12)},
    }
    files = {}
    for name, content in arrays.items():
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        files[name] = buffer.getvalue()
    curve = pd.DataFrame({"epoch": [1, 2], "train/acc": [0.5, 0.6], "train/ce": [1.0, 0.9]})
    return {**files, "history.parquet": curve.to_parquet()}


def at(output: Path) -> Ledger:
    return Ledger(
        uri=f"sqlite:///{output}/mlflow.db", experiment="test", artifact_root=output / "mlartifacts"
    )


@contextlib.contextmanager
def database(output: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(output / "mlflow.db")) as connection, connection:
        yield connection


@pytest.fixture
def output(tmp_path: Path, empty_store: Path) -> Path:
    """Four finished trials and one that was interrupted, in `before`."""
    folder = tmp_path / "before"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    with database(folder) as store:
        where = (folder / "mlartifacts").as_uri()
        store.execute("update experiments set artifact_location = ? where name = 'test'", (where,))
    made = [
        Made(config=trial, metrics=results(trial), artifacts=artifacts_of(number))
        for number, trial in enumerate(CONFIGS)
    ]
    fill(folder / "mlflow.db", folder / "mlartifacts", [*made, Made(config=LATER, status="KILLED")])
    return folder


@pytest.fixture(autouse=True)
def _without_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """t-SNE takes seconds: what it would be drawn from is read instead."""
    monkeypatch.setattr(figures, "CELLS_WITH_EMBEDDINGS", 0)


def embeddings(output: Path) -> dict[str, np.ndarray]:
    """What a report would draw, by arm."""
    ledger = at(output)
    panels = read(load(SELECTION, ledger.trials()), 0, "test", ledger)
    return {panel.arm: np.asarray(panel.values) for panel in panels}


def rendered(output: Path, folder: Path) -> dict[str, bytes]:
    """The figures and the page, less who rendered it and when."""
    ledger = at(output)
    render(SELECTION, load(SELECTION, ledger.trials()), ledger, folder)
    drawn = {path.name: path.read_bytes() for path in sorted((folder / "figures").glob("*.png"))}
    page = (folder / "report.html").read_text().partition('id="provenance"')[0]
    return {**drawn, "page": page.encode()}


def test_a_moved_output_loses_nothing(output: Path, tmp_path: Path) -> None:
    before, features = rendered(output, tmp_path / "one"), embeddings(output)
    assert "curves-0.png" in before
    assert b"New seeds and test images" in before["page"]
    assert features.keys() == {"ce", "siamese-0.01"}
    new = output.rename(tmp_path / "a new place")
    ledger = at(new)
    assert rendered(new, tmp_path / "two") == before
    np.testing.assert_equal(embeddings(new), features)
    assert ledger.bring_artifacts_along() == output / "mlartifacts"
    assert ledger.bring_artifacts_along() is None
    np.testing.assert_equal(embeddings(new), features)
    # A new trial, and one that goes on under its run.
    for trial in (config("0.1", 1), LATER):
        run_id = ledger.begin(trial, {})
        ledger.finish(run_id, {"test_acc": 0.5}, {"config.json": b"{}"}, timestamp=1)
        assert ledger.artifact(run_id, "config.json") == new / f"mlartifacts/{run_id}/artifacts/config.json"
    runs = ledger.client.search_runs([ledger.experiment_id])
    assert len(runs) == 6
    for run in runs:  # MLflow's pages find them, too
        assert run.info.artifact_uri.startswith((new / "mlartifacts").as_uri())
        assert ledger.client.list_artifacts(run.info.run_id)
    assert not output.exists()


def test_of_a_copy_each_has_its_own(output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    ledger = at(copy)
    run_id = next(record.run_id for record in ledger.trials().values() if record.status == "FINISHED")
    assert ledger.artifact(run_id, "history.parquet").is_relative_to(copy)
    ledger.open()
    assert ledger.client.get_run(run_id).info.artifact_uri.startswith(copy.as_uri())
    assert at(output).client.get_run(run_id).info.artifact_uri.startswith(output.as_uri())
    assert at(output).bring_artifacts_along() is None


def test_a_database_that_was_copied_alone_reads_finished_trials_where_they_are(
    output: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(output / "mlflow.db", alone / "mlflow.db")
    ledger = at(alone)
    assert ledger.bring_artifacts_along() == output / "mlartifacts"
    for record in ledger.trials().values():
        own = output if record.status == "FINISHED" else alone
        assert ledger.client.get_run(record.run_id).info.artifact_uri.startswith(own.as_uri())
    assert not (alone / "mlartifacts").exists()


def test_a_folder_that_somebody_chose_stays(output: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "large disk"
    with database(output) as store:
        store.execute("update experiments set artifact_location = ?", (chosen.as_uri(),))
    assert at(output).bring_artifacts_along() is None
    with database(output) as store:
        store.execute("update experiments set artifact_location = ?", ("s3://bucket/mlartifacts",))
    assert at(output).bring_artifacts_along() is None
    # And where the database is not in the output at all.
    elsewhere = tmp_path / "elsewhere/mlartifacts"
    other = Ledger(uri=at(output).uri, experiment="test", artifact_root=elsewhere)
    with database(output) as store:
        store.execute("update experiments set artifact_location = ?", ((output / "mlartifacts").as_uri(),))
    assert other.bring_artifacts_along() is None
    # A link to the output is the output.
    (tmp_path / "link").symlink_to(output)
    assert at(tmp_path / "link").bring_artifacts_along() is None


def test_what_cannot_be_read_is_told_once_with_how_many_trials(output: Path, tmp_path: Path) -> None:
    first, second = sorted((output / "mlartifacts").iterdir())[:2]
    kept = (second / "artifacts/predictions.npz").read_bytes()
    (second / "artifacts/predictions.npz").write_bytes(b"PK no zip")
    for folder in (first, second):
        (folder / "artifacts/history.parquet").rename(folder / "history")
    text = " ".join(rendered(output, tmp_path / "out")["page"].decode().split())
    said = (
        "history.parquet and predictions.npz of at least 2 trials could not be read: figures and tables that"
    )
    assert text.count(said) == 1
    assert any(f"For example {folder}/artifacts/" in text for folder in (first, second))
    (second / "artifacts/predictions.npz").write_bytes(kept)
    for folder in (first, second):
        (folder / "history").rename(folder / "artifacts/history.parquet")
    (tmp_path / "out/.rendered").unlink()
    assert b"could not be read" not in rendered(output, tmp_path / "out")["page"]
    (first / "artifacts/embeddings.npz").unlink()
    (second / "artifacts/embeddings.npz").write_bytes(b"PK no zip")
    ledger = at(output)
    trials = load(SELECTION, ledger.trials())
    for seed in (0, 1):
        with contextlib.suppress(OSError):
            read(trials, seed, "test", ledger)
    assert {name for _, name in ledger.artifacts.unread} == {"embeddings.npz"}
