"""The connection to Ray: a local one that lives as long as the study, or an existing cluster."""

import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from study import ROOT
from study.cluster import environment, ray_internals
from trainables import machine
from trainables.allocation import Allocation
from trainables.redact import first_line

OBJECT_STORE = 2**28
"""Bytes of Ray's object store on this machine: jobs and reports are small."""
METRICS = "RAY_enable_metrics_collection"
TIMEOUT = 5
"""Seconds to wait for the head of a cluster."""


class ClusterError(ValueError):
    """Ray cannot be used as asked; the message says what was given and what is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What each trial requests: CPUs (as many threads), GPUs (None: one where there are any).

    At most `max_concurrent` trials run at once; None: as many as fit.
    """

    cpus: float = 1.0
    gpus: float | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        """Raise ClusterError for values that no machine can grant."""
        if not 0 < self.cpus < math.inf:
            raise ClusterError(f"--cpus-per-trial: got {self.cpus:g}; allowed: a number > 0")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or self.gpus in range(2, 1025)):
            raise ClusterError(f"--gpus-per-trial: got {self.gpus:g}; allowed: 0 to 1, or a whole number")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise ClusterError(f"--max-concurrent: got {self.max_concurrent}; allowed: an integer >= 1")


def expected_allocation(resources: Resources, address: str | None) -> Allocation:
    """The allocation of each trial, as far as it is known before Ray is asked."""
    threads = max(1, int(resources.cpus))
    if not is_local(address):
        return Allocation(device=None, threads=threads, gpus=resources.gpus, slots=resources.max_concurrent)
    gpus_here = machine.gpus()
    gpus = resources.gpus if resources.gpus is not None else float(min(1, gpus_here))
    slots = int(machine.cores() / resources.cpus)
    if gpus:
        slots = min(slots, _fitting(gpus_here, gpus))
    slots = max(1, min(slots, resources.max_concurrent or slots))
    device = None if gpus else machine.device_name("cpu")
    return Allocation(device=device, threads=threads, gpus=gpus, slots=slots)


def _fitting(gpus: float, share: float) -> int:
    """How many trials with this share of a GPU run on so many: each on one GPU, or on whole ones."""
    return int(gpus) * int(1 / share + 1e-6) if share <= 1 else int(gpus / share)


def is_local(address: str | None) -> bool:
    """Whether `address` means a local Ray, started and ended by the study."""
    return address in (None, "", "local")


def resolve_address(address: str | None) -> str | None:
    """The address; for `auto` that of the Ray on this machine, ClusterError where none runs."""
    if address != "auto":
        return address
    try:
        return ray_internals.local_cluster_address()
    except OSError:
        raise ClusterError("--address: got 'auto', but no Ray runs on this machine") from None


