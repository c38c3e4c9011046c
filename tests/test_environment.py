"""What Ray cannot work with is found before it is imported, and said in a line."""

import gc
import os
import resource
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.cluster import environment, ray_internals
from study.cluster.connection import (
    METRICS,
    ROOT,
    ClusterError,
    Resources,
    _workers_environment,
    check_address,
    ray_connection,
)
from trainables import machine


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "RAY_AUTH_TOKEN_PATH",
            "/none/token",
            "got '/none/token', which cannot be read (No such file",
        ),
        (
            "RAY_AUTH_TOKEN_PATH",
            "/dev/null",
            "got '/dev/null', which is no regular file; allowed: a file",
        ),
        ("RAY_AUTH_MODE", "tokens", "got 'tokens'; allowed: token, disabled, k8s"),
        ("TUNE_MAX_PENDING_TRIALS_PG", "abc", "got 'abc'; allowed: auto, or an integer >= 1"),
        ("TUNE_MAX_PENDING_TRIALS_PG", "0", "got '0'; allowed: auto, or an integer >= 1"),
        (
            "RAY_RUNTIME_ENV_HOOK",
            "nonsense",
            "got 'nonsense' (No module named 'nonsense'); allowed: MODULE",
        ),
        ("TMPDIR", "/" + "a" * 60, "too long for Ray's sockets; allowed: at most "),
        (
            "RAY_TMPDIR",
            "/dev/null",
            "cannot be made or written in /dev/null, which is no folder",
        ),
    ],
)
def test_what_ray_cannot_work_with_is_a_line(name: str, value: str, said: str) -> None:
    found = environment.trouble({name: value}, local=True)
    assert found is not None
    assert said in found
    assert name in found
    assert "\n" not in found


def test_a_setting_with_which_ray_crashes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's import ends the whole process: it is tried in another one."""
    harmless = {"RAY_memory_usage_threshold": "0.9"}
    monkeypatch.setattr(environment.subprocess, "run", lambda *_, **__: pytest.fail("nothing is to be tried"))
    assert environment.trouble({"RAY_ADDRESS": "head:6379", "HOME": "/"}, local=False) is None
    monkeypatch.undo()
    wrong = {**os.environ, **harmless, "RAY_memory_monitor_refresh_ms": "abc"}
    found = environment.trouble(wrong, local=False)
    assert found == "RAY_memory_monitor_refresh_ms: got 'abc', with which Ray does not start; leave it out"


def test_limits_that_are_too_low_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: resource.RLIM_INFINITY, resource.RLIMIT_NOFILE: 4096}
    monkeypatch.setattr(environment.resource, "getrlimit", lambda kind: (limits[kind], 4096))
    assert environment.trouble({}, local=True) is None
    limits[resource.RLIMIT_NOFILE] = 64
    assert "a process may open 64 files" in str(environment.trouble({}, local=True))
    limits[resource.RLIMIT_AS] = 4 * 10**9
    full = SimpleNamespace(free=4096)
    with monkeypatch.context() as patched:
        patched.setattr(environment, "_limits", lambda: None)
        patched.setattr(environment.shutil, "disk_usage", lambda folder: full)
        assert "there is no room for Ray's files in /" in str(environment.trouble({}, local=True))
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(ClusterError, match=r"limited to 4.0 GB \(ulimit -v\); .*: ulimit -v unlimited"):
        check_address(None, Resources())
    assert environment.trouble({}, local=False) is None


def test_only_regular_files_get_the_mode_of_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, the mode of a device would change for the whole machine."""
    before = stat.S_IMODE(os.stat("/dev/null").st_mode)
    monkeypatch.setattr(os, "environ", {"RAY_AUTH_TOKEN_PATH": "/dev/null"})
    monkeypatch.setattr(Path, "chmod", lambda path, mode: pytest.fail(f"{path} gets {mode:o}"))
    ray_internals.guard_auth_token(create=True)
    assert stat.S_IMODE(os.stat("/dev/null").st_mode) == before


def test_where_the_home_folder_cannot_be_written_the_token_is_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/dev/null"})
    ray_internals.guard_auth_token(create=False)
    assert "RAY_AUTH_TOKEN" not in os.environ  # that of a cluster cannot be made up
    ray_internals.guard_auth_token(create=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_ray_that_does_not_start_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It raises a bare Exception where its processes take too long."""
    import ray

    before = os.environ.get("PYTHONPATH")

    def init(**settings: object) -> None:
        assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
        raise Exception("The current node timed out during startup. This could happen because\nof much.")

    monkeypatch.setattr(ray, "init", init)
    said = r"no Ray to use at local \(The current node timed out .* because\); its logs are in .*"
    with pytest.raises(ClusterError, match=said), ray_connection(None):
        pass
    assert os.environ.get("PYTHONPATH") == before


def test_the_path_of_workers_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/first", str(ROOT), "/last"]))
    monkeypatch.delenv(METRICS, raising=False)
    monkeypatch.delenv(machine.ARENAS, raising=False)
    with _workers_environment(local=True), _workers_environment(local=True):
        assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/first", "/last"]
        assert os.environ[METRICS] == "0"
        assert os.environ[machine.ARENAS] == "1"  # memory that a trial's thread frees is kept
    assert METRICS not in os.environ
    monkeypatch.setenv(METRICS, "1")  # a user's
    monkeypatch.setenv(machine.ARENAS, "3")
    with _workers_environment(local=True):
        assert os.environ[METRICS] == "1"
        assert os.environ[machine.ARENAS] == "3"
    assert os.environ["PYTHONPATH"].split(os.pathsep) == ["/first", str(ROOT), "/last"]


def test_ray_does_not_end_while_another_thread_collects_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it collects could be Ray's: after the end of Ray's core that ends the process with code 1."""
    import ray

    collecting, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def __del__(self) -> None:
            collecting.set()
            assert go_on.wait(10)

    slow: list[object] = [Slow()]
    slow.append(slow)
    del slow
    monkeypatch.setattr(ray, "shutdown", ended.set)
    collector = threading.Thread(target=gc.collect)
    ending = threading.Thread(target=ray_internals.shut_down)
    collector.start()
    assert collecting.wait(10)
    ending.start()
    assert not ended.wait(0.2)
    go_on.set()
    ending.join(10)
    collector.join(10)
    assert ended.is_set()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
