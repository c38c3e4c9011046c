"""Every name that this project uses of Ray beyond its documented interface: each test fails when one goes."""

import inspect
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.air.constants
import ray.tune.constants
from ray._common import utils
from ray._private.runtime_env import working_dir
from ray.tune import tune as tune_run
from ray.tune.schedulers import ASHAScheduler

from study.cluster import ray_internals
from trainables.tune import resources


def test_tune_knows_the_variables_that_are_set() -> None:
    source = inspect.getsource(ray.tune.constants) + inspect.getsource(ray.air.constants)
    for name in (*ray_internals.TUNE_SETTINGS, ray_internals.MAX_PENDING_TRIALS):
        assert f'"{name}"' in source, name


def test_configuring_tune_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {ray_internals.MAX_PENDING_TRIALS: "3"})
    ray_internals.configure_tune()
    assert os.environ == {**ray_internals.TUNE_SETTINGS, ray_internals.MAX_PENDING_TRIALS: "3"}


def test_nothing_is_set_or_imported_at_import() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import study.cluster.ray_internals;"
        "assert os.environ == before; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_noisy_loggers_are_those_of_ray() -> None:
    from ray.tune.execution import experiment_state, tune_controller

    loggers = [experiment_state.logger, tune_controller.logger, tune_run.logger]
    assert loggers == [logging.getLogger(name) for name in ray_internals.NOISY_LOGGERS]


def test_processes_that_are_not_started_are_those_of_ray() -> None:
    from ray._private.node import Node

    before = [getattr(Node, name) for name in ray_internals.UNUSED_PROCESSES]
    source = inspect.getsource(Node.start_head_processes) + inspect.getsource(Node.start_ray_processes)
    assert all(f"self.{name}(" in source for name in ray_internals.UNUSED_PROCESSES)
    with ray_internals.quick_start(2):
        assert all(getattr(Node, name)(None) is None for name in ray_internals.UNUSED_PROCESSES)
    assert [getattr(Node, name) for name in ray_internals.UNUSED_PROCESSES] == before


def test_a_local_ray_starts_as_many_workers_ahead_as_trials_run_and_a_small_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray asks by these names whether to start the large agent, and with this argument for workers."""
    from ray._private import services, utils
    from ray._private.node import Node

    source = inspect.getsource(services.start_raylet)
    assert f'"{ray_internals.PRESTARTED}={{}}"' in source
    assert "ray._private.utils.get_dashboard_dependency_error() is not None" in source
    assert "start_ray_process(" in source
    started: list[list[str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, *_: started.append(command))
    monkeypatch.setattr(services, "wait_for_node", lambda *node: waited.append(node))
    monkeypatch.setattr(Node, "start_ray_processes", lambda node: None)
    waited: list[tuple[object, ...]] = []
    node = SimpleNamespace(gcs_address="1.2.3.4:5", plasma_store_socket_name="/socket")
    with ray_internals.quick_start(2):
        services.start_ray_process(["raylet", "--num_prestart_python_workers=64", "--a=64"], "raylet")
        services.start_ray_process(["raylet", "--num_prestart_python_workers=1"], "raylet")
        assert isinstance(utils.get_dashboard_dependency_error(), ImportError)
        Node.start_ray_processes(node)
    assert started == [
        ["raylet", "--num_prestart_python_workers=2", "--a=64"],
        ["raylet", "--num_prestart_python_workers=1"],
    ]
    assert waited == [("1.2.3.4:5", "/socket", ray_internals.NODE_PATIENCE)]


def test_workers_import_pytorch_before_they_have_a_trial(tmp_path: Path) -> None:
    """Ray knows the setting; what it names loads the training, and survives a broken PyTorch."""
    ((setting, modules),) = ray_internals.PRELOAD.items()
    package = Path(ray.__file__).parent
    assert setting.encode() in (package / "core/src/ray/raylet/raylet").read_bytes()
    assert "worker_preload_modules" in (package / "_private/workers/default_worker.py").read_text()
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open shared object file')")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    broken = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    loading = ("trainables.tune", "trainables.train")
    code = f"import sys, {modules[0]}; print(*(name in sys.modules for name in {loading}))"
    loaded = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        for environment in (None, broken)
    ]
    assert loaded == ["True True", "True False"]


def test_tune_does_not_import_loggers_to_count_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.air._internal import usage

    assert "air_usage.tag_callbacks(callbacks)" in inspect.getsource(tune_run)
    counted: list[object] = []
    monkeypatch.setattr(usage, "_count_callbacks", counted.append)
    monkeypatch.setattr(usage, "tag_callbacks", usage.tag_callbacks)
    ray_internals.without_counting_callbacks()
    usage.tag_callbacks([])
    assert counted == []


def test_workers_get_no_variables_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise AWS keys would be on their command lines."""
    from ray.tune.execution import class_cache

    monkeypatch.setattr(class_cache, "DEFAULT_ENV_VARS", dict(class_cache.DEFAULT_ENV_VARS))
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {"AWS_SECRET_ACCESS_KEY"})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    environments = []
    monkeypatch.setattr(
        ray, "remote", lambda *_, **options: environments.append(options) or (lambda cls: cls)
    )
    for keep in (False, True):
        if keep:
            ray_internals.keep_worker_environment()
        class_cache._ActorClassCache().get(type(f"Trainable{keep}", (), {}))
    assert "secret" in str(environments[0])
    assert "secret" not in str(environments[1])
    assert "PL_DISABLE_FORK" not in str(environments[1])