def check_address(address: str | None, resources: Resources) -> None:
    """Raise ClusterError for what can never work, before anything starts; waits 5 s at most."""
    if trouble := environment.trouble(os.environ, local=is_local(address)):
        raise ClusterError(trouble)
    if is_local(address):
        cores = machine.cores()
        if resources.cpus > cores:
            raise ClusterError(
                f"--cpus-per-trial: got {resources.cpus:g}; allowed: at most the {cores} cores here"
            )
        if (resources.gpus or 0) > 0 and not machine.gpus():
            raise ClusterError(f"--gpus-per-trial: got {resources.gpus:g}; allowed: 0, there is no GPU here")
        return
    address = resolve_address(address)
    host, _, port = str(address).rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise ClusterError(
            f"--address: got {address!r}; allowed: HOST:PORT of the head, auto, local (not ray://: run on the"
            " head, or with `ray job submit`)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
    except OSError as error:
        raise ClusterError(f"--address: no Ray answers at {address} ({error.strerror or error})") from None


@contextlib.contextmanager
def ray_connection(
    address: str | None, background: Sequence[Callable[[], object]] = (), workers: int | None = None
) -> Iterator[None]:
    """Be connected to a cluster, or to a local Ray that ends with the context.

    A local Ray starts `workers` processes ahead, by default one for each core; they import PyTorch while the
    driver is still preparing. Enter it in the main thread: Linux ends Ray's processes with the thread that
    started them. The functions in `background` run in other threads while Ray starts; what one raises is
    raised here. ClusterError where no Ray answers.
    """
    ray_internals.guard_auth_token(create=is_local(address))  # before Ray reads or creates it
    ray_internals.configure_tune()
    import ray

    starting: contextlib.AbstractContextManager[None]
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if is_local(address):
        # Without "local", Ray may join another user's cluster on this host.
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        settings["_system_config"] = ray_internals.PRELOAD
        if machine.cores() < (os.cpu_count() or 1):  # Ray counts all, bound to them or not
            settings["num_cpus"] = machine.cores()
        starting = ray_internals.quick_start(workers or machine.cores())
    else:
        settings |= {"address": resolve_address(address)}
        starting = contextlib.nullcontext()
    with ThreadPoolExecutor() as threads, contextlib.ExitStack() as stack:
        stack.enter_context(_workers_environment(local=is_local(address)))
        futures = [threads.submit(function) for function in background]
        stack.callback(ray_internals.shut_down)
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            with starting:
                ray.init(**settings)
        except Exception as error:  # of many kinds, down to a bare Exception
            raise ClusterError(_why_no_ray(address, error)) from None
        signal.signal(signal.SIGTERM, on_terminate)  # ray.init has set one that ends without a message
        for future in futures:
            future.result()
        yield


def _why_no_ray(address: str | None, error: Exception) -> str:
    line = f"--address: no Ray to use at {address or 'local'} ({first_line(error)})"
    if not is_local(address):
        return line
    _, folder = environment.temporary_folder(os.environ)
    return (
        f"{line}; its logs are in {folder}/ray/session_latest/logs; RAY_TMPDIR names another folder for them"
    )


@contextlib.contextmanager
def _workers_environment(*, local: bool) -> Iterator[None]:
    """Set variables for the processes of Ray, in this context.

    Workers of a local Ray run the code of this checkout, not of another one that is installed, and keep the
    memory that their threads free. Its metrics, which nobody reads, would be served to everybody on the
    network, without asking for the token.
    """
    paths = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", str(ROOT))
    ]
    ours = {"PYTHONPATH": os.pathsep.join([str(ROOT), *paths])}
    ours[machine.ARENAS] = os.environ.get(machine.ARENAS, "1")
    if local:
        ours[METRICS] = os.environ.get(METRICS, "0")
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _node_resources() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def capacity(request: Mapping[str, float], address: str | None) -> int:
    """How many trials with this request can run at once, within a `ray_connection`.

    On a cluster one more than fit now: it may grow for what waits.
    """
    count = 0
    for available in _node_resources():
        fitting = [int(available.get("CPU", 0.0) / request["cpu"] + 1e-6)] if request["cpu"] else []
        fitting += [_fitting(available.get("GPU", 0.0), request["gpu"])] if request["gpu"] else []
        count += min(fitting, default=0)
    return max(1, count + (not is_local(address)))


def resource_request(resources: Resources, address: str | None) -> dict[str, float]:
    """Ray's resource request of one trial, within a `ray_connection`.

    ClusterError where a local Ray can never grant it, or no node of a cluster tells whether there are GPUs.
    """
    nodes = _node_resources()
    largest = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    gpus = resources.gpus if resources.gpus is not None else min(1.0, largest["GPU"])
    if resources.gpus is None and not is_local(address) and largest["CPU"] < resources.cpus:
        raise ClusterError(
            "--gpus-per-trial: not given, and no node of the cluster can run a trial yet, so that nobody"
            " knows whether they will have GPUs; allowed: 0, 1, or a share such as 0.25"
        )
    for option, asked, kind in (("--cpus", resources.cpus, "CPU"), ("--gpus", gpus, "GPU")):
        if is_local(address) and asked > largest[kind]:
            raise ClusterError(f"{option}-per-trial: got {asked:g}; allowed: at most {largest[kind]:g} here")
    return {"cpu": resources.cpus, "gpu": gpus}


def fall_back_to_cpus(
    request: Mapping[str, float], resources: Resources, address: str | None
) -> tuple[dict[str, float], str | None]:
    """The request, without a GPU where PyTorch cannot use it; and a line for people about trials on CPUs.

    Ray itself finds no GPU where NVIDIA's library for managing them is missing, as in some containers.

    Only where `--gpus-per-trial` is not given. On a cluster, which may still get GPUs, the first trial checks
    PyTorch.
    """
    if resources.gpus is not None:
        return dict(request), None
    if not is_local(address):
        hint = "no node has a GPU: training on CPUs; with --gpus-per-trial 1 trials wait for one"
        return dict(request), None if request["gpu"] else hint
    none_found = "Ray finds no GPU here, though there seems to be one" if machine.gpus() else None
    trouble = machine.gpu_trouble() if request["gpu"] else none_found
    if trouble is None:
        return dict(request), None
    return {**request, "gpu": 0.0}, f"{trouble}: training on CPUs"


def why_waiting(request: Mapping[str, float]) -> str | None:
    """Why no trial can begin now, within a `ray_connection`, in words for people; None: one can.

    A cluster may grow; on one that does not, trials would wait for ever without a word from Ray.
    """
    amounts = {kind.upper(): amount for kind, amount in request.items() if amount}
    for node in _node_resources():
        if all(node.get(kind, 0.0) >= amount for kind, amount in amounts.items()):
            return None
    wanted = ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())
    return f"no node has {wanted} for a trial: waiting until one joins the cluster"
