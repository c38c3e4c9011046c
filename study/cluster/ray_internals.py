"""What this project uses of Ray beyond its documented interface, each with its reason.

A new version of Ray means checking this file: `tests/test_ray_internals.py` fails where a name has changed.
Nothing here imports Ray before it is called.
"""

import contextlib
import gc
import logging
import os
import secrets
import signal
import stat
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune.schedulers import ASHAScheduler

JOB_FILES = "/runtime_resources/working_dir_files/"
"""Part of the path of files sent by `ray job submit --working-dir`, which Ray deletes after the job."""
NOISY_LOGGERS = (
    "ray.tune.execution.experiment_state",
    "ray.tune.execution.tune_controller",
    "ray.tune.tune",
)
"""They complain at length where snapshots, which nothing reads, cannot be written, and where workers are
lost, which the study says in a line."""
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger replaces Tune's own loggers
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),  # no periodic snapshots: nothing is ever restored from them
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints tables even with verbose=0
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # `execute.GracefulStop` has its own
}
MAX_PENDING_TRIALS = "TUNE_MAX_PENDING_TRIALS_PG"
"""Trials that wait for resources: 8 are enough for an autoscaler to see, and few enough to be cheap."""
UNUSED_PROCESSES = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's `Node`: they start its autoscaler, what forwards workers' output, and the dashboard."""
PRESTARTED = "--num_prestart_python_workers"
"""Argument of Ray's `raylet`: how many workers it starts before any is asked for."""
PRELOAD = {"preload_python_modules": ["trainables.preload"]}
"""Ray's setting of the modules that each worker imports as soon as it runs, for `_system_config`."""
NODE_PATIENCE = 10
"""Seconds to wait for a new node, before Ray itself does."""
OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO


def configure_tune() -> None:
    """Set the environment variables that Tune reads when it is imported or run."""
    os.environ.update(TUNE_SETTINGS)
    os.environ.setdefault(MAX_PENDING_TRIALS, "8")
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quick_start(workers: int) -> Iterator[None]:
    """Start a local Ray in this context without what no study uses, and notice at once when it runs.

    - Three processes are not started. Each imports Ray: without them it starts in 2.9 s instead of 6 on two
      cores (3.6 core-seconds of 5.6).
    - Its agent is the small one of a Ray that is installed without its dashboard: no web server, and 0.2 s
      less here.
    - It starts `workers` processes ahead, not one for each core: on a large machine with a GPU these would be
      dozens that wait for nothing.
    - Ray looks once a second whether its node has registered, here it is ten times.
    """
    from ray._private import services, utils
    from ray._private.node import Node

    start_node, start_process = Node.start_ray_processes, services.start_ray_process

    def start_and_wait(node: Any) -> None:
        start_node(node)
        with contextlib.suppress(TimeoutError):  # Ray waits on, and says what is wrong
            services.wait_for_node(node.gcs_address, node.plasma_store_socket_name, NODE_PATIENCE)

    def start_few(command: list[str], *rest: Any, **options: Any) -> Any:
        return start_process(_with_few_workers(command, workers), *rest, **options)

    with contextlib.ExitStack() as stack:
        for name in UNUSED_PROCESSES:
            stack.enter_context(_replaced(Node, name, lambda self, **_: None))
        missing = ImportError("a study has no use for Ray's dashboard")
        stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", lambda: missing))
        stack.enter_context(_replaced(services, "start_ray_process", start_few))
        stack.enter_context(_replaced(Node, "start_ray_processes", start_and_wait))
        yield


def _with_few_workers(command: list[str], workers: int) -> list[str]:
    """The command of a process of Ray, with at most so many workers that it starts ahead."""
    few = []
    for word in command:
        name, _, number = word.partition("=")
        most = f"{name}={min(int(number), workers)}" if name == PRESTARTED else word
        few.append(most)
    return few


@contextlib.contextmanager
def _replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, before)


def without_counting_callbacks() -> None:
    """Stop Tune from counting callbacks for Ray's usage statistics.

    It imports all loggers that there are for that, and with them MLflow: 0.4 s before the first trial.
    """
    from ray.air._internal import usage

    usage.tag_callbacks = lambda callbacks: False


