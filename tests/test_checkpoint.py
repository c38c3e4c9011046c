"""Saved states and result bundles on storage."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.storage.bundles import (
    Bundle,
    TrialResult,
    bundle_keys,
    delete_bundle,
    read_bundle,
    to_parquet,
    write_bundle,
)
from trainables.storage.checkpoints import Checkpoints, checkpoint_keys, delete_checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]

HISTORY = (
    {"epoch": 1, "timestamp": 1_795_372_008_811, "train/loss": 0.1 + 0.2, "lr": 0.1},
    {"epoch": 2, "timestamp": 1_795_372_008_874, "train/loss": 1 / 3, "lr": 0.05},
)


@pytest.fixture(params=["path", "file URI", "object store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """The last is pyarrow's filesystem in memory: what is not a local disk is written otherwise."""
    folder = tmp_path / "a folder"
    return Storage(
        {"path": folder, "file URI": f"file://{tmp_path}/folder", "object store": "mock:///folder"}[
            request.param
        ]
    )


def bundle(config: TrialConfig, *, accuracy: float = 1 / 3) -> Bundle:
    artifacts = {"history.parquet": to_parquet(HISTORY), "predictions.npz": bytes(range(256)) * 20}
    result = TrialResult(metrics={"test_acc": accuracy}, history=HISTORY, artifacts=artifacts)
    return Bundle(config=config, result=result, tags={"host": "here", "device": "cpu µ"})


def test_storage(storage: Storage) -> None:
    assert storage.names("results") == []
    storage.write("results/b", b"1")
    storage.write("results/a", b"2")
    storage.write("results/a", b"\x00\xff")
    storage.write("other/c", b"")
    assert storage.names("results") == ["a", "b"]
    assert [storage.read(name) for name in ("results/a", "results/b", "other/c")] == [b"\x00\xff", b"1", b""]
    storage.delete("results/a")
    storage.delete("results/a")
    assert storage.names("results") == ["b"]
    with pytest.raises(FileNotFoundError):
        storage.read("results/a")


def test_names_are_of_files_only(storage: Storage) -> None:
    storage.write("results/old/a", b"")
    assert storage.names("results") == []


def test_write_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for content in (b"first", b"second"):
        storage.write("results/a", content)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a"]
    assert (tmp_path / "results/a").read_bytes() == b"second"


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "results/a").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        Storage(tmp_path).write("results/a", b"content")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a"]


@pytest.mark.parametrize("uri", ["nfs://host/folder", "relative/folder"])
def test_storage_that_pyarrow_does_not_know_is_refused(uri: str) -> None:
    message = f"storage: got {uri!r}; allowed: an absolute path or a URI ("
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Storage(uri)


def test_bundle_round_trip(storage: Storage, tiny: Tiny) -> None:
    written = bundle(tiny())
    write_bundle(storage, written)
    assert read_bundle(storage, tiny().key) == written


def test_later_bundle_replaces_the_earlier(storage: Storage, tiny: Tiny) -> None:
    for accuracy in (0.25, 0.75):
        write_bundle(storage, bundle(tiny(), accuracy=accuracy))
    assert read_bundle(storage, tiny().key).result.metrics == {"test_acc": 0.75}
    assert bundle_keys(storage) == [tiny().key]


def test_bundle_keys(storage: Storage, tiny: Tiny) -> None:
    assert bundle_keys(storage) == []
    configs = [tiny(seed=seed) for seed in range(3)]
    for config in configs:
        write_bundle(storage, bundle(config))
    storage.write("results/notes.txt", b"")
    assert bundle_keys(storage) == sorted(config.key for config in configs)
    for _ in range(2):
        delete_bundle(storage, configs[0].key)
    assert bundle_keys(storage) == sorted(config.key for config in configs[1:])
    with pytest.raises(FileNotFoundError):
        read_bundle(storage, configs[0].key)


def refused(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"^damaged result bundle results/{key}.zip: "):
        read_bundle(Storage(folder), key)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_bundle_is_told_by_name(share: float, tmp_path: Path, tiny: Tiny) -> None:
    write_bundle(Storage(tmp_path), bundle(tiny()))
    path = tmp_path / f"results/{tiny().key}.zip"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(tmp_path, tiny().key)


def test_flipped_bits_are_noticed(tmp_path: Path, tiny: Tiny) -> None:
    write_bundle(Storage(tmp_path), bundle(tiny()))
    path = tmp_path / f"results/{tiny().key}.zip"
    content = bytearray(path.read_bytes())
    for place in (content.index(b"test_acc"), content.index(bytes(range(256))) + 10):
        damaged = content.copy()
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refused(tmp_path, tiny().key)


def test_bundle_of_another_trial_is_refused(storage: Storage, tiny: Tiny) -> None:
    one, other = tiny().key, tiny(seed=1).key
    write_bundle(storage, bundle(tiny()))
    storage.write(f"results/{other}.zip", storage.read(f"results/{one}.zip"))
    with pytest.raises(ValueError, match=f"^result bundle results/{other}.zip is of trial {one}$"):
        read_bundle(storage, other)


def states(storage: Storage) -> list[bytes]:
    """What a new attempt finds, newest first."""
    return [content for _, content in Checkpoints(storage, "k").newest_first()]


def test_the_newest_state_is_found_first_and_the_one_before_is_kept(storage: Storage) -> None:
    attempt = Checkpoints(storage, "k")
    assert states(storage) == []
    for epoch in (1, 2, 9, 10, 100):
        attempt.save(epoch, b"state %d" % epoch)
    assert states(storage) == [b"state 100", b"state 10"]
    assert checkpoint_keys(storage) == ["k"]


def test_attempts_at_once_do_no_harm(storage: Storage) -> None:
    """A worker that outlives its driver still saves while its successor is at work."""
    first, second = Checkpoints(storage, "k"), Checkpoints(storage, "k")
    first.save(1, b"first 1")
    first.save(2, b"first 2")
    second.save(2, b"second 2")
    first.save(3, b"first 3")
    assert states(storage)[0] == b"first 3"
    second.save(3, b"second 3")
    second.save(4, b"second 4")
    assert states(storage)[0] == b"second 4"
    assert len(states(storage)) <= 3  # what was before is not needed any more


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: b"", lambda c: c + b"x"]
)
def test_a_damaged_state_is_quarantined(storage: Storage, damage: Callable[[bytes], bytes]) -> None:
    Checkpoints(storage, "k").save(1, b"whole")
    Checkpoints(storage, "k").save(2, b"state two")
    newest = storage.names("checkpoints/k")[-1]
    content = storage.read(f"checkpoints/k/{newest}")
    storage.write(f"checkpoints/k/{newest}", damage(content))
    attempt = Checkpoints(storage, "k")
    assert [content for _, content in attempt.newest_first()] == [b"whole"]
    assert attempt.notes == [f"checkpoints/k/{newest} is quarantined: it is cut short or altered"]
    assert f"{newest}.damaged" in storage.names("checkpoints/k")
    assert states(storage) == [b"whole"]


def test_states_of_a_finished_trial_are_deleted(storage: Storage) -> None:
    for key in ("k", "other"):
        Checkpoints(storage, key).save(1, b"state")
    delete_checkpoints(storage, "k")
    delete_checkpoints(storage, "k")
    assert states(storage) == []
    assert checkpoint_keys(storage) == ["other"]
