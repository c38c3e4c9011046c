"""NVIDIA's Multi-Process Service (MPS): trials that share a GPU run at the same time, not in turns.

Without it, each process on a GPU has its slice of time, in which the others wait. A study that was asked to
starts a daemon of its own on each node, in a private folder, and ends it. A daemon that is there already is
left alone: trials find it by themselves.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster.connection import is_local
from trainables import machine
from trainables.redact import first_line

CONTROL = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
USUAL = Path("/tmp/nvidia-mps")  # noqa: S108  # the daemon's own default
"""Where a daemon is that somebody has started without naming a folder."""
PREFIX = "study-mps-"
"""How the private folders of daemons begin, within that for temporary files."""
MODES = ("off", "auto")
START, END, QUIT = 30.0, 5.0, 60.0
"""Seconds for a daemon to start; to wait for its end, which comes when no process uses it any more; until one
that does not end is killed, as may be after a process that used it was."""
KEEPER = """exec 3<&0 </dev/null >/dev/null 2>&1
(
    cat <&3; exec 3<&-
    pid=$(cat "$2/pipe/nvidia-cuda-mps-control.pid")
    if ! echo quit | timeout "$3" "$1" && [ "$(cat /proc/$pid/comm)" = nvidia-cuda-mps ]; then
        kill -9 $pid $(cat /proc/$pid/task/$pid/children)
    fi
    rm -rf "$2"
) &"""
"""Ends the daemon `$1` of the folder `$2` when nobody holds the other end of its input any more.

In the background, so that it is nobody's child: Ray kills the children of a process that ends."""
CLIENT = """
import ctypes, sys
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    sys.exit()  # there is no CUDA, and no daemon's fault
error = cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctypes.c_void_p()), 0)
sys.exit(f"CUDA error {error}" if error else 0)
"""
"""Uses a GPU as trials do: a daemon may run, and its server not, as in some containers."""


class NoDaemonError(RuntimeError):
    """No daemon was started; the message says why.

    Attributes:
        pipes: of a daemon that is there already, and is used as it is; empty: there is none.
    """

    def __init__(self, message: str, pipes: str = "") -> None:
        """Take what the message says, and the folder of pipes."""
        super().__init__(message)
        self.pipes = pipes


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon that ends with the process that has started it, however that ends."""

    folder: Path
    _lifeline: int

    @classmethod
    def start(cls, gpus: int) -> "Daemon":
        """Start one for the first GPUs of this machine; NoDaemonError where that cannot be."""
        control = shutil.which(CONTROL)
        if control is None:
            raise NoDaemonError(f"{CONTROL} is not installed")
        there = os.environ.get(PIPES) or (str(USUAL) if _is_running(USUAL) else "")
        if there:
            raise NoDaemonError("an MPS daemon is there already, and is used as it is", there)
        if any(map(_is_running, Path(tempfile.gettempdir()).glob(f"{PREFIX}*/pipe"))):
            # Its daemon will end with it, and two of them would give each other turns.
            raise NoDaemonError("another study has a daemon here")
        ours = [str(number) for number in range(gpus)]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(ours)).split(",")
        if visible[:gpus] != ours:  # the daemon would number them anew, and Ray does not
            raise NoDaemonError(f"CUDA_VISIBLE_DEVICES is {','.join(visible)!r}, not {','.join(ours)!r}")
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            names = {PIPES: folder / "pipe", LOGS: folder / "log"}
            for path in names.values():
                path.mkdir()
            environment = {**os.environ, **{name: str(path) for name, path in names.items()}}
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(ours)
            daemon = cls(folder, _keeper(control, folder, environment))
        except (OSError, subprocess.SubprocessError) as error:
            raise NoDaemonError(first_line(error)) from None
        for command, what in (
            ([control, "-d"], f"{CONTROL} did not start"),
            ([sys.executable, "-c", CLIENT], "no process can use a GPU through it"),
        ):
            if trouble := _trouble(command, environment):
                daemon.end()
                raise NoDaemonError(f"{what} ({trouble})")
        return daemon

    @property
    def pipes(self) -> str:
        """What a process needs as `CUDA_MPS_PIPE_DIRECTORY` to use this daemon."""
        return str(self.folder / "pipe")

    def end(self) -> None:
        """Let it end, with its folder; waits for `END` seconds at most."""
        os.close(self._lifeline)
        deadline = time.monotonic() + END
        while self.folder.exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def _keeper(control: str, folder: Path, environment: Mapping[str, str]) -> int:
    """Start what will end a daemon; returns what keeps it from doing so until it is closed."""
    read, write = os.pipe()
    command = ["sh", "-c", KEEPER, "sh", control, str(folder), f"{QUIT:g}"]
    subprocess.run(command, env=environment, stdin=read, start_new_session=True, check=True)
    os.close(read)
    return write


def _trouble(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Why a program fails; None: it does not."""
    with tempfile.TemporaryFile("w+") as errors:  # a daemon would hold a pipe, which nobody reads any more
        try:
            subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                timeout=START,
                check=True,
                start_new_session=True,  # Ctrl-C on the terminal is for the study
            )
        except (OSError, subprocess.SubprocessError) as error:
            errors.seek(0)
            return (errors.read().strip().splitlines() or [str(error)])[-1]
    return None


