"""Closed doors: secrets stay where they are, and nobody's text commands anything of ours."""

import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from studies import ROOT, start

from analysis.plots.cache import FigureCache
from analysis.plots.style import save
from analysis.render.files import _write_single, read_stamp, refuse_links, write_atomic
from analysis.render.markdown import escape_markdown
from study.cli import options
from study.cluster import ray_internals
from study.ledger import tracking_uri
from study.ledger.pages import TRIALS, view_page
from study.ledger.storage_uri import storage_uri
from study.recording.holders import describe_holder
from study.recording.writer import log_waiting_bundles
from trainables.redact import first_line, masked, plain
from trainables.storage.bundles import Bundle, TrialResult, read_bundle, write_bundle
from trainables.storage.checkpoints import saved_epoch
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig

PASSWORD = "hunter2/and@more"  # noqa: S105  # both are allowed where SQLAlchemy reads it
Trained = Callable[..., TrialResult]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////home/me@work/mlflow.db", None),
        ("http://127.0.0.1:5000", None),
        (f"https://host/{view_page('1', TRIALS)}", None),
        ("s3://bucket/folder?region=us-west-2&scheme=http", None),
        ("postgresql://mlflow@db/mlflow", None),
        ("mail me@example.org", None),
        (f"postgresql://mlflow:{PASSWORD}@db:5432/mlflow", "postgresql://mlflow:***@db:5432/mlflow"),
        (f"postgresql+psycopg2://u:{PASSWORD}@h/d", "postgresql+psycopg2://u:***@h/d"),
        ("postgresql://db/mlflow?user=u&password=hunter2", "postgresql://db/mlflow?user=u&password=***"),
        ("https://ghp_hunter2@host/x", "https://***@host/x"),
        ("postgresql://me@h/db?sslkey=/home/me/client.key&passfile=/home/me/.pgpass2", None),
        ("https://b/x?X-Amz-Signature=hunter2&a=b", "https://b/x?X-Amz-Signature=***&a=b"),
        ("s3://AKIA:hunter2/key@bucket/x", "s3://AKIA:***@bucket/x"),
        ("s3://bucket?secret_key=hunter2&region=x", "s3://bucket?secret_key=***&region=x"),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7BODBC%7D%3BUID%3Dme%3BPWD%3Dhunter2&a=b",
            "mssql+pyodbc:///?odbc_connect=***&a=b",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=Driver={ODBC Driver 18};UID=me;PWD={hunter2; more}",
            "mssql+pyodbc:///?odbc_connect=***",
        ),
        ("mssql+pyodbc://db/x?a=b;PWD={hunter2;more};c", "mssql+pyodbc://db/x?a=b;PWD=***;c"),
        ("postgresql://db/x?options=-c%20password%3Dhunter2&a=%20b", "postgresql://db/x?options=***&a=%20b"),
        ("postgresql://db/x?pass%77ord=hunter2", "postgresql://db/x?pass%77ord=***"),
        ("https://b/x?to=https%253A%252F%252Fme%253Ahunter2%2540h", "https://b/x?to=***"),
        ("https://b/x?to=https%3A%2F%2Fhost%2Fa&name=a%20b", None),
        (
            "request to http://u:hunter2@h:1/api failed, then 'http://u:hunter2@h:1/b'",
            "request to http://u:***@h:1/api failed, then 'http://u:***@h:1/b'",
        ),
    ],
)
def test_masked(text: str, shown: str | None) -> None:
    assert masked(text) == (shown or text)
    assert tracking_uri.has_secret(text) == (shown is not None)


@pytest.mark.parametrize(
    "text",
    [
        "a." * 50_000,
        "x://" * 5_000,
        "?key" * 10_000,
        "http://u:p@h " * 5_000,
        "?a=%" * 10_000,
        "?a=" + "%25" * 30_000,
        "odbc_connect=" * 3 + "a%3B" * 30_000,
    ],
)
def test_masking_long_texts_ends(text: str) -> None:
    """A pattern that goes back and forth would take minutes."""
    assert len(masked(text)) >= min(len(text), 16)


@pytest.mark.parametrize("password", ["pa'ss", 'pa"ss', "pa ss"])
def test_a_password_with_quotes_is_one(password: str) -> None:
    uri = f"postgresql://me:{password}@127.0.0.1/db"
    assert tracking_uri.has_secret(uri)
    assert tracking_uri.redacted(uri) == "postgresql://me:***@127.0.0.1/db"


