"""The MPS daemon of a study, with a stand-in for NVIDIA's program that records its calls."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from studies import ROOT, STUDY, mps_stand_in, records, run

from study.cluster import mps
from study.cluster.mps import CONTROL, PIPES, Daemon, NoDaemonError, mps_daemons

SHARED, WHOLE = {"cpu": 1.0, "gpu": 0.5}, {"cpu": 1.0, "gpu": 1.0}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the stand-in was called with so far; no other daemon is there."""
    for name in (PIPES, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mps, "USUAL", tmp_path / "usual")
    monkeypatch.setattr(mps.tempfile, "tempdir", str(tmp_path))
    for name, value in mps_stand_in(tmp_path).items():
        monkeypatch.setenv(name, value)
    log = tmp_path / "calls"
    return lambda: log.read_text().splitlines() if log.exists() else []


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_daemon_is_started_in_a_private_folder_and_ended(calls: Callable[[], list[str]]) -> None:
    daemon = Daemon.start(2)
    assert calls() == [f"-d {daemon.folder} 0,1"]
    assert daemon.folder.stat().st_mode & 0o777 == 0o700
    assert daemon.pipes == str(daemon.folder / "pipe")
    pid = int((daemon.folder / f"pipe/{CONTROL}.pid").read_text())
    assert is_there(pid)
    daemon.end()
    assert calls()[1:] == [f"quit {daemon.folder} 0,1"]
    assert not is_there(pid)
    assert not daemon.folder.exists()


def test_a_crash_leaves_no_daemon_behind(calls: Callable[[], list[str]], tmp_path: Path) -> None:
    code = "from study.cluster.mps import Daemon; import time; print(Daemon.start(1).folder, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(600)"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    pid = int((folder / f"pipe/{CONTROL}.pid").read_text())
    assert is_there(pid)
    os.killpg(process.pid, signal.SIGKILL)  # what it has started in its group ends with it
    process.communicate()
    wait_until(lambda: not folder.exists())
    assert calls() == [f"-d {folder} 0", f"quit {folder} 0"]
    assert not is_there(pid)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({PIPES: "/somewhere"}, "an MPS daemon is there already, and is used as it is"),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, "CUDA_VISIBLE_DEVICES is '2,3', not '0,1'"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES is '0', not '0,1'"),
        ({"PATH": "/nowhere"}, f"{CONTROL} is not installed"),
    ],
)
def test_where_no_daemon_is_started(
    environment: dict[str, str],
    reason: str,
    calls: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoDaemonError, match=f"^{reason}$"):
        Daemon.start(2)
    assert calls() == []


def test_a_daemon_that_runs_already_is_not_touched(calls: Callable[[], list[str]]) -> None:
    mps.USUAL.mkdir()
    subprocess.run([CONTROL, "-d"], env={**os.environ, PIPES: str(mps.USUAL)}, check=True)
    with pytest.raises(NoDaemonError, match="there already") as there:
        Daemon.start(1)
    assert there.value.pipes == str(mps.USUAL)
    os.kill(int((mps.USUAL / f"{CONTROL}.pid").read_text()), signal.SIGKILL)
    assert len(calls()) == 1
    for number in (os.getpid(), 4194999):  # another program's by now; above the kernel's largest
        (mps.USUAL / f"{CONTROL}.pid").write_text(str(number))
        Daemon.start(1).end()


def test_two_studies_do_not_share_a_machines_gpus_by_two_daemons(calls: Callable[[], list[str]]) -> None:
    first = Daemon.start(1)
    with pytest.raises(NoDaemonError, match=r"^another study has a daemon here$") as other:
        Daemon.start(1)
    assert other.value.pipes == ""
    first.end()
    Daemon.start(1).end()
    assert [call.split()[0] for call in calls()] == ["-d", "quit", "-d", "quit"]


def test_a_full_disk_is_a_line(calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mps.tempfile, "mkdtemp", full)
    with pytest.raises(NoDaemonError, match="No space left on device"):
        Daemon.start(1)
    assert calls() == []


def test_a_daemon_that_does_not_start_leaves_nothing(
    calls: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPS_FAILS", "1")
    with pytest.raises(NoDaemonError, match=r"^nvidia-cuda-mps-control did not start \(.* exit status 1"):
        Daemon.start(1)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(mps.PREFIX)] == []


