"""Leases in a real store; other drivers are threads or runs that somebody left."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from study.ledger.ledger import Ledger
from study.ledger.records import by_key
from study.ledger.store import record_of
from study.ledger.tracking_uri import LedgerError
from study.recording import fence, holders, leases
from study.recording.events import EpochDone, Interrupted, Started
from study.recording.fence import LeaseLost
from study.recording.holders import LockHeld
from study.recording.leases import Lease, lease, read_leases
from study.recording.locks import driver_locks
from study.recording.writer import LedgerWriter
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT", 0.1), ("DEAD_AFTER", 5.0), ("SETTLE", 0.1)):
        monkeypatch.setattr(leases, name, seconds)


@pytest.fixture
def ledger(empty_store: Path, tmp_path: Path) -> Ledger:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return same(tmp_path)


def same(folder: Path) -> Ledger:
    """The same ledger, as another driver sees it."""
    return Ledger(uri=f"sqlite:///{folder}/mlflow.db", experiment="test", artifact_root=folder / "a")


NOBODY = {"pid": 2**22 + 1, "namespace": holders.this_process()["namespace"]}
"""Of this machine, with a number beyond Linux's largest."""


def left_behind(ledger: Ledger, **who: object) -> str:
    """The lease of a driver that is not there any more."""
    about = {"pid": 1, "host": "elsewhere", "since": "yesterday", "namespace": "other", **who}
    return leases.create_lease(ledger, {"lock.state": "held", "lock.beat": "7", "lock.by": json.dumps(about)})


def test_a_lease_is_one_run_while_it_is_held(ledger: Ledger) -> None:
    with lease(ledger):
        (held,) = read_leases(ledger).values()
        assert held.tags["lock.state"] == "held"
        assert json.loads(held.tags["lock.by"])["pid"] == os.getpid()
        assert ledger.trials() == {}
    assert read_leases(ledger) == {}


def test_a_second_driver_is_told_who_works(ledger: Ledger, tmp_path: Path) -> None:
    with lease(ledger):
        time.sleep(0.5)
        with (
            pytest.raises(
                LockHeld, match=rf"^--experiment: test is in use by process {os.getpid()} on .*--wait"
            ),
            lease(same(tmp_path)),
        ):
            pytest.fail("two drivers at work")
        assert len(read_leases(ledger)) == 1
    with lease(same(tmp_path)):
        pass


def test_a_second_driver_waits_if_asked_to(ledger: Ledger, tmp_path: Path) -> None:
    at_work, told, done = [], [], threading.Event()

    def second() -> None:
        with lease(same(tmp_path), wait=told.append):
            at_work.append("second")
            done.set()

    with lease(ledger):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(1.5)
        assert at_work == []
    assert done.wait(10)
    thread.join()
    (line,) = told
    assert line.endswith(": waiting")


