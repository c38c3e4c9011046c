"""Measures for some seconds what no finished trial tells, in processes like those that would train."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from study import ROOT
from study.planning.forecast import Forecast, Group, evaluated_images, group_of, kind_of
from trainables import data
from trainables.allocation import Allocation
from trainables.extensions.files import loaded
from trainables.metrics import TEST_PASSES, TRAIN_PASSES
from trainables.trial import TrialConfig

NOTHING: Mapping[str, str] = types.MappingProxyType({})


def probe(
    forecast: Forecast,
    trials: Sequence[TrialConfig],
    allocation: Allocation,
    data_dir: Path,
    environment: Mapping[str, str] = NOTHING,
) -> list[str]:
    """Measure each kind of trial that was not measured, for the forecast to learn; returns lines for people.

    As many processes measure at once as trials will run at once, because they share the machine, with these
    variables in addition. Datasets that are not prepared are left out.
    """
    lines: list[str] = []
    kinds: dict[Group, TrialConfig] = {}
    for trial in forecast.unknown_kinds(trials):
        if trial.dataset in data.EMBEDDED or data.fingerprint(trial.dataset, data_dir) is not None:
            kinds.setdefault((*group_of(trial), kind_of(trial)), trial)
        else:
            line = f"not probed: {trial.dataset} is not prepared; python -m trainables.data {trial.dataset}"
            lines += [line] if line not in lines else []
    if not kinds:
        return lines
    with tempfile.TemporaryDirectory() as scratch:

        def folder(name: str) -> str:  # embedded datasets are prepared in passing, but a plan leaves nothing
            return str(data_dir if data.fingerprint(name, data_dir) is not None else scratch)

        request = {
            "threads": allocation.threads,
            "gpu": allocation.gpus or 0.0,
            "cuda_graphs": allocation.cuda_graphs,
            "kernels": allocation.kernels,
            "files": [file.shipped for file in loaded()],
            "trials": [{"params": t.to_params(), "data_dir": folder(t.dataset)} for t in kinds.values()],
        }
        answers = _measure(request, allocation, environment)
    for trial, answer in zip(kinds.values(), answers, strict=False):
        lines.append(_learn(forecast, trial, answer, data_dir))
    return lines


def _learn(forecast: Forecast, trial: TrialConfig, answer: Mapping[str, Any], data_dir: Path) -> str:
    """Scale what was measured to the trial's sizes; returns a line for people."""
    name = f"{trial.dataset}/{trial.backbone}/{trial.precision} {trial.arm}"
    if "error" in answer:
        return f"not probed: {name}: {answer['error']}"
    sizes = data.check([trial], data_dir)[trial]
    evaluated = TRAIN_PASSES * answer["labelled"] + TEST_PASSES * answer["test"]
    validation = sizes.validation * answer["evaluate_seconds"] / evaluated
    speed = answer["images_per_second"]
    epoch = sizes.epoch / speed + validation
    evaluate_seconds = answer["evaluate_seconds"] * evaluated_images(sizes) / evaluated
    forecast.learn(trial, sizes, epoch * trial.epochs, evaluate_seconds)
    return f"probed: {name}: {speed:.{0 if speed >= 100 else 1}f} images/s"


def _measure(
    request: Mapping[str, object], allocation: Allocation, variables: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The answers of `trainables.probe`, averaged over processes that run side by side."""
    command = [sys.executable, "-m", "trainables.probe"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = allocation.slots or 1

    def ask(number: int) -> list[dict[str, Any]]:
        threads = {"OMP_NUM_THREADS": str(allocation.threads)}
        environment = {**os.environ, "PYTHONPATH": path, **threads, **variables}
        if allocation.gpus:
            environment |= {"CUDA_VISIBLE_DEVICES": gpu_of(number, allocation.gpus)}
        text = json.dumps(request)
        done = subprocess.run(
            command, cwd=ROOT, env=environment, input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(done.stderr, file=sys.stderr)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor(processes) as threads:
        answers = list(threads.map(ask, range(processes)))
    return [_mean(of_trial) for of_trial in zip(*answers, strict=False)]


def gpu_of(number: int, share: float) -> str:
    """The first GPU of the trial with this number, from 0, of those that run at once, as Ray packs them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    first = number // int(1 / share + 1e-6) if share <= 1 else number * int(share)
    return visible.split(",")[first] if visible else str(first)


def _mean(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The average of several processes' answers about one trial, or the first error."""
    for answer in answers:
        if "error" in answer:
            return answer
    return {
        name: statistics.mean(answer[name] for answer in answers)
        for name, value in answers[0].items()
        if not isinstance(value, str)
    }
