"""The report of a study while it runs: rendered now and then by a process of its own.

That process has a low priority, reads the ledger and never writes to it. What it costs is time of a core, and
`Pace` bounds that.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from study import ROOT
from study.cli.invocation import Invocation
from study.ledger.look import Look
from trainables.extensions.files import loaded
from trainables.redact import first_line, masked, plain

EVERY = 300.0
"""Seconds before the first rendering, and between two of them at least, unless a user says otherwise."""
SHARE = 20
"""By default, rendering takes at most 1 / SHARE of a core's time."""
PATIENCE = 1.0
"""Seconds that the process has to end before it is killed."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """When a running study is rendered: `every` s, or more rarely if that takes long and is not `forced`."""

    every: float = EVERY
    forced: bool = False

    def due(self, began: float, last: tuple[float, float] | None) -> float:
        """The earliest moment of the next rendering, on the clock of `began`.

        Args:
            began: when training began, s.
            last: when the last rendering began, s, and the seconds of CPU time that it took; None: there was
                none.
        """
        if last is None:
            return began + self.every
        started, took = last
        return started + (self.every if self.forced else max(self.every, SHARE * took))


def pace_of(report_every: float | None) -> Pace | None:
    """The pace that `--report-every` asks for: seconds, 0 for never, None for what is usual."""
    if report_every is None:
        return Pace()
    return Pace(every=report_every, forced=True) if report_every else None


class LiveReport:
    """Has the report of a running study rendered, one rendering at a time.

    Attributes:
        declare: called once before a look, in the thread that writes to the ledger, to record what was
            planned before it; None: there is nothing to record.
        say: gets a line for people: where the page is, and the first failure. Called in any thread.
        exists: whether a page was rendered.
        begun: whether a rendering was begun: one that is stopped may have written a page.
    """

    def __init__(
        self,
        look: Callable[[str], Look],
        pace: Pace | None,
        *,
        command: tuple[str, ...] = (sys.executable, str(ROOT / "analysis/live.py")),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is rendered before `start`, and nothing at all without a pace.

        `look` describes a look, from how long the study will take, in words; called in any thread.
        """
        self.declare: Callable[[], object] | None = None
        self.say: Callable[[str], object] = lambda line: None
        self.exists = self.begun = False
        self._look, self._pace, self._command, self._clock = look, pace, command, clock
        self._began: float | None = None
        self._last: tuple[float, float] | None = None
        self._open = self._failed = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Training begins, or continues with another stage."""
        self._began = self._clock() if self._began is None else self._began
        self._open = True

    def consider(self, left: str) -> None:
        """Render if it is time to; returns at once. Only for the thread that writes to the ledger.

        `left` says how long the study will take.
        """
        if not self._open or self._pace is None or self._began is None:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        if self._clock() < self._pace.due(self._began, self._last):
            return
        if self.declare is not None:
            self.declare()
            self.declare = None
        self._begin(left, ahead=False)

    def draw_ahead(self) -> bool:
        """Draw what takes longest for the last report; False: not now, as a rendering is under way.

        Returns at once. No look is declared: nothing that is tested is shown. Only for the thread that writes
        to the ledger.
        """
        if not self._open or self._pace is None:
            return True
        if self._thread is not None and self._thread.is_alive():
            return False
        self._begin("", ahead=True)
        return True

    def _begin(self, left: str, *, ahead: bool) -> None:
        self._thread = threading.Thread(
            target=self._render, args=(left, ahead), name="live report", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End a rendering that is under way, and begin none before `start`."""
        with self._lock:
            self._open = False
            process = self._process
        if process is None or self._thread is None:
            return
        process.terminate()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            process.kill()
            self._thread.join(PATIENCE)

    def _render(self, left: str, ahead: bool) -> None:
        began = self._clock()
        try:
            look = replace(self._look(left), ahead=ahead)
            code, lines = self._run(pickle.dumps(look))
        except Exception as error:  # whatever it is, the study goes on
            code, lines = 1, [first_line(error)]
        answer = lines[-1] if lines else f"its process ended with {code}"
        took = self._clock() - began
        with contextlib.suppress(ValueError):  # a failure took no more than all of that
            took = float(answer) if code == 0 else took
        if ahead:  # whatever has gone wrong, the last report draws it
            return
        self._last = began, took
        if not self._open:
            return
        if code == 0 and not self.exists:
            self.exists = True
            self.say(f"report so far: {(look.folder / 'report.html').as_uri()}")
        elif code and not self._failed:
            self._failed = True
            self.say(f"the report so far could not be rendered: {plain(masked(answer))}")

    def _run(self, request: bytes) -> tuple[int, list[str]]:
        """The exit code of the process, and the lines that it wrote."""
        with self._lock:
            if not self._open:
                return 1, []
            # In a session of its own: Ctrl-C on the terminal is for the driver, which ends it by `stop`.
            self.begun = True
            process = self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,
            )
        with process:
            assert process.stdin is not None and process.stdout is not None  # noqa: PT018, S101  # for mypy
            # Open as long as this process lives: at its end the other one ends, too, however it comes.
            process.stdin.write(request)
            process.stdin.flush()
            written = process.stdout.read()
        self._process = None
        return process.returncode, written.decode(errors="replace").splitlines()


def live_report(invocation: Invocation) -> LiveReport:
    """The live report that an invocation asks for."""
    args, ledger = invocation.args, invocation.ledger
    pace = None if args.no_report else pace_of(args.report_every)

    def look(left: str) -> Look:
        return Look(
            args=args,
            typed=tuple(sys.orig_argv),
            uri=ledger.uri,
            experiment=ledger.experiment,
            artifact_root=ledger.artifact_root,
            folder=invocation.report_folder.absolute(),
            digests=invocation.current_digests(),
            files=tuple(file.shipped for file in loaded()),
            left=left,
            every=pace.every if pace else EVERY,
        )

    return LiveReport(look, pace)
