"""The Ray Tune trainable: a thin adapter around `train`.

A worker reports to the driver: `started` (the run's tags) with `started_at` (ms since 1970); `resumed` (rows
of epochs trained by an earlier attempt) and `notes` (lines for people) if there are any; `row` (an epoch);
`noted` (a line for people) with new `tags` of the run, if steps cannot be replayed; finally one of `ENDINGS`,
each but the first three with a `traceback`.
"""

import contextlib
import dataclasses
import errno
import gc
import math
import os
import platform
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trainables.extensions.files import ExtensionError, load_shipped, loaded
from trainables.machine import cap_gpu_memory, device_name
from trainables.metrics import OBJECTIVES, TESTED
from trainables.node import check_node
from trainables.redact import masked
from trainables.storage.bundles import Bundle, write_bundle
from trainables.storage.checkpoints import Checkpoints, saved_epoch
from trainables.storage.filesystem import Storage, StorageAway
from trainables.trial import TrialConfig
from trainables.usage import Meter

ENDINGS = ("bundle", "late", "unfit", "failure", "out_of_memory", "disk_full", "storage_away")
"""How a trial ends in a worker: its result is on storage under the key that is reported; it was not started,
because there was no time left, or because this node may not run trials (with the `node`'s id); it can never
succeed; its share of a GPU was too small; the disk is full; the storage does not answer. The last five come
with a line that says what happened."""

ON_GPUS = {"cuda_graphs": False, "kernels": "deterministic", "mps": {}}
"""Whether steps are replayed as CUDA graphs; which of `catalogue.KERNELS`; where the MPS daemon of each node
has its pipes, by the id of the node."""
MPS_PIPES = "CUDA_MPS_PIPE_DIRECTORY"

LESS_MEMORY = "the machine's memory is full: fewer trials at once (--max-concurrent), or a smaller batch_size"

GPU_MEMORY = re.compile(
    r"CUDA error: out of memory|CU(BLAS|DNN|SOLVER)_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)"
    r"|CUDNN_STATUS_INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_FAILED"
)
"""What libraries other than PyTorch's own allocator say when a GPU's memory is full."""


HOST_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory")
"""What PyTorch and the operating system say when the machine's memory is full."""


class UnfitError(RuntimeError):
    """No trial may run on this node; the message says why."""


def job(
    config: TrialConfig,
    *,
    data_dir: Path,
    storage: str,
    tags: Mapping[str, str],
    request: Mapping[str, float],
    node: Mapping[str, str] | None = None,
    save_at: Iterable[int] = (),
    keep: Iterable[str] = (),
    verdict: bool = False,
    on_gpus: Mapping[str, Any] = ON_GPUS,
) -> dict[str, Any]:
    """What `run_job` needs to know: plain values that Ray can ship to any node.

    Args:
        config: what to train.
        data_dir: absolute, on the worker's machine.
        storage: where checkpoints and the result bundle go.
        tags: what the driver knows about the run, such as the commit.
        request: `cpu` and `gpu` that Ray should grant.
        node: requirements of the node that runs it (`trainables.node`); None: none.
        save_at: epochs at which a scheduler may stop the trial. Its state is saved before they are reported,
            so that the scheduler can rely on it.
        keep: what its run keeps besides what all do: `weights`.
        verdict: whether it reports its test accuracy, by which verdicts decide about more seeds.
        on_gpus: how it is trained on a GPU, which is no part of the trial; see `ON_GPUS`.
    """
    return {
        "key": config.key,
        "params": config.to_params(),
        "tags": dict(tags),
        "data_dir": str(data_dir),
        "storage": storage,
        "request": dict(request),
        "node": node,
        "save_at": sorted(save_at),
        "keep": sorted(keep),
        "verdict": verdict,
        "on_gpus": {**ON_GPUS, **on_gpus},
        "files": [file.shipped for file in loaded()],
    }


def resources(job: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """The resources that a job asks Ray for, on any node but those whose ids are its `avoided`."""
    bundles = [{kind.upper(): amount for kind, amount in job["request"].items()}]
    if not job.get("avoided"):
        return tune.PlacementGroupFactory(bundles)
    elsewhere = {"ray.io/node-id": f"!in({','.join(job['avoided'])})"}
    return tune.PlacementGroupFactory(bundles, bundle_label_selector=[elsewhere])


def run_job(job: dict[str, Any]) -> None:
    """Train one trial in a Ray worker. An exception becomes a report: only lost processes are retried.

    Args:
        job: made by `job`; with `latest_start` (s since 1970) the trial does not start later than that. (One
            that has a checkpoint resumes at any time.)
    """
    unfit = check_node(job["node"]) if job.get("node") else None
    if unfit:
        tune.report({"unfit": unfit, "node": _node()})
        return
    try:
        load_shipped(job["files"])
    except ExtensionError as error:  # a package that it imports is missing here
        tune.report({"unfit": masked(f"node {socket.gethostname()}: {error}"), "node": _node()})
        return
    try:
        with _same_environment("CUDA_VISIBLE_DEVICES"), _same_environment(MPS_PIPES):
            ending = _trained(job)
    except Exception as error:
        # Reported as a result: Tune would retry an exception, even one that will never succeed.
        said = {"traceback": masked(traceback.format_exc()), "node": _node()}
        ending = {_kind(error): masked(_line(error)), **said}
    _free_gpu_memory()
    tune.report(ending)


def _node() -> str:
    """Ray's id of this node."""
    return str(ray.get_runtime_context().get_node_id())


@contextlib.contextmanager
def _same_environment(name: str) -> Iterator[None]:
    """Restore a variable afterwards, for the next trial in this process."""
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _line(error: BaseException) -> str:
    """What an exception says, in a line."""
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, UnfitError | StorageAway):
        return first
    line = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if isinstance(error, ImportError):
        return f"node {socket.gethostname()}: {line}"
    return f"{line}; {LESS_MEMORY}" if isinstance(error, MemoryError) or HOST_MEMORY.search(first) else line


