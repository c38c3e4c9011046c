"""What several test modules share: prepared digits, a tiny trial, and its results, each made once."""

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from studies import STUDY, run

from study.ledger.ledger import Ledger
from trainables import data
from trainables.trial import TrialConfig, TrialResult

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: the others fill the time beside them."""
    items.sort(
        key=lambda item: item.path.stem not in ("test_kills", "test_faults", "test_run", "test_search")
    )


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


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `STUDY` was run and left alone, once for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "whole").exists():
            done = run(folder, *STUDY)
            assert done.returncode == 0, done.stderr
            (folder / "whole").touch()
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the experiment and nothing in it; making one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("store")
    Ledger(uri=f"sqlite:///{folder}/mlflow.db", experiment="test", artifact_root=folder / "artifacts").open()
    return folder / "mlflow.db"


@pytest.fixture
def blank_store(empty_store: Path, tmp_path: Path) -> None:
    """A database in `tmp_path`'s output folder, for studies that need not take seconds to make one."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs/mlflow.db")
