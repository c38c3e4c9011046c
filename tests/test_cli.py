"""First and last contact: what the commands say before, while and after trials run."""

import errno
import io
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console
from studies import ROOT
from synthetic import Made, fill, results

from analysis import report
from search_spaces import SEARCHES, SPACES, folder_name, select
from study.__main__ import COMMANDS
from study.__main__ import main as study
from study.cli import options, progress, summary
from study.cli.invocation import parse_invocation
from study.cli.output import unfailing_output
from study.cluster.execute import GracefulStop
from study.ledger.search_state import load_search_state
from study.planning.plan import make_plan
from study.recording.events import EpochDone, Resumed, Started
from study.run import main
from trainables import machine
from trainables.command_line import brief
from trainables.setting import nearest
from trainables.trial import FIELDS


def test_without_options_it_says_what_one_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "python study/run.py --space quickstart --plan " in out
    assert [name for name in (*SPACES, *SEARCHES) if f"\n  {name} " not in out] == []
    assert max(map(len, out.splitlines())) <= 100
    assert study(["run"]) == 0
    assert "  study run --space quickstart " in capsys.readouterr().out


def test_the_console_script_has_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["study"]
    module, _, function = script.partition(":")
    assert getattr(import_module(module), function) is study
    with pytest.raises(SystemExit) as ended:
        study([])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n  {name} " not in out] == []


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_version_and_help_of_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as ended:
            study([*command, option])
        assert ended.value.code == 0
    shown = " ".join(["study", *command])
    version, usage, *_ = capsys.readouterr().out.splitlines()
    assert version.startswith("study 0.")
    assert usage.startswith(f"usage: {shown} ")


@pytest.mark.parametrize(
    ("command", "usage", "message"),
    [
        ("rnu", "study COMMAND [options]  (see study --help)", "study: error: got 'rnu'; allowed: run, rep"),
        (
            "reprot --space quickstart",
            "study COMMAND [options]  (see study --help)",
            "study: error: got 'reprot' (did you mean 'report'?); allowed: run, ",
        ),
        (
            "run --spcae quickstart",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: unrecognized arguments: --spcae quickstart",
        ),
        (
            "run --space quickstart --train-size 80",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: unrecognized arguments: --train-size 80; a field of trials is set by --set"
            " train_size=80",
        ),
        (
            "run --space quickstart --seeds=-- --plan",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: --seeds: got '--'; allowed: a value, or ./-- for a file of this name",
        ),
        (
            "clean --output=--",
            "study clean [KIND …] [options]  (see study clean --help)",
            "study clean: error: --output: got '--'; allowed: a value, or ./-- ",
        ),
        (
            "run --space quickstart --plan --cpus-per-trial 1e400",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: --cpus-per-trial: got inf; allowed: a number > 0",
        ),
        (
            "run --space quickstart --plan --storage s3://",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: --storage: got 's3://'; allowed: a folder, or an address as s3://bucket/folder",
        ),
        (
            "run --space \udcff --plan",
            "study run --space NAME [options]  (see study run --help)",
            "study run: error: got b'\\xff', which is not UTF-8; allowed: text",
        ),
        (
            "clean all",
            "study clean [KIND …] [options]  (see study clean --help)",
            "study clean: error: KIND: got 'all'; allowed: leftovers, ",
        ),
    ],
)
def test_an_error_is_one_line_after_where_help_is(
    command: str, usage: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        study(command.split())
    assert ended.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"usage: {usage}"
    assert second.startswith(message)


@pytest.mark.parametrize("option", ["--output", "--data-dir", "--storage"])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        study(["run", "--space", "quickstart", option, "beginning" + 300 * "x" + "end"])
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[1]
    assert f"{option}: got 'beginningxxx" in error
    assert "xend'; allowed: " in error
    assert "255" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("short", ["short"]),
        (f"got '{'a' * 5000}z'; allowed: b", [f"got '{'a' * 99}…{'a' * 58}z'; allowed: b"]),
        ("one\n  two\x1b", ["one two\ufffd"]),
        ("ab " * 99 + "cd " * 99, ["ab " * 99 + "cd", ("cd " * 98).strip()]),
        ("ab " * 2000, [("ab " * 100).strip(), "ab " * 50 + "…" + ("ab " * 50).strip()]),
    ],
)
def test_an_error_is_short(message: str, lines: list[str]) -> None:
    shown = brief(message)
    assert shown == lines
    assert max(map(len, shown)) <= 300


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("optimizer", None),
        ("image_size", None),
        ("learning_rate", None),
        ("model", None),
        ("size", None),  # of train_size, batch_size, …
        ("batchsize", "batch_size"),
        ("schedule", "lr_schedule"),
        ("aug", "augmentations"),
        ("seeds", "seed"),
        ("", None),
    ],
)
def test_a_hint_is_given_where_it_is_close(given: str, meant: str | None) -> None:
    assert nearest(given, FIELDS) == (f" (did you mean {meant!r}?)" if meant else "")


