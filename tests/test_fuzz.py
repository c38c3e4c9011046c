"""Thousands of command lines that nobody would type: each is answered at once, in a few lines.

`FUZZ_CALLS=5000 FUZZ_SEED=1 python -m pytest -n 0 tests/test_fuzz.py` tries others, and more of them.
"""

import argparse
import contextlib
import functools
import gc
import io
import os
import random
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest

from search_spaces import SEARCHES, SPACES
from study import run
from study.__main__ import COMMANDS, main
from trainables import data
from trainables.command_line import WIDTH, CommandLine
from trainables.datasets import sources
from trainables.trial import FIELDS

CALLS, SEED = int(os.environ.get("FUZZ_CALLS", "500")), int(os.environ.get("FUZZ_SEED", "0"))
LONGEST, HANGS = 10, 60
"""Seconds of one call: of this process, and until it is said to hang, where others keep the machine busy."""
CODES = {"measure": {0, 1, 2}, "export": {0, 1, 2}, "merge": {0, 1, 2}}
"""Of every command 0 and 2. These document 1 for a part that is left: not measured, read or merged."""
PREPARE = "python -m trainables.data"
BASE = {
    "run": ["--space", "quickstart", "--plan"],
    "measure": ["--space", "quickstart", "--metric", "test_ece", "--plan"],
    "report": ["--space", "quickstart"],
    "tables": ["--space", "quickstart"],
    "export": ["study.zip"],
    "merge": ["runs", "--output", "other", "--plan"],
    "embeddings": ["--space", "quickstart"],
    PREPARE: ["digits"],
}
"""What makes a call a valid one: mostly an option or two are wrong, not all."""
NASTY = (
    *("", " ", "--", "-", "-1", "0", "1", "2", "3..5", "3..", "..", "1e400", "-0", "1e-300", "nan", "inf"),
    *("9" * 26, "9" * 5000, "1" * 300 + "d", "x" * 256, "x" * 5000, "x " * 2000, "a/" * 2000, "," * 1000),
    *("é", "γ", "٣", "a\nb", "\x1b[31m", "\u202e", "\t", "\udcff", "%20", "%s", "%(prog)s", "{}", "$(x)"),
    *("'", '"', "*", "a=b", "=", "=1", ":", "@", "+", "a,b", ",", "none", "None", "true", "NaN", "[]", "\\"),
    *("0x1", "../x", "/dev/null", "/dev/null/x", "/proc/x", "nowhere/x", "pipe", "pipe.py", "pipe.py:x"),
    *("folder.py:x", "junk.py", "junk.py:x", "link", "x.py:y", "x.zip", "http://", "http://[", "s3://"),
    *("http://127.0.0.1:1", "gs://", "s3://?a=b", "ftp://x", "file://", "file:x", "sqlite://x", ":1"),
    *("postgresql://127.0.0.1:1/x", "127.0.0.1:1", "127.0.0.1:99999", "auto", "ray://127.0.0.1:1", "local"),
)
VALUES = {
    "space": [*SPACES, *SEARCHES, "quickstart,thesis", "quickstart,search", "quickstart,quickstart"],
    "only": ["arm=ce", "seed=0", "seed=0,1", "arm=x", "epochs=60", "method=ce", "seed=", "arm=ce,,ce"],
    "assign": [
        "epochs=3",
        "dataset=folder:x",
        "dataset=folder:../x",
        "dataset=cifar10",
        "fold=0",
        "term=byol",
    ],
    "seeds": ["1", "1000", "3..12", "12..3", "3..1000", "1001"],
    "until": ["decided"],
    "margin": ["0.5", "100", "1e-9"],
    "trials": ["1", "20", "10000"],
    "objective": ["val_acc", "val_acc,train_seconds", "test_acc", "val_acc,val_acc"],
    "budget": ["1h30m", "1e9d", "0s"],
    "report_every": ["never", "0", "10m"],
    "experiment": ["test", "..", "nodes", "a/b"],
    "metric": ["test_ece", "test_ece,test_ce", "x"],
    "output": ["runs", "other"],
    "names": ["digits", "folder:x", "folder:x@0", "folder:x@99999999", "folder:"],
    "published": ["junk.csv", "runs"],
    "kinds": ["leftovers", "tune", "stale", "unfinished", "all"],
    "cpus_per_trial": ["0.5", "1", "1e9"],
    "gpus_per_trial": ["0.25", "1.5", "2"],
}
"""By the name of an option: what it takes, or nearly."""
LEFT_OUT = ("probe", "wait")
"""Options that make a valid call long: they train, or wait."""


