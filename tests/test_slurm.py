"""The batch script for Slurm, without Slurm: what it runs stands in PATH and records how it was called."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "study" / "slurm.sbatch"
BASH = "/bin/bash"

RECORD = '#!/bin/bash\necho "${0##*/} $*" >> "$CALLS"\n'
STAND_INS = {
    # The driver: says what it was given, and ends with $ENDS at once, or with 138 when it is asked to.
    "python": """
[ "$1" = study/run.py ] || exit 1
echo "$PWD $RAY_TMPDIR CUDA=${CUDA_VISIBLE_DEVICES-unset} RAY_ADDRESS=${RAY_ADDRESS-unset}" > "$CALLS.driver"
stat -c %a "$RAY_TMPDIR" >> "$CALLS.driver"
[ -z "${ENDS-}" ] || exit "$ENDS"
trap 'echo "asked" >> "$CALLS.driver"; kill $!; exit 138' USR1
trap 'echo "terminated" >> "$CALLS.driver"; kill $!; exit 143' TERM
sleep 30 > /dev/null 2>&1 &
touch "$CALLS.runs"
wait
""",
    "scontrol": """
case $1 in
show) echo "   NodeAddr=node-a NodeHostName=a Version=22" ;;
requeue) exit "${REQUEUE-0}" ;;
esac
""",
    "srun": """
while [[ $1 = --* ]]; do shift; done
[ "$1" = getent ] && { echo "10.0.0.7 STREAM node-a"; exit; }
exec "$@"
""",
    "ray": """