def test_a_part_of_a_study_has_a_folder_of_its_own() -> None:
    assert folder_name("quickstart") == "quickstart"
    assert folder_name("quickstart", only=["seed=0"]) == "quickstart-only-seed-0"
    assert folder_name("a+b", assign=["epochs=2"]) == "a+b-set-epochs-2"
    one = folder_name("quickstart", only=["seed=0", "arm=ce,siamese-0"], assign=["lr=1", "epochs=3", "lr=2"])
    assert one == "quickstart-only-arm-ce-siamese-0-seed-0-set-epochs-3-lr-2"
    assert one == folder_name("quickstart", ["arm=ce,siamese-0", "seed=0"], ["epochs=3", "lr=2"])
    assert (
        folder_name("quickstart", assign=["dataset=folder:pets@64"])
        == "quickstart-set-dataset-folder-pets-64"
    )
    many = [f"{name}=100000" for name in ("epochs", "batch_size", "train_size", "hidden_dim", "feature_dim")]
    long = folder_name("quickstart", assign=many)
    assert len(long) == len("quickstart-") + 8
    assert long != folder_name("quickstart", assign=many[1:])


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a ledger that has no trial, as the current one."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("quickstart", "--space quickstart: the ledger has none of its trials yet; study/run.py trains them"),
        ("search", "--space search: the ledger has no configuration of it yet; study/run.py trains them"),
    ],
)
def test_a_report_of_nothing_is_an_error(
    store: Path, space: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        report.main(["--space", space, "--experiment", "test"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"analysis/report.py: error: {message}"
    assert not (store / "reports").exists()


def closing(arguments: str, findings: list[str]) -> list[str]:
    """The closing lines of a complete study."""
    args = options.parser().parse_args(shlex.split(arguments))
    console = Console(file=io.StringIO(), width=300)
    invocation = parse_invocation(args, console)
    selection = invocation.selection
    fill(
        Path("runs/mlflow.db"),
        Path("runs/mlartifacts"),
        [Made(config=trial, metrics=results(trial)) for trial in selection.trials],
    )
    records = invocation.ledger.trials()
    lines = summary.report_lines(findings, invocation.report_folder / "report.html", new=True, width=None)
    assert summary.print_summary(invocation, make_plan(selection, records, {}), None, lines) == 0
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.usefixtures("store")
def test_finalists_of_a_part_of_a_search_do_not_make_it_complete(capsys: pytest.CaptureFixture[str]) -> None:
    searching = parse_invocation(
        options.parser().parse_args(shlex.split("--space search --experiment test --trials 5 --budget 2h")),
        Console(width=300),
    )
    assert searching.search is not None
    state = load_search_state(searching.search, {}, {})
    selection = select("quickstart", seeds=1)
    fill(
        Path("runs/mlflow.db"),
        Path("runs/mlartifacts"),
        [Made(config=trial, metrics=results(trial)) for trial in selection.trials],
    )
    plan = make_plan(selection, searching.ledger.trials(), {})
    assert plan.complete
    cut = GracefulStop(reason="the budget of 2 h 00 min has no room for the rest", out_of_budget=True)
    assert summary.print_summary(searching, plan, None, [], state=state, cut=cut) == 1
    said = capsys.readouterr().out.splitlines()
    assert not [line for line in said if line.startswith(("complete:", "next:"))]
    assert said[-2] == (
        "the budget of 2 h 00 min has no room for the rest: 10 of 10 configurations are missing;"
        " 4 trials of finalists among the others finished"
    )
    assert said[-1].startswith("resume:   ")


@pytest.mark.usefixtures("store")
def test_the_last_lines_say_verdict_report_and_what_adds_something() -> None:
    told = closing("--space quickstart --experiment test", ["A is higher.", "B is not."])
    here = Path.cwd()
    assert told[:5] == [
        "complete: 12 trials",
        "verdict:  A is higher.",
        "          B is not.",
        f"report:   {here}/reports/quickstart/report.html",
        f"          file://{here}/reports/quickstart/report.html",
    ]
    assert told[5].startswith("compare:  mlflow ui ")
    assert told[7].startswith("next:     python ")
    assert told[7].endswith(" --seeds 6")


@pytest.mark.usefixtures("store")
def test_a_complete_study_needs_no_images(capsys: pytest.CaptureFixture[str]) -> None:
    """As one from an archive: who reads it may not have them. A single trial to run does."""
    here = "--space quickstart --set dataset=folder:mine --experiment test"
    selection = select("quickstart", assign=["dataset=folder:mine"])
    fill(
        Path("runs/mlflow.db"),
        Path("runs/mlartifacts"),
        [Made(config=trial, metrics=results(trial)) for trial in selection.trials],
    )
    assert main([*shlex.split(here), "--plan"]) == 0
    assert capsys.readouterr().out.startswith("12 planned: 12 done, ")
    assert main([*shlex.split(here), "--no-report"]) == 0
    assert "\ncomplete: 12 trials\n" in capsys.readouterr().out
    decided = ["--seeds", "3..5", "--until", "decided", "--plan"]
    assert main([*shlex.split(here), *decided, "--margin", "50"]) == 0
    assert "1 of 1 cells decided after 3 seeds" in capsys.readouterr().out
    for more in (["--seeds", "4", "--plan"], [*decided, "--margin", "0.01"]):
        with pytest.raises(SystemExit):
            main([*shlex.split(here), *more])
        assert "error: folder:mine: there is no folder data/mine;" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("part", ["--only seed=0", "--set seed=7"])
def test_no_command_that_would_train_nothing_is_proposed(part: str) -> None:
    told = closing(f"--space quickstart --experiment test {part}", [])
    assert told[0] == "complete: 4 trials"
    assert told[1].startswith("report:   ")
    assert not any(line.startswith("next:") for line in told)


def test_findings_are_wrapped_on_a_terminal() -> None:
    lines = summary.report_lines(["word " * 20], Path("/r"), new=False, width=60)
    assert lines[0].startswith("verdict:  word")
    assert lines[1].startswith("          word")
    assert max(map(len, lines)) <= 60
    assert lines[-2:] == ["report:   /r (unchanged)", "          file:///r"]


def test_the_time_left_is_that_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing before the pace is known: the first epoch waits for imports. Then 1 s an epoch."""
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    first, second, *_ = select("quickstart").trials
    console = Console(file=io.StringIO(), width=120, color_system=None)
    shown = progress.Progress(2, first.epochs + second.epochs, console)
    shown.on(Started(first, {}, 0))
    assert shown._time_left() == "0.0 s elapsed"
    assert shown.seconds_left is None
    now = 130.0  # half a minute of imports
    shown.on(EpochDone(first, {"epoch": 1, "train/loss": 2.5, "val/acc": 0.5}))
    assert shown._time_left() == "30.0 s elapsed"
    now = 140.0
    shown.on(EpochDone(first, {"epoch": 11, "train/loss": 2.5, "val/acc": 0.625}))
    assert shown._time_left() == "40.0 s elapsed, about 1 min 49 s left"
    assert shown.seconds_left == pytest.approx(109, abs=1)
    shown.on(Resumed(second, [{"epoch": 1}] * 40, ()))  # trained before: no pace, less to do
    assert shown._time_left() == "40.0 s elapsed, about 1 min 09 s left"
    console.print(shown._render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "validation 62.5%" in text
    assert "loss" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "words", [["--cuda-graphs"], ["--kernels", "tf32"], ["--cuda-graphs", "--mps", "auto"]]
)
def test_what_is_about_gpus_is_refused_where_no_trial_would_run_on_one(
    words: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is created; where there are GPUs, also if trials are to run on CPUs."""
    for gpus, more in ((0, []), (2, ["--gpus-per-trial", "0"])):
        monkeypatch.setattr(machine, "gpus", lambda gpus=gpus: gpus)
        with pytest.raises(SystemExit) as ended:
            main(["--space", "quickstart", *words, *more])
        assert ended.value.code == 2
        option = " ".join(words[:2]) if words[0] == "--kernels" else words[0]
        message = f"{option}: no trial would run on a GPU here; leave it out"
        assert capsys.readouterr().err.splitlines()[-1] == f"study/run.py: error: {message}"
        assert [path.name for path in here.iterdir()] == ["file"]


def plan_printed_to(stream: int, folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a plan."""
    command = [sys.executable, ROOT / "study/run.py", "--space", "quickstart", "--plan"]
    done = subprocess.run(command, cwd=folder, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_nobody_reads_what_is_printed(tmp_path: Path) -> None:
    """`… --plan | head` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)
    assert plan_printed_to(write, tmp_path) == (1, "")
    os.close(write)


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that takes nothing is Linux's")


@FULL
def test_the_disk_of_standard_output_is_full(tmp_path: Path) -> None:
    said = "run.py: error: standard output: No space left on device\n"
    with open("/dev/full", "w") as full:
        assert plan_printed_to(full.fileno(), tmp_path) == (1, said)


@FULL
@pytest.mark.usefixtures("store")
def test_a_log_on_a_full_disk_ends_no_study(tmp_path: Path) -> None:
    selection = select("quickstart")
    made = [Made(config=trial, metrics=results(trial)) for trial in selection.trials]
    fill(Path("runs/mlflow.db"), Path("runs/mlartifacts"), made)
    command = [sys.executable, ROOT / "study/run.py", "--space", "quickstart", "--experiment", "test"]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, stdout=full, stderr=full, check=False)
    assert process.returncode == 0
    assert Path("reports/quickstart/report.html").exists()


def test_what_cannot_be_written_is_lost_and_the_rest_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    with unfailing_output():
        print("lost")
        disk.full = False
        print("kept", flush=True)
        assert not sys.stdout.isatty()
    assert sys.stdout is disk
    assert disk.getvalue() == "kept\n"