def _trained(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train a trial and put its result on storage, unless it is too late; returns its last report."""
    storage = Storage(job["storage"], patient=True)
    if not saved_epoch(storage, job["key"]) and time.time() > job.get("latest_start", math.inf):
        return {"late": job["key"]}
    from trainables import data
    from trainables.graph import cuda_graph
    from trainables.train import train

    config = TrialConfig.from_params(job["params"])
    if TrialConfig.from_params({**job["params"], "term_code": "none", "code": "none"}).key != config.key:
        found = ", ".join(filter(None, (config.term_code, config.code)))
        raise UnfitError(f"node {socket.gethostname()}: has other code than the driver for {found}")
    threads = max(1, int(job["request"]["cpu"]))
    share = job["request"]["gpu"]
    on_gpus = job["on_gpus"]
    pipes = on_gpus["mps"].get(_node()) if on_gpus["mps"] else None
    if pipes:
        os.environ[MPS_PIPES] = pipes  # before this process first uses its GPU
    device = _granted_device(share)
    digest = data.prepare(config.dataset, Path(job["data_dir"]), folds=config.fold != "none")
    gpus = {}
    if device == "cuda":
        cap = cap_gpu_memory(share)
        gpus = {"gpus": f"{share:g}", "gpus.visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}
        gpus |= {"gpus.memory_gib": f"{cap:.1f}"} if cap else {}
        gpus |= {"gpus.mps": "yes" if pipes else "no", "gpus.kernels": on_gpus["kernels"]}
        gpus["gpus.step"] = "CUDA graph" if on_gpus["cuda_graphs"] else "eager"
    tags = {**job["tags"], **_tags(device, threads), **gpus, "data.sha256": digest}
    tune.report({"started": tags, "started_at": int(time.time() * 1000)})
    checkpoints = Checkpoints(storage, config.key)

    def on_note(reason: str) -> None:
        tags["gpus.step"] = f"eager: {reason}"
        tune.report({"noted": f"{config.name}: {reason}", "tags": {"gpus.step": tags["gpus.step"]}})

    with Meter(gpu=share if device == "cuda" else 0.0, threads=threads) as meter:
        result = train(
            config,
            Path(job["data_dir"]),
            device=device,
            threads=threads,
            checkpoints=checkpoints,
            on_resume=lambda rows: _report_resumed(rows, checkpoints.notes),
            on_epoch=lambda row: tune.report(
                {"row": {**row, **meter.series(last=row["epoch"] == config.epochs)}}
            ),
            save_at=job["save_at"],
            keep_weights="weights" in job["keep"],
            meter=meter,
            kernels=on_gpus["kernels"] if device == "cuda" else "deterministic",  # CPUs know TF32, too
            capture=cuda_graph if device == "cuda" and on_gpus["cuda_graphs"] else None,
            on_note=on_note,
        )
    files = {file["name"]: file["source"].encode() for file in job["files"]}
    result = dataclasses.replace(result, artifacts={**result.artifacts, **files})
    write_bundle(storage, Bundle(config=config, result=result, tags=tags))
    objectives = {name: result.metrics[name] for name in OBJECTIVES if name in result.metrics}
    verdict = {"tested": result.metrics[TESTED]} if job["verdict"] else {}
    return {"bundle": config.key, "objectives": objectives, **verdict}


def _kind(error: BaseException) -> str:
    """Which of `ENDINGS` an exception means."""
    if isinstance(error, UnfitError | ImportError):  # something is not installed here, or not as elsewhere
        return "unfit"
    import torch

    cause: BaseException | None = error
    while cause is not None:
        # The GPU's memory; MemoryError is the machine's.
        if isinstance(cause, torch.OutOfMemoryError) or (
            isinstance(cause, RuntimeError) and GPU_MEMORY.search(str(cause))
        ):
            return "out_of_memory"
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full"
        if isinstance(cause, StorageAway):
            return "storage_away"
        cause = cause.__cause__
    return "failure"


def _free_gpu_memory() -> None:
    """Release what an ended trial holds: its neighbours on the same GPU can use it.

    Raises:
        RuntimeError: this process cannot use its GPU any more, as after an illegal access to memory. Then it
            ends, and what it was doing is done again in a new one.
    """
    torch: Any = sys.modules.get("torch")  # which may be what is missing here
    if torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        gc.collect()
        torch.cuda.empty_cache()


def _report_resumed(rows: Sequence[Mapping[str, float]], notes: Sequence[str]) -> None:
    if rows or notes:
        tune.report({"resumed": list(rows), "notes": list(notes)})


def _granted_device(share: float) -> str:
    """`cuda` (the first visible device) or `cpu`; UnfitError if a GPU was granted that cannot be used.

    Ray hides other GPUs from a worker that was granted one, but none from a worker that was granted none.
    """
    import torch

    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # not even by mistake, in whatever a backbone does
        return "cpu"
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as Ray numbers them: by default by speed
    if not torch.cuda.is_available():
        raise UnfitError(
            f"node {socket.gethostname()}: Ray granted {share:g} GPU, but PyTorch {torch.__version__} sees"
            " none; install a build of PyTorch for it, or train on CPUs with --gpus-per-trial 0"
        )
    return "cuda"


def _tags(device: str, threads: int) -> dict[str, str]:
    return {
        "device": device_name(device),
        "threads": str(threads),
        "host": socket.gethostname(),
        "version.torch": version("torch"),
        "version.python": platform.python_version(),
    }
