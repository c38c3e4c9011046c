"""A study on a cluster of several hosts: what they must share, what may go and come, who may come in."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from network import RAY, Host, network
from studies import (
    ROOT,
    STUDY,
    TINY,
    check_equal,
    ledger,
    records,
    slowed_down,
)

LACKING = 4
"""Number of the host that lacks a module."""
LACKS_A_MODULE = """
import os


class Lacking:
    def find_spec(self, name, path, target=None):
        if name == os.environ.get("LACKS_A_MODULE"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Lacking())
"""


class Lab:
    """Five hosts; on the first is the head of a Ray cluster, where drivers run and trials do not.

    Attributes:
        hosts: all five; on the last, Python cannot import what trains.
        shared: a folder that all hosts see.
        own: a folder with the same path on all hosts, and on each with other files.
    """

    def __init__(self, folder: Path, addresses: list[tuple[str, str]]) -> None:
        self.shared, self.own, self.logs = folder / "shared", folder / "own", folder / "logs"
        for made in (self.shared, self.own, self.logs):
            made.mkdir()
        self.token = folder / "token"
        self.token.touch(mode=0o600)
        self.token.write_text("0123456789abcdef" * 4)
        environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}
        environment |= slowed_down(folder)
        with (folder / "sitecustomize.py").open("a") as code:
            code.write(LACKS_A_MODULE)
        # The driver's files of its own are where this test can read them.
        self.hosts = [
            Host(name, address, private=[self.own] if number else [], environment=environment)
            for number, (name, address) in enumerate(addresses)
        ]
        if len(self.hosts) > LACKING:
            self.hosts[LACKING].environment["LACKS_A_MODULE"] = "trainables.tune"
        self.address = f"{self.hosts[0].address}:6379"

    def begin(self, number: int) -> None:
        """Start a host's Ray."""
        where = ("--head", "--port=6379", "--include-dashboard=false", "--num-cpus=0")
        if number:
            where = (f"--address={self.address}", "--num-cpus=1")
        self.hosts[number].start_ray(*where, log=self.logs / f"{number}.log")

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        """The command line on the head."""
        words = [sys.executable, ROOT / "study/run.py", *arguments, "--address", self.address]
        return subprocess.Popen(
            self.hosts[0].enter(*words, folder=self.own),
            env={**self.hosts[0].environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Lab]:
    """The head, with an empty database, and two hosts with a CPU for a trial each."""
    if os.geteuid() != 0:
        assert "CI" not in os.environ, "these tests must be run as root"
        pytest.skip("only root may make network namespaces")
    with network(5) as addresses:
        made = Lab(tmp_path_factory.mktemp("lab"), addresses)
        (made.own / "runs").mkdir()
        shutil.copy(empty_store, made.own / "runs/mlflow.db")
        try:
            for number in range(3):
                made.begin(number)
                if not number:
                    made.hosts[0].wait_for_ray()
            for host in made.hosts[:3]:
                host.wait_for_ray()
            yield made
        finally:
            for host in made.hosts:
                host.kill()


def test_what_a_node_has_for_itself_alone_is_refused(lab: Lab) -> None:
    """By default storage is the output folder, which is there on each host, and on each another one."""
    done = lab.run(*TINY)
    assert done.returncode == 2, done.stdout + done.stderr
    said = f"error: --storage: got '{lab.own}/runs', but node {lab.hosts[1].name[:-1]}"
    assert said in done.stderr
    assert "does not see what the driver writes there; allowed on a cluster: a folder that all" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (lab.own / "runs").rglob("*") if "checkpoints" in str(path)]
    assert ledger(lab.own).trials() == {}


def test_another_token_is_refused(lab: Lab) -> None:
    done = lab.run(*TINY, "--storage", lab.shared, RAY_AUTH_TOKEN="f" * 64)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: --address: no Ray to use at" in done.stderr
    assert "f" * 64 not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


OWN = """
from search_spaces import arms, product, trials
from trainables.extensions import augmentation, metric, term

SCALE = 1.0


@term
def cosine(z1, z2):
    return SCALE * (1 - (z1 * z2).sum(1) / (z1.norm(dim=1) * z2.norm(dim=1) + 1e-6)).mean()


@augmentation
def fade(images, u):
    return images * (0.5 + 0.5 * u[:, :, None, None])


@metric
def confidence(logits):
    return logits.softmax(1).amax(1).mean()


def mine():
    rows = product(seed=range(2), arm=arms([0.1], term="cosine"))
    return trials(
        rows, dataset="digits", backbone="convnet", augmentations=("rrc", "fade"), epochs=8, train_size=50,
        batch_size=25, feature_dim=32, hidden_dim=32,
    )
"""


