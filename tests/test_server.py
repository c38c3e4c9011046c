"""A study whose ledger is a server with passwords, and whose storage is an object store."""

import configparser
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import (
    HALF_STUDY,
    NO_JOBS,
    STUDY,
    WITHOUT_TSNE,
    at_start,
    check_equal,
    kill_tree,
    read_until,
    start,
)

from study.cli import options
from study.ledger.ledger import Ledger
from study.ledger.storage_uri import storage_uri
from trainables.storage.filesystem import Storage

EXPERIMENT = "behind a server"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def tool(name: str) -> str:
    """A program of PostgreSQL's; Debian keeps them apart."""
    found = shutil.which(name) or next(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), None)
    if found is None:
        assert "CI" not in os.environ, "this test needs PostgreSQL"
        pytest.skip("PostgreSQL is not installed")
    return found


class Servers:
    """PostgreSQL, MLflow's server with basic auth in front of it, and an S3 service, all on loopback.

    Attributes:
        passwords: of the database, of MLflow's user, and the key of the object store.
        environment: of who is to use them.
        uri: of the tracking server.
        storage: for `--storage`.
        logs: of the servers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.logs.mkdir()
        self.passwords = {name: secrets.token_urlsafe(18) for name in ("database", "user", "key")}
        self.processes: list[subprocess.Popen[Any]] = []
        # Root may not run a database, and whoever may does not see into folders of tests.
        self.base = Path(tempfile.mkdtemp(prefix="study-postgres-"))

    def start(self) -> None:
        self.database = self._postgres()
        s3 = free_port()
        self._serve("moto", s3, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)])
        keys = {"AWS_ACCESS_KEY_ID": "study", "AWS_SECRET_ACCESS_KEY": self.passwords["key"]}
        self._mlflow({**keys, "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3}"}, s3)
        self.storage = f"s3://storage/study?region=us-east-1&scheme=http&endpoint_override=127.0.0.1:{s3}"
        self.environment = {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.passwords["user"],
            **keys,
        }

    def _serve(self, name: str, port: int, command: list[str], **environment: str) -> None:
        log = self.logs / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        wait_for(port, process, log)

    def _postgres(self) -> str:
        """Start a database; returns its address, which holds its password."""
        base = self.base
        as_user = []
        if os.geteuid() == 0:
            shutil.chown(base, "postgres", "postgres")
            as_user = ["/sbin/runuser", "-u", "postgres", "--"]
        secret = base / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.passwords["database"])
        if as_user:
            shutil.chown(secret, "postgres", "postgres")
        made = [
            tool("initdb"),
            "-D",
            base / "data",
            "-A",
            "scram-sha-256",
            "-U",
            "mlflow",
            "--pwfile",
            secret,
        ]
        subprocess.run([*as_user, *made, "--no-sync"], check=True, capture_output=True, cwd="/")
        port = free_port()
        served = [tool("postgres"), "-D", base / "data", "-h", "127.0.0.1", "-p", str(port), "-k", base]
        self._serve("postgres", port, [*as_user, *map(str, served), "-F"])
        passfile = self.folder / "pgpass"
        passfile.touch(mode=0o600)
        passfile.write_text(f"127.0.0.1:{port}:*:mlflow:{self.passwords['database']}\n")
        ready = [tool("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, check=False).returncode:  # it listens before it answers
            assert time.monotonic() < deadline, (self.logs / "postgres.log").read_text()
            time.sleep(0.1)
        for name in ("ledger", "users"):
            command = [tool("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", name]
            subprocess.run(command, check=True, env={**os.environ, "PGPASSFILE": str(passfile)})
        return f"postgresql://mlflow:{self.passwords['database']}@127.0.0.1:{port}"

    def _mlflow(self, environment: dict[str, str], s3: int) -> None:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{s3}",
            aws_access_key_id="study",
            aws_secret_access_key=self.passwords["key"],
            region_name="us-east-1",
        )
        for bucket in ("artifacts", "storage"):
            client.create_bucket(Bucket=bucket)
        config = configparser.ConfigParser(interpolation=None)
        config["mlflow"] = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": f"{self.database}/users",
            "admin_username": "admin",
            "admin_password": self.passwords["user"],
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": "300",  # or each request costs a tenth of a second for its password
        }
        file = self.folder / "auth.ini"
        file.touch(mode=0o600)
        with file.open("w") as text:
            config.write(text)
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", "s3://artifacts"]
        self._serve(
            "mlflow",
            port,
            command,
            MLFLOW_BACKEND_STORE_URI=f"{self.database}/ledger",  # not where `ps` shows it
            MLFLOW_AUTH_CONFIG_PATH=str(file),
            MLFLOW_FLASK_SERVER_SECRET_KEY=secrets.token_hex(16),
            **NO_JOBS,
            **environment,
        )

    def stop(self) -> None:
        for process in reversed(self.processes):
            kill_tree(process)
        shutil.rmtree(self.base)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(tmp_path_factory.mktemp("servers"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def ledger(servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ledger:
    for name, value in servers.environment.items():
        monkeypatch.setenv(name, value)
    return Ledger(uri=servers.uri, experiment=EXPERIMENT, artifact_root=tmp_path)


class ProcessList(threading.Thread):
    """Looks again and again at what all users see of the processes."""

    def __init__(self, secrets: list[str]) -> None:
        super().__init__(daemon=True)
        self.secrets = [secret.encode() for secret in secrets]
        self.looks = 0
        self.found: list[bytes] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.found += [line for secret in self.secrets if secret in line]


def holding(folder: Path, secrets: list[str]) -> list[Path]:
    """Files that hold one of the secrets."""
    wanted = [secret.encode() for secret in secrets]
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in wanted)
    ]


def test_the_same_ledger_behind_a_server(
    servers: Servers,
    ledger: Ledger,
    tmp_path: Path,
    undisturbed: Path,
) -> None:
    """Killed once; and no secret is anywhere but where it was put."""
    secrets = list(servers.passwords.values())
    with_report = [word for word in HALF_STUDY if word != "--no-report"]
    arguments = [*with_report, "--experiment", EXPERIMENT, "--storage", servers.storage]
    processes = ProcessList(secrets)
    processes.start()
    first = start(tmp_path, *arguments, environment=servers.environment)
    said = read_until(first, "[1/2]")
    kill_tree(first)
    quick = {**servers.environment, **at_start(tmp_path, WITHOUT_TSNE)}
    second = start(tmp_path, *arguments, environment=quick)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, out + err
    assert "complete: 2 trials" in out
    processes.stopped.set()
    processes.join()

    for left in ("results", "checkpoints"):
        (tmp_path / "runs" / left).mkdir()  # where other studies have them
    check_equal(tmp_path, undisturbed, seeds=1, of=ledger)
    storage = Storage(storage_uri(options.parser().parse_args(arguments)))
    assert storage.names("results") == []
    assert storage.folders("checkpoints") == []

    assert processes.looks > 20
    assert processes.found == []
    for text in (said, out, err):
        assert not any(secret in text for secret in secrets)
    assert holding(tmp_path, secrets) == []
    assert holding(servers.logs, secrets) == []
    assert holding(Path(os.path.realpath(Path(tempfile.gettempdir(), "ray/session_latest"))), secrets) == []
    runs = ledger.client.search_runs([ledger.experiment_id])
    assert not any(secret in str(run.to_dictionary()) for run in runs for secret in secrets)
    (study,) = [run for run in runs if run.data.tags.get("kind") == "study"]
    report = ledger.artifact(study.info.run_id, "report.html").read_text()
    assert f'href="{servers.uri}/#/' in report
    assert not any(secret in report for secret in secrets)


def test_a_wrong_password_is_one_line(servers: Servers, tmp_path: Path) -> None:
    wrong = {**servers.environment, "MLFLOW_TRACKING_PASSWORD": "a-wrong-one"}
    process = start(tmp_path, *STUDY, "--experiment", EXPERIMENT, environment=wrong)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    usage, *lines = err.strip().splitlines()
    assert usage.startswith("usage: ")
    line = " ".join(lines)
    assert line.startswith(f"study/run.py: error: --tracking-uri: no ledger at {servers.uri}: ")
    assert "401" in line
    assert "a-wrong-one" not in out + err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_one_line(
    servers: Servers, ledger: Ledger, tmp_path: Path
) -> None:
    nowhere = servers.storage.replace("s3://storage/", "s3://no-such-bucket/")
    process = start(tmp_path, *STUDY, "--storage", nowhere, environment=servers.environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, out + err
    assert "error: --storage: s3://no-such-bucket/study?" in err
    assert "cannot be written (Bucket 'no-such-bucket' not found" in err
    assert "Traceback" not in err
    of = Ledger(uri=servers.uri, experiment="siamese-barlow-twins", artifact_root=tmp_path)
    assert not of.exists() or of.trials() == {}
