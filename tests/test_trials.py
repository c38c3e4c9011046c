"""From the ledger to the tidy frame: what is read, what is stored, what is refused."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from synthetic import TAGS, Made, config, fill, frame, results

from analysis.cli import parse_command_line
from analysis.trials import MixedData, load, write
from search_spaces import Selection, select
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord

CONFIGS = tuple(config(arm, seed) for seed in range(2) for arm in ("ce", "0.01"))
SELECTION = Selection(space="test", trials=CONFIGS, steps=("four trials",))


@pytest.fixture
def ledger(empty_store: Path, tmp_path: Path) -> Ledger:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Ledger(
        uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "artifacts"
    )


def made(ledger: Ledger, trials: Iterable[Made]) -> list[str]:
    return fill(Path(ledger.uri.removeprefix("sqlite:///")), ledger.artifact_root, trials)


def all_of_them(ledger: Ledger) -> list[str]:
    return made(ledger, [Made(config=c, metrics=results(c)) for c in CONFIGS])


def statuses(ledger: Ledger) -> list[str]:
    return list(load(SELECTION, ledger.trials())["status"])


def test_one_row_a_planned_trial(ledger: Ledger) -> None:
    made(
        ledger,
        [
            Made(config=CONFIGS[0], metrics={"test_acc": 0.5}),
            Made(
                config=CONFIGS[1], status="FAILED", tags={"failure": "out of luck"}, metrics={"test_acc": 0.1}
            ),
            Made(config=CONFIGS[2], status="RUNNING"),
            Made(config=config("ce", 7), metrics={"test_acc": 0.9}),  # of another space
        ],
    )
    trials = load(SELECTION, ledger.trials())
    assert list(trials["status"]) == ["FINISHED", "FAILED", "RUNNING", "MISSING"]
    assert list(trials["failure"].dropna()) == ["out of luck"]
    assert trials["test_acc"].tolist()[0] == 0.5
    assert trials["test_acc"].isna().tolist() == [False, True, True, True]  # a failed trial has no result
    assert trials["device"].iloc[0] == TAGS["device"]
    assert trials["augmentations"].iloc[0] == "rrc+hflip"


def test_trials_that_are_deleted_or_stale_leave_and_restored_ones_come_back(ledger: Ledger) -> None:
    run_ids = all_of_them(ledger)
    ledger.delete_runs(run_ids[:1])
    ledger.tag(run_ids[1], {"kind": "stale"})
    assert statuses(ledger) == ["MISSING", "MISSING", "FINISHED", "FINISHED"]
    ledger.client.restore_run(run_ids[0])
    assert statuses(ledger) == ["FINISHED", "MISSING", "FINISHED", "FINISHED"]


def test_a_stored_frame_is_never_read_back(ledger: Ledger, tmp_path: Path) -> None:
    """Neither a damaged one, nor one from before a trial was retried: the ledger alone counts."""
    (failed,) = made(ledger, [Made(config=CONFIGS[0], status="FAILED", tags={"failure": "bad luck"})])
    made(ledger, [Made(config=select("quickstart", only=["arm=ce"]).trials[0], metrics={"test_acc": 0.5})])
    (tmp_path / "trials.parquet").write_bytes(b"no parquet")
    command = ["--space", "quickstart", "--only", "arm=ce", "--experiment", "test"]
    command += ["--tracking-uri", ledger.uri, "--out", str(tmp_path)]
    inputs = parse_command_line("A script.", command, prog="script.py")
    assert list(inputs.trials["status"]) == ["FINISHED", "MISSING", "MISSING"]
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == len(inputs.trials) == 3
    ledger.client.log_metric(failed, "final/test_acc", 0.75)
    ledger.client.set_terminated(failed, "FINISHED")
    assert load(SELECTION, ledger.trials())["test_acc"].iloc[0] == 0.75


@pytest.mark.parametrize("damage", [b"", b"no parquet"])
def test_a_frame_is_written_whole_over_a_damaged_one(ledger: Ledger, tmp_path: Path, damage: bytes) -> None:
    all_of_them(ledger)
    path = tmp_path / "trials.parquet"
    path.write_bytes(damage)
    trials = load(SELECTION, ledger.trials())
    write(trials, path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), trials, check_dtype=False)
    write(trials, path)  # over our own
    assert str(tmp_path).encode() not in path.read_bytes()
    assert [path.name for path in tmp_path.glob(".trials*")] == []


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    pd.DataFrame({"mine": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"--out: .*trials\.parquet exists and was not made by this"):
        write(frame({CONFIGS[0]: 0.5}), path)
    assert list(pd.read_parquet(path).columns) == ["mine"]


def test_trials_of_one_cell_on_different_data_are_refused() -> None:
    old = frame({config("ce", 0): 0.5}, **{"data.sha256": "a" * 64})
    assert (old["data.sha256"] == "a" * 64).all()
    records = {
        c.key: TrialRecord(
            key=c.key,
            run_id=f"run-{i}",
            status="FINISHED",
            params={},
            tags={"data.sha256": ("a" if i else "b") * 64},
            metrics={"test_acc": 0.5},
            changed=0,
        )
        for i, c in enumerate(CONFIGS)
    }
    with pytest.raises(MixedData) as refused:
        load(SELECTION, records)
    message = str(refused.value)
    assert message.startswith("digits · convnet · rrc+hflip: its trials were trained on different data")
    assert "aaaaaaaaaaaa: run-1, run-2, run-3; bbbbbbbbbbbb: run-0" in message
    assert "--rerun-stale" in message


def test_other_cells_may_have_other_data_and_unknown_data_is_no_difference() -> None:
    cells = {config("ce", 0): 0.5, config("ce", 1): 0.5}
    assert len(frame(cells)) == 2
    records = {
        c.key: TrialRecord(
            key=c.key, run_id=c.key, status="FINISHED", params={}, tags=tags, metrics={}, changed=0
        )
        for c, tags in ((CONFIGS[0], {}), (CONFIGS[1], {"data.sha256": "a" * 64}))
    }
    assert len(load(SELECTION, records)) == 4
