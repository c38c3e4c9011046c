"""Configurations of clusters, by Ray's own schema and functions; no cloud is asked.

The commands of docs/cluster.md, by this project's own parser.
"""

import copy
import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import ClickException
from jsonschema import ValidationError
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.loader import load_function_or_class
from ray.autoscaler._private.node_launcher import BaseNodeLauncher
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import ConcurrentCounter, prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from study.cli import options

ROOT = Path(__file__).resolve().parents[1]
AWS = "cluster.yaml"
GCP = "docs/clusters/gcp.yaml"
OWN = "docs/clusters/own-machines.yaml"
CLOUDS = [AWS, GCP]
ALL = [*CLOUDS, OWN]
RAYJOB = "docs/clusters/rayjob.yaml"
G5_XLARGE = {"CPU": 4, "GPU": 1}
TRIAL = {"CPU": 1.0, "GPU": 1.0}

Config = dict[str, Any]


def load(name: str) -> Config:
    return yaml.safe_load((ROOT / name).read_text())


def checked(config: Config) -> Config:
    """With Ray's defaults; raises what `ray up` and the autoscaler raise before they ask a cloud."""
    prepared = prepare_config(config)
    validate_config(prepared)
    AutoscalingConfig(copy.deepcopy(prepared), skip_content_hash=True).get_node_type_configs()
    return prepared


def start_commands(config: Config) -> dict[str, list[str]]:
    """The words of `ray start` on the head and on workers, with what is set before it."""
    return {
        who: next(shlex.split(line) for line in config[f"{who}_start_ray_commands"] if "ray start" in line)
        for who in ("head", "worker")
    }


def ray_version() -> str:
    return re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def study_commands(text: str) -> list[list[str]]:
    """The arguments of every call of study/run.py in a text, as a shell would hand them over."""
    text = text.replace("\\\n", " ")
    return [shlex.split(call) for call in re.findall(r"python \S*study/run\.py\b([^'\"`\n#|]*)", text)]


@pytest.mark.parametrize("name", ALL)
def test_ray_accepts_the_configuration(name: str) -> None:
    checked(load(name))


def no_such_head(config: Config) -> None:
    config["head_node_type"] = "haed"


def no_head(config: Config) -> None:
    del config["head_node_type"], config["available_node_types"]["head"]
    config["head_node_type"] = "head"


def unknown_key(config: Config) -> None:
    config["idle_timeout_minuets"] = 10


def unknown_key_of_a_type(config: Config) -> None:
    next(iter(config["available_node_types"].values()))["min_wokers"] = 0


def unknown_key_of_auth(config: Config) -> None:
    config["auth"]["ssh_usr"] = "ubuntu"


def more_min_than_max(config: Config) -> None:
    config["available_node_types"]["gpu_spot"] |= {"min_workers": 2, "max_workers": 1}


def more_min_than_all(config: Config) -> None:
    config["available_node_types"]["gpu_spot"] |= {"min_workers": 5, "max_workers": 5}


def no_resources(config: Config) -> None:
    del config["available_node_types"]["gpu_spot"]["resources"]


def half_a_gpu(config: Config) -> None:
    config["available_node_types"]["gpu_spot"]["resources"] = {"GPU": 0.5}


def a_command_that_is_none(config: Config) -> None:
    config["setup_commands"].append({"run": "true"})


def no_cluster_name(config: Config) -> None:
    del config["cluster_name"]
    config["cluster_nmae"] = "x"


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (no_such_head, ValueError),
        (no_head, ValueError),
        (unknown_key, ValidationError),
        (unknown_key_of_a_type, ValidationError),
        (unknown_key_of_auth, ValidationError),
        (more_min_than_max, AssertionError),
        (more_min_than_all, ValueError),
        (no_resources, ValidationError),
        (half_a_gpu, ValidationError),
        (a_command_that_is_none, ValidationError),
        (no_cluster_name, ValidationError),
    ],
)
@pytest.mark.parametrize("name", CLOUDS)
def test_the_same_checks_refuse_a_damaged_one(
    name: str, damage: Callable[[Config], None], error: type[Exception]
) -> None:
    config = load(name)
    damage(config)
    with pytest.raises(error):
        checked(config)


