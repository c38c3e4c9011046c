"""What a node must have before a trial runs there, and what a trial gets of its GPUs."""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from studies import HAS_A_GPU, TINY, mps_stand_in, records, run, stand_in_for_train

import trainables.node
from study.cluster.connection import Resources, fall_back_to_cpus
from trainables import machine, tune
from trainables.machine import cap_gpu_memory
from trainables.node import check_node, source_digest
from trainables.storage.filesystem import StorageAway


def test_a_node_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "note").touch()
    expected = {"storage": str(tmp_path), "note": "note", "code": source_digest()}
    assert check_node(expected) is None
    found = check_node({**expected, "code": "another"})
    assert found is not None
    assert found.endswith("has other code of this project; install the same on all nodes")


def test_a_storage_that_does_not_answer_is_a_reason_until_it_has_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a node that may not read it, whenever it joins; later it is a fault that passes."""
    (tmp_path / "note").touch()
    monkeypatch.setattr(trainables.node, "PAUSE", 0.0)
    expected = {"storage": str(tmp_path), "note": "note", "code": source_digest()}
    never = {**expected, "storage": str(tmp_path / "other")}
    assert check_node(expected) is None

    def fails(*_: object) -> bytes:
        raise OSError("AWS Error NETWORK_CONNECTION")

    monkeypatch.setattr(trainables.node.Storage, "read", fails)
    found = check_node(never)
    assert found is not None
    assert "cannot read it (AWS Error NETWORK_CONNECTION)" in found
    assert check_node(expected) is None


def test_a_trial_on_a_node_that_joined_without_the_storage_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune.tune, "report", told.append)
    monkeypatch.setattr(trainables.node, "PAUSE", 0.0)
    monkeypatch.setattr(tune, "_node", lambda: "its id")
    node = {"storage": str(tmp_path), "note": "nodes/driver", "code": source_digest()}
    tune.run_job({"key": "key", "storage": str(tmp_path), "node": node})
    assert [*told[0]] == ["unfit", "node"]
    assert told[0]["node"] == "its id"
    assert "does not see what the driver writes there" in told[0]["unfit"]
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_pytorch_does_not_see_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.ray, "get_gpu_ids", lambda: [0])
    with pytest.raises(tune.UnfitError, match=r"Ray granted 0.25 GPU, but PyTorch .* sees none; install a"):
        tune._granted_device(0.25)
    assert tune._kind(tune.UnfitError("no")) == "unfit"


def test_a_gpu_that_fails_for_good_ends_the_process_that_others_would_train_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an illegal access each call fails: every trial that came after it would."""
    import torch

    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    told: list[dict[str, object]] = []
    monkeypatch.setattr(tune.tune, "report", told.append)
    monkeypatch.setattr(tune, "_node", lambda: "its id")
    monkeypatch.setattr(tune, "_trained", fails)
    tune.run_job({"files": []})
    assert told[0]["failure"] == "RuntimeError: CUDA error: an illegal memory access was encountered"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        tune.run_job({"files": []})
    assert len(told) == 1


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: out of memory",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUSOLVER_STATUS_ALLOC_FAILED",
    ],
)
def test_libraries_say_in_their_ways_that_memory_is_full(said: str) -> None:
    assert tune._kind(RuntimeError(f"cuDNN error: {said}")) == "out_of_memory"


def test_where_nobody_asked_for_a_gpu_one_that_cannot_be_used_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A laptop with a GPU and a PyTorch without: its first study trains, on CPUs, and says so."""
    import torch

    asked = {"cpu": 1.0, "gpu": 1.0}
    request, told = fall_back_to_cpus(asked, Resources(), None)
    assert request == {"cpu": 1.0, "gpu": 0.0}
    assert told is not None
    assert told.endswith("sees no GPU here, though there seems to be one: training on CPUs")
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    request, told = fall_back_to_cpus({"cpu": 1.0, "gpu": 0.0}, Resources(), None)
    assert request == {"cpu": 1.0, "gpu": 0.0}
    assert told == "Ray finds no GPU here, though there seems to be one: training on CPUs"
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    assert fall_back_to_cpus(request, Resources(), None) == (request, None)
    assert fall_back_to_cpus(asked, Resources(gpus=1), None) == (asked, None)  # asked for: the trial says so
    assert fall_back_to_cpus(asked, Resources(), "head:6379") == (asked, None)
    without = {"cpu": 1.0, "gpu": 0.0}
    _, told = fall_back_to_cpus(without, Resources(), "head:6379")
    assert told == "no node has a GPU: training on CPUs; with --gpus-per-trial 1 trials wait for one"
    assert fall_back_to_cpus(without, Resources(gpus=0), "head:6379") == (without, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fall_back_to_cpus(asked, Resources(), None) == (asked, None)


def test_a_trial_that_was_granted_no_gpu_can_touch_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(tune.ray, "get_gpu_ids", list)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("it asks for a GPU"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert tune._granted_device(0.0) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ModuleNotFoundError("No module named 'torch'"), "unfit", r"node .*: ModuleNotFoundError: No module"),
        (
            MemoryError(),
            "failure",
            r"^MemoryError; .* memory is full: fewer trials at once",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9000 bytes."),
            "failure",
            r"allocate 9000 bytes\.; the machine's memory is full: fewer trials at once",
        ),
        (
            StorageAway("the storage was away for 300 s: no"),
            "storage_away",
            r"^the storage was away for 300",
        ),
        (ValueError("no"), "failure", r"^ValueError: no$"),
    ],
)
def test_how_a_trial_ends_and_what_it_leaves(
    error: Exception, kind: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next trial in this process may be granted a GPU."""

    def fails(job: object) -> None:
        tune._granted_device(0.0)
        raise error

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune.ray, "get_gpu_ids", list)
    monkeypatch.setattr(tune.tune, "report", told.append)
    monkeypatch.setattr(tune, "_node", lambda: "its id")
    monkeypatch.setattr(tune, "_trained", fails)
    for before in ("0,1", None):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if before:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        tune.run_job({"key": "key", "files": []})
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
        ending = told.pop()
        assert re.search(said, ending[kind]), ending[kind]
        assert ending["node"] == "its id"


