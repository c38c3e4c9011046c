"""The Ray Tune trainable: a thin adapter around `train`.

What a worker tells the driver, one report each: `started` (the run's tags) with `started_at` (ms since
1970); `resumed` (the rows of epochs that an earlier attempt has trained) and `notes` (lines for people)
where there are any; `row` (an epoch); then either `bundle` (the key under which the result lies on storage)
or `failure` and `traceback`.
"""

import platform
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray import tune

from trainables.checkpoint import Bundle, Checkpoints, Storage, write_bundle
from trainables.trial import TrialConfig


def job(config: TrialConfig, *, data_dir: Path, storage: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What `run_job` needs to know: plain values that Ray can ship to any node.

    Args:
        config: of the trial.
        data_dir: absolute folder of datasets, on the worker's machine.
        storage: where the result bundle goes.
        tags: what the driver knows of the run, such as the commit; they stay with the result.
    """
    where = {"data_dir": str(data_dir), "storage": storage}
    return {"key": config.key, "params": config.to_params(), "tags": dict(tags), **where}


def run_job(job: dict[str, Any]) -> None:
    """Train one trial in a Ray worker. An exception becomes a report: only lost processes are retried."""
    from trainables import data
    from trainables.train import train

    config = TrialConfig.from_params(job["params"])
    cpus = tune.get_context().get_trial_resources().required_resources.get("CPU", 1)
    threads = max(1, int(cpus))
    device = _granted_device()
    try:
        digest = data.prepare(config.dataset, Path(job["data_dir"]))
        tags = {**job["tags"], **_tags(device, threads), "data.sha256": digest}
        tune.report({"started": tags, "started_at": int(time.time() * 1000)})
        storage = Storage(job["storage"])
        checkpoints = Checkpoints(storage, config.key)
        result = train(
            config,
            Path(job["data_dir"]),
            device=device,
            threads=threads,
            checkpoints=checkpoints,
            on_resume=lambda rows: _tell_resumed(rows, checkpoints.notes),
            on_epoch=lambda row: tune.report({"row": row}),
        )
        write_bundle(storage, Bundle(config=config, result=result, tags=tags))
    except Exception as error:
        # Told as a result: Tune would run an exception again that will never succeed.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        tune.report({"failure": reason, "traceback": traceback.format_exc()})
    else:
        tune.report({"bundle": config.key})


def _tell_resumed(rows: Sequence[Mapping[str, float]], notes: Sequence[str]) -> None:
    if rows or notes:
        tune.report({"resumed": list(rows), "notes": list(notes)})


def _granted_device() -> str:
    """Ray hides the other GPUs from a worker that was granted one, but none from one granted none."""
    import torch

    return "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"


def _tags(device: str, threads: int) -> dict[str, str]:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu {_processor()}"
    return {
        "device": name,
        "threads": str(threads),
        "host": socket.gethostname(),
        "version.torch": version("torch"),
        "version.python": platform.python_version(),
    }


def _processor() -> str:
    """Model name of the processor, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