def test_of_many_that_ask_at_once_one_works(ledger: Ledger, tmp_path: Path) -> None:
    outcomes: list[str] = []
    together = threading.Barrier(4)

    def driver() -> None:
        mine = same(tmp_path)
        mine.exists()
        together.wait()
        try:
            with lease(mine):
                outcomes.append("works")
                time.sleep(4)
        except (LockHeld, LedgerError):
            outcomes.append("is told")

    threads = [threading.Thread(target=driver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["is told"] * 3 + ["works"]
    assert read_leases(ledger) == {}


def test_a_dead_driver_on_another_machine_is_waited_for_and_removed(ledger: Ledger) -> None:
    left_behind(ledger)
    began = time.monotonic()
    with lease(ledger):
        assert time.monotonic() - began >= leases.DEAD_AFTER
        assert len(read_leases(ledger)) == 1


def test_a_dead_driver_on_this_machine_is_removed_at_once(ledger: Ledger) -> None:
    left_behind(
        ledger, pid=2**22 + 1, namespace=holders.this_process()["namespace"]
    )  # beyond Linux's largest
    began = time.monotonic()
    with lease(ledger):
        assert time.monotonic() - began < leases.DEAD_AFTER


def test_who_was_taken_for_dead_is_told(ledger: Ledger) -> None:
    lost = threading.Event()
    with lease(ledger, on_lost=lost.set):
        ledger.delete_runs(read_leases(ledger))
        assert lost.wait(5)


def test_a_store_that_is_away_for_a_while_loses_no_lease(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, away = threading.Event(), threading.Event()
    touch = type(ledger.client).get_run

    def get_run(self: MlflowClient, run_id: str) -> object:
        if away.is_set():
            raise ConnectionError("nobody answers")
        return touch(self, run_id)

    monkeypatch.setattr(MlflowClient, "get_run", get_run)
    with lease(ledger, on_lost=lost.set):
        away.set()
        time.sleep(0.5)
        away.clear()
        before = next(iter(read_leases(ledger).values())).tags["lock.beat"]
        time.sleep(1)
        assert next(iter(read_leases(ledger).values())).tags["lock.beat"] != before
    assert not lost.is_set()


def test_one_database_under_two_output_folders(ledger: Ledger, tmp_path: Path) -> None:
    with (
        driver_locks(ledger, tmp_path / "a", str(tmp_path / "a")),
        pytest.raises(LockHeld, match=r"--tracking-uri: .*mlflow.db is in use by process"),
        driver_locks(ledger, tmp_path / "b", str(tmp_path / "b")),
    ):
        pytest.fail("two drivers at work")
    with (
        driver_locks(ledger, tmp_path / "a", str(tmp_path / "a")),
        pytest.raises(LockHeld, match=r"--output: .*/a is in use by process"),
        driver_locks(ledger, tmp_path / "a", str(tmp_path / "a")),
    ):
        pytest.fail("two drivers at work")
    with driver_locks(ledger, tmp_path / "b", str(tmp_path / "b")):
        pass


def test_a_database_in_one_output_folder_under_another(tmp_path: Path, empty_store: Path) -> None:
    """Whoever works on the folder by default locks its database, too."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    ledger = same(tmp_path)
    with (
        driver_locks(ledger, tmp_path, str(tmp_path)),
        pytest.raises(LockHeld, match=r"--tracking-uri: .*mlflow.db is in use by process"),
        driver_locks(ledger, tmp_path / "b", str(tmp_path / "b")),
    ):
        pytest.fail("two drivers at work")


def test_one_storage_under_two_ledgers(tmp_path: Path) -> None:
    ledgers = [
        Ledger(uri=f"sqlite:///{tmp_path}/{name}/mlflow.db", experiment="test", artifact_root=tmp_path)
        for name in "ab"
    ]
    with (
        driver_locks(ledgers[0], tmp_path / "a", str(tmp_path / "s")),
        pytest.raises(LockHeld, match=r"--storage: .*/s is in use by process"),
        driver_locks(ledgers[1], tmp_path / "b", str(tmp_path / "s")),
    ):
        pytest.fail("two drivers at work")


def test_two_that_hold_it_by_mistake_do_not_both_go_on(ledger: Ledger, tmp_path: Path) -> None:
    """An older run that becomes visible late, as after a stalled request: the younger holder is told."""
    lost = threading.Event()
    with lease(ledger, on_lost=lost.set):
        mine = next(iter(read_leases(ledger).values()))
        run = ledger.client.create_run(
            ledger.experiment_id, mine.started - 1000, {"kind": "lock", "lock.state": "held"}
        )
        assert lost.wait(5)
    assert same(tmp_path).store.tags_of(mine.run_id)["lock.state"] == "held"  # it did not end in order
    ledger.delete_runs([run.info.run_id])


def test_a_store_that_answers_slowly_kills_nobody(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SLOW", 0.5)
    monkeypatch.setattr(leases, "DEAD_AFTER", 1.0)
    rival = left_behind(ledger)
    answers = iter([2.0, 2.0])  # longer than it takes to count as dead
    straight = read_leases

    def slowly(ledger: Ledger) -> dict[str, Lease]:
        time.sleep(next(answers, 0.0))
        return straight(ledger)

    monkeypatch.setattr(leases, "read_leases", slowly)
    (seen,) = straight(ledger).values()

    def comes_back() -> None:
        time.sleep(3.5)
        leases.update_lease(same(tmp_path), rival, {"lock.beat": "8"})

    thread = threading.Thread(target=comes_back)
    thread.start()
    assert leases._is_alive(ledger, seen) is True
    thread.join()


def config(seed: int = 0) -> TrialConfig:
    return TrialConfig(
        dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=3, seed=seed
    )


def row(epoch: int, driver: int = 1) -> dict[str, float]:
    """An epoch, which each driver trains at a time of its own."""
    return {"epoch": epoch, "timestamp": 1000 * driver + epoch, "train/loss": 1 / epoch, "seconds": driver}


def points(ledger: Ledger, name: str = "seconds") -> list[tuple[int, float]]:
    """What MLflow has of the experiment's only trial."""
    (run,) = ledger.client.search_runs([ledger.experiment_id], "tags.kind = 'trial'")
    return [(point.step, point.value) for point in ledger.client.get_metric_history(run.info.run_id, name)]


def test_what_was_sent_before_a_lease_was_lost_is_refused_when_it_arrives(
    ledger: Ledger, tmp_path: Path
) -> None:
    """No look at a clock keeps a request from being late: the other driver's run is another one."""
    late = same(tmp_path)
    late.driver = left_behind(ledger, **NOBODY)
    run_id = late.begin(config(), {"search.a": "7"}, started=5)
    late.tag(run_id, {"my.note": "kept"})
    late.log_epochs(run_id, [row(1), row(2)])
    with lease(ledger):
        ledger.kill_orphans()
        new = ledger.begin(config(), {"host": "b"})
        ledger.log_epochs(new, [row(epoch, driver=2) for epoch in (1, 2)])
        for write in (
            lambda: late.log_epochs(run_id, [row(3)]),
            lambda: late.finish(run_id, {"test_acc": 0.5}, {}, timestamp=9),
            lambda: late.kill(run_id),
            lambda: late.begin(config(1), {}) and late.client.set_tag(run_id, "attempts", "9"),
        ):
            with pytest.raises(MlflowException, match=r"must be in (the )?'active' (lifecycle_stage|state)"):
                write()
        ledger.log_epochs(new, [row(3, driver=2)])
        ledger.finish(new, {"test_acc": 0.5}, {}, timestamp=9)
        ledger.delete_runs([ledger.trials()[config(1).key].run_id])
    assert points(ledger) == [(1, 2), (2, 2), (3, 2)]
    record = ledger.trials()[config().key]
    assert (record.run_id, record.status, record.tags["attempts"]) == (new, "FINISHED", "2")
    assert record.tags.items() >= {("search.a", "7"), ("my.note", "kept"), ("host", "b")}
    assert ledger.client.get_run(new).info.start_time == 5


def test_after_a_driver_that_ended_in_order_a_trial_keeps_its_run(ledger: Ledger, tmp_path: Path) -> None:
    with lease(ledger):
        run_id = ledger.begin(config(), {})
        ledger.log_epochs(run_id, [row(1)])
        ledger.kill(run_id)
    with lease(same(tmp_path)):
        pass
    with lease(ledger):
        assert ledger.begin(config(), {}) == run_id
        ledger.log_epochs(run_id, [row(2)])
    assert [step for step, _ in points(ledger)] == [1, 2]
    ledger.delete_runs([run_id])


def test_a_run_that_a_late_request_made_hides_no_finished_one(ledger: Ledger) -> None:
    """It may be older, by the clock of the driver that made it."""
    run_id = ledger.begin(config(), {}, started=1000)
    ledger.finish(run_id, {"test_acc": 0.5}, {}, timestamp=9)
    identity = {"kind": "trial", "trial.key": config().key}
    late = ledger.client.create_run(ledger.experiment_id, 1, identity).info.run_id
    for found in (ledger.trials(), by_key(map(record_of, ledger.store.search("tags.kind = 'trial'")))):
        assert found[config().key].run_id == run_id
    assert ledger.ensure_run(config(), {}) == run_id
    assert ledger.client.get_run(late).info.lifecycle_stage == "deleted"


def test_a_run_that_was_made_long_after_it_was_asked_for_is_gone_at_the_end(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A proxy held the request back until the client had asked again, and the trial was on its way."""
    with lease(ledger):
        log = LedgerWriter(ledger=ledger, storage=Storage(tmp_path))
        log.put(Started(config(), {}, 1))
        log.put(EpochDone(config(), row(1)))
        deadline = time.monotonic() + 10
        while not ledger.trials() and time.monotonic() < deadline:
            time.sleep(0.05)
        identity = {"kind": "trial", "trial.key": config().key, "driver": str(ledger.driver)}
        same(tmp_path).client.create_run(ledger.experiment_id, 1, identity)
        log.put(Interrupted(config()))
        log.close()
    assert points(ledger) == [(1, 1)]


def test_who_slept_writes_nothing_before_a_heartbeat(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who still has the lease goes on; who has not is told, in whichever thread."""
    lost = threading.Event()
    slept = [0.0]
    straight = fence.now
    for module in (fence, leases):
        monkeypatch.setattr(module, "now", lambda: straight() + slept[0])
    with lease(ledger, on_lost=lost.set):
        run_id = ledger.begin(config(), {})
        monkeypatch.setattr(leases, "HEARTBEAT", 60.0)
        time.sleep(0.3)  # the heart waits for so long now
        slept[0] += 100
        beats = [lease.tags["lock.beat"] for lease in read_leases(same(tmp_path)).values()]
        ledger.log_epochs(run_id, [row(1)])
        assert [lease.tags["lock.beat"] for lease in read_leases(same(tmp_path)).values()] != beats
        slept[0] += 100
        ledger.store._client.delete_run(*read_leases(same(tmp_path)))
        for _ in range(2):
            with pytest.raises(LeaseLost, match="--experiment: another driver took this one for dead and"):
                ledger.log_epochs(run_id, [row(2)])
        assert lost.is_set()
    assert [step for step, _ in points(ledger)] == [1]
    ledger.delete_runs([run_id])


def test_the_clock_of_a_fence_is_not_what_people_set(monkeypatch: pytest.MonkeyPatch) -> None:
    began = fence.now()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    time.sleep(0.01)
    assert 0.01 <= fence.now() - began < 5
    guarded = fence.Fence(_proved=began - fence.TRUSTED)
    monkeypatch.setattr(fence, "PATIENCE", 0.05)
    with pytest.raises(LedgerError, match="the store has not taken a heartbeat for"):
        guarded.check()
    assert guarded.wanted.is_set()
