"""Clean-up on a real ledger: what is named goes, finished work never."""

import shutil
from pathlib import Path

import pytest

from study.clean import main
from study.ledger.ledger import DEFAULT_EXPERIMENT, Ledger
from trainables.storage.bundles import Bundle, to_parquet, write_bundle
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig, TrialResult


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
