"""The writer thread, with a real bundle and a ledger that fails when told to."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from study.recording import writer as writer_module
from study.recording.events import EpochDone, Failed, Interrupted, Started, Succeeded
from study.recording.writer import LedgerWriter, log_waiting_bundles
from trainables.extensions.files import load_shipped, load_source
from trainables.storage.bundles import Bundle, TrialResult, bundle_keys, to_parquet, write_bundle
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig


class FlakyLedger(Ledger):
    """A ledger in memory whose next calls can be made to fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.failures = 0
        self.logged = 0
        self.logged_failures = 0
        self.finished: set[str] = set()

    def _call(self, *call: object) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the store is away")
        self.calls.append(call)

    def trials(self) -> dict[str, TrialRecord]:
        return {}

    def open(self) -> None:
        self._call("open")

    def kill_orphans(self) -> None:
        """Asked for at the beginning, and once more at the end."""
        self._call("kill_orphans")

    @property
    def last(self) -> tuple[object, ...]:
        """The last call but for the sweep at the end."""
        assert self.calls[-1] == ("kill_orphans",)
        return self.calls[-2]

    def ensure_run(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        self._call("ensure_run", config.seed, dict(tags))
        return f"run-{config.seed}"

    def begin(self, config: TrialConfig, tags: Mapping[str, str], started: int | None = None) -> str:
        self._call("begin", config.seed, dict(tags))
        return f"run-{config.seed}"

    def is_finished(self, run_id: str) -> bool:
        return run_id in self.finished

    def logged_epochs(self, run_id: str) -> int:
        if self.logged_failures:
            self.logged_failures -= 1
            raise ConnectionError("the store is away")
        return self.logged

    def log_epochs(self, run_id: str, rows) -> None:
        self._call("epochs", run_id, [row["epoch"] for row in rows])

    def finish(self, run_id: str, metrics, artifacts, timestamp: int) -> None:
        self._call("finish", run_id, dict(metrics), sorted(artifacts), timestamp)

    def fail(self, run_id: str, reason: str, traceback: str) -> None:
        self._call("fail", run_id, reason)

    def kill(self, run_id: str) -> None:
        self._call("kill", run_id)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "FIRST_PAUSE", 0.01)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def trial(seed: int = 0) -> TrialConfig:
    return TrialConfig(
        dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=3, seed=seed
    )


def row(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "timestamp": 1000 * epoch, "train/loss": 1.0}


def put_bundle(storage: Storage, config: TrialConfig) -> None:
    history = tuple(row(epoch) for epoch in (1, 2, 3))
    result = TrialResult(
        metrics={"test_acc": 0.5}, history=history, artifacts={"history.parquet": to_parquet(history)}
    )
    write_bundle(storage, Bundle(config=config, result=result, tags={"host": "a"}))


def test_a_trial_is_written_once_and_its_bundle_deleted(storage: Storage) -> None:
    ledger, done = FlakyLedger(), []
    writer = LedgerWriter(ledger=ledger, storage=storage, on_finished=done.append)
    put_bundle(storage, trial())
    for event in (
        Started(trial(), {"host": "a"}, 0),
        EpochDone(trial(), row(1)),
        EpochDone(trial(), row(2)),
        Succeeded(trial()),
    ):
        writer.put(event)
    writer.close()
    assert ledger.calls[:3] == [
        ("open",),
        ("kill_orphans",),
        ("begin", 0, {"host": "a"}),
    ]
    epochs = [epoch for call in ledger.calls if call[0] == "epochs" for epoch in call[2]]
    assert epochs == [1, 2, 3]  # the third from the bundle: its report was never needed
    assert ledger.last == (
        "finish",
        "run-0",
        {"test_acc": 0.5},
        ["config.json", "history.parquet"],
        3000,
    )
    assert [bundle.config for bundle in done] == [trial()]
    assert bundle_keys(storage) == []


def test_a_store_that_is_away_for_a_while_loses_nothing(storage: Storage) -> None:
    ledger, troubles = FlakyLedger(), []
    ledger.failures = 4
    writer = LedgerWriter(ledger=ledger, storage=storage, on_trouble=troubles.append)
    put_bundle(storage, trial())
    writer.put(Started(trial(), {}, 0))
    writer.put(Succeeded(trial()))
    writer.close()
    assert [call[0] for call in ledger.calls] == [
        "open",
        "kill_orphans",
        "begin",
        "epochs",
        "finish",
        "kill_orphans",
    ]
    assert troubles == ["the ledger does not take results, trying again: the store is away"]
    assert writer.lost == 0


def test_a_store_that_stays_away_leaves_the_bundle(storage: Storage) -> None:
    ledger = FlakyLedger()
    ledger.failures = 10**6
    writer = LedgerWriter(ledger=ledger, storage=storage)
    put_bundle(storage, trial())
    writer.put(Succeeded(trial()))
    writer.close(patience=0.05)
    assert writer.lost == 1
    assert bundle_keys(storage) == [trial().key]


def test_epochs_that_the_run_already_has_are_skipped(storage: Storage) -> None:
    ledger = FlakyLedger()
    ledger.logged = 2
    writer = LedgerWriter(ledger=ledger, storage=storage)
    writer.put(Started(trial(), {}, 0))
    for epoch in (1, 2, 3):
        writer.put(EpochDone(trial(), row(epoch)))
    writer.close()
    assert [call for call in ledger.calls if call[0] == "epochs"] == [("epochs", "run-0", [3])]