def test_a_daemon_that_serves_nobody_is_none(
    calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose shared memory its server does not see."""
    monkeypatch.setattr(mps, "CLIENT", "import sys; sys.exit('CUDA error 805')")
    with pytest.raises(NoDaemonError, match=r"^no process can use a GPU through it \(CUDA error 805\)$"):
        Daemon.start(1)
    assert [call.split()[0] for call in calls()] == ["-d", "quit"]


def test_a_daemon_that_does_not_end_is_killed(
    calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its servers, and these for processes that are gone."""
    monkeypatch.setattr(mps, "QUIT", 0.2)
    monkeypatch.setenv("MPS_HANGS", "1")
    daemon = Daemon.start(1)
    pid = int((daemon.folder / f"pipe/{CONTROL}.pid").read_text())
    assert is_there(pid)
    daemon.end()
    wait_until(lambda: not is_there(pid))
    wait_until(lambda: not daemon.folder.exists())


def test_variables_of_a_daemon_for_probes(
    calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mps.machine, "gpus", lambda: 1)
    for wanted in (False, None):
        with mps.daemon_for_probes(wanted) as variables:
            assert variables == {}
    assert calls() == []
    with mps.daemon_for_probes(True) as variables:
        assert Path(variables[PIPES]).exists()
    assert [call.split()[0] for call in calls()] == ["-d", "quit"]
    monkeypatch.setenv(PIPES, "/somewhere")
    with mps.daemon_for_probes(True) as variables:
        assert variables == {PIPES: "/somewhere"}
    monkeypatch.delenv(PIPES)
    monkeypatch.setenv("MPS_FAILS", "1")
    with mps.daemon_for_probes(True) as variables:
        assert variables == {}


@pytest.mark.parametrize(
    ("mode", "share", "address", "expected"),
    [
        ("off", 0.5, None, False),
        ("auto", 1, None, False),
        ("auto", 0.5, None, True),
        ("auto", 0.5, "head:6379", None),
        ("auto", None, "head:6379", None),
    ],
)
@pytest.mark.usefixtures("calls")
def test_whether_a_daemon_is_expected(
    mode: str,
    share: float | None,
    address: str | None,
    expected: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert mps.is_expected(mode, share, address) is expected
    monkeypatch.setenv("PATH", "/nowhere")
    assert mps.is_expected(mode, share, address) is (None if expected is None else False)


def test_only_shared_gpus_get_a_daemon_and_what_has_none_says_why(
    calls: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    node = {"NodeID": "a", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"GPU": 2.0}}
    without = {**node, "NodeID": "b", "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, without, {**node, "NodeID": "c", "Alive": False}])
    told: list[str] = []
    for mode, request in (("off", SHARED), ("auto", WHOLE), ("auto", {"cpu": 1.0, "gpu": 0.0})):
        with mps_daemons(mode, request, None, told.append) as pipes:
            assert pipes == {}
    assert (calls(), told) == ([], [])
    with mps_daemons("auto", SHARED, None, told.append) as pipes:
        assert [*pipes] == ["a"]
        assert Path(pipes["a"]).exists()
    assert not Path(pipes["a"]).exists()
    assert [call.split()[0] for call in calls()] == ["-d", "quit"]
    monkeypatch.setenv(PIPES, "/somewhere")
    with mps_daemons("auto", SHARED, None, told.append) as pipes:
        assert pipes == {"a": "/somewhere"}
    monkeypatch.delenv(PIPES)
    monkeypatch.setenv("PATH", "/nowhere")
    with mps_daemons("auto", SHARED, None, told.append) as pipes:
        assert pipes == {}
    assert told == [
        "--mps: trials on 10.0.0.1 share GPUs with a daemon that is not the study's (/somewhere)",
        f"--mps: trials on 10.0.0.1 share GPUs without a daemon: {CONTROL} is not installed",
    ]


@pytest.mark.gpu
@pytest.mark.usefixtures("blank_store")
def test_a_study_that_shares_a_gpu(tmp_path: Path) -> None:
    """By the command line, with all that makes it faster."""
    options = ["--gpus-per-trial", "0.5", "--mps", "auto", "--cuda-graphs", "--kernels", "fastest"]
    done = run(tmp_path, *STUDY, *options, environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert done.returncode == 0, done.stderr
    for record in records(tmp_path).values():
        assert record.status == "FINISHED"
        assert not record.tags["device"].startswith("cpu ")
        assert record.tags["gpus"] == "0.5"
        assert record.tags["gpus.step"] == "CUDA graph"
        assert record.tags["gpus.kernels"] == "fastest"


@pytest.mark.gpu
def test_processes_on_a_gpu_use_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVIDIA's own program: its server runs as soon as a process uses the GPU, and ends with the daemon."""
    try:
        daemon = Daemon.start(torch.cuda.device_count())
    except NoDaemonError as error:
        pytest.skip(str(error))

    def ask(*command: str, given: str = "") -> list[str]:
        environment = {**os.environ, PIPES: daemon.pipes}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=given,
            text=True,
            capture_output=True,
            timeout=60,
            check=True,
        )
        return done.stdout.split()

    code = (
        "import torch; from trainables.machine import cap_gpu_memory; cap_gpu_memory(0.25)\n"
        "print(float(torch.ones(4, device='cuda').sum()))\n"
        "half = torch.cuda.get_device_properties(0).total_memory // 2\n"
        "try: torch.empty(half, dtype=torch.uint8, device='cuda')\n"
        "except torch.OutOfMemoryError: print('capped')"
    )
    try:
        done = ask(sys.executable, "-c", code)
        servers = ask(CONTROL, given="get_server_list\n")
    finally:
        daemon.end()
    assert done == ["4.0", "capped"]
    assert servers
    wait_until(lambda: not daemon.folder.exists())
