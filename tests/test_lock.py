"""Leases in a real store; other drivers are threads or runs that somebody left."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from study.ledger.ledger import Ledger
from study.ledger.tracking_uri import LedgerError
from study.recording import locks
from study.recording.locks import Lease, LockHeld, driver_locks, lease, read_leases


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT", 0.1), ("DEAD_AFTER", 5.0), ("SETTLE", 0.1)):
        monkeypatch.setattr(locks, name, seconds)


@pytest.fixture
def ledger(empty_store: Path, tmp_path: Path) -> Ledger:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return same(tmp_path)


def same(folder: Path) -> Ledger:
    """The same ledger, as another driver sees it."""
    return Ledger(uri=f"sqlite:///{folder}/mlflow.db", experiment="test", artifact_root=folder / "a")


def left_behind(ledger: Ledger, **who: object) -> str:
    """The lease of a driver that is not there any more."""
    about = {"pid": 1, "host": "elsewhere", "since": "yesterday", "namespace": "other", **who}
    return locks.create_lease(ledger, {"lock.state": "held", "lock.beat": "7", "lock.by": json.dumps(about)})


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
        assert time.monotonic() - began >= locks.DEAD_AFTER
        assert len(read_leases(ledger)) == 1


def test_a_dead_driver_on_this_machine_is_removed_at_once(ledger: Ledger) -> None:
    left_behind(ledger, pid=2**22 + 1, namespace=locks._this_process()["namespace"])  # beyond Linux's largest
    began = time.monotonic()
    with lease(ledger):
        assert time.monotonic() - began < locks.DEAD_AFTER


def test_who_was_taken_for_dead_is_told(ledger: Ledger) -> None:
    lost = threading.Event()
    with lease(ledger, on_lost=lost.set):
        ledger.delete_runs(read_leases(ledger))
        assert lost.wait(5)


def test_a_store_that_is_away_for_a_while_loses_no_lease(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, away = threading.Event(), threading.Event()
    touch = ledger.client.get_run

    def get_run(run_id: str) -> object:
        if away.is_set():
            raise ConnectionError("nobody answers")
        return touch(run_id)

    monkeypatch.setattr(ledger.client, "get_run", get_run)
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


def test_two_that_hold_it_by_mistake_do_not_both_go_on(ledger: Ledger) -> None:
    """An older run that becomes visible late, as after a stalled request: the younger holder is told."""
    lost = threading.Event()
    with lease(ledger, on_lost=lost.set):
        mine = next(iter(read_leases(ledger).values()))
        run = ledger.client.create_run(
            ledger.experiment_id, mine.started - 1000, {"kind": "lock", "lock.state": "held"}
        )
        assert lost.wait(5)
        ledger.delete_runs([run.info.run_id])


def test_a_store_that_answers_slowly_kills_nobody(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SLOW", 0.5)
    monkeypatch.setattr(locks, "DEAD_AFTER", 1.0)
    rival = left_behind(ledger)
    answers = iter([2.0, 2.0])  # longer than it takes to count as dead
    straight = read_leases

    def slowly(ledger: Ledger) -> dict[str, Lease]:
        time.sleep(next(answers, 0.0))
        return straight(ledger)

    monkeypatch.setattr(locks, "read_leases", slowly)
    (seen,) = straight(ledger).values()

    def comes_back() -> None:
        time.sleep(3.5)
        locks.update_lease(same(tmp_path), rival, {"lock.beat": "8"})

    thread = threading.Thread(target=comes_back)
    thread.start()
    assert locks._is_alive(ledger, seen) is True
    thread.join()
