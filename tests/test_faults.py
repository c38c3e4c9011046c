"""What a cluster, a disk and a tracking server do to a study of weeks; its ledger must not show it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from chaos import chaos
from studies import (
    HALF_STUDY,
    HAS_A_GPU,
    JOINED,
    NO_JOBS,
    ROOT,
    check_equal,
    kill_tree,
    ledger,
    read_until,
    records,
    run,
    slowed_down,
    stand_in_for_train,
    start,
    wait_for_a_saved_state,
)

from study.ledger.ledger import Ledger
from study.ledger.tracking_uri import LedgerError
from study.recording import leases, writer
from study.recording.events import EpochDone, Started, Succeeded
from study.recording.leases import read_leases
from study.recording.writer import LedgerWriter, log_waiting_bundles
from study.run import main
from trainables.storage.bundles import Bundle, TrialResult, bundle_keys, to_parquet, write_bundle
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig

AWAY = float(os.environ.get("AWAY", "12"))
"""Seconds without a tracking server: more than its client tries for by itself."""

RUNS_OUT_OF_MEMORY = f"""{HAS_A_GPU}
def train(config, *arguments, **options):
    import os, ray, torch

    share = ray.get_runtime_context().get_assigned_resources()["GPU"]
    with open(os.environ["SHARES"], "a") as file:
        print(config.key, share, config.batch_size, file=file)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried 20 MiB.")
"""
"""Training raises what a full GPU raises."""


@pytest.mark.usefixtures("blank_store")
def test_out_of_gpu_memory_doubles_the_share_and_then_fails(
    tmp_path: Path,
    here: Path,
    cluster: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what has failed is shown, and not run again unasked."""
    for name, value in stand_in_for_train(tmp_path, RUNS_OUT_OF_MEMORY).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHARES", str(tmp_path / "shares"))
    gpus = cluster({"num_cpus": 2, "num_gpus": 1})
    arguments = [*JOINED, "--only", "arm=ce", "--seeds", "1"]
    done = run(tmp_path, *arguments, "--gpus-per-trial", "0.5", "--address", gpus.address)
    assert done.returncode == 1, done.stderr
    record = records(tmp_path)["ce/s0"]
    tried = [line.split() for line in (tmp_path / "shares").read_text().splitlines()]
    assert tried == [[record.key, share, "25"] for share in ("0.5", "1.0")]
    assert record.status == "FAILED"
    reason = "OutOfMemoryError: CUDA out of memory. Tried 20 MiB."
    assert record.tags["failure"] == f"a whole GPU has not enough memory: {reason}"
    assert (record.tags["attempts"], record.tags["gpus"]) == ("2", "1")
    assert record.params["batch_size"] == "25"
    assert "ce/s0: 0.5 GPU has not enough memory, retrying with 1" in done.stdout
    assert re.search("retry:    python .* --retry-failed", done.stdout)
    (page,) = tmp_path.glob("reports/thesis+quickstart-*/report.html")
    assert "1 of 1 trials have no result" in page.read_text()
    assert record.tags["space"] == "quickstart"  # the one that it is from
    assert [*ledger(tmp_path).studies()] == ["thesis+quickstart"]
    assert main(arguments) == 1
    assert "1 failed, 0 new; to run: 0" in capsys.readouterr().out


class Server:
    """An MLflow tracking server on loopback, with SQLite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "server-artifacts")]
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **NO_JOBS},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            kill_tree(self.process)
            self.process = None

    def ledger(self, experiment: str, *, uri: str | None = None) -> Ledger:
        return Ledger(uri=uri or self.uri, experiment=experiment, artifact_root=self.folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Server]:
    """A server at work; each test has an experiment of its own."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder)
    # Its store is made first: processes that migrate one database at once get into each other's way.
    shutil.copy(empty_store, folder / "server.db")
    server.start()
    yield server
    server.kill()