trap 'echo "ray ends" >> "$CALLS"; kill $!; exit 0' TERM
[ -z "${RAY_FAILS-}" ] || { echo "no room for Ray" >&2; exit 1; }
mkdir -p "$RAY_TMPDIR/ray"
[[ $* != *--head* ]] || echo 10.0.0.7:4321 > "$RAY_TMPDIR/ray/ray_current_cluster"
sleep 30 > /dev/null 2>&1 &
wait
""",
}

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the job as Slurm does: a copy of the script, in another folder than the project's."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        file = tmp_path / "bin" / name
        file.write_text(RECORD + text)
        file.chmod(0o755)
    project = tmp_path / "project"
    (project / "study").mkdir(parents=True)
    (project / "study" / "run.py").touch()
    copy = tmp_path / "slurm_script"
    text, count = re.subn(r"^SCRATCH=/tmp\b", f"SCRATCH={tmp_path}", SCRIPT.read_text(), flags=re.MULTILINE)
    assert count == 1
    copy.write_text(text)

    started = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "CALLS": str(tmp_path / "calls"),
            "HOME": str(tmp_path),
            "RAY_ADDRESS": "elsewhere:6379",
            "RAY_AUTH_TOKEN": "token",
            "SLURM_JOB_ID": "70",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_CPUS_ON_NODE": "4",
            "SLURMD_NODENAME": "node-a",
            "SLURM_SUBMIT_DIR": str(project),
            **variables,
        }
        process = subprocess.Popen(
            [BASH, str(copy), *arguments],
            env=environment,
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=20)


def calls(folder: Path, name: str) -> list[str]:
    lines = (folder / "calls").read_text().splitlines()
    return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=20)
    return process.returncode, out


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


ARRAY = {"SLURM_ARRAY_JOB_ID": "66", "SLURM_ARRAY_TASK_ID": "3"}


def test_a_study_that_ends_gets_its_arguments_and_leaves_nothing(tmp_path: Path, start: Start) -> None:
    for code in (0, 1, 2):
        returned, out = ended(start("--space", "a space", "--only", "arm=ce", ENDS=str(code)))
        assert returned == code, out
    assert calls(tmp_path, "python") == ["study/run.py --space a space --only arm=ce"] * 3
    assert (tmp_path / "calls.driver").read_text().splitlines() == [
        f"{tmp_path}/project {tmp_path}/ray-70 CUDA= RAY_ADDRESS=unset",
        "700",
    ]
    assert not (tmp_path / "ray-70").exists()
    assert not calls(tmp_path, "scontrol")
    ended(start("--space", "quickstart", ENDS="0", SLURM_GPUS_ON_NODE="2"))
    assert "CUDA=unset" in (tmp_path / "calls.driver").read_text()


@pytest.mark.parametrize(
    ("number", "variables", "requeued"),
    [
        (signal.SIGUSR1, {}, ["requeue 70"]),
        (signal.SIGUSR1, ARRAY, ["requeue 66_3"]),  # 70 alone may name the whole array
        (signal.SIGUSR1, {"SLURM_RESTART_COUNT": "100"}, []),
        (signal.SIGUSR1, {"REQUEUE": "1"}, ["requeue 70"]),
        (signal.SIGTERM, {}, []),  # Slurm requeues what it preempts, and nobody what is cancelled
    ],
)
def test_a_signal_stops_the_study_in_order_and_the_time_limit_requeues_it(
    number: signal.Signals, variables: dict[str, str], requeued: list[str], tmp_path: Path, start: Start
) -> None:
    job = start("--space", "quickstart", **variables)
    wait_for((tmp_path / "calls.runs").exists)
    job.send_signal(number)
    code, out = ended(job)
    assert code == 138, out
    assert (tmp_path / "calls.driver").read_text().splitlines()[2:] == ["asked"]
    assert calls(tmp_path, "scontrol") == requeued
    assert ("back in the queue" in out) == (bool(requeued) and "REQUEUE" not in variables)
    assert not (tmp_path / "ray-70").exists()


def test_a_job_array_gives_each_task_a_seed_and_an_output(tmp_path: Path, start: Start) -> None:
    for given in ([], ["--output", "there"], ["--output=there"]):
        code, out = ended(start("--space", "ablations", *given, "--set", "epochs=9", ENDS="0", **ARRAY))
        assert code == 0, out
    assert calls(tmp_path, "python") == [
        f"study/run.py --space ablations --set epochs=9 --only seed=3 --output {folder}/seed-3 --no-report"
        for folder in ("runs", "there", "there")
    ]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ("--space x --until decided", ARRAY, "job array: got '--until'; allowed: without"),
        ("--space x --only seed=4", ARRAY, "job array: got 'seed=4'; allowed: without"),
        ("--space x --only=seed=4", ARRAY, "job array: got '--only=seed=4'; allowed: without"),
        ("--space x --tracking-uri=http://a", ARRAY, "job array: got '--tracking-uri=http://a'; allowed"),
        ("--space x --storage s3://a", ARRAY, "job array: got '--storage'; allowed: without"),
        ("--space x", {**ARRAY, "MLFLOW_TRACKING_URI": "http://a"}, "job array: MLFLOW_TRACKING_URI is set"),
        ("--space x --address auto", {}, "got '--address'; allowed: without"),
        ("", {}, "no arguments; allowed: sbatch study/slurm.sbatch --space NAME"),
        ("--space x", {"SLURM_JOB_ID": ""}, "there is no Slurm job here; allowed: sbatch study/slurm.sbatch"),
        ("--space x", {"SLURM_SUBMIT_DIR": "/"}, "no study/run.py in /; allowed: submit the job in"),
    ],
)
def test_what_a_job_refuses(
    arguments: str, variables: dict[str, str], message: str, tmp_path: Path, start: Start
) -> None:
    code, out = ended(start(*arguments.split(), **variables))
    assert code == 2
    assert out.startswith(f"study/slurm.sbatch: error: {message}")
    assert out.count("\n") == 1
    assert not (tmp_path / "calls").exists()


def test_several_nodes_are_one_cluster_that_outlives_the_driver(tmp_path: Path, start: Start) -> None:
    job = start("--space", "quickstart", SLURM_JOB_NUM_NODES="3", SLURM_GPUS_ON_NODE="2")
    wait_for(lambda: (tmp_path / "calls.runs").exists() and len(calls(tmp_path, "ray")) == 2)
    (address, work) = calls(tmp_path, "srun")
    assert address.endswith("--exclude=node-a getent ahostsv4 node-a")
    assert {"--nodes=2", "--ntasks=2", "--exclude=node-a", "--cpus-per-task=4"} <= set(work.split())
    starts = {("--head" in call): set(call.split()) for call in calls(tmp_path, "ray")}
    for options in starts.values():
        assert {"--num-cpus=4", "--num-gpus=2", "--block"} <= options
    assert {"--port=0", "--node-ip-address=10.0.0.7"} <= starts[True]
    assert "--address=10.0.0.7:4321" in starts[False]
    job.send_signal(signal.SIGTERM)
    code, out = ended(job)
    assert code == 138, out
    assert calls(tmp_path, "python")[-1] == "study/run.py --space quickstart --address auto"
    assert (tmp_path / "calls").read_text().count("ray ends") == 2
    assert not (tmp_path / "ray-70").exists()


def test_ray_that_does_not_start_is_said(tmp_path: Path, start: Start) -> None:
    code, out = ended(start("--space", "quickstart", SLURM_JOB_NUM_NODES="2", RAY_FAILS="yes"))
    assert code == 2
    assert "no room for Ray\n" in out
    assert out.endswith("study/slurm.sbatch: error: Ray did not start on the nodes of this job\n")
    assert not any("run.py" in call for call in calls(tmp_path, "python"))


def test_the_script_itself() -> None:
    lines = SCRIPT.read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(number < first_command for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    subprocess.run([BASH, "-n", SCRIPT], check=True)
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)
        assert not done.stdout
