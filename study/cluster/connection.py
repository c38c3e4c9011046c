"""The connection to Ray: a Ray of one's own, or a cluster that is already there."""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.ledger import credentials
from study.ledger.garbage import collecting_later
from trainables import machine

ROOT = Path(__file__).resolve().parents[2]
PROBE_SECONDS = 5


class ClusterError(ValueError):
    """Ray cannot be used as asked; the message says what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a trial gets, and how many run at once.

    Attributes:
        cpus: CPUs a trial; PyTorch uses as many threads, at least one.
        gpus: GPUs a trial, a fraction to pack several on one; None: one where there are any.
        max_concurrent: trials at once; None: as many as fit.
    """

    cpus: float = 1.0
    gpus: float | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        """Raise ClusterError for values that no machine can grant."""
        if not self.cpus > 0:
            raise ClusterError(f"--cpus-per-trial: got {self.cpus:g}; allowed: > 0")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or self.gpus in range(2, 1025)):
            raise ClusterError(f"--gpus-per-trial: got {self.gpus:g}; allowed: 0 to 1, or a whole number")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ClusterError(f"--max-concurrent: got {self.max_concurrent}; allowed: an integer >= 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What a trial is expected to get, on which kind of device.

    Attributes:
        device: as in the tag; None where it is not known: a GPU's name, or anything on a cluster.
        threads: of PyTorch.
        gpus: share of a GPU, or number of them; 0: a CPU; None: not known.
        slots: trials at once; None: not known.
    """

    device: str | None
    threads: int
    gpus: float | None
    slots: int | None

    def made(self, tags: Mapping[str, str]) -> bool:
        """Whether a run with these tags was made with such a grant."""
        device = tags.get("device", "")
        if self.device is not None and device != self.device:
            return False
        on_cpu = device.startswith("cpu ")
        if on_cpu:
            return not self.gpus and tags.get("threads") == str(self.threads)
        return self.gpus is None or tags.get("gpus", "1") == f"{self.gpus:g}"


def expected(resources: Resources, address: str | None) -> Grant:
    """What trials will be granted, as far as it is known before Ray is asked."""
    threads = max(1, int(resources.cpus))
    if not is_own(address):
        return Grant(device=None, threads=threads, gpus=resources.gpus, slots=resources.max_concurrent)
    here = machine.gpus()
    gpus = resources.gpus if resources.gpus is not None else float(min(1, here))
    slots = int((os.cpu_count() or 1) / resources.cpus)
    if gpus:
        slots = min(slots, int(here / gpus))
    slots = max(1, min(slots, resources.max_concurrent or slots))
    device = None if gpus else machine.device_name("cpu")
    return Grant(device=device, threads=threads, gpus=gpus, slots=slots)


def is_own(address: str | None) -> bool:
    """Whether `address` means a Ray of one's own on this machine."""
    return address in (None, "", "local")


def resolve(address: str | None) -> str | None:
    """The address itself; for `auto` that of the Ray which runs on this machine.

    Raises:
        ClusterError: `auto`, and none runs.
    """
    if address != "auto":
        return address
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108  # Ray's own
    try:
        return note.read_text().strip()
    except OSError:
        raise ClusterError("--address: got 'auto', but no Ray runs on this machine") from None


def check(address: str | None, resources: Resources) -> None:
    """Raise ClusterError for what could never work, before anything starts; waits 5 s at most."""
    if is_own(address):
        cores = os.cpu_count() or 1
        if resources.cpus > cores:
            raise ClusterError(
                f"--cpus-per-trial: got {resources.cpus:g}; allowed: at most the {cores} cores here"
            )
        if (resources.gpus or 0) > 0 and not machine.gpus():
            raise ClusterError(f"--gpus-per-trial: got {resources.gpus:g}; allowed: 0, there is no GPU here")
        return
    address = resolve(address)
    host, _, port = str(address).rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise ClusterError(
            f"--address: got {address!r}; allowed: HOST:PORT of the head, auto, local (not ray://: run on the"
            " head, or with `ray job submit`)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"--address: no Ray answers at {address} ({error.strerror or error})") from None


@contextlib.contextmanager
def session(address: str | None, meanwhile: Sequence[Callable[[], object]] = ()) -> Iterator[None]:
    """A connection to Ray for the time of the context; a Ray of one's own ends with it.

    To be entered in the main thread: Linux ends Ray's processes with the thread that started them.

    Args:
        address: of a cluster; None or `local`: a Ray of one's own.
        meanwhile: done in other threads while Ray starts, which takes seconds and leaves them idle. What
            one raises is raised here.

    Raises:
        ClusterError: no Ray answers.
    """
    credentials.guard_ray_token(create=is_own(address))  # before Ray reads or makes it
    import ray

    # Workers of a Ray of one's own run the code of this checkout, not of another one that is installed.
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_own(address):
        # "local" is said: without it Ray may join somebody else's cluster on this host.
        settings |= {"address": "local", "include_dashboard": False}
    else:
        settings |= {"address": resolve(address)}
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        errands = [threads.submit(errand) for errand in meanwhile]
        stack.callback(_shut_down)
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**settings)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(f"--address: no Ray to use at {address or 'local'} ({error})") from None
        signal.signal(signal.SIGTERM, on_terminate)  # ray.init has set one that ends without a word
        for errand in errands:
            errand.result()
        yield


def _shut_down() -> None:
    """End the connection; no other thread is to clean up Ray's objects meanwhile.

    One that reaches for Ray's core while it goes ends the whole process, with code 1 and no word of ours.
    """
    import ray

    with collecting_later():
        ray.shutdown()


def places(request: Mapping[str, float], address: str | None) -> int:
    """How many trials that ask for `request` can run at once, within a `session`.

    On a cluster, which may grow, one more than there is room for: it grows for what waits.
    """
    import ray

    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            having = node["Resources"]
            fitting = [having.get(kind.upper(), 0.0) / amount for kind, amount in request.items() if amount]
            count += int(min(fitting, default=0.0) + 1e-6)
    return max(1, count + (not is_own(address)))


def request(resources: Resources, address: str | None) -> dict[str, float]:
    """Ray's resource request of one trial, within a `session`.

    Raises:
        ClusterError: a Ray of one's own could never grant it. A cluster may grow: there it waits, but it
            must be said what for.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    gpus = resources.gpus if resources.gpus is not None else min(1.0, largest["GPU"])
    if resources.gpus is None and not is_own(address) and largest["CPU"] < resources.cpus:
        raise ClusterError(
            "--gpus-per-trial: not given, and no node of the cluster can run a trial yet, so that nobody"
            " knows whether they will have GPUs; allowed: 0, 1, or a share such as 0.25"
        )
    for option, asked, kind in (("--cpus", resources.cpus, "CPU"), ("--gpus", gpus, "GPU")):
        if is_own(address) and asked > largest[kind]:
            raise ClusterError(f"{option}-per-trial: got {asked:g}; allowed: at most {largest[kind]:g} here")
    return {"cpu": resources.cpus, "gpu": gpus}


def on_cpus_instead(
    request: Mapping[str, float], resources: Resources, address: str | None
) -> tuple[dict[str, float], str | None]:
    """The request, and a line for people where it asks for no GPU and nobody has said so.

    There is a GPU on this machine, and PyTorch cannot use it: its build or the driver is another. On a
    cluster the first trial says that; but a cluster without a GPU may be one that is still to get some.
    """
    if resources.gpus is not None:
        return dict(request), None
    if not is_own(address):
        told = "no node has a GPU: training on CPUs; with --gpus-per-trial 1 trials wait for one"
        return dict(request), None if request["gpu"] else told
    if not request["gpu"]:
        return dict(request), None
    trouble = machine.gpu_trouble()
    if trouble is None:
        return dict(request), None
    return {**request, "gpu": 0.0}, f"{trouble}: training on CPUs"


def waits_for(request: Mapping[str, float]) -> str | None:
    """Why no trial can begin for now, within a `session`, in words for people; None: one can.

    A cluster may grow; one that does not lets trials wait for ever, without a word from Ray.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked = {kind.upper(): amount for kind, amount in request.items() if amount}
    if any(all(node.get(kind, 0.0) >= amount for kind, amount in asked.items()) for node in nodes):
        return None
    wanted = ", ".join(f"{amount:g} {kind}" for kind, amount in asked.items())
    return f"no node has {wanted} for a trial: waiting until one joins the cluster"