def test_a_server_gives_artifacts_once_and_they_leave_nothing(server: Server, tmp_path: Path) -> None:
    ledger = server.ledger("artifacts")
    ledger.open()
    run_id = ledger.client.create_run(ledger.experiment_id).info.run_id
    ledger.log_files(run_id, {"history.parquet": b"curves"})
    reading = f"""
import tempfile
from pathlib import Path
from study.ledger.ledger import Ledger
ledger = Ledger(uri={server.uri!r}, experiment="artifacts", artifact_root=Path("unused"))
assert ledger.artifact({run_id!r}, "history.parquet").read_bytes() == b"curves"
ledger.log_files({run_id!r}, {{"history.parquet": b"others"}})  # which finished trials never do
assert ledger.artifact({run_id!r}, "history.parquet").read_bytes() == b"curves"
try:
    ledger.artifact({run_id!r}, "nothing.npz")
except OSError as error:
    assert {run_id!r} in str(error)
ledger.log_files({run_id!r}, {{"weights.safetensors": b"large"}})
with ledger.artifacts.borrowed({run_id!r}, "weights.safetensors") as path:
    assert path.read_bytes() == b"large"
assert not path.exists()
print(len(list(Path(tempfile.gettempdir()).iterdir())))
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", reading]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["1"], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_server_goes_away_after_two_drivers_and_a_kill(
    tmp_path: Path, server: Server, undisturbed: Path
) -> None:
    """Started together on two folders, one works and the other says who does.

    The one at work is killed, its lease is taken over at once, and then the server is away for a while.
    """
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    shared = server.ledger("two drivers")
    arguments = [*HALF_STUDY, "--tracking-uri", server.uri, "--experiment", "two drivers"]
    slower = slowed_down(tmp_path)
    drivers = [start(folder, *arguments, environment=slower) for folder in folders]
    deadline = time.monotonic() + 60
    while all(driver.poll() is None for driver in drivers):
        assert time.monotonic() < deadline, "both work"
        time.sleep(0.1)
    second = next(driver for driver in drivers if driver.poll() is not None)
    first = next(driver for driver in drivers if driver is not second)
    folder = folders[drivers.index(first)]
    _, err = second.communicate()
    assert second.returncode == 2, err
    assert f"--experiment: two drivers is in use by process {first.pid} on " in err

    assert wait_for_a_saved_state(first, folder)
    kill_tree(first)
    assert len(read_leases(shared)) == 1
    third = start(folder, *arguments, environment=slower)
    assert wait_for_a_saved_state(third, folder)
    assert [json.loads(lock.tags["lock.by"])["pid"] for lock in read_leases(shared).values()] == [third.pid]

    server.kill()
    time.sleep(AWAY)
    assert third.poll() is None
    server.start()
    out, err = third.communicate(timeout=300)
    assert third.returncode == 0, out + err
    assert out.count("the ledger does not take results, trying again") == 1
    check_equal(folder, undisturbed, seeds=1, of=shared)
    assert read_leases(shared) == {}


class Swallowing(BaseHTTPRequestHandler):
    """Hands requests on to a server; the first answer to a request for a new run is never given."""

    port: int
    swallowed: list[str]

    def do_POST(self) -> None:
        self._hand_on()

    def do_GET(self) -> None:
        self._hand_on()

    def _hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        if self.path.endswith("/runs/create") and not self.swallowed:
            self.swallowed.append(self.path)
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_server_whose_answer_is_lost_has_one_run(server: Server) -> None:
    """MLflow's client asks again, which makes a second run; the ledger keeps one."""
    handler = type("Handler", (Swallowing,), {"port": server.port, "swallowed": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        behind = server.ledger("void", uri=f"http://127.0.0.1:{proxy.server_port}")
        behind.open()
        config = TrialConfig(
            dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=3, seed=0
        )
        run_id = behind.begin(config, {"space": "test"}, started=1)
        proxy.shutdown()
    assert handler.swallowed, "nothing was swallowed: this test tests nothing"
    straight = server.ledger("void")
    found = straight.client.search_runs([straight.experiment_id])
    assert [run.info.run_id for run in found] == [run_id]
    assert found[0].data.params["epochs"] == "3"


STOPPED = """
import sys, threading, time
from pathlib import Path
from study.ledger.ledger import Ledger
from study.recording import fence, leases
from study.recording.events import EpochDone, Started
from study.recording.writer import LedgerWriter
from trainables.storage.filesystem import Storage
from trainables.storage.bundles import TrialResult
from trainables.trial import TrialConfig

uri, experiment, folder, blind = sys.argv[1:]
leases.HEARTBEAT, leases.SETTLE, fence.TRUSTED = 0.2, 0.1, 1.0
if blind == "blind":
    fence.Fence.check = lambda self: None
config = TrialConfig(dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=20, seed=0)
ledger = Ledger(uri=uri, experiment=experiment, artifact_root=Path(folder))
lost = threading.Event()
with leases.lease(ledger, on_lost=lost.set):
    may_write = lambda: blind == "blind" or not lost.is_set()
    written = []
    writer = LedgerWriter(
        ledger=ledger,
        storage=Storage(folder),
        may_write=may_write,
        on_written=lambda: written.append(1),
        on_trouble=print,
    )
    writer.put(Started(config, {}, 1))
    for epoch in range(1, 10**6):
        writer.put(EpochDone(config, {"epoch": epoch, "timestamp": epoch, "train/loss": 1.0}))
        if len(written) >= 2:  # the run, and points: a run could still be created later, by a blind driver
            print("training", flush=True)
        if lost.is_set():
            break
        time.sleep(0.02)
    writer.close(patience=1)
print("lost", writer.lost)
"""
"""A driver that trains without end; `blind`: one that never asks whether it still has the lease."""


def test_a_server_takes_nothing_from_a_driver_that_was_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Nor does what it had sent already arrive, if it did not look at the clock at the right moment."""
    for name, seconds in (("HEARTBEAT", 0.2), ("SETTLE", 0.1), ("DEAD_AFTER", 2.0)):
        monkeypatch.setattr(leases, name, seconds)
    config = TrialConfig(
        dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=20, seed=0
    )
    rows = [{"epoch": epoch, "timestamp": 1000 + epoch, "train/loss": 2.0} for epoch in range(1, 21)]
    stopped: dict[str, subprocess.Popen[str]] = {}
    for kind in ("careful", "blind"):
        command = [sys.executable, "-c", STOPPED, server.uri, f"stopped {kind}", str(tmp_path), kind]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        stopped[kind] = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        request.addfinalizer(partial(kill_tree, stopped[kind]))
    for kind, process in stopped.items():
        read_until(process, "training")
        process.send_signal(signal.SIGSTOP)
        ledger = server.ledger(f"stopped {kind}")
        with leases.lease(ledger):
            run_id = ledger.begin(config, {})
            ledger.log_epochs(run_id, rows[:10])
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            ledger.log_epochs(run_id, rows[10:])
            ledger.finish(run_id, {"test_acc": 0.5}, {}, timestamp=1020)
        assert "lost" in out
        # A careful one may have been stopped between the clock and its request.
        assert "must be in the 'active' state" in out or kind == "careful"
        (run,) = ledger.client.search_runs([ledger.experiment_id])
        assert (run.info.run_id, run.info.status) == (run_id, "FINISHED")
        history = ledger.client.get_metric_history(run_id, "train/loss")
        assert [(point.step, point.value) for point in history] == [(row["epoch"], 2.0) for row in rows]


def session(ledger: Ledger, storage: Storage, configs: list[TrialConfig], epochs: int) -> None:
    """What a driver's session writes for trials that train in turns, without training."""
    lost: list[str] = []
    with leases.lease(ledger):
        log_waiting_bundles(ledger, storage, lost.append)
        records = ledger.trials()
        missing = [c for c in configs if c.key not in records or records[c.key].status != "FINISHED"]
        log = LedgerWriter(ledger=ledger, storage=storage, on_lost=lambda *what: lost.append(str(what)))
        began = time.time_ns() // 10**6
        for config in missing:
            log.put(Started(config, {"host": "a"}, began))
        histories: dict[str, list[dict[str, float]]] = {config.key: [] for config in missing}
        for epoch in range(1, epochs + 1):
            for config in missing:
                now = time.time_ns() // 10**6  # each attempt has times of its own, which would be new points
                row = {"epoch": epoch, "timestamp": now, "train/loss": 1 / epoch, "seconds": now % 1000}
                histories[config.key].append(row)
                log.put(EpochDone(config, row))
            time.sleep(0.01)
        for config in missing:
            history = tuple(histories[config.key])
            files = {"history.parquet": to_parquet(history)}
            result = TrialResult(metrics={"test_acc": 0.5}, history=history, artifacts=files)
            write_bundle(storage, Bundle(config=config, result=result, tags={"host": "a"}))
            log.put(Succeeded(config))
        log.close(patience=60)
    assert lost == []


def check_whole(ledger: Ledger, configs: list[TrialConfig], epochs: int) -> None:
    """Each trial has one run that is FINISHED, each epoch one point, and every file is there."""
    found = ledger.client.search_runs([ledger.experiment_id], "tags.kind = 'trial'")
    assert sorted(each.data.tags["trial.key"] for each in found) == sorted(config.key for config in configs)
    for each in found:
        assert each.info.status == "FINISHED"
        curve = pd.read_parquet(ledger.artifact(each.info.run_id, "history.parquet"))
        for name in ("train/loss", "seconds", "final/test_acc"):
            points = ledger.client.get_metric_history(each.info.run_id, name)
            assert [point.step for point in points] == ([0] if "/test" in name else [*range(1, epochs + 1)])
            if name in curve:
                assert [point.value for point in points] == list(curve[name])


CHAOS_SEEDS = range(int(os.environ.get("CHAOS", "1")))


@pytest.mark.parametrize("seed", CHAOS_SEEDS)
def test_a_server_behind_chaos(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A fifth of all requests go wrong, each in one of ten ways; some outlive the client's patience."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    for module, name, seconds in (
        *((leases, name, seconds) for name, seconds in (("HEARTBEAT", 0.5), ("SETTLE", 0.1))),
        *((writer, name, 0.1) for name in ("FIRST_PAUSE", "LONGEST_PAUSE")),
    ):
        monkeypatch.setattr(module, name, seconds)
    configs = [
        TrialConfig(
            dataset="digits", backbone="convnet", augmentations=(), method="ce", epochs=5, seed=number
        )
        for number in range(4)
    ]
    experiment, storage = f"chaos {seed}", Storage(tmp_path)
    with chaos(server.port, seed=seed, share=0.2, delay=1.5) as proxy:
        for _ in range(20):
            with contextlib.suppress(LedgerError):
                session(server.ledger(experiment, uri=proxy.uri), storage, configs, epochs=5)
                break
        else:
            pytest.fail("it never ends")
        time.sleep(proxy.delay)
    assert sum(proxy.counts.values()) - proxy.counts[None] > 10, "too few faults: this test tests little"
    with leases.lease(server.ledger(experiment)):  # what arrives after its driver's end, the next one mends
        pass
    check_whole(server.ledger(experiment), configs, epochs=5)
    assert bundle_keys(storage) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 megabytes: a tmpfs, which takes the right to mount one (in CI: as root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=False)
    if mounted.returncode:
        assert "CI" not in os.environ, "this test must be run as root"
        pytest.skip("only root may mount a disk")
    yield folder
    subprocess.run(["/bin/umount", "-l", folder], check=True)


@pytest.mark.usefixtures("blank_store")
def test_a_full_disk(tmp_path: Path, small_disk: Path, undisturbed: Path) -> None:
    """The study ends in order and says so; with room again it goes on."""
    storage = small_disk / "storage"
    arguments = [*HALF_STUDY, "--storage", str(storage)]
    filler = small_disk / "filler"
    process = start(tmp_path, *arguments, environment=slowed_down(tmp_path))
    deadline = time.monotonic() + 90
    while not list(storage.glob("checkpoints/*/[0-9]*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while True:  # until the last page
        try:
            with open(filler, "ab", buffering=0) as file:
                file.write(bytes(2**12))
        except OSError:
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert re.search(
        r"there is no room for results: OSError: \[Errno 28\] No space left on device.*: \d of 2", out
    )
    assert "resume:   python " in out
    assert {r.status for r in records(tmp_path).values()} <= {"KILLED", "FINISHED"}

    filler.unlink()
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    shutil.copytree(storage, tmp_path / "runs", dirs_exist_ok=True)  # where nothing may be left
    check_equal(tmp_path, undisturbed, seeds=1)
