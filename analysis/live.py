"""Renders the report of a study while it runs: a process that `study.session.live` starts.

It gets a pickled `Look` on its standard input, which stays open as long as the driver lives: this process
ends with it, so that it never writes over the report of another driver. It writes nothing into the ledger.
Its last line says how much CPU time it took, s, or what is wrong.
"""

import os
import pickle
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # this project's packages, not this folder's modules
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from search_spaces import Search, search_from, selection_from
from search_spaces.own import know_again
from study.ledger.look import Look
from study.ledger.records import TrialRecord
from study.ledger.search_state import load_search_state
from study.ledger.seed_plans import plans_so_far
from trainables.extensions.files import load_shipped
from trainables.redact import first_line

if TYPE_CHECKING:
    from analysis.render.section import Live

NICE = 10
"""Less priority than training by so much: beside it, this process gets a tenth of a busy core."""
SOONEST = 15
"""Seconds after which the page loads itself again, at least."""


def render_look(look: Look) -> Path:
    """Render what the ledger has into the report's folder; returns the page.

    Raises:
        ValueError: there is nothing that a report could show, such as trials on different data.
        OSError: a file cannot be written.
    """
    load_shipped(look.files)
    know_again(look.args.space)
    search = search_from(look.args)
    # With full priority: a reader that waits for a busy core holds up the writer of an SQLite database.
    records = look.ledger.trials()
    os.nice(NICE)
    if search is not None:
        return _render_search(look, search, records)
    return _render_study(look, records)


def _render_study(look: Look, records: dict[str, TrialRecord]) -> Path:
    from analysis.report import render
    from analysis.stats.verdicts import decided_selection
    from analysis.trials import finished, load

    selection, ledger = selection_from(look.args), look.ledger
    trials_of = {trial.key: trial for trial in selection.trials}
    records = {
        key: record
        for key, record in records.items()
        if key in trials_of and look.counts(trials_of[key], record)
    }
    plans = plans_so_far(ledger, selection)
    selection = decided_selection(selection, records, plans)
    trials = load(selection, records, plans)
    done = f"{len(finished(trials))} of {len(trials)} trials finished"
    return render(selection, trials, ledger, look.folder, live=_live(look, done)).path


def _render_search(look: Look, search: Search, records: dict[str, TrialRecord]) -> Path:
    from analysis.report import render_search

    state = load_search_state(search, records, look.digests)
    ended = sum(member.ended for member in state.all)
    done = f"{ended} of {search.trials * len(state.members)} configurations searched"
    finals = [records[trial.key] for trial in state.final_selection().trials if trial.key in records]
    if finals:
        count = sum(record.status == "FINISHED" for record in finals)
        done += f", {count} of {len(state.final_selection().trials)} trials of finalists finished"
    return render_search(state, look.ledger, look.folder, records=records, live=_live(look, done)).path


def _live(look: Look, done: str) -> "Live":
    """What the report says of itself."""
    from analysis.render.section import Live

    progress = f"{done}, {look.left}" if look.left else done
    return Live(progress=progress, rendered=datetime.now(UTC), refresh=max(SOONEST, round(look.every)))


def _end_with_the_driver() -> None:
    """End this process as soon as its standard input ends, whatever it is doing."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> int:
    """Render one look; returns the exit code."""
    look = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the process that started this one
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    sys.orig_argv[:] = look.typed  # the report names the command that people type
    try:
        render_look(look)
    except (OSError, ValueError) as error:
        print(first_line(error))
        return 1
    print(f"{time.process_time():.2f}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