def test_tune_forgets_failures_and_takes_other_resources() -> None:
    from ray.tune.experiment import Trial

    trial = Trial("none", stub=True, max_failures=1)
    trial.run_metadata.num_failures = 2
    assert not trial.should_recover()
    ray_internals.forgive_failures(trial)
    assert (trial.num_failures, trial.should_recover()) == (0, True)
    elsewhere = resources({"request": {"cpu": 2, "gpu": 0}, "avoided": ["a", "b"]})
    trial.update_resources(elsewhere)
    assert trial.placement_group_factory == elsewhere
    assert len({elsewhere, resources({"request": {"cpu": 2, "gpu": 0}})}) == 2


def test_tune_ends_its_loop_on_sigusr1() -> None:
    assert "signal.signal(signal.SIGUSR1, signal_interrupt_tune_run)" in inspect.getsource(tune_run)
    received = []
    previous = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
        ray_internals.tune_loop_ender()()
        assert received == [True]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_the_address_of_the_ray_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file = Path(utils.get_ray_address_file(None))
    assert file.is_relative_to(tmp_path)
    with pytest.raises(FileNotFoundError):
        ray_internals.local_cluster_address()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("127.0.0.1:6379\n")
    assert ray_internals.local_cluster_address() == "127.0.0.1:6379"


def test_the_folder_of_files_of_a_job() -> None:
    _, outer, inner, _ = ray_internals.JOB_FILES.split("/")
    assert f'"{inner}"' in inspect.getsource(working_dir)
    sources = Path(ray.__file__).parent.glob("_private/**/*.py")
    assert any(f'"{outer}"' in source.read_text() for source in sources)


def test_the_file_of_the_token() -> None:
    from ray._private.authentication_test_utils import _DEFAULT_AUTH_TOKEN_RELATIVE_PATH

    assert Path(".ray/auth_token") == _DEFAULT_AUTH_TOKEN_RELATIVE_PATH


def test_asha_decides_about_trials_that_do_not_run() -> None:
    asha = ASHAScheduler(
        time_attr="epoch", metric="acc", mode="max", grace_period=2, max_t=8, reduction_factor=2
    )
    decisions = []
    for key, value in (("a", 0.9), ("b", 0.1)):
        ray_internals.add_to_asha(asha, key)
        decisions.append(ray_internals.report_to_asha(asha, key, {"epoch": 2, "acc": value}))
    assert decisions == ["CONTINUE", "STOP"]


def test_rays_own_score_puts_the_gpu_first() -> None:
    """The rest of `spot_first` is tested with the configurations of clusters."""
    from ray.autoscaler._private.constants import AUTOSCALER_UTILIZATION_SCORER_KEY
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary

    score = ray_internals.spot_first(
        {"CPU": 4.0}, [{"CPU": 1.0}], "cpu", node_availability_summary=NodeAvailabilitySummary({})
    )
    assert score is not None
    assert score[:2] == (True, True)
    assert (
        f"{AUTOSCALER_UTILIZATION_SCORER_KEY}=study.cluster.ray_internals.spot_first"
        in (Path(__file__).resolve().parents[1] / "cluster.yaml").read_text()
    )
