"""Clean-up on a real ledger: what is named goes, finished work never."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from study.clean import main
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger
from study.recording import notes
from study.recording.writer import log_waiting_bundles
from trainables.storage.bundles import Bundle, TrialResult, delete_half_written, to_parquet, write_bundle
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig


def trial(seed: int) -> TrialConfig:
    return TrialConfig(dataset="digits", backbone="convnet", augmentations=(), method="ce", seed=seed)


def ledger_in(output: Path) -> Ledger:
    uri = f"sqlite:///{output}/mlflow.db"
    return Ledger(uri=uri, experiment=DEFAULT_EXPERIMENT, artifact_root=output / "artifacts")


@pytest.fixture
def output(empty_store: Path, tmp_path: Path) -> Path:
    """Trial 0 is finished, 1 interrupted, 2 finished but not in the ledger yet, 3 of other data."""
    output = tmp_path / "runs"
    output.mkdir()
    shutil.copy(empty_store, output / "mlflow.db")
    ledger = Ledger(
        uri=f"sqlite:///{output}/mlflow.db", experiment=DEFAULT_EXPERIMENT, artifact_root=output / "a"
    )
    ledger.open()
    ledger.finish(ledger.begin(trial(0), {}), {"test_acc": 0.5}, {"config.json": b"{}"}, 1)
    ledger.kill(ledger.begin(trial(1), {}))
    ledger.tag(ledger.begin(trial(3), {}), {"kind": "stale"})
    storage = Storage(output)
    for seed in (0, 1):
        Checkpoints(storage, trial(seed).key).save(5, bytes(1000))
    storage.write(f"checkpoints/{trial(1).key}/.00000006-abc-1-2", b"half")
    storage.write(f"checkpoints/{trial(1).key}/00000004-abc.damaged", b"half")
    for seed in (0, 2):
        storage.write(f"results/{trial(seed).key}.zip", b"a result")
    storage.write("ray/tune/tuner.pkl", b"Tune's")
    storage.write("nodes/0123", b"of a driver that was killed")
    return output


def files(output: Path) -> set[str]:
    found = (path.relative_to(output) for path in output.rglob("*") if path.is_file())
    return {str(path) for path in found if path.parts[0] in ("checkpoints", "results", "ray", "nodes")}


def call(output: Path, *kinds: str) -> int:
    return main([*kinds, "--output", str(output)])


def test_without_a_name_nothing_is_deleted(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(output)
    assert call(output) == 0
    assert files(output) == before
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[:4]]
    assert lines == [
        ["leftovers", "5", "files,"],
        ["tune", "1", "files,"],
        ["stale", "1", "runs"],
        ["unfinished", "1", "files,"],
    ]


@pytest.mark.parametrize("kind", ["leftovers", "tune", "stale", "unfinished"])
def test_what_is_named_goes_and_nothing_else(output: Path, kind: str) -> None:
    before = files(output)
    saved = next(name for name in before if name.startswith(f"checkpoints/{trial(1).key}/00000005"))
    gone = {
        "leftovers": before - {saved, f"results/{trial(2).key}.zip", "ray/tune/tuner.pkl"},
        "tune": {"ray/tune/tuner.pkl"},
        "stale": set(),
        "unfinished": {saved},
    }[kind]
    assert call(output, kind) == 0
    assert before - files(output) == gone
    ledger = Ledger(
        uri=f"sqlite:///{output}/mlflow.db", experiment=DEFAULT_EXPERIMENT, artifact_root=output / "a"
    )
    assert {r.status for r in ledger.trials().values()} == {"FINISHED", "KILLED"}
    assert len(ledger.stale_runs()) == (0 if kind == "stale" else 1)


def test_all_at_once_leaves_the_work(output: Path) -> None:
    assert call(output, "unfinished", "leftovers", "tune", "stale") == 0
    assert files(output) == {f"results/{trial(2).key}.zip"}
    assert list((output / "checkpoints").iterdir()) == []


def test_what_is_wrong_is_one_line(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from study.recording.locks import file_lock

    before = files(output)
    with pytest.raises(SystemExit, match="2"):
        call(output, "leftover")
    assert "KIND: got 'leftover' (did you mean 'leftovers'?); allowed: leftovers," in capsys.readouterr().err
    with file_lock(output / ".driver.lock", "--output: runs"), pytest.raises(SystemExit, match="2"):
        call(output, "leftovers")
    assert "is in use by process" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["unfinished", "--output", str(output), "--experiment", "other"])
    assert "--experiment: no experiment 'other' at sqlite:///" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        call(output / "none", "leftovers")
    assert "none does not exist" in capsys.readouterr().err
    assert files(output) == before


def test_notes_that_come_and_go_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts, others that ask, and drivers that have ended since the folder was listed."""
    storage = Storage(tmp_path)
    for name, content in ((".draft-1", b"half"), ("asks", b""), ("works", b"process 7 on a")):
        storage.write(f"{notes.NOTES}/{name}", content)
    times = Storage.times
    monkeypatch.setattr(Storage, "times", lambda self, folder: {"gone": 1e12, **times(self, folder)})
    assert notes.drivers_at_work(storage) == ["process 7 on a"]