def keep_worker_environment() -> None:
    """Stop Tune from giving its workers environment variables.

    It passes AWS keys on command lines, where all users of the machine can read them. Besides, workers with
    variables are new processes, others have already been started by Ray, which saves seconds.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()


def forgive_failures(trial: Any) -> None:
    """Let Tune count the failures of a trial from now on."""
    trial.run_metadata.num_failures = 0


def tune_loop_ender() -> Callable[[], None]:
    """What lets Tune end its loop in order: the handler of SIGUSR1 that it has just set."""
    handler: Any = signal.getsignal(signal.SIGUSR1)
    return lambda: handler(signal.SIGUSR1, None)


def shut_down() -> None:
    """End the connection to Ray, while no thread collects its objects.

    One that is collected after Ray's core has shut down ends the process with code 1: "The core worker has
    already been shutdown". A collection that another thread has begun goes on beside this one.
    """
    import ray

    enabled = gc.isenabled()
    gc.disable()
    while not _collects():
        time.sleep(0.01)
    gc.freeze()
    try:
        ray.shutdown()
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _collects() -> bool:
    """Collect the youngest objects; False where another thread's collection is under way."""

    class Cycle:
        pass

    cycle: Any = Cycle()
    cycle.itself = cycle
    alive = weakref.ref(cycle)
    del cycle
    gc.collect(0)
    return alive() is None


def local_cluster_address() -> str:
    """The address of the Ray that runs on this machine; OSError where none does."""
    folder = os.environ.get("RAY_TMPDIR", "/tmp")  # noqa: S108  # Ray's own default
    return Path(folder, "ray", "ray_current_cluster").read_text().strip()


def add_to_asha(asha: "ASHAScheduler", key: str) -> None:
    """Make a trial known to ASHA, which uses nothing of it but its id."""
    asha.on_trial_add(None, SimpleNamespace(trial_id=key))


def report_to_asha(asha: "ASHAScheduler", key: str, result: dict[str, Any]) -> str:
    """ASHA's decision after a result, which may come from the ledger: no running trial is needed."""
    return str(asha.on_trial_result(None, SimpleNamespace(trial_id=key), result))


def spot_first(
    node_resources: dict[str, float],
    resource_demands: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """Ray's score of a node type, except that one which the cloud has refused ranks behind equal ones.

    `cluster.yaml` names this function in RAY_AUTOSCALER_UTILIZATION_SCORER. Ray remembers a refusal for 30
    minutes (AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S), but its own score ignores it and would request the
    same type for ever. Equal types rank by name, the last one first: `gpu_spot` before `gpu_on_demand`. Of
    the scores, which are tuples, the greatest wins; None where no waiting demand fits.
    """
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

    score = _default_utilization_scorer(
        node_resources, resource_demands, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    gpu_is_needed, *rest = score  # stays first: no GPU machine for CPU work because a CPU one was refused
    last = node_availability_summary.node_availabilities.get(node_type)
    return (gpu_is_needed, last is None or last.is_available, *rest)


def guard_auth_token(*, create: bool) -> None:
    """Make Ray's token readable by its owner only; Ray itself creates a file that all users can read.

    With `create`, for a local Ray that is about to start, a missing token is created: in the environment of
    this process where the home folder cannot be written.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    configured = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        file = Path(configured) if configured else Path.home() / ".ray" / "auth_token"
        if file.is_file():  # never a device, whose mode is that of the whole machine
            if stat.S_IMODE(file.stat().st_mode) & OTHER_USERS:
                file.chmod(0o600)
        elif create and not configured:
            _create_secret(file)
        if file.read_bytes().strip():
            return
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        pass
    if create and not configured:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _create_secret(file: Path) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        _write_secret(draft)
        try:
            os.link(draft, file)  # complete or not at all, and only one of two drivers succeeds
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            _write_secret(file)
    finally:
        draft.unlink(missing_ok=True)


def _write_secret(file: Path) -> None:
    descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(32))
