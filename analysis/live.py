"""Renders the report of a study while it runs, or parts of it: a process that `study.session.live` starts.

It gets a pickled `Look` on its standard input, which stays open as long as the driver lives: this process
ends with it, so that it never writes over the report of another driver. It writes nothing into the ledger.
Its last line says how much CPU time it took, s, or what is wrong.
"""

import os
import pickle
import sys
import threading
import time
from collections.abc import Mapping
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
NICE_AHEAD = 5
"""The same for what the last report will not have to do: a quarter of a core."""
SOONEST = 15
"""Seconds after which the page loads itself again, at least."""


def render_look(look: Look) -> Path:
    """Render what the ledger has into the report's folder; returns the page, or the folder without one.

    Raises:
        ValueError: there is nothing that a report could show, such as trials on different data.
        OSError: a file cannot be written.
    """
    ledger, nice = look.ledger, NICE_AHEAD if look.ahead else NICE
    if ledger.store.sqlite_file is None:
        os.nice(nice)
        records = ledger.trials()
    else:  # a reader that waited for a busy core would hold up the writer of the database
        records = ledger.trials()
        os.nice(nice)
    load_shipped(look.files)  # some import PyTorch
    know_again(look.args.space)
    search = search_from(look.args)
    if search is not None:
        return render_search_so_far(look, search, records)
    return render_study_so_far(look, records)


def render_study_so_far(look: Look, records: Mapping[str, TrialRecord]) -> Path:
    """Render a study from the ledger's records, or what can be drawn ahead; as `render_look`."""
    from analysis.report import draw_ahead, render
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
    if look.ahead:
        draw_ahead(trials, ledger, look.folder)
        return look.folder
    done = f"{len(finished(trials))} of {len(trials)} trials finished"
    return render(selection, trials, ledger, look.folder, live=_live(look, done)).path


def render_search_so_far(look: Look, search: Search, records: Mapping[str, TrialRecord]) -> Path:
    """Render a search from the ledger's records; returns the page. Errors as in `render_look`."""
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

    refresh = max(SOONEST, round(look.every))
    return Live(progress=done, left=look.left, rendered=datetime.now(UTC), refresh=refresh)


def _end_with_the_driver() -> None:
    """End this process as soon as its standard input ends, whatever it is doing."""
    os.read(sys.stdin.fileno(), 1)  # not through a buffer, whose lock would be held when Python ends
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
    print(f"\n{time.process_time():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