@pytest.mark.parametrize(
    ("share", "total", "fraction"),
    [(0.25, 80, 0.25 - 600 / 81920), (0.25, 4, 0.125), (1.0, 80, 1.0), (2.0, 80, 1.0)],
)
def test_a_share_of_a_gpu_caps_its_memory(
    share: float, total: int, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA takes beside PyTorch is left, but at least half of the share is PyTorch's."""
    import torch

    set_to: list[float] = []
    gpu = SimpleNamespace(total_memory=total * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: set_to.append(share)
    )
    cap = cap_gpu_memory(share)
    assert set_to == pytest.approx([fraction])
    assert cap == (None if share >= 1 else pytest.approx(fraction * total))


COUNTS = f"""{HAS_A_GPU}
import pathlib, os, time

real = module.train
folder = pathlib.Path(os.environ["BEGUN"])

def train(config, data_dir, *, device, **options):
    (folder / config.key).touch()
    wanted, deadline = int((folder.parent / "wanted").read_text()), time.monotonic() + 60
    while len(list(folder.iterdir())) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # for one too many
    seen = len(list(folder.iterdir()))
    with open(os.environ["SEEN"], "a") as file:
        print(device, os.environ["CUDA_VISIBLE_DEVICES"], seen, file=file)
    result = real(config, data_dir, device="cpu", **options)
    (folder / config.key).unlink()
    return result
"""
"""Training waits until as many trials have begun as are wanted, and tells how many have."""


@pytest.mark.usefixtures("blank_store")
def test_shares_of_gpus_are_packed(
    tmp_path: Path, cluster: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two GPUs, which Ray counts and nobody has: four trials at half each, two on either."""
    (tmp_path / "begun").mkdir()
    seen = tmp_path / "seen"
    # Ray's processes train: they get these from the cluster.
    for name, value in {**stand_in_for_train(tmp_path, COUNTS), **mps_stand_in(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun"))
    monkeypatch.setenv("SEEN", str(seen))
    gpus = cluster({"num_cpus": 4, "num_gpus": 2})
    (tmp_path / "wanted").write_text("4")
    arguments = [*TINY, "--only", "arm=ce", "--seeds", "4", "--no-report"]
    arguments += ["--mps", "auto", "--cuda-graphs", "--kernels", "fastest"]
    done = run(tmp_path, *arguments, "--gpus-per-trial", "0.5", "--address", gpus.address)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in seen.read_text().splitlines()]
    # All that began together saw each other; at the end fewer are left.
    assert max(int(count) for _, _, count in lines) == 4
    assert sum(int(count) == 4 for _, _, count in lines) >= 2
    assert {device for device, _, _ in lines} == {"cuda"}
    found = records(tmp_path).values()
    assert Counter(record.tags["gpus.visible"] for record in found) == {"0": 2, "1": 2}
    cap = 0.5 * 80 - 600 / 1024
    assert {record.tags["gpus.memory_gib"] for record in found} == {f"{cap:.1f}"}
    assert {record.tags["device"] for record in found} == {"GPU that is none"}
    # A daemon for the node, which has ended; nothing is captured where there is no GPU, and that is told.
    started, ended = (tmp_path / "calls").read_text().splitlines()
    assert (started[:2], ended) == ("-d", f"quit{started[2:]}")
    assert started.endswith(" 0,1")
    assert not Path(started.split()[1]).exists()
    assert {(record.tags["gpus.mps"], record.tags["gpus.kernels"]) for record in found} == {
        ("yes", "fastest")
    }
    reason = "its steps are not replayed as CUDA graphs: "
    assert {record.tags["gpus.step"].partition(reason)[0] for record in found} == {"eager: "}
    assert done.stdout.count(reason) == 4


def test_a_folder_that_ray_deletes_after_a_job_is_no_output(tmp_path: Path) -> None:
    """`ray job submit --working-dir` starts the study in one."""
    folder = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0123"
    folder.mkdir(parents=True)
    done = run(folder, *TINY)
    assert done.returncode == 2
    assert f"error: --output: got '{folder}/runs', which Ray deletes after the job; allowed: a" in done.stderr
    assert list(folder.iterdir()) == []
