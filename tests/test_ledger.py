"""The ledger on a real MLflow store in SQLite."""

import contextlib
import dataclasses
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from study.ledger.store import Store, record_of
from study.ledger.tracking_uri import LedgerError, check_writable, redacted, sqlite_file
from study.ledger.usable import check_reachable
from study.recording.leases import create_lease
from trainables.trial import TrialConfig


@pytest.fixture
def ledger(empty_store: Path, tmp_path: Path) -> Ledger:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Ledger(
        uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "artifacts"
    )


@pytest.fixture
def config() -> TrialConfig:
    return TrialConfig(
        dataset="digits", backbone="convnet", augmentations=("rrc",), method="siamese", gamma=0.01, seed=3
    )


def row(epoch: int, loss: float = 1.5) -> dict[str, float]:
    return {"epoch": epoch, "timestamp": 1000 * epoch, "train/loss": loss, "lr": 0.1}


def test_reading_creates_nothing(tmp_path: Path) -> None:
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "a")
    check_reachable(ledger.uri)
    assert not ledger.exists()
    assert ledger.trials() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_store_killed_while_being_created_is_not_bricked(tmp_path: Path) -> None:
    leftover = tmp_path / ".mlflow.db.creating"
    leftover.mkdir()
    (leftover / "mlflow.db").write_bytes(b"SQLite format 3\0half")
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "a")
    ledger.open()
    assert ledger.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_trial_from_begin_to_finish(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.begin(config, {"space": "quickstart", "device": "cpu"}, started=1234)
    ledger.log_epochs(run_id, [row(1), row(2, loss=0.5)])
    (running,) = ledger.trials().values()
    assert running.status == "RUNNING"
    assert ledger.logged_epochs(run_id) == 2

    ledger.finish(run_id, {"test_acc": 0.75}, {"config.json": b"{}"}, timestamp=2000)
    (record,) = ledger.trials().values()
    assert record.status == "FINISHED"
    assert record.key == config.key
    assert TrialConfig.from_params(record.params) == config
    assert record.metrics["test_acc"] == 0.75
    assert record.tags.items() >= {
        ("kind", "trial"),
        ("arm", "siamese-0.01"),
        ("space", "quickstart"),
        ("device", "cpu"),
        ("attempts", "1"),
        ("artifacts", "config.json"),
    }
    assert record.kept == {"config.json"}
    assert ledger.artifact(run_id, "config.json").read_bytes() == b"{}"
    info = ledger.client.get_run(run_id).info
    assert (info.run_name, info.start_time) == ("siamese-0.01 · s3 · digits/convnet/rrc", 1234)


def test_logging_twice_is_one_point(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.begin(config, {})
    for _ in range(2):
        ledger.log_epochs(run_id, [row(1)])
        ledger.finish(run_id, {"test_acc": 0.75}, {}, timestamp=1000)
    for name in ("train/loss", "final/test_acc"):
        assert len(ledger.client.get_metric_history(run_id, name)) == 1


def test_a_trial_begun_again_goes_on_under_its_run(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.begin(config, {})
    ledger.kill(run_id)
    assert ledger.begin(config, {"host": "other"}) == run_id
    (record,) = ledger.trials().values()
    assert (record.status, record.tags["attempts"], record.tags["host"]) == ("RUNNING", "2", "other")


def test_of_two_runs_with_one_key_the_oldest_stays(ledger: Ledger, config: TrialConfig) -> None:
    first = ledger.begin(config, {})
    # What a repeated request leaves: MLflow's client sends a create again whose answer was lost.
    double = ledger.client.create_run(
        ledger.experiment_id, tags={"kind": "trial", "trial.key": config.key}
    ).info.run_id
    assert ledger.begin(config, {}) == first
    assert [record.run_id for record in ledger.trials().values()] == [first]
    assert ledger.client.get_run(double).info.lifecycle_stage == "deleted"


def test_a_failure_is_told_and_a_new_attempt_forgets_it(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.begin(config, {})
    ledger.fail(run_id, "NonFiniteLoss: train/ce is nan in epoch 2 of 9", "Traceback …")
    (record,) = ledger.trials().values()
    assert record.status == "FAILED"
    assert record.tags["failure"] == "NonFiniteLoss: train/ce is nan in epoch 2 of 9"
    assert ledger.artifact(run_id, "traceback.txt").read_text() == "Traceback …"
    assert ledger.begin(config, {}) == run_id
    assert "failure" not in ledger.trials()[config.key].tags


def test_orphans_are_killed_and_finished_runs_left_alone(ledger: Ledger, config: TrialConfig) -> None:
    finished = ledger.begin(config, {})
    ledger.finish(finished, {}, {}, timestamp=0)
    orphan = ledger.begin(TrialConfig.from_params({**config.to_params(), "seed": "4"}), {})
    ledger.client.update_run(finished, status="RUNNING")  # sent when it was begun, and delivered last
    ledger.kill_orphans()
    assert {r.run_id: r.status for r in ledger.trials().values()} == {finished: "FINISHED", orphan: "KILLED"}


def test_a_run_of_which_nothing_is_known_is_deleted(
    ledger: Ledger, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that dies while it makes a run leaves no trial behind that nobody can ever name."""

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(type(ledger.client), "log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            ledger.begin(config, {"stage": "search"})
    # Whatever a run has, it has its tags: a search counts its trials by them.
    assert [(r.params, r.tags["stage"]) for r in ledger.trials().values()] == [({}, "search")]
    ledger.kill_orphans()
    assert ledger.trials() == {}
    again = ledger.begin(config, {"a": "b"})
    assert [(r.run_id, r.params) for r in ledger.trials().values()] == [(again, config.to_params())]


def test_a_run_that_only_looks_like_a_trial_is_told_and_left_alone(
    ledger: Ledger, config: TrialConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a shared server anybody may use the same tag."""
    ours = ledger.begin(config, {})
    run = ledger.client.create_run(ledger.experiment_id, tags={"kind": "trial"})
    ledger.client.create_run(ledger.experiment_id, tags={"kind": "study"})
    for _ in range(2):
        assert [record.run_id for record in ledger.trials().values()] == [ours]
    said = capsys.readouterr().err
    assert said.splitlines() == [
        "runs with kind=trial and without trial.key are left out: 1, such as"
        f" {ledger.uri}/#/experiments/1/runs/{run.info.run_id}?workflowType=machine_learning"
    ]
    by_the_client = [record_of(run) for run in ledger.store.search("tags.kind = 'trial'")]
    assert sorted(record.key for record in by_the_client) == ["", config.key]
    ledger.kill_orphans()
    assert ledger.client.get_run(run.info.run_id).info.status == "RUNNING"
    assert ledger.studies() == {}


def test_an_attempt_that_is_asked_for_again_is_counted_once(ledger: Ledger, config: TrialConfig) -> None:
    """The writer asks again when the answer to its last question was lost."""
    for started, attempts in ((5, "1"), (5, "1"), (7, "2"), (7, "2")):
        run_id = ledger.begin(config, {}, started)
        assert ledger.trials()[config.key].tags["attempts"] == attempts
    assert len(ledger.client.search_runs([ledger.experiment_id])) == 1
    ledger.kill(run_id)
    ledger.begin(config, {}, 7)
    assert ledger.trials()[config.key].status == "RUNNING"


def test_a_clock_that_was_set_back_an_hour(ledger: Ledger, config: TrialConfig) -> None:
    """The last epoch and the last measurement count, not those with the latest time."""
    hour = 3_600_000
    run_id = ledger.begin(config, {}, started=2 * hour)
    times = {1: 2 * hour, 2: 2 * hour + 1, 3: hour, 4: hour + 1}
    for epoch, moment in times.items():
        ledger.log_epochs(run_id, [{"epoch": epoch, "timestamp": moment, "train/loss": 1 / epoch}])
        assert ledger.logged_epochs(run_id) == epoch
    assert ledger.history(run_id, "train/loss") == {epoch: 1 / epoch for epoch in times}
    assert ledger.client.get_run(run_id).data.metrics["train/loss"] == 1 / 4
    ledger.finish(run_id, {"test_acc": 0.5}, {}, timestamp=2 * hour)
    ledger.add_measured(run_id, {"test_acc": 0.75, "knn_acc": 0.25}, "from weights", timestamp=hour)
    metrics = ledger.trials()[config.key].metrics
    assert (metrics["test_acc"], metrics["knn_acc"]) == (0.75, 0.25)


def test_a_database_with_a_journal_that_another_process_writes(ledger: Ledger, config: TrialConfig) -> None:
    """SQLite's write-ahead log (`-wal`), which somebody may have turned on: all that is committed is read."""
    run_id = ledger.begin(config, {})
    file = ledger.store.sqlite_file
    assert file is not None
    other = sqlite3.connect(file, isolation_level=None)
    assert other.execute("pragma journal_mode = wal").fetchone() == ("wal",)
    other.execute("pragma wal_autocheckpoint = 0")
    ledger.tag(run_id, {"a": "b"})
    other.execute("begin immediate")
    other.execute("update tags set value = 'half' where key = 'a'")
    assert Path(f"{file}-wal").stat().st_size > 0
    check_reachable(ledger.uri)
    assert ledger.trials()[config.key].tags["a"] == "b"
    other.execute("commit")
    assert ledger.trials()[config.key].tags["a"] == "half"
    copy = file.with_name("copy.db")  # of a killed driver: its log was not brought into the file yet
    for end in ("", "-wal"):
        shutil.copy(f"{file}{end}", f"{copy}{end}")
    moved = Ledger(uri=f"sqlite:///{copy}", experiment="test", artifact_root=ledger.artifact_root)
    assert moved.trials()[config.key].tags["a"] == "half"
    other.close()


def test_one_study_run_a_space(ledger: Ledger) -> None:
    ledger.log_study("quickstart", {"report.html": b"old", "plan.txt": b"12 planned"})
    ledger.log_study("quickstart", {"report.html": b"new"})
    ledger.log_study("thesis", {"report.html": b"another"})
    runs = ledger.client.search_runs([ledger.experiment_id], "tags.kind = 'study'")
    assert sorted((run.info.run_name, run.info.status) for run in runs) == [
        ("study quickstart", "FINISHED"),
        ("study thesis", "FINISHED"),
    ]
    (quickstart,) = [run.info.run_id for run in runs if run.data.tags["space"] == "quickstart"]
    assert ledger.artifact(quickstart, "report.html").read_bytes() == b"new"
    assert ledger.artifact(quickstart, "plan.txt").read_bytes() == b"12 planned"
    assert ledger.trials() == {}
    (thesis,) = {run.info.run_id for run in runs} - {quickstart}
    assert note(ledger).startswith(
        f"**Report:** [`thesis`](#/experiments/1/runs/{thesis}/artifacts/report.html?"
    )
    ledger.tag_study("quickstart", {"a": "b"})
    ledger.log_study("quickstart", {"plan.txt": b"13 planned"})
    assert note(ledger).startswith("**Report:** [`thesis`]")  # the newest report is still that one


def note(ledger: Ledger) -> str:
    return str(ledger.client.get_experiment(ledger.experiment_id).tags["mlflow.note.content"])


def test_an_experiment_has_views_and_a_description(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    tags = ledger.client.get_experiment(ledger.experiment_id).tags
    assert {"mlflow.sharedViewState.trials", "mlflow.sharedViewState.arms"} <= set(tags)
    assert note(ledger).startswith("**Views:** [trials](#/experiments/1/runs?")
    assert ledger.store._tags() == tags  # read from the database as by the client

    with sqlite3.connect(
        str(ledger.store.sqlite_file)
    ) as database:  # an older experiment, with a text of its own
        database.execute("delete from experiment_tags")
    ledger.client.set_experiment_tag(ledger.experiment_id, "mlflow.note.content", "our notes")
    ledger.arrange_pages()
    assert ledger.client.get_experiment(ledger.experiment_id).tags == tags | {
        "mlflow.note.content": "our notes"
    }
    ledger.log_study("quickstart", {"report.html": b"new"})
    assert note(ledger) == "our notes"

    def refuse(*_: object) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(type(ledger.client), "set_experiment_tag", refuse)
    ledger.arrange_pages()  # nothing is missing
    with sqlite3.connect(str(ledger.store.sqlite_file)) as database:
        database.execute("delete from experiment_tags")
    ledger.arrange_pages()  # and where the store refuses, trials can go on


def test_a_run_whose_maker_died_gets_its_params_from_the_next_attempt(
    ledger: Ledger, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **more: object) -> None:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patched:
        patched.setattr(ledger.client, "log_batch", away)
        with pytest.raises(ConnectionError):
            ledger.begin(config, {})
    run_id = ledger.begin(config, {"host": "a"})
    (record,) = ledger.trials().values()
    assert record.run_id == run_id
    assert TrialConfig.from_params(record.params) == config
    assert record.tags["host"] == "a"


def test_a_recovered_result_is_no_new_attempt(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.begin(config, {"git.commit": "old"})
    assert ledger.ensure_run(config, {"git.commit": "old"}) == run_id
    assert ledger.trials()[config.key].tags["attempts"] == "1"


def test_a_deleted_experiment_is_told(ledger: Ledger) -> None:
    ledger.client.delete_experiment(ledger.experiment_id)
    ledger.store._experiment_id = None
    with pytest.raises(LedgerError, match="'test' was deleted; restore it with"):
        ledger.exists()


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "runs", "ftp://host/x"])
def test_stores_that_are_not_supported(uri: str) -> None:
    with pytest.raises(LedgerError, match=r"--tracking-uri: got .*; allowed: sqlite:///FILE"):
        check_reachable(uri)


def test_a_server_that_does_not_answer() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(LedgerError, match=f"nothing answers at 127.0.0.1:{port}"):
            check_reachable(f"http://127.0.0.1:{port}")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    ledger = Ledger(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path)
    with pytest.raises(LedgerError, match="file is not a database"):
        ledger.exists()


@pytest.mark.parametrize("uri", ["http://localhost:abc", "http://localhost:99999", "http://[::1"])
def test_addresses_that_are_none(uri: str) -> None:
    with pytest.raises(LedgerError, match=r"--tracking-uri: got 'http://"):
        check_reachable(uri)


def test_passwords_are_not_shown() -> None:
    assert redacted("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert redacted("postgresql://me:pass@word@host/db") == "postgresql://me:***@host/db"
    assert redacted("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"--output: got .*, but .*file cannot be written"):
        check_writable("--output", tmp_path / "file" / "runs")
    check_writable("--output", tmp_path / "new" / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_on_data_that_have_changed_is_set_aside(ledger: Ledger, config: TrialConfig) -> None:
    """Its epochs must not be mixed with those of the new data."""
    first = ledger.begin(config, {"data.sha256": "old"})
    ledger.log_epochs(first, [row(1)])
    assert ledger.begin(config, {"data.sha256": "old"}) == first
    second = ledger.begin(config, {"data.sha256": "new"})
    assert second != first
    assert ledger.logged_epochs(second) == 0
    assert {record.run_id for record in ledger.trials().values()} == {second}
    old = ledger.client.get_run(first)
    assert (old.data.tags["kind"], old.info.status) == ("stale", "KILLED")
    ledger.finish(second, {}, {}, 1)
    third = ledger.begin(config, {"data.sha256": "newer"})
    assert ledger.client.get_run(second).info.status == "FINISHED"
    assert {record.run_id for record in ledger.trials().values()} == {third}


def test_an_epoch_is_logged_in_one_request(
    ledger: Ledger, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dies between two requests leaves no epoch with some of its metrics."""
    run_id = ledger.begin(config, {})
    sizes, before = [], ledger.client.log_batch
    monkeypatch.setattr(
        ledger.client,
        "log_batch",
        lambda *a, metrics: (sizes.append(len(metrics)), before(*a, metrics=metrics)),
    )
    names = [f"m{i}" for i in range(7)]
    rows = [{"epoch": e, "timestamp": e, "train/loss": e, **dict.fromkeys(names, 1.0)} for e in range(1, 301)]
    ledger.log_epochs(run_id, rows)
    assert sizes == [1000, 1000, 400]
    rows = [{**row, "epoch": row["epoch"] + 300, "m7": 1.0} for row in rows]
    ledger.log_epochs(run_id, rows)
    assert sizes[3:] == [999, 999, 702]
    assert ledger.logged_epochs(run_id) == 600
    assert len(ledger.client.get_metric_history(run_id, "m0")) == 600


def through_mlflow(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> dict[str, TrialRecord]:
    """The trials as MLflow's client gives them."""
    with monkeypatch.context() as patch:
        patch.setattr("study.ledger.sqlite_reader.SCHEMA", "of another version")
        return ledger.trials()


def test_reading_the_database_gives_what_the_client_gives(
    ledger: Ledger, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where MLflow's schema has changed, this fails, and `sqlite_reader.SCHEMA` has to follow."""
    others = [dataclasses.replace(config, seed=seed) for seed in range(1, 7)]
    finished, failed, killed, deleted, unfinished, never = others
    run_id = ledger.begin(finished, {"host": "a 'quoted' one"}, 1000)
    ledger.log_epochs(run_id, [row(1), row(2, loss=float("nan"))])
    metrics = {"test_acc": 0.1 + 0.2, "test_ce": float("nan"), "view_cosine": float("inf")}
    ledger.finish(run_id, metrics, {}, 5000)
    ledger.fail(ledger.begin(failed, {}), "why", "Traceback")
    ledger.kill(ledger.begin(killed, {}))
    ledger.delete_runs([ledger.begin(deleted, {})])
    ledger.begin(unfinished, {})
    create_lease(ledger, {"host": "here"})
    other = Ledger(uri=ledger.uri, experiment="another", artifact_root=ledger.artifact_root)
    other.open()
    other.begin(never, {})

    monkeypatch.setattr(Store, "search", lambda *_: pytest.fail("MLflow's client was asked"))
    quick = ledger.trials()
    monkeypatch.undo()
    slow = through_mlflow(ledger, monkeypatch)
    assert list(quick) == list(slow)
    assert {quick[c.key].status for c in (finished, failed, killed, unfinished)} == {
        "FINISHED",
        "FAILED",
        "KILLED",
        "RUNNING",
    }
    assert len(quick) == 4
    assert str(quick) == str(slow)  # as text: NaN is not equal to itself


def test_runs_with_one_key_are_read_in_one_order(
    ledger: Ledger, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for started in (3000, 1000, 2000):
        tags = {"kind": "trial", "trial.key": config.key}
        ledger.client.create_run(ledger.experiment_id, start_time=started, tags=tags)
    assert ledger.trials() == through_mlflow(ledger, monkeypatch)


def test_a_database_of_another_version_of_mlflow(ledger: Ledger, config: TrialConfig, tmp_path: Path) -> None:
    """Reading it, and saying so where MLflow itself cannot use it, is left to MLflow."""
    ledger.begin(config, {})
    copy = tmp_path / "copy.db"  # MLflow looks at the version of a database once a process
    shutil.copy(sqlite_file(ledger.uri) or "", copy)
    with contextlib.closing(sqlite3.connect(copy)) as database, database:
        database.execute("update alembic_version set version_num = 'of the future'")
    fresh = Ledger(uri=f"sqlite:///{copy}", experiment=ledger.experiment, artifact_root=tmp_path)
    with pytest.raises(LedgerError, match=r"no ledger at"):
        fresh.check()
    with pytest.raises(LedgerError, match=r"no ledger at"):
        fresh.trials()


def test_a_metric_that_is_measured_later_is_one_of_the_finished_trial(
    ledger: Ledger, config: TrialConfig
) -> None:
    run_id = ledger.ensure_run(config, {})
    ledger.finish(run_id, {"test_acc": 0.75}, {}, timestamp=2000)
    before = ledger.client.get_run(run_id).info
    for _ in range(2):  # a request whose answer was lost is repeated
        ledger.add_measured(run_id, {"knn_acc": 0.5, "test_acc": 0.25}, "from weights", timestamp=3000)
    (record,) = ledger.trials().values()
    assert record.metrics == {"test_acc": 0.25, "knn_acc": 0.5}  # the latest value, though it is smaller
    assert record.tags["measured.knn_acc"] == "from weights"
    history = ledger.client.get_metric_history(run_id, "final/knn_acc")
    assert [(point.step, point.timestamp) for point in history] == [(0, 3000)]
    after = ledger.client.get_run(run_id).info
    assert (after.status, after.end_time) == (before.status, before.end_time)


def test_a_borrowed_artifact_stays_in_a_local_store(ledger: Ledger, config: TrialConfig) -> None:
    run_id = ledger.ensure_run(config, {})
    ledger.log_files(run_id, {"config.json": b"{}"})
    with ledger.artifacts.borrowed(run_id, "config.json") as path:
        assert path.read_bytes() == b"{}"
    assert path.read_bytes() == b"{}"
