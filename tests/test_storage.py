"""A storage that is away for a while, as an object store may be; the real one is in `test_server.py`."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from trainables.storage import filesystem
from trainables.storage.filesystem import Storage, StorageAway

AWAY = (
    "When listing objects under key 'x/' in bucket 'b': AWS Error NETWORK_CONNECTION during ListObjectsV2"
    " operation: curlCode: 7, Could not connect to server"
)
SLOW_DOWN = "AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."
BROKEN = "AWS Error UNKNOWN (HTTP status 503) during PutObject operation: Unable to parse ExceptionName"


class Flaky:
    """A filesystem whose next calls raise these errors."""

    def __init__(self) -> None:
        self._real = fs.LocalFileSystem()
        self.errors: list[OSError] = []
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return getattr(self._real, name)(*arguments, **options)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a storage, which nobody waits for."""
    pauses: list[float] = []
    monkeypatch.setattr(filesystem.time, "sleep", pauses.append)
    monkeypatch.setattr(filesystem.time, "monotonic", lambda: sum(pauses))
    return pauses


def storage(folder: Path, *, patient: bool = True) -> tuple[Storage, Flaky]:
    made, flaky = Storage(folder, patient=patient), Flaky()
    made._fs = flaky
    return made, flaky


@pytest.mark.parametrize("said", [AWAY, SLOW_DOWN, BROKEN])
def test_what_is_away_for_a_moment_is_waited_for(said: str, tmp_path: Path, clock: list[float]) -> None:
    remote, flaky = storage(tmp_path)
    flaky.errors = [OSError(said), OSError(said)]
    remote.write("results/key.zip", b"whole")
    flaky.errors = [OSError(said)]
    assert remote.read("results/key.zip") == b"whole"
    flaky.errors = [OSError(said)]
    assert remote.names("results") == ["key.zip"]
    assert remote.times("results")["key.zip"] == pytest.approx((tmp_path / "results/key.zip").stat().st_mtime)
    flaky.errors = [OSError(said)]
    remote.rename("results/key.zip", "results/other.zip")
    flaky.errors = [OSError(said)]
    remote.delete("results/other.zip")
    flaky.errors = [OSError(said)]
    remote.delete_folder("results")
    assert list(tmp_path.iterdir()) == []
    assert clock == [0.5, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_what_stays_away_is_given_up_after_a_stated_time(tmp_path: Path, clock: list[float]) -> None:
    remote, flaky = storage(tmp_path)
    flaky.errors = [OSError(AWAY)] * 1000
    with pytest.raises(StorageAway, match="the storage was away for 300 s: When listing objects"):
        remote.names("results")
    assert filesystem.PATIENCE - filesystem.LONGEST_PAUSE <= sum(clock) <= filesystem.PATIENCE
    assert max(clock) == filesystem.LONGEST_PAUSE


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such key"),
        PermissionError(errno.EACCES, "no"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("When reading information for key 'x': AWS Error ACCESS_DENIED during HeadObject operation"),
        OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: no such bucket"),
        OSError("AWS Error UNKNOWN (HTTP status 403) during ListObjectsV2 operation"),
    ],
)
def test_what_does_not_pass_is_raised_at_once(error: OSError, tmp_path: Path, clock: list[float]) -> None:
    remote, flaky = storage(tmp_path)
    flaky.errors = [error]
    with pytest.raises(OSError, match=re.escape(str(error))) as caught:
        remote.read("results/key.zip")
    assert caught.value is error
    assert clock == []


def test_an_address_is_not_waited_for_until_it_has_answered(tmp_path: Path, clock: list[float]) -> None:
    """It may be a wrong one; and a folder is never waited for."""
    remote, flaky = storage(tmp_path, patient=False)
    flaky.errors = [OSError(AWAY)]
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        remote.names("results")
    assert remote.names("results") == []
    flaky.errors = [OSError(AWAY)]
    assert remote.names("results") == []
    assert clock == [0.5]
    (tmp_path / "results").touch()
    with pytest.raises(OSError, match="results"):
        Storage(tmp_path, patient=True).write("results/key.zip", b"")
    assert clock == [0.5]


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("gs://bucket/study", 5),
        ("gs://anonymous@bucket/study?scheme=http&endpoint_override=localhost:1", 5),
        ("gcs://bucket/study?retry_limit_seconds=60", 60),
    ],
)
def test_googles_client_does_not_try_for_a_quarter_of_an_hour(uri: str, seconds: float) -> None:
    _, (options, *_) = Storage(uri)._fs.__reduce__()
    assert options["retry_time_limit"].total_seconds() == seconds
