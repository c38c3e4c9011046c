"""Progress for people: a live display on a terminal, elsewhere one line a finished trial."""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.ledger.search_state import SEARCH_STAGE, STAGE_TAG
from study.planning.forecast import format_duration
from study.recording.events import (
    CacheHit,
    EpochDone,
    Event,
    Failed,
    Noted,
    Pruned,
    Resumed,
    Retrying,
    Started,
)
from trainables.redact import masked, plain
from trainables.storage.bundles import Bundle
from trainables.trial import TrialConfig

MAX_SHOWN = 12
"""Running trials in the live display."""
SETTLED = 3.0
"""Seconds of training before the time left is worth saying."""


class Progress:
    """Counts, time left and the running trials. Methods may be called from any thread."""

    def __init__(self, total: int, epochs: int, console: Console) -> None:
        """Expect `total` trials with `epochs` epochs in all; use as a context manager."""
        self._total = total
        self._epochs = epochs
        self._epochs_done: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}  # trained by earlier attempts
        self._console = console
        self._running: dict[str, tuple[TrialConfig, Mapping[str, float]]] = {}
        self._ended: set[str] = set()
        self._failed = 0
        self._began: float | None = None
        self._pace_from: tuple[float, int] | None = None  # when the first epoch had ended; epochs by then
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def expect(self, trials: Sequence[TrialConfig]) -> None:
        """Expect these trials, too."""
        with self._lock:
            self._total += len(trials)
            self._epochs += sum(trial.epochs for trial in trials)

    def forgo(self, trials: Sequence[TrialConfig]) -> None:
        """Do not expect these trials any more."""
        with self._lock:
            self._total -= len(trials)
            self._epochs -= sum(trial.epochs for trial in trials)

    def __enter__(self) -> "Progress":
        """Start the live display, on a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Clear the live display."""
        self._live.stop()

    def on(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Noted):
            self.note(event.warning)
            return
        key = event.config.key
        with self._lock:
            match event:
                case Started(config):
                    self._began = self._began or time.monotonic()
                    self._running[key] = (config, {})
                case Resumed(_, rows):
                    self._epochs_before[key] = self._epochs_done[key] = len(rows)
                case EpochDone(config, row):
                    self._epochs_done[key] = int(row["epoch"])
                    self._running[key] = (config, row)
                    self._pace_from = self._pace_from or (time.monotonic(), self._trained)
                case _:
                    self._running.pop(key, None)
        match event:
            case Resumed(config, rows, warnings):
                if rows:
                    self.note(f"{config.name} resumes after epoch {len(rows)}")
                for line in warnings:
                    self.note(line)
            case CacheHit(config):
                self._end(config, "in the ledger already", style="bright_black")
            case Pruned(config, row):
                stopped = f"stopped early, after {int(row['epoch'])} of {config.epochs} epochs"
                self._end(config, f"{stopped}: validation {row['val/acc']:.1%}", style="bright_black")
            case Retrying(config, reason):
                self.note(f"{config.name}: {reason}")
            case Failed(config, reason):
                self.failed(config, reason)

    def finished(self, bundle: Bundle) -> None:
        """The ledger has all of a trial."""
        metrics = bundle.result.metrics
        seconds = metrics["train_seconds"] + metrics["evaluate_seconds"]
        validation = f"validation {metrics['val_acc']:.1%}, " if "val_acc" in metrics else ""
        # Nobody should see the test accuracy of a searched trial.
        test = "" if bundle.tags.get(STAGE_TAG) == SEARCH_STAGE else f"test {metrics['test_acc']:.1%}, "
        self._end(bundle.config, f"{test}{validation}{format_duration(seconds)}")

    def failed(self, trial: TrialConfig, reason: str) -> None:
        """A trial will get no result in this session."""
        with self._lock:
            self._failed += 1
        self._end(trial, f"FAILED: {reason}", style="red")

    def note(self, line: str) -> None:
        """Print a line for people."""
        self._print(line, "yellow")

    def _end(self, trial: TrialConfig, outcome: str, style: str | None = None) -> None:
        with self._lock:
            self._ended.add(trial.key)
            self._running.pop(trial.key, None)
            self._epochs_done[trial.key] = trial.epochs
            width = len(str(self._total))
            line = f"[{len(self._ended):{width}}/{self._total}] {trial.name}  {outcome}"
        self._print(line, style)

    def _print(self, line: str, style: str | None) -> None:
        # A closed pipe (`| head`) ends the output, not the study.
        with contextlib.suppress(SystemExit):
            text = plain(masked(line))
            self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        with self._lock:
            running = list(self._running.values())
            done, failed = len(self._ended) - self._failed, self._failed
            waiting = self._total - len(self._ended) - len(running)
            epochs = sum(self._epochs_done.values())
            left = self._time_left()
        counts = f"{done} done, {len(running)} running, {waiting} waiting, {failed} failed   {left}"
        table = Table.grid(padding=(0, 2))
        for trial, row in running[:MAX_SHOWN]:
            # Losses of arms are sums of different terms: only accuracies compare side by side.
            state = f"validation {row['val/acc']:.1%}" if "val/acc" in row else "" if row else "starting"
            table.add_row(f"  {trial.name}", f"epoch {int(row.get('epoch', 0))}/{trial.epochs}", state)
        if len(running) > MAX_SHOWN:
            table.add_row(f"  … and {len(running) - MAX_SHOWN} more", "", "")
        bar = Table.grid()  # a bar alone ends no line
        bar.add_row(
            ProgressBar(total=self._epochs, completed=epochs, width=60, complete_style="bar.finished")
        )
        return Group(bar, Text(counts), table)

    @property
    def _trained(self) -> int:
        """Epochs of this session."""
        return sum(self._epochs_done.values()) - sum(self._epochs_before.values())

    @property
    def left(self) -> str:
        """`about 4 min left`, from the pace since the first epoch has ended; empty if that is too short."""
        with self._lock:
            return self._left()

    @property
    def seconds_left(self) -> float | None:
        """What `left` says, in seconds; None where that is too short, or nothing is left."""
        with self._lock:
            return self._seconds_left()

    def _left(self) -> str:
        seconds = self._seconds_left()
        return "" if seconds is None else f"about {format_duration(seconds)} left"

    def _seconds_left(self) -> float | None:
        now = time.monotonic()
        if self._pace_from is None or now - self._pace_from[0] < SETTLED:
            return None
        since, before = self._pace_from
        epochs = self._trained - before
        ahead = self._epochs - sum(self._epochs_done.values())
        return (now - since) * ahead / epochs if min(epochs, ahead) > 0 else None

    def _time_left(self) -> str:
        """Time since the first trial began, and time left."""
        if self._began is None:
            return "workers are starting"  # processes import PyTorch
        elapsed = f"{format_duration(time.monotonic() - self._began)} elapsed"
        return ", ".join(filter(None, (elapsed, self._left())))