def _is_running(folder: Path) -> bool:
    """Whether a daemon uses this folder, and not what got its number after it had ended."""
    try:
        number = int((folder / f"{CONTROL}.pid").read_text())
        return Path(f"/proc/{number}/comm").read_text().strip() == CONTROL[:15]  # the kernel keeps no more
    except (OSError, ValueError):
        return False


def is_expected(mode: str, gpus: float | None, address: str | None) -> bool | None:
    """Whether trials with this share of a GPU will have a daemon; None: only their nodes can tell."""
    if mode == "off" or (gpus is not None and not 0 < gpus < 1):
        return False
    return shutil.which(CONTROL) is not None if is_local(address) else None


@contextlib.contextmanager
def daemon_for_probes(wanted: bool | None) -> Iterator[dict[str, str]]:
    """Within this context this machine has a daemon, if wanted and possible; yields variables to use it."""
    with contextlib.ExitStack() as stack:
        pipes = ""
        if wanted:
            try:
                pipes = stack.enter_context(_here(machine.gpus()))
            except NoDaemonError as error:
                pipes = error.pipes
        yield {PIPES: pipes} if pipes else {}


@contextlib.contextmanager
def mps_daemons(
    mode: str, request: Mapping[str, float], address: str | None, say: Callable[[str], object]
) -> Iterator[Mapping[str, str]]:
    """Within this context, inside a `ray_connection`, each node with GPUs that are shared has a daemon.

    Yields the folder of its pipes by the id of the node; nodes without, and such as join later, have none.
    `say` gets a line where there is none, and why, or another one than the study's own.
    """
    if mode == "off" or not 0 < request["gpu"] < 1:
        yield {}
        return
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    pipes = {}
    with contextlib.ExitStack() as stack:
        for node in nodes:
            gpus = int(node["Resources"]["GPU"])
            start = _here(gpus) if is_local(address) else _there(node["NodeID"], gpus)
            try:
                pipes[node["NodeID"]] = stack.enter_context(start)
            except NoDaemonError as error:
                where = f"--mps: trials on {node['NodeManagerAddress']}"
                if error.pipes:
                    pipes[node["NodeID"]] = error.pipes
                    say(f"{where} share GPUs with a daemon that is not the study's ({error.pipes})")
                else:
                    say(f"{where} share GPUs without a daemon: {error}")
        yield pipes


@contextlib.contextmanager
def _here(gpus: int) -> Iterator[str]:
    daemon = Daemon.start(gpus)
    try:
        yield daemon.pipes
    finally:
        daemon.end()


class _Host:
    """Has a daemon on another node."""

    def start(self, gpus: int) -> str:
        """Start it and return the folder of its pipes; after `there: ` another's, after `no: ` why none."""
        self._daemon: Daemon | None = None
        try:
            self._daemon = Daemon.start(gpus)
        except NoDaemonError as error:
            return f"there: {error.pipes}" if error.pipes else f"no: {error}"
        return self._daemon.pipes

    def end(self) -> None:
        """End it."""
        if self._daemon:
            self._daemon.end()


@contextlib.contextmanager
def _there(node: str, gpus: int) -> Iterator[str]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    affinity = NodeAffinitySchedulingStrategy(node, soft=False)
    remote: Any = ray.remote(_Host)
    host = remote.options(num_cpus=0, scheduling_strategy=affinity).remote()
    try:
        try:
            answer = ray.get(host.start.remote(gpus), timeout=2 * START)
        except ray.exceptions.RayError as error:
            raise NoDaemonError(first_line(error)) from None
        if answer.startswith("there: "):
            raise NoDaemonError("an MPS daemon is there already", answer.removeprefix("there: "))
        if answer.startswith("no: "):
            raise NoDaemonError(answer.removeprefix("no: "))
        yield answer
    finally:
        with contextlib.suppress(ray.exceptions.RayError):  # the node is gone, and its daemon with it
            ray.get(host.end.remote(), timeout=2 * END)
        ray.kill(host)
