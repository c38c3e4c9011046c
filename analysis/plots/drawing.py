"""Figures are drawn and written by several processes: half of a report's time is that of its figures.

As a script, which `Drawing` starts, this is one of the others: it gets pickled tasks on its standard input
and answers each with a line. It ends with its input, and so with the process that started it.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from matplotlib.figure import Figure

from analysis.plots.style import save
from trainables.machine import cores

MOST_PROCESSES = 3
"""Other processes at most: a report has about ten figures, and each process takes 200 MB."""
MOST_WAITING = 4
"""Figures that wait at once, so that memory does not grow with the number of figures."""
DONE = b"done\n"


def others_here() -> int:
    """How many further processes there are cores for."""
    return min(cores() - 1, MOST_PROCESSES)


@dataclass(frozen=True, slots=True)
class Task:
    """A figure, or a function that draws it, to be written into `folder` as PNG and PDF."""

    figure: Figure | Callable[[], Figure]
    folder: Path
    name: str

    def do(self) -> None:
        """Draw and write it."""
        save(self.figure if isinstance(self.figure, Figure) else self.figure(), self.folder, self.name)


@dataclass(slots=True)
class Drawing:
    """Draws figures: in `others` further processes, which start with the first figure, and in this one.

    What another process cannot do, or does not finish, this one does: its errors are those of drawing here.
    Use it as a context manager, at whose end the other processes end.
    """

    others: int = 0
    _waiting: deque[Task] = field(default_factory=deque, init=False)
    _returned: deque[Task] = field(default_factory=deque, init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _ended: bool = field(default=False, init=False)

    def __enter__(self) -> "Drawing":
        """Start nothing yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the other processes, whatever they are doing."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for process, thread in zip(self._processes, self._threads, strict=True):
            process.kill()
            process.wait()
            thread.join()

    def begin(self) -> None:
        """Start the other processes, which takes them a second: a figure is about to be drawn."""
        while len(self._processes) < self.others:
            process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C on the terminal is for this process
            )
            thread = threading.Thread(target=self._hand_over, args=(process,), name="drawing", daemon=True)
            self._processes.append(process)
            self._threads.append(thread)
            thread.start()

    def add(self, task: Task, *, long: bool = False) -> None:
        """Have a figure written until `finish`; where many wait already, one of them is written at once.

        The other processes take those that take `long` first, this one last: at the end nobody should wait
        for one of them.
        """
        if not self.others:
            task.do()
            return
        with self._changed:
            (self._waiting.appendleft if long else self._waiting.append)(task)
            full = self._waiting.pop() if len(self._waiting) > MOST_WAITING else None
            self._changed.notify()
        if full:
            full.do()

    def finish(self) -> None:
        """Write what is left, and wait for the other processes."""
        while task := self._next_here():
            task.do()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for process, thread in zip(self._processes, self._threads, strict=True):
            thread.join()
            process.wait()
        while self._returned:
            self._returned.popleft().do()

    def _next_here(self) -> Task | None:
        with self._changed:
            return self._waiting.pop() if self._waiting else None

    def _next_there(self) -> Task | None:
        """The next task for another process; None at the end."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _hand_over(self, process: "subprocess.Popen[bytes]") -> None:
        """Give tasks to a process, one at a time, until there are no more or it fails."""
        with contextlib.suppress(OSError), process.stdin, process.stdout:  # type: ignore[union-attr]
            while task := self._next_there():
                try:
                    written = _ask(process, task)
                except Exception:  # it cannot be pickled, or the process has ended
                    written = False
                if not written:
                    self._returned.append(task)
                if process.poll() is not None:
                    return


def _ask(process: "subprocess.Popen[bytes]", task: Task) -> bool:
    """Whether a process has done a task."""
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101  # for mypy
    request = pickle.dumps(task)
    process.stdin.write(request)
    process.stdin.flush()
    return process.stdout.readline() == DONE


def main() -> None:
    """Do the tasks that come in, and answer each with a line: done, or not."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as answers, contextlib.suppress(EOFError):
        with open(os.devnull, "wb") as nowhere:  # what a figure prints is no answer
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        while True:
            task = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the process that started this one
            try:
                task.do()
            except Exception:  # the other process tries it again, and raises what is raised there
                answers.write(b"not done\n")
            else:
                answers.write(DONE)


if __name__ == "__main__":
    main()