def test_what_an_exception_says_is_one_line_without_secrets() -> None:
    assert first_line(ValueError(f"no http://u:{PASSWORD}@h\nmore")) == "no http://u:***@h"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("a\x1b]52;c;Zm9v\x07b")) == "a\ufffd]52;c;Zm9v\ufffdb"
    assert plain("ä — 10⁻³\tα\n") == "ä — 10⁻³\tα\n"


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        (
            "study/run.py",
            ["--space", "quickstart", "--tracking-uri", f"postgresql://me:{PASSWORD}@127.0.0.1:9/db"],
            "--tracking-uri: got a password on the command line, where all users of this machine can read it",
        ),
        (
            "analysis/report.py",
            ["--space", "quickstart", "--tracking-uri", f"https://me:{PASSWORD}@127.0.0.1:9"],
            "--tracking-uri: got a password on the command line",
        ),
        (
            "study/run.py",
            ["--space", "quickstart", "--storage", f"s3://AKIA:{PASSWORD}@bucket/x"],
            "--storage: got 's3://AKIA:***@bucket/x', an address with a password or key; allowed: without",
        ),
        (
            "study/run.py",
            ["--space", "quickstart", "--experiment", ".."],
            "--experiment: got '..'; allowed: a name without '..', not ., checkpoints, nodes, results",
        ),
    ],
)
def test_refused_on_the_command_line(tmp_path: Path, script: str, arguments: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"error: {said}" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


class Broken(BaseHTTPRequestHandler):
    """A tracking server that answers everything with an error."""

    def do_GET(self) -> None:
        self.send_response(500)
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_password_from_the_environment_is_never_told(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://me:hunter2@127.0.0.1:{server.server_port}"
        process = start(tmp_path, "--space", "quickstart", environment={"MLFLOW_TRACKING_URI": uri})
        out, err = process.communicate(timeout=120)
        server.shutdown()
    assert process.returncode == 2, out + err
    assert f"no ledger at http://me:***@127.0.0.1:{server.server_port}: " in err
    assert "hunter2" not in out + err


def test_a_file_with_a_password_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    tracking_uri.check_secrets("http://127.0.0.1:5000")
    file = tmp_path / ".mlflow/credentials"
    file.parent.mkdir()
    file.write_text("[mlflow]\nmlflow_tracking_password = hunter2\n")
    file.chmod(0o644)
    with pytest.raises(ValueError, match=f"got mode 0644; allowed: chmod 600 {file}"):
        tracking_uri.check_secrets("http://127.0.0.1:5000")
    tracking_uri.check_secrets("sqlite:///mlflow.db")
    file.chmod(0o600)
    tracking_uri.check_secrets("http://127.0.0.1:5000")


def test_rays_token_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".ray/auth_token"
    ray_internals.guard_auth_token(create=False)
    assert not file.exists()
    ray_internals.guard_auth_token(create=True)
    token = file.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    file.chmod(0o644)  # as Ray would have made it
    ray_internals.guard_auth_token(create=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == token


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/etc/outside.txt", "no/such/folder.txt", ".hidden", "a\\b"]
)
def test_a_bundle_writes_nowhere_but_into_the_ledger(
    tmp_path: Path, trained: Trained, tiny: Callable[..., TrialConfig], name: str
) -> None:
    """Whoever may write to the storage is not to write to the driver's disk."""
    storage, config = Storage(tmp_path / "storage"), tiny()
    write_bundle(storage, Bundle(config=config, result=trained(), tags={}))
    file = tmp_path / f"storage/results/{config.key}.zip"
    content = io.BytesIO(file.read_bytes())
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(name.replace("/etc", str(tmp_path)), "stolen")
    file.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match=r"damaged result bundle .*: it has a file of the name"):
        read_bundle(storage, config.key)

    class Empty:
        def trials(self) -> dict[str, object]:
            return {}

    said: list[str] = []
    log_waiting_bundles(Empty(), storage, said.append)  # type: ignore[arg-type]
    assert said[0].endswith("it will be trained again")
    assert not file.exists()
    assert not list(tmp_path.rglob("outside.txt"))


def test_other_files_among_saved_states_are_nobodys(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for name in ("README", "99999999-notours!", ".00000001-abcdef01-1", "00000007-0123abcd"):
        storage.write(f"checkpoints/key/{name}", b"")
    assert saved_epoch(storage, "key") == 7


@pytest.mark.parametrize("text", ["[]", "7", "{", '{"host": "h\\u001b]0;PWNED\\u0007"}'])
def test_what_another_driver_says_of_itself_may_be_anything(text: str) -> None:
    said = describe_holder(text)
    assert said.startswith("process ? on ")
    assert said == plain(said)


def test_a_lists_names_delete_nothing_elsewhere(tmp_path: Path) -> None:
    """The lists of what an earlier report wrote lie in folders that others may have filled."""
    mine = tmp_path / "mine.tex"
    report = tmp_path / "report/latex"
    report.mkdir(parents=True)
    for name in ("mine.tex", "mine.png"):
        (tmp_path / name).touch()
    (report / ".tables").write_text(f"{tmp_path}/mine\n../../mine\nold\n")
    (report / "old.tex").touch()
    _write_single({"new": "table"}, report)
    assert mine.exists()
    assert {path.name for path in report.iterdir()} == {".tables", "new.tex"}
    gallery = FigureCache(folder=report, known={f"{tmp_path}/mine": "x", "../../mine": "x"})
    gallery.prune()
    assert (tmp_path / "mine.png").exists()


def test_links_in_a_folder_of_reports_lead_nowhere(tmp_path: Path) -> None:
    """A report writes into folders of its own, and replaces a link by a file."""
    mine, report = tmp_path / "mine", tmp_path / "report"
    mine.mkdir()
    for name in ("tables.md", "figure.png", "report.md"):
        (mine / name).write_text("mine")
    for name in ("figures", "tables", "tables/latex"):
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).symlink_to(mine)
        with pytest.raises(
            ValueError, match=f"--out: {report / name} is a link to {mine}, and a report over"
        ):
            refuse_links(report)
        (report / name).unlink()
    refuse_links(report)
    (report / "report.md").symlink_to(mine / "report.md")
    (report / f".report.md.{os.getpid()}").symlink_to(mine / "report.md")
    write_atomic(report / "report.md", "ours")
    assert (report / "report.md").read_text() == "ours"
    (report / "figures").mkdir()
    (report / "figures/figure.png").symlink_to(mine / "figure.png")
    save(Figure(figsize=(1, 1)), report / "figures", "figure")
    assert (report / "figures/figure.png").read_bytes().startswith(b"\x89PNG")
    assert {path.read_text() for path in mine.iterdir()} == {"mine"}
    os.mkfifo(report / ".rendered")  # reading it would wait for ever
    assert read_stamp(report) == {}


def test_text_of_the_ledger_is_no_markdown() -> None:
    assert escape_markdown("*a* _b_ c_d &lt; a|b ~e~") == r"\*a\* \_b\_ c_d \&lt; a\|b \~e\~"
    assert (
        escape_markdown("<img src=x> ![b](http://e) [c](javascript:1)\n# `d`")
        == r"\<img src=x\> \!\[b\](http://e) \[c\](javascript:1) # \`d\`"
    )


def test_storage_of_each_experiment_stays_in_its_folder() -> None:
    def uri(experiment: str, storage: str = "/shared") -> str:
        words = ["--space", "quickstart", "--storage", storage, "--experiment", experiment]
        return storage_uri(options.parser().parse_args(words))

    for bad in ("../../etc", "nodes", "results"):
        with pytest.raises(ValueError, match="--experiment: got"):
            uri(bad)
    assert uri("mine") == "/shared/mine"
    assert uri("mine", "s3://bucket/a/?region=x&scheme=http") == "s3://bucket/a/mine?region=x&scheme=http"
    assert uri("two words", "s3://bucket") == "s3://bucket/two%20words"
    assert uri("two words") == "/shared/two words"


def test_lines_for_people_command_no_terminal(tmp_path: Path) -> None:
    from study.cli.invocation import Invocation
    from study.cli.progress import Progress

    console = Console(file=io.StringIO(), width=200)
    Progress(1, 1, console).note(f"\x1b]52;c;Zm9v\x07 http://u:{PASSWORD}@h")
    Invocation.say(type("Invocation", (), {"console": console})(), "\x1b[2J done")  # type: ignore[arg-type]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    assert "hunter2" not in shown
    assert json.dumps(shown).count("\\ufffd") == 3
    assert os.linesep in shown