@pytest.mark.parametrize("missing", ["head_ip", "worker_ips"])
def test_own_machines_need_addresses(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(OWN)
    del config["provider"][missing]
    with pytest.raises(ClickException):
        checked(config)
    capsys.readouterr()


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_runs_no_trials_and_workers_come_from_zero(name: str) -> None:
    config = checked(load(name))
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0, "Ray starts machines of the head's type as workers, too"
    assert types
    assert [kind["min_workers"] for kind in types.values()] == [0] * len(types)
    assert all(0 < kind["max_workers"] <= config["max_workers"] for kind in types.values())
    assert 5 <= config["idle_timeout_minutes"] <= 30


def test_spot_and_on_demand_differ_in_how_they_are_bought_alone() -> None:
    """Arms are compared on one kind of device, and to Ray the two types must be equal."""
    types = load(AWS)["available_node_types"]
    market = types["gpu_spot"]["node_config"].pop("InstanceMarketOptions")
    assert market == {"MarketType": "spot"}
    assert types["gpu_spot"].pop("priority") > 0
    assert types["gpu_spot"] == types["gpu_on_demand"]


class SpotIsRefused(NodeProvider):
    """A cloud with on-demand machines only."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def create_node_with_resources_and_labels(
        self, node_config: Config, tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> dict[str, Any]:
        self.asked.append(tags["ray-user-node-type"])
        if "InstanceMarketOptions" in node_config:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no spot machines", None)
        return {}


class Silent:
    """Takes any call: metrics and events of the launcher."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "Silent":
        return self


@pytest.fixture
def aws() -> Config:
    """cluster.yaml as the autoscaler has it, after Ray has asked AWS what the machines are."""
    config = checked(load(AWS))
    for kind in ("gpu_spot", "gpu_on_demand"):
        config["available_node_types"][kind]["resources"] = dict(G5_XLARGE)
    return config


def scorer(config: Config) -> Any:
    """The function that the head's command names, found as Ray finds it."""
    words = start_commands(config)["head"]
    name = next(word for word in words if word.startswith("RAY_AUTOSCALER_UTILIZATION_SCORER="))
    assert "RAY_enable_autoscaler_v2=0" in words, "v2 does not ask the scorer"
    return load_function_or_class(name.partition("=")[2])


def wanted(
    config: Config, score: Any, tracker: NodeProviderAvailabilityTracker, trials: int = 1
) -> dict[str, int]:
    """Which machines Ray's scheduler starts for waiting trials."""
    types, left = get_nodes_for(
        config["available_node_types"],
        {"head": 1},
        config["head_node_type"],
        config["max_workers"],
        [TRIAL] * trials,
        partial(score, node_availability_summary=tracker.summary()),
    )
    assert left == [TRIAL] * max(0, trials - config["max_workers"])
    return dict(types)


def launch(config: Config, kind: str, cloud: NodeProvider, tracker: NodeProviderAvailabilityTracker) -> None:
    """Ray's launcher asks the cloud for a machine and notes what came of it."""
    pending = ConcurrentCounter()
    pending.inc(kind, 1)
    launcher = BaseNodeLauncher(
        provider=cloud,
        pending=pending,
        event_summarizer=Silent(),
        node_provider_availability_tracker=tracker,
        session_name="test",
        prom_metrics=Silent(),
        node_types=config["available_node_types"],
    )
    launcher.launch_node(config, 1, kind)


def test_spot_first_then_on_demand_then_spot_again(aws: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr("ray.autoscaler._private.node_launcher.time.time", lambda: now)
    tracker = NodeProviderAvailabilityTracker(timer=lambda: now)
    cloud, score = SpotIsRefused(), scorer(aws)
    assert wanted(aws, score, tracker) == {"gpu_spot": 1}
    assert wanted(aws, score, tracker, trials=6) == {"gpu_spot": 4}
    launch(aws, "gpu_spot", cloud, tracker)
    assert wanted(aws, score, tracker) == {"gpu_on_demand": 1}
    launch(aws, "gpu_on_demand", cloud, tracker)
    assert wanted(aws, score, tracker, trials=6) == {"gpu_on_demand": 4}
    assert cloud.asked == ["gpu_spot", "gpu_on_demand"]
    now += 31 * 60
    assert wanted(aws, score, tracker) == {"gpu_spot": 1}


def test_without_the_scorer_ray_asks_for_refused_spot_machines_again(aws: Config) -> None:
    """Why there is `spot_first`: where this fails, Ray has learnt it."""
    usual = load_function_or_class(
        "ray.autoscaler._private.resource_demand_scheduler._default_utilization_scorer"
    )
    tracker = NodeProviderAvailabilityTracker()
    launch(aws, "gpu_spot", SpotIsRefused(), tracker)
    assert wanted(aws, usual, tracker) == {"gpu_spot": 1}


def test_a_refused_cpu_machine_is_not_replaced_by_one_with_a_gpu(aws: Config) -> None:
    types = aws["available_node_types"]
    types["cpu"] = {"resources": {"CPU": 4}, "max_workers": 4, "node_config": {"InstanceMarketOptions": {}}}
    tracker = NodeProviderAvailabilityTracker()
    launch(aws, "cpu", SpotIsRefused(), tracker)
    score = partial(scorer(aws), node_availability_summary=tracker.summary())
    assert get_nodes_for(types, {"head": 1}, "head", 4, [{"CPU": 1.0}], score) == ({"cpu": 1}, [])
    assert score({"CPU": 0}, [TRIAL], "head") is None


@pytest.mark.parametrize("name", ALL)
def test_start_commands_ask_for_the_token_and_bind_the_dashboard_to_loopback(name: str) -> None:
    config = checked(load(name))
    commands = start_commands(config)
    for words in commands.values():
        assert words[:3] == ["ulimit", "-n", "65536;"]
        assert "RAY_AUTH_MODE=token" in words[: words.index("start")]
    head = commands["head"]
    assert "--head" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head, "the head would start no workers"
    assert "--dashboard-host=127.0.0.1" in head
    assert "--address=$RAY_HEAD_IP:6379" in commands["worker"]


@pytest.mark.parametrize("name", ALL)
def test_every_node_gets_the_token_for_its_user_alone(name: str) -> None:
    config = checked(load(name))
    assert ("~/.ray/auth_token", "~/.ray/auth_token") in config["file_mounts"].items()
    for who in ("head", "worker"):
        assert "chmod 600 ~/.ray/auth_token" in config[f"{who}_setup_commands"][0]


@pytest.mark.parametrize("name", ALL)
def test_set_up_installs_this_project_with_its_constraints_into_its_own_environment(name: str) -> None:
    config = checked(load(name))
    assert config["file_mounts"]["~/study"] == "."
    assert not any(pattern.endswith(".git") for pattern in config["rsync_exclude"]), (
        "trials name their commit"
    )
    for who in ("head", "worker"):
        commands = config[f"{who}_setup_commands"]
        installing = [command for command in commands if "pip install" in command]
        assert all("pip install --python ~/" in command for command in installing), installing
        (ours,) = (command for command in installing if "-e ~/study" in command)
        assert "-c ~/study/constraints.txt" in ours
        assert "'ray[default]'" in ours
        (venv,) = (command for command in commands if "uv venv" in command)
        python = re.search(r"--python (\S+)", venv)[1]
        assert f"Python {python}" in (ROOT / "constraints.txt").read_text().splitlines()[0]


def test_the_rayjob_is_what_its_fields_allow() -> None:
    job = load(RAYJOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert set(spec) <= {
        *("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"),
        *("rayClusterSpec", "runtimeEnvYAML", "submissionMode"),
    }
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray_version()
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["replicas"] == workers["minReplicas"] == 0
    for group in (cluster["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"].rpartition(":")[2] == ray_version()
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"]: "/shared" for volume in pod["volumes"]}


def test_the_rayjob_scales_as_ray_understands_it() -> None:
    """By the function with which the autoscaler of a KubeRay head reads its cluster."""
    job = load(RAYJOB)
    cluster = {
        "metadata": {"name": "study", "namespace": "default"},
        "spec": copy.deepcopy(job["spec"]["rayClusterSpec"]),
    }
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert (head["resources"]["CPU"], head["resources"]["GPU"], head["max_workers"]) == (0, 0, 0)
    (workers,) = types.values()
    assert (workers["resources"]["CPU"], workers["resources"]["GPU"]) == (4, 1)
    assert (workers["min_workers"], workers["max_workers"]) == (0, 4)
    assert config["idle_timeout_minutes"] == 10


def test_the_rayjob_runs_a_study_on_the_shared_volume() -> None:
    words = shlex.split(load(RAYJOB)["spec"]["entrypoint"])
    assert words[:2] == ["python", "/home/ray/study/study/run.py"]
    assert not {"&&", ";", "|"} & set(words), "there is no shell"
    args = options.parser().parse_args(words[2:])
    assert args.address == "auto"
    assert args.gpus_per_trial, "without GPUs in the cluster yet, trials would ask for none"
    for folder in (args.output, args.storage, args.data_dir):
        assert Path(folder).is_relative_to("/shared")


def test_the_image_is_built_with_the_same_ray_and_all_rooms() -> None:
    lines = (ROOT / "docs/clusters/Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray_version()}-py311" in lines
    assert lines.count(f":{ray_version()}") == 3
    assert "-c constraints.txt" in lines
    for copied in re.findall(r"^COPY --chown=\S+ (.+) \S+$", lines, re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
    for room in ("analysis", "search_spaces", "study", "trainables"):
        assert f"{room} {room}" in lines


def test_every_command_of_the_page_is_one_that_the_program_understands() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    calls = study_commands(text)
    assert len(calls) == text.count("study/run.py -"), "a call that this test does not see"
    assert len(calls) > 5
    for call in calls:
        try:
            args = options.parser().parse_args(call)
        except SystemExit:
            pytest.fail(f"docs/cluster.md: study/run.py {shlex.join(call)}")
        if args.address and not args.plan:
            assert args.gpus_per_trial is not None or args.max_concurrent, f"asks for no GPU: {call}"
    with pytest.raises(SystemExit):
        options.parser().parse_args(study_commands("python study/run.py --spaec quickstart")[0])


def test_every_file_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs/cluster.md").read_text()
    named = set(re.findall(r"(?:docs/clusters/[\w.-]+|cluster\.yaml)", text)) | {
        f"docs/{link}" for link in re.findall(r"\]\((clusters/[\w.-]+)\)", text)
    }
    assert {AWS, GCP, OWN, RAYJOB, "docs/clusters/Dockerfile"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