class _Captured(Exception):
    pass


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, as its `main` makes it."""

    def capture(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Captured(parser)

    with mock.patch.object(CommandLine, "parse_args", capture), pytest.raises(_Captured) as captured:
        call(command, ["--x"])
    parser: argparse.ArgumentParser = captured.value.args[0]
    return parser


def call(command: str, words: Sequence[str]) -> int:
    return data.main(words) if command == PREPARE else main([command, *words])


def value_of(dice: random.Random, name: str) -> str:
    """A value for an option: a nasty one, one that it takes, or one that it nearly takes."""
    known = VALUES.get(name, [])
    if name == "assign" and dice.random() < 0.7:
        return f"{dice.choice(list(FIELDS))}={dice.choice(NASTY)}"
    if not known or dice.random() < 0.5:
        return dice.choice(NASTY)
    text = dice.choice(known)
    at = dice.randrange(len(text) + 1)
    return dice.choice([text, text, text[:at], text[:at] + dice.choice(NASTY) + text[at:], text.upper()])


def words_of(dice: random.Random, command: str, actions: Sequence[argparse.Action]) -> list[str]:
    """A command line: mostly a valid one with an option or a few more."""
    words = list(BASE.get(command, [])) if dice.random() < 0.85 else []
    for action in dice.choices(actions, k=dice.choice([0, 1, 1, 1, 2, 2, 3, 5])):
        value = value_of(dice, action.dest)
        if not action.option_strings:
            words.append(value)
            continue
        option = action.option_strings[-1]
        if dice.random() < 0.04:
            option = option[: dice.randrange(len(option))]
        takes = action.nargs != 0
        words += dice.choices(
            [[option, value], [f"{option}={value}"], [option], [f"{option}=--"]],
            weights=[8, 8, 1, 1] if takes else [1, 1, 8, 1],
        )[0]
    if words and dice.random() < 0.1:
        words.pop(dice.randrange(len(words)))
    return words


def tree(folder: Path) -> set[tuple[str, int]]:
    """All that lies in a folder, with times of change."""
    return {
        (os.path.join(place, name), os.lstat(os.path.join(place, name)).st_mtime_ns)
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }


def answer(command: str, words: Sequence[str]) -> tuple[int, str, float]:
    """Exit code and error output of a call, and how long it took."""
    # As in a terminal: what is no text cannot be printed.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = call(command, words)
        except SystemExit as ended:
            code = int(ended.code or 0)
    err.flush()
    return code, err.buffer.getvalue().decode(), time.process_time() - began  # type: ignore[attr-defined]


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an empty ledger and things in the way; nothing is trained or downloaded."""
    tmp_path /= "work"  # alone in the folder above, which is looked at, too
    (tmp_path / "runs").mkdir(parents=True)
    shutil.copy(empty_store, tmp_path / "runs/mlflow.db")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "junk.py").write_bytes(b"\xff\x00 def")
    (tmp_path / "junk.csv").write_bytes(b"\xff\x00,,,\n1")
    (tmp_path / "link").symlink_to("link")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run, "_locked_study", lambda invocation: 0)

    def refuse(*_: object) -> None:
        raise sources.DataError("no network here")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.setattr(sources, "_digits", functools.cache(sources._digits))  # half a second each
    thresholds, on_alarm = gc.get_threshold(), signal.getsignal(signal.SIGALRM)
    on_terminate = signal.getsignal(signal.SIGTERM)

    def hung(*_: object) -> None:
        raise AssertionError("it hangs")

    signal.signal(signal.SIGALRM, hung)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, on_alarm)
    signal.signal(signal.SIGTERM, on_terminate)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_every_command_line_is_answered_at_once_in_a_few_lines(workplace: Path) -> None:
    dice = random.Random(SEED)  # noqa: S311  # no secrets
    commands = {
        command: [action for action in parser_of(command)._actions if action.dest not in LEFT_OUT]
        for command in (*COMMANDS, PREPARE)
    }
    codes: dict[str, set[int]] = {command: set() for command in commands}
    for _ in range(CALLS):
        command = dice.choice([*commands, "run", "run"])
        words = words_of(dice, command, commands[command])
        typed = shlex.join(
            [command, *(word if len(word) < 200 else f"{word[:9]}*{len(word)}" for word in words)]
        )
        before = tree(workplace.parent)
        signal.alarm(HANGS)
        try:
            code, err, seconds = answer(command, words)
        except BaseException as error:
            raise AssertionError(f"{typed!a}: {type(error).__name__}: {str(error)[:300]}") from error
        signal.alarm(0)
        lines = err.splitlines()
        assert code in CODES.get(command, {0, 2}), f"{typed!a}: {code}"
        assert len(lines) <= 3, f"{typed!a}: {err}"
        assert max(map(len, lines), default=0) <= WIDTH, f"{typed!a}: {err}"
        assert seconds < LONGEST, f"{typed!a}: {seconds:.1f} s"
        changed = tree(workplace.parent) - before
        if code == 2:
            assert lines[0].startswith("usage: "), f"{typed!a}: {err}"
            assert ": error: " in lines[1], f"{typed!a}: {err}"
            assert changed == set(), f"{typed!a}: {err}"
        codes[command].add(code)
    assert {command: 2 in seen for command, seen in codes.items()} == dict.fromkeys(codes, True)
    assert 0 in codes["run"], "no valid call: this test tries nothing"
