"""From the ledger to the tidy frame: what is stored, what is asked for again, what is refused."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
from synthetic import BEGAN, TAGS, Made, config, fill, frame, results

from analysis import trials as room
from analysis.trials import MixedData, load, read
from search_spaces import Selection
from study.ledger.ledger import Ledger

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


def asked(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each question to the ledger brings."""
    counts: list[int] = []
    ask = Ledger.changed_since

    def counting(self: Ledger, moment: int) -> object:
        records, gone = ask(self, moment)
        counts.append(len(records))
        return records, gone

    monkeypatch.setattr(Ledger, "changed_since", counting)
    return counts


def test_one_row_a_planned_trial(ledger: Ledger, tmp_path: Path) -> None:
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
    trials = read(SELECTION, ledger, tmp_path / "trials.parquet")
    assert list(trials["status"]) == ["FINISHED", "FAILED", "RUNNING", "MISSING"]
    assert list(trials["failure"].dropna()) == ["out of luck"]
    assert trials["test_acc"].tolist()[0] == 0.5
    assert trials["test_acc"].isna().tolist() == [False, True, True, True]  # a failed trial has no result
    assert trials["device"].iloc[0] == TAGS["device"]
    assert trials["augmentations"].iloc[0] == "rrc+hflip"


def test_a_later_call_asks_only_for_what_has_changed(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MARGIN", 0)
    counts = asked(ledger, monkeypatch)
    made(ledger, [Made(config=c, metrics=results(c)) for c in CONFIGS[:3]])
    first = read(SELECTION, ledger, tmp_path / "trials.parquet")
    again = read(SELECTION, ledger, tmp_path / "trials.parquet")
    pd.testing.assert_frame_equal(again, first)
    made(ledger, [Made(config=CONFIGS[3], metrics=results(CONFIGS[3]), ended=BEGAN + 10**7)])
    last = read(SELECTION, ledger, tmp_path / "trials.parquet")
    assert counts == [3, 1, 2]  # those that ended in the very last millisecond are asked for again
    assert (last["status"] == "FINISHED").all()
    pd.testing.assert_frame_equal(last, load(SELECTION, ledger.trials()), check_dtype=False)


def test_trials_that_are_deleted_or_stale_leave_and_restored_ones_come_back(
    ledger: Ledger, tmp_path: Path
) -> None:
    run_ids = all_of_them(ledger)
    path = tmp_path / "trials.parquet"
    read(SELECTION, ledger, path)
    ledger.delete_runs(run_ids[:1])
    ledger.retire(run_ids[1])
    assert list(read(SELECTION, ledger, path)["status"]) == ["MISSING", "MISSING", "FINISHED", "FINISHED"]
    ledger.client.restore_run(run_ids[0])
    assert list(read(SELECTION, ledger, path)["status"]) == ["FINISHED", "MISSING", "FINISHED", "FINISHED"]


def test_a_trial_that_was_retried_is_read_again(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    (failed,) = made(ledger, [Made(config=CONFIGS[0], status="FAILED", tags={"failure": "bad luck"})])
    assert read(SELECTION, ledger, path)["status"].iloc[0] == "FAILED"
    ledger.client.log_metric(failed, "final/test_acc", 0.75)
    ledger.client.set_terminated(failed, "FINISHED")
    assert read(SELECTION, ledger, path)["test_acc"].iloc[0] == 0.75


@pytest.mark.parametrize("damage", [b"", b"no parquet"])
def test_a_damaged_frame_is_read_anew(ledger: Ledger, tmp_path: Path, damage: bytes) -> None:
    all_of_them(ledger)
    (tmp_path / "trials.parquet").write_bytes(damage)
    assert (read(SELECTION, ledger, tmp_path / "trials.parquet")["status"] == "FINISHED").all()
    assert len(pd.read_parquet(tmp_path / "trials.parquet")) == 4


def test_a_frame_of_another_ledger_says_nothing_here(
    ledger: Ledger, tmp_path: Path, empty_store: Path
) -> None:
    all_of_them(ledger)
    read(SELECTION, ledger, tmp_path / "trials.parquet")
    shutil.copy(empty_store, tmp_path / "other.db")
    other = Ledger(uri=f"sqlite:///{tmp_path}/other.db", experiment="test", artifact_root=tmp_path)
    assert (read(SELECTION, other, tmp_path / "trials.parquet")["status"] == "MISSING").all()


def test_the_stored_frame_names_no_address(ledger: Ledger, tmp_path: Path) -> None:
    all_of_them(ledger)
    read(SELECTION, ledger, tmp_path / "trials.parquet")
    assert str(tmp_path).encode() not in (tmp_path / "trials.parquet").read_bytes()
    assert [path.name for path in tmp_path.glob(".trials*")] == []


def test_trials_of_one_cell_on_different_data_are_refused() -> None:
    old = frame({config("ce", 0): 0.5}, **{"data.sha256": "a" * 64})
    assert (old["data.sha256"] == "a" * 64).all()
    records = {
        c.key: room.TrialRecord(
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
        c.key: room.TrialRecord(
            key=c.key, run_id=c.key, status="FINISHED", params={}, tags=tags, metrics={}, changed=0
        )
        for c, tags in ((CONFIGS[0], {}), (CONFIGS[1], {"data.sha256": "a" * 64}))
    }
    assert len(load(SELECTION, records)) == 4


HOUR = 3_600_000


def test_a_wider_selection_is_read_as_a_whole(ledger: Ledger, tmp_path: Path) -> None:
    """Trials that ended hours before those of the stored frame, and were not asked for then."""
    path = tmp_path / "trials.parquet"
    made(
        ledger,
        [Made(config=c, metrics=results(c), ended=BEGAN + 5 * i * HOUR) for i, c in enumerate(CONFIGS)],
    )
    late = Selection(space="test", trials=CONFIGS[2:], steps=("the last two",))
    assert (read(late, ledger, path)["status"] == "FINISHED").all()
    assert (read(SELECTION, ledger, path)["status"] == "FINISHED").all()
    assert (read(late, ledger, path)["status"] == "FINISHED").all()


def test_an_early_trial_that_was_restored_comes_back(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    every = [Made(config=c, metrics=results(c), ended=BEGAN + 5 * i * HOUR) for i, c in enumerate(CONFIGS)]
    first, *_ = made(ledger, every)
    ledger.delete_runs([first])
    assert list(read(SELECTION, ledger, path)["status"]) == ["MISSING", "FINISHED", "FINISHED", "FINISHED"]
    ledger.client.restore_run(first)
    assert (read(SELECTION, ledger, path)["status"] == "FINISHED").all()


def test_a_ledger_that_was_begun_anew_has_none_of_the_old_trials(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    all_of_them(ledger)
    assert (read(SELECTION, ledger, path)["status"] == "FINISHED").all()
    (tmp_path / "mlflow.db").unlink()
    anew = Ledger(uri=f"sqlite:///{tmp_path}/new/../mlflow.db", experiment="test", artifact_root=tmp_path)
    (tmp_path / "new").mkdir()
    anew.open()
    anew.uri = ledger.uri
    assert (read(SELECTION, anew, path)["status"] == "MISSING").all()


def test_a_file_of_somebody_else_is_not_overwritten(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    pd.DataFrame({"mine": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"--out: .*trials\.parquet is there and was not made by this"):
        read(SELECTION, ledger, path)
    assert list(pd.read_parquet(path).columns) == ["mine"]
