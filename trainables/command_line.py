"""How all command lines look: their errors, and `--version`."""

import argparse
import contextlib
import errno
import itertools
import os
import re
import sys
import types
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TextIO

from trainables.redact import masked, plain
from trainables.trial import FIELDS

WIDTH = 300
"""Characters of a line of an error. It has two at most, after the one that says where help is."""
LONG_ARGUMENT = re.compile(r"(?<![\w'])'[^']{161,}'|\S{161,}")
"""What is cut first where an error would be longer: its beginning and end say which argument it is."""
LONGEST_NAME, LONGEST_PATH = 255, 3500
"""Bytes that file systems take: of one name, and of a folder that has room for what lies below it."""


UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors that standard output may have."""


class CommandLine(argparse.ArgumentParser):
    """A parser with `--version`, whose errors are a line or two after one that says where help is.

    argparse puts its usage before an error: nine lines for `study/run.py`, which hide what was wrong.
    """

    def __init__(self, **settings: Any) -> None:
        """Settings are those of `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **settings)
        sys.excepthook = _as_usual_if_read
        self.add_argument("--version", action="version", version=f"study {version('siamese-barlow-twins')}")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuse `--option=--`, of which argparse makes an empty list or a value, as its version will.

        And text that is none: it could be printed and recorded nowhere.
        """
        words = sys.argv[1:] if args is None else list(args)
        for word in words:
            if not word.isprintable() and re.search("[\ud800-\udfff]", word):
                self.error(f"got {os.fsencode(word)!r}, which is not UTF-8; allowed: text")
        for word in itertools.takewhile(lambda word: word != "--", words):
            option, _, value = word.partition("=")
            if option.startswith("--") and value == "--":
                self.error(f"{option}: got '--'; allowed: a value, or ./-- for a file of this name")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End the process with code 2."""
        usage = self.format_usage().strip()
        if message.startswith("unrecognized arguments: --") and (hint := _field_hint(message)):
            message += hint
        lines = f"{usage}  (see {self.prog} --help)", *brief(f"{self.prog}: error: {message}")
        self.exit(2, "\n".join(lines) + "\n")


def _as_usual_if_read(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Show an error that nobody has caught; none if it is that nobody reads: `… --plan | head`.

    Where the disk of standard output is full, that is one line.
    """
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        try:  # other pipes break, too, as that to a server that has gone; and other disks are full
            print(flush=True)
        except OSError as unwritten:
            give_up(sys.stdout)
            if not isinstance(unwritten, BrokenPipeError):
                name = Path(sys.argv[0]).name
                print(f"{name}: error: standard output: {unwritten.strerror}", file=sys.stderr)
            return
    sys.__excepthook__(kind, error, trace)


def give_up(stream: TextIO) -> None:
    """Lose what a stream still holds, which would fail again as the process ends and change its exit code."""
    with open(os.devnull, "wb") as nowhere, contextlib.suppress(OSError, ValueError):  # it may have no file
        os.dup2(nowhere.fileno(), stream.fileno())


def path(text: str) -> Path:
    """A path, for `type=` of an option: it can be made, with files below it."""
    whole = Path(text).absolute()
    if len(os.fsencode(whole)) > LONGEST_PATH or any(len(os.fsencode(p)) > LONGEST_NAME for p in whole.parts):
        allowed = f"names of at most {LONGEST_NAME} bytes, {LONGEST_PATH} together"
        raise argparse.ArgumentTypeError(f"got {text!r}; allowed: {allowed}")
    return Path(text)


def brief(message: str) -> list[str]:
    """What went wrong, in one line that may be shown, or two: nobody reads thousands of letters.

    What is left out is from the middle of long arguments, then from that of the second line.
    """
    text = re.sub(r"\s*\n\s*", " ", plain(masked(message)).strip())
    if len(text) <= WIDTH:
        return [text]
    text = LONG_ARGUMENT.sub(lambda argument: f"{argument[0][:100]}…{argument[0][-60:]}", text)
    if len(text) <= WIDTH:
        return [text]
    space = text.rfind(" ", WIDTH // 2, WIDTH)
    rest = text[space:].lstrip() if space > 0 else text[WIDTH:]
    if len(rest) > WIDTH:
        rest = f"{rest[: WIDTH // 2]}…{rest[1 - WIDTH // 2 :]}"
    return [text[: space if space > 0 else WIDTH], rest]


def _field_hint(message: str) -> str:
    """How to set a field of a trial that was given as an option; empty where it is none."""
    name, *value = message.removeprefix("unrecognized arguments: --").replace("=", " ").split(" ")[:2]
    field = name.replace("-", "_")
    return (
        f"; a field of trials is set by --set {field}={value[0] if value else 'VALUE'}"
        if field in FIELDS
        else ""
    )
