"""Progress for people: a live display on a terminal, elsewhere one line a finished trial."""

import contextlib
import threading
import time
from collections.abc import Mapping

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.ledger.search_state import SEARCHED, STAGE
from study.planning.forecast import shown
from study.recording.events import EpochDone, Event, Failed, Found, Pruned, Repeated, Resumed, Started
from trainables.redact import masked, plain
from trainables.storage.bundles import Bundle
from trainables.trial import TrialConfig

SHOWN = 12
"""Running trials in the live display."""


class Progress:
    """Counts, time left and the running trials. Methods may be called from any thread.

    Args:
        total: trials that will run.
        epochs: of all of them together.
        console: where to; a terminal gets a live display.
    """

    def __init__(self, total: int, epochs: int, console: Console) -> None:
        """Show nothing yet; use as a context manager."""
        self._total = total
        self._epochs = epochs
        self._epochs_done: dict[str, int] = {}
        self._epochs_before: dict[str, int] = {}  # trained by earlier attempts
        self._console = console
        self._running: dict[str, tuple[TrialConfig, Mapping[str, float]]] = {}
        self._ended: set[str] = set()
        self._failed = 0
        self._began: float | None = None
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        """Start the live display, on a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Clear the live display."""
        self._live.stop()

    def on(self, event: Event) -> None:
        """Take in what a worker reported."""
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
                case _:
                    self._running.pop(key, None)
        if isinstance(event, Resumed):
            if event.rows:
                self.note(f"{event.config.name} goes on after epoch {len(event.rows)}")
            for line in event.notes:
                self.note(line)
        if isinstance(event, Found):
            self.found(event)
        if isinstance(event, Pruned):
            row, trial = event.row, event.config
            shown_epochs = f"stopped early, after {int(row['epoch'])} of {trial.epochs} epochs"
            self._end(trial, f"{shown_epochs}: validation {row['val/acc']:.1%}", style="bright_black")
        if isinstance(event, Repeated):
            self.note(f"{event.config.name}: {event.reason}")
        if isinstance(event, Failed):
            self.failed(event.config, event.reason)

    def finished(self, bundle: Bundle) -> None:
        """The ledger has all of a trial."""
        metrics = bundle.result.metrics
        seconds = metrics["train_seconds"] + metrics["evaluate_seconds"]
        validation = f"validation {metrics['val_acc']:.1%}, " if "val_acc" in metrics else ""
        # Of a searched trial nobody is to see how it does on test images.
        test = "" if bundle.tags.get(STAGE) == SEARCHED else f"test {metrics['test_acc']:.1%}, "
        self._end(bundle.config, f"{test}{validation}{shown(seconds)}")

    def found(self, event: Found) -> None:
        """A searcher asked for a trial that the ledger has."""
        self._end(event.config, "in the ledger already", style="bright_black")

    def failed(self, trial: TrialConfig, reason: str) -> None:
        """A trial has no result and will not get one in this run."""
        with self._lock:
            self._failed += 1
        self._end(trial, f"FAILED: {reason}", style="red")

    def note(self, line: str) -> None:
        """A line for people between the others."""
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
        # Who closes the pipe we print to (`| head`) wants no more lines; the study goes on.
        with contextlib.suppress(SystemExit):
            shown_line = plain(masked(line))
            self._console.print(shown_line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> Group:
        with self._lock:
            running = list(self._running.values())
            done, failed = len(self._ended) - self._failed, self._failed
            waiting = self._total - len(self._ended) - len(running)
            epochs = sum(self._epochs_done.values())
            eta = self._time_left(epochs, sum(self._epochs_before.values()))
        counts = f"{done} done, {len(running)} running, {waiting} waiting, {failed} failed   {eta}"
        table = Table.grid(padding=(0, 2))
        for trial, row in running[:SHOWN]:
            loss = f"loss {row['train/loss']:.3f}" if row else "starting"
            table.add_row(f"  {trial.name}", f"epoch {int(row.get('epoch', 0))}/{trial.epochs}", loss)
        if len(running) > SHOWN:
            table.add_row(f"  … and {len(running) - SHOWN} more", "", "")
        bar = Table.grid()  # a bar alone ends no line
        bar.add_row(ProgressBar(total=self._epochs, completed=epochs, width=60))
        return Group(bar, Text(counts), table)

    def _time_left(self, epochs: int, before: int) -> str:
        if self._began is None:
            return "workers are starting"
        if epochs <= before:
            return "time left not known yet"
        elapsed = time.monotonic() - self._began
        left = elapsed * (self._epochs - epochs) / (epochs - before)
        return f"{shown(elapsed)} elapsed, about {shown(left)} left"