def test_what_another_ledger_has_on_a_shared_storage_stays(
    output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URI cannot be locked: who is at work there writes a file again and again."""
    shared = tmp_path / "shared"
    storage = Storage(shared)
    for seed in (0, 1, 9):  # the last one is not in this ledger
        Checkpoints(storage, trial(seed).key).save(5, bytes(1000))
    monkeypatch.setattr(notes, "BEAT", 0.01)
    here = [*("unfinished", "leftovers"), "--output", str(output), "--storage", f"file://{shared}"]
    with notes.kept_note(storage) as note:
        assert notes.drivers_at_work(storage) == [f"process {os.getpid()} on {socket.gethostname()}"]
        os.utime(shared / note, (1, 1))
        deadline = time.monotonic() + 10
        while not notes.drivers_at_work(storage):  # until it is written again
            assert time.monotonic() < deadline
        with pytest.raises(SystemExit, match="2"):
            main(here)
        said = capsys.readouterr().err
        assert f"--storage: file://{shared} is in use by process {os.getpid()} on" in said
        assert "or 3 min after it was killed, the same command works" in said
        assert len(list(shared.glob("checkpoints/*/*"))) == 3
    assert not (shared / note).exists()
    storage.write(note, b"of a driver that was killed")
    os.utime(shared / note, (1, 1))
    assert main(here) == 0
    assert [path.parent.name for path in shared.glob("checkpoints/*/*")] == [trial(9).key]
    assert list(shared.glob("nodes/*")) == []


def test_what_killed_workers_wrote_is_swept_after_a_while(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    now = time.time_ns()
    old, young = (f".{'0' * 16}.zip-77-{when}" for when in (now - 3600 * 10**9, now))
    for name in (old, young, "key.zip", ".other"):
        storage.write(f"results/{name}", b"half")
    log_waiting_bundles(ledger_in(tmp_path), Storage(tmp_path / "none"), say=pytest.fail)
    delete_half_written(storage)
    assert storage.names("results") == sorted([young, "key.zip", ".other"])


def test_it_creates_nothing_where_there_is_no_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--output", str(tmp_path)])
    told = capsys.readouterr().err
    assert "--experiment: no experiment 'siamese-barlow-twins' at sqlite:///" in told
    assert "mlflow.db; there is no such file: was the study made in another folder" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["old", "new"])
def test_a_result_on_new_data_is_kept_until_the_ledger_has_it(output: Path, digest: str) -> None:
    """The ledger has finished this trial, too, but on other data."""
    ledger = Ledger(
        uri=f"sqlite:///{output}/mlflow.db", experiment=DEFAULT_EXPERIMENT, artifact_root=output / "a"
    )
    run_id = ledger.begin(trial(4), {"data.sha256": "old"})
    ledger.finish(run_id, {"test_acc": 0.5}, {"config.json": b"{}"}, 1)
    rows = ({"epoch": 1, "timestamp": 1, "train/loss": 1.0},)
    result = TrialResult(metrics={}, history=rows, artifacts={"history.parquet": to_parquet(rows)})
    write_bundle(Storage(output), Bundle(config=trial(4), result=result, tags={"data.sha256": digest}))
    assert call(output, "leftovers") == 0
    assert (f"results/{trial(4).key}.zip" in files(output)) == (digest == "new")
