"""The command line that the three analysis scripts share."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.render.files import refuse_links
from analysis.stats.published import THESIS
from analysis.stats.verdicts import decided_selection
from analysis.trials import FRAME, load, write
from search_spaces import Selection, add_selection_arguments, folder_name, search_from, selection_from
from study.ledger import tracking_uri
from study.ledger.ledger import Ledger
from study.ledger.options import CommandLine, add_ledger_arguments, ledger_from, path
from study.ledger.search_state import SearchState, load_search_state
from study.ledger.seed_plans import check_margin, plans_at_look, read_seed_plans
from study.ledger.usable import check_reachable

TRAINED = "; study/run.py trains them"


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What an analysis script was called with: the parsed options, and what they select.

    A search has a state, and the trials of its finalists, if there are any yet. Results go to `folder`.
    """

    args: argparse.Namespace
    selection: Selection
    ledger: Ledger
    search: SearchState | None
    trials: pd.DataFrame
    folder: Path


def parse_command_line(
    description: str,
    argv: Sequence[str] | None,
    *,
    prog: str,
    subfolder: str = "",
    extend: Callable[[argparse.ArgumentParser], None] | None = None,
    check: Callable[[argparse.Namespace], object] | None = None,
    searches: bool = False,
) -> Inputs:
    """Parse the options of an analysis script, and read the selected trials.

    Ends the process with code 2 and one line on stderr if the options cannot be used. Results go to
    `subfolder` of `reports/<space>` by default, or of a folder for what `--only` and `--set` select.
    `extend` adds the script's own options, `check` raises ValueError for invalid ones; `searches`: whether a
    search without finalists can be used.
    """
    parser = CommandLine(prog=prog, usage="%(prog)s --space NAME [options]", description=description)
    add_selection_arguments(parser)
    add_ledger_arguments(parser)
    default = Path("reports", "<space>", subfolder)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=path,
        help=f"folder for results (default: {default}; with --only and --set one of its own)",
    )
    if extend:
        extend(parser)
    args = parser.parse_args(argv)
    try:
        if check:
            check(args)
        return _read_inputs(args, subfolder, searches)
    except ValueError as error:
        parser.error(str(error))


def _read_inputs(args: argparse.Namespace, subfolder: str, searches: bool) -> Inputs:
    search, state, trials = search_from(args), None, pd.DataFrame()
    selection = Selection(space=args.space, trials=(), steps=()) if search else selection_from(args)
    ledger = ledger_from(args)
    check_reachable(ledger.uri)
    if not ledger.exists():
        raise ValueError(ledger.store.unknown_experiment)
    report = args.out or Path("reports", folder_name(selection.space, args.only, args.assign))
    folder = args.out or report / subfolder
    tracking_uri.check_writable("--out", folder)
    refuse_links(report)
    records = ledger.trials()
    if search is None:
        if not any(trial.key in records for trial in selection.trials):
            raise ValueError(f"--space {selection.space}: the ledger has none of its trials yet{TRAINED}")
        check_margin(selection, read_seed_plans(ledger, selection.space))
        plans = plans_at_look(ledger, selection, records)
        selection = decided_selection(selection, records, plans)
        trials = load(selection, records, plans)
        write(trials, report / FRAME)
    else:
        state = load_search_state(search, records, {})
        if not any(member.trials for member in state.all):  # those of other seeds were not searched
            raise ValueError(f"--space {search.name}: the ledger has no configuration of it yet{TRAINED}")
        selection = state.final_selection()
        if selection.trials:
            trials = load(selection, records)
        elif not searches:
            raise ValueError(f"--space {search.name}: the search has no finalists yet")
    return Inputs(args=args, selection=selection, ledger=ledger, search=state, trials=trials, folder=folder)


def add_published_argument(parser: argparse.ArgumentParser) -> None:
    """`--published`, for `analysis.stats.published.read_published`."""
    parser.add_argument(
        "--published",
        metavar="FILE",
        type=path,
        default=THESIS,
        help="CSV with published numbers to compare with (default: those of the thesis,"
        " analysis/published/thesis.csv, which shows the format)",
    )
