"""What several test modules share: prepared digits, a tiny trial, and its results, each made once."""

import functools
import gc
import linecache
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from filelock import FileLock
from studies import STUDY, run

from search_spaces import own, searches, spaces
from study.ledger.ledger import Ledger
from study.recording.stopping import ASKED
from trainables import catalogue, data, extensions, metrics
from trainables.extensions import files
from trainables.storage.bundles import TrialResult
from trainables.trial import TrialConfig

TINY: dict[str, Any] = {
    "dataset": "digits",
    "train_size": 50,
    "val_fraction": 0.1,
    "backbone": "convnet",
    "feature_dim": 16,
    "hidden_dim": 16,
    "embedding_dim": 8,
    "augmentations": ("rrc", "solarize"),
    "method": "siamese",
    "gamma": 0.01,
    "epochs": 2,
    "batch_size": 25,
    "lr": 0.1,
    "seed": 0,
}


SLOW = (
    "test_server.py",
    "test_search.py",
    "test_run.py",
    "test_nodes.py",
    "test_report.py",
    "test_kills.py::test_killed_at_the_worst_moments",
    "test_kills.py::test_stopped_in_order",
    "test_faults.py::test_a_server",
    "test_nodes.py::test_a_job",
    "test_evidence.py::test_the_archive_renders",
    "test_node.py::test_shares",
    "test_faults.py::test_a_full_disk",
    "test_run.py::test_a_budget",
    "test_faults.py::test_out_of_gpu_memory",
    "test_run.py::test_trials_on_data",
)
"""What takes long, the longest first: beginnings of tests' names, each of which one process can run alone."""


def unit_of(nodeid: str) -> str:
    """What of `SLOW` a test belongs to, the longest name where there are several; else its file."""
    name = nodeid.rpartition("/")[2]
    return max((slow for slow in SLOW if name.startswith(slow)), key=len, default=name.partition("::")[0])


# Several processes run tests on as many cores: two threads each would wait for one another.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes minutes: the others fill the time beside it. Leave out what needs a GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="runs where there is a GPU"))
    order = {unit: number for number, unit in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(unit_of(item.nodeid), len(SLOW)))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:
    """With `--dist loadfile` the units of `SLOW` are as files of their own."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def _without_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test means the same on every machine: it sees a GPU only if it is marked as one that needs it."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., TrialConfig]:
    """A config that trains in a tenth of a second; keywords replace fields."""
    return lambda **changes: TrialConfig(**{**TINY, **changes})


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with `digits` prepared."""
    folder = tmp_path_factory.mktemp("data")
    data.prepare("digits", folder)
    return folder


@pytest.fixture(scope="session")
def digits(data_dir: Path) -> data.Dataset:
    """The digits, mapped."""
    return data.load("digits", data_dir)


@pytest.fixture(scope="session")
def trained(tiny: Callable[..., TrialConfig], data_dir: Path) -> Callable[..., TrialResult]:
    """The result of `tiny(**changes)`; each distinct one is trained once."""
    from trainables.train import train

    result = functools.cache(lambda config: train(config, data_dir))
    return lambda **changes: result(tiny(**changes))


@pytest.fixture
def own_files() -> Iterator[None]:
    """Forgets own files that a test has loaded."""
    registries: list[dict[Any, Any]] = [
        *(catalogue._terms, catalogue._augmentations, catalogue._backbones, catalogue._codes),
        *(metrics._metrics, metrics._own, extensions.functions, files._loaded),
        *(spaces._spaces, searches._searches, own._made_by, linecache.cache),
    ]
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)
    for name in [name for name in sys.modules if name.startswith("own_file_")]:
        del sys.modules[name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a file in it, for the command line in this process; what it sets is set back."""
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    thresholds, handlers = gc.get_threshold(), {number: signal.getsignal(number) for number in ASKED}
    yield tmp_path
    gc.set_threshold(*thresholds)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "whole").exists():
            make(folder)
            (folder / "whole").touch()
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A folder in which `STUDY` was run and left alone."""

    def make(folder: Path) -> None:
        (folder / "runs").mkdir()
        shutil.copy(empty_store, folder / "runs/mlflow.db")
        done = run(folder, *STUDY, "--max-concurrent", "1")
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "undisturbed", make)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the experiment and nothing in it; making one takes seconds, copying it does not."""

    def make(folder: Path) -> None:
        store = f"sqlite:///{folder}/mlflow.db"
        Ledger(uri=store, experiment="test", artifact_root=folder / "artifacts").open()

    return once(tmp_path_factory, "store", make) / "mlflow.db"


@pytest.fixture
def blank_store(empty_store: Path, tmp_path: Path) -> None:
    """A database in `tmp_path`'s output folder, for studies that need not take seconds to make one."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs/mlflow.db")


@pytest.fixture(scope="module")
def without_pdfs() -> Iterator[None]:
    """Figures are drawn as PNG alone: their PDFs, with fonts, take as long as all else of a small report.

    And in this process, where that can be arranged.
    """
    from matplotlib.figure import Figure

    from analysis import report

    draw = Figure.savefig

    def savefig(self: Figure, file: IO[bytes], **options: Any) -> None:
        if options["format"] == "pdf":
            file.write(b"%PDF-")
        else:
            draw(self, file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        patch.setattr(report, "others_here", lambda: 0)
        yield


@pytest.fixture
def cluster() -> Iterator[Callable[..., object]]:
    """Makes a Ray cluster of several nodes on this machine, from the resources of each."""
    from ray.cluster_utils import Cluster

    made = []

    def make(*nodes: dict[str, float]) -> Cluster:
        # Its port, though unused, would have to be free, and a Ray of another test may have it.
        head = {"include_dashboard": False, "dashboard_port": None, **nodes[0]}
        made.append(Cluster(initialize_head=True, head_node_args=head))
        for node in nodes[1:]:
            made[0].add_node(**node)
        return made[0]

    yield make
    while made:
        made.pop().shutdown()
    with warnings.catch_warnings():  # Ray closes not all of its sockets: not in the middle of another test
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