def test_a_bundle_found_at_the_start_is_logged_with_its_own_tags(storage: Storage) -> None:
    ledger = FlakyLedger()
    writer = LedgerWriter(ledger=ledger, storage=storage)
    put_bundle(storage, trial())
    writer.put(Succeeded(trial()))
    writer.close()
    assert ("ensure_run", 0, {"host": "a"}) in ledger.calls  # no new attempt: nothing ran
    assert ledger.last[0] == "finish"


def test_a_store_away_between_two_questions_about_a_run(storage: Storage) -> None:
    """Once the run was found but not its epochs, which must be asked again."""
    ledger = FlakyLedger()
    ledger.logged_failures = 1
    writer = LedgerWriter(ledger=ledger, storage=storage)
    put_bundle(storage, trial())
    writer.put(Succeeded(trial()))
    writer.close(patience=5)
    assert writer.lost == 0
    assert ledger.last[0] == "finish"


def test_a_damaged_bundle_is_told_and_its_trial_left_to_the_next_call(storage: Storage) -> None:
    ledger, lost = FlakyLedger(), []
    writer = LedgerWriter(
        ledger=ledger, storage=storage, on_lost=lambda config, reason: lost.append((config, reason))
    )
    storage.write(f"results/{trial().key}.zip", b"PK\x03\x04 cut short")
    writer.put(Succeeded(trial()))
    writer.close()
    assert ledger.last == ("kill", "run-0")
    ((config, reason),) = lost
    assert config == trial()
    assert reason.startswith("damaged result bundle results/")
    assert bundle_keys(storage) == []


@pytest.mark.usefixtures("own_files")
def test_a_bundle_of_a_trial_with_code_of_ones_own_waits_for_its_file(storage: Storage) -> None:
    """Another study, which does not load the file, must not take it for damaged."""
    source = (
        "from trainables.extensions import augmentation, backbone, term\n@term\ndef mine(z1): ...\n"
        "@backbone\ndef net(feature_dim): ...\n@augmentation\ndef fade(images): ...\n"
    )
    shipped = [load_source("my_study.py", source).shipped]
    configs = [
        trial().replace(method="siamese", gamma=1, term="mine"),
        trial().replace(backbone="net"),
        trial().replace(augmentations="fade"),
    ]
    for config in configs:
        put_bundle(storage, config)
    load_shipped([])
    ledger, said = FlakyLedger(), []
    log_waiting_bundles(ledger, storage, said.append)
    assert sorted(line.partition(" is of a trial with ")[2] for line in said) == [
        f"{name}, of a file of your own that --space does not name: it waits"
        for name in ("fade", "mine", "net")
    ]
    assert sorted(bundle_keys(storage)) == sorted(config.key for config in configs)
    assert not any(call[0] == "finish" for call in ledger.calls)
    load_shipped(shipped)
    log_waiting_bundles(ledger, storage, said.append)
    assert [call[0] for call in ledger.calls].count("finish") == 3
    assert bundle_keys(storage) == []


def test_a_bundle_that_is_not_there_is_told_unless_its_run_is_finished(storage: Storage) -> None:
    ledger, lost = FlakyLedger(), []
    ledger.finished = {"run-1"}
    writer = LedgerWriter(ledger=ledger, storage=storage, on_lost=lambda config, reason: lost.append(reason))
    writer.put(Succeeded(trial(0)))
    writer.put(Succeeded(trial(1)))
    writer.close()
    assert [call for call in ledger.calls if call[0] == "kill"] == [("kill", "run-0")]
    assert lost == [
        f"results/{trial(0).key}.zip is not there: all nodes must see --storage as the same folder"
    ]


def test_a_console_that_is_gone_does_not_stop_the_ledger(storage: Storage) -> None:
    def gone(bundle: Bundle) -> None:
        raise SystemExit(1)  # what rich does when its pipe is closed

    ledger = FlakyLedger()
    writer = LedgerWriter(ledger=ledger, storage=storage, on_finished=gone)
    for seed in (0, 1):
        put_bundle(storage, trial(seed))
        writer.put(Succeeded(trial(seed)))
    writer.close()
    assert [call[1] for call in ledger.calls if call[0] == "finish"] == ["run-0", "run-1"]


def test_a_silent_store_is_given_up_after_one_attempt_past_the_deadline(storage: Storage) -> None:
    ledger = FlakyLedger()
    ledger.failures = 10**6
    writer = LedgerWriter(ledger=ledger, storage=storage)
    for seed in range(20):
        writer.put(Started(trial(seed), {}, 0))
    writer.close(patience=0.05)
    assert writer.lost == 20
    assert 10**6 - ledger.failures < 10


def test_failed_and_interrupted_trials(storage: Storage) -> None:
    ledger = FlakyLedger()
    writer = LedgerWriter(ledger=ledger, storage=storage)
    for seed in (0, 1):
        writer.put(Started(trial(seed), {}, 0))
    writer.put(Failed(trial(0), "because", "Traceback"))
    writer.put(Interrupted(trial(1)))
    writer.put(Interrupted(trial(2)))  # never begun: there is no run to mark
    writer.close()
    assert {call for call in ledger.calls if call[0] in ("fail", "kill")} == {
        ("fail", "run-0", "because"),
        ("kill", "run-1"),
    }
