"""What a study prints while it trains: a log on a full disk ends no study."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from trainables.command_line import give_up


class _Unfailing:
    """A stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def unfailing_output() -> Iterator[None]:
    """Within it, standard output and standard error take everything.

    The disk of a log may be full, its quota used up, or the program dead that read it. A study of weeks has
    its own places for what counts. Once there is room again, what is printed then can be read.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unfailing(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in streams:
            try:
                stream.flush()
            except OSError:
                give_up(stream)