def test_a_file_of_your_own_trains_on_hosts_that_do_not_have_it(lab: Lab) -> None:
    """What it defines goes with the trials; an edited term alone makes other trials."""
    file = lab.own / "elsewhere" / "my_study.py"
    file.parent.mkdir()
    file.write_text(OWN)
    arguments = ("--space", "elsewhere/my_study.py:mine", "--storage", lab.shared, "--experiment", "own")
    done = lab.run(*arguments, "--no-report")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(ledger(lab.own, "own"))
    assert found.keys() == {"ce/s0", "ce/s1", "cosine-0.1/s0", "cosine-0.1/s1"}
    assert {record.tags["host"] for record in found.values()} == {host.name for host in lab.hosts[1:3]}
    for name, record in found.items():
        (measured,) = (name for name in record.metrics if name.startswith("confidence-"))
        assert 0.1 < record.metrics[measured] < 1
        assert record.params["code"].startswith("fade@")
        assert record.params["term_code"].startswith("cosine@" if "cosine" in name else "none")
        assert "my_study.py" in record.kept

    file.write_text(
        OWN.replace("def mine():", "# A remark.\n\n\ndef mine():").replace("seed=range(2)", "seed=(1, 0)")
    )
    assert "4 done" in lab.run(*arguments, "--plan").stdout
    file.write_text(OWN.replace("SCALE = 1.0", "SCALE = 2.0"))
    assert "2 done, 0 half-done, 0 failed, 2 new" in lab.run(*arguments, "--plan").stdout
    file.write_text(OWN.replace("z1 * z2", "z1 * z2)"))
    wrong = lab.run(*arguments, "--plan")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == "study/run.py: error: my_study.py:10: unmatched ')'"


def test_a_host_goes_and_another_comes(lab: Lab, undisturbed: Path) -> None:
    """Trials of the lost one go on elsewhere; in the end nobody can tell from the ledger.

    One that was there lacks a module: it gets no more trials.
    """
    lab.begin(LACKING)
    lab.hosts[LACKING].wait_for_ray()
    process = lab.start(*STUDY, "--storage", lab.shared)
    deadline = time.monotonic() + 120
    states: set[Path] = set()
    while len({path.parent for path in states}) < 2:  # one trial on each host
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no state is saved"
        states = set(lab.shared.glob("checkpoints/*/[0-9]*"))
        time.sleep(0.1)
    lab.hosts[1].kill()
    lab.begin(3)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    lacking = f"node {lab.hosts[LACKING].address} cannot run a trial: ModuleNotFoundError: No module named"
    assert f"{lacking} 'trainables.tune'; no more trials there" in out
    assert "FAILED" not in out
    assert "resumes after epoch" in out
    assert out.count(f"node {lab.hosts[1].address} was lost: its trials go on elsewhere") == 1
    found = records(lab.own)
    assert {record.tags["host"] for record in found.values()} >= {lab.hosts[2].name, lab.hosts[3].name}
    assert lab.hosts[LACKING].name not in {record.tags["host"] for record in found.values()}
    assert sum(int(record.tags["attempts"]) for record in found.values()) == len(found) + 1
    for folder in ("results", "checkpoints"):
        assert list((lab.shared / folder).iterdir()) == []
        (lab.own / "runs" / folder).mkdir()  # where an undisturbed study has them
    check_equal(lab.own, undisturbed)
    assert list((lab.shared / "nodes").iterdir()) == []
    # Each host has prepared the data for itself.
    for host in (lab.hosts[2], lab.hosts[3]):
        listed = subprocess.run(
            host.enter("ls", lab.own / "data/prepared/digits"), check=True, capture_output=True, text=True
        )
        assert "train_images.npy" in listed.stdout


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Lab]:
    """A host with a head that takes jobs and trains, too."""
    if os.geteuid() != 0:
        assert "CI" not in os.environ, "these tests must be run as root"
        pytest.skip("only root may make network namespaces")
    with network(1) as addresses:
        made = Lab(tmp_path, addresses)
        (host,) = made.hosts
        where = ("--head", "--port=6379", "--dashboard-host=127.0.0.1", "--num-cpus=1")
        try:
            host.start_ray(*where, log=made.logs / "head.log")
            host.wait_for_ray()
            yield made
        finally:
            host.kill()


def test_a_job_is_taken_with_the_token_only(head: Lab, empty_store: Path) -> None:
    """The dashboard takes whatever code it is sent: it listens on loopback and asks for the token."""
    (host,) = head.hosts

    def submit(words: Sequence[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
        job = [RAY, "job", "submit", "--address=http://127.0.0.1:8265", "--", *words]
        return subprocess.run(
            host.enter(*job, folder=head.own),
            env={**host.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    study = [sys.executable, ROOT / "study/run.py", *TINY, "--only", "arm=ce", "--seeds", "1"]
    study += ["--output", head.own / "runs", "--data-dir", head.own / "data", "--no-report"]
    refused = submit(study, RAY_AUTH_TOKEN="f" * 64)
    assert refused.returncode != 0
    assert "invalid" in (refused.stdout + refused.stderr).lower()
    assert "f" * 64 not in refused.stdout + refused.stderr
    without = submit(study, RAY_AUTH_MODE="disabled")
    assert without.returncode != 0
    assert not (head.own / "runs").exists()

    (head.own / "runs").mkdir()
    shutil.copy(empty_store, head.own / "runs/mlflow.db")
    done = submit(study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete: 1 trials" in done.stdout
    (record,) = ledger(head.own).trials().values()
    assert record.status == "FINISHED"
    listening = subprocess.run(
        host.enter("ss", "-tlnH"), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    (dashboard,) = [line.split()[3] for line in listening if line.split()[3].endswith(":8265")]
    assert dashboard == "127.0.0.1:8265"
