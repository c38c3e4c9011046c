"""Lines of a plan: what its seeds can find, and how many it would take. Without pandas, for `--plan`."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from analysis.render.text import span
from analysis.stats.power import DIFFERENCE, POWER
from analysis.stats.spreads import Cell, Cells, Spread, cells_with, results_of, spreads, with_relatives
from search_spaces.families import LEVEL
from search_spaces.seeds import FEWEST
from study.ledger.records import TrialRecord
from trainables.trial import CELL_FIELDS, TrialConfig, format_value

METRIC = "test_acc"
"""What is tested."""
NAMED_FIELDS = 3
"""Most fields in which a relative differs that are named one by one."""
Cost = Callable[[Sequence[TrialConfig]], str]
"""How long trials would take, for people; empty where that is not known."""


def power_lines(trials: Sequence[TrialConfig], records: Iterable[TrialRecord], cost: Cost) -> list[str]:
    """What these trials can find, as the differences in all `records` vary; empty if nothing is compared.

    `cost` is asked about the trials of more seeds, as the same trials again and again.
    """
    cells = cells_with(trials)
    results = results_of(records, METRIC)
    wanted = spreads(cells, results)
    if not wanted:
        return []
    elsewhere = [] if all(one.known for one in wanted) else spreads(cells_with(results), results)
    known = [one for one in with_relatives(wanted, elsewhere) if one.known]
    if not known:
        return [f"power: not known before two arms of a cell have {FEWEST} seeds in common"]
    seeds: dict[Cell, set[int]] = {}
    for trial in trials:
        seeds.setdefault(trial.cell, set()).add(trial.seed)
    planned = {cell: len(numbers) for cell, numbers in seeds.items()}
    return [_found(known, planned), f"  {_needed(known, cells, planned, cost)}", f"  {_measured(known)}"]


def _found(known: Sequence[Spread], planned: Mapping[Cell, int]) -> str:
    """`power: 3 seeds find differences of 2.8 (…) to 8.5 points (…) with 80 %, tested at 0.05 / 3`."""
    most = max(one.comparisons for one in known)
    tested = f"tested at {LEVEL}" + (f" / {most}" if most > 1 else "")
    counts = {planned[one.trial.cell] for one in known if planned[one.trial.cell] > 1}
    if not counts:
        return f"power: 1 seed finds nothing; {tested}"
    found = [(one.detectable(planned[one.trial.cell]), one) for one in known if planned[one.trial.cell] > 1]
    (low, first), (high, last) = (choose(found, key=lambda pair: pair[0]) for choose in (min, max))
    least, most_points = f"{100 * low:.1f}", f"{100 * high:.1f}"
    span_text = f"{least} points"
    if least != most_points:
        span_text = f"{least} ({_pair(first)}) to {most_points} points ({_pair(last)})"
    return f"power: {span(counts)} seeds find differences of {span_text} with {100 * POWER:.0f} %, {tested}"


def _pair(spread: Spread) -> str:
    return f"{spread.arm} against {spread.baseline}"


def _needed(known: Sequence[Spread], cells: Cells, planned: Mapping[Cell, int], cost: Cost) -> str:
    """`1 point takes 7 to 27 seeds, 96 trials more: 20 min`."""
    needed: dict[Cell, int] = {}
    counts = []
    for one in known:
        counts.append(one.seeds_for(DIFFERENCE))
        needed[one.trial.cell] = max(needed.get(one.trial.cell, 0), counts[-1][0])
    text = f"{100 * DIFFERENCE:g} point takes {_range([count for count, _, _ in counts])} seeds"
    low, high = min(fewest for _, fewest, _ in counts), max(most for _, _, most in counts)
    text += f" ({low} to {high} by the 95 % intervals of the SDs)"
    more: list[TrialConfig] = []
    for cell, count in needed.items():
        more += list(cells[cell].values()) * max(0, count - planned[cell])
    time = cost(more) if more else ""
    return text + (f"; {len(more)} trials more" if more else "") + (f", {time}" if time else "")


def _range(counts: Sequence[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _measured(known: Sequence[Spread]) -> str:
    """Where the standard deviations are from."""
    low, high = (f"{100 * choose(one.sd for one in known):.1f}" for choose in (min, max))
    text = f"SD of the paired differences: {low if low == high else f'{low} to {high}'} points, from"
    text += f" {span({one.n for one in known})} seeds"
    relatives = {
        one.trial.cell: (one, one.relative)
        for one in known
        if one.relative and one.trial.cell != one.relative.trial.cell
    }
    if not relatives:
        return text
    own, there = next(iter(relatives.values()))
    of = len({one.trial.cell for one in known})
    where = f"{_name(there)}{_differing(own, there)}"
    if of == 1:
        return f"{text} of its nearest relative, as it is not measured itself: {where}"
    first = "" if len(relatives) == 1 else "the first that "
    return f"{text}; {len(relatives)} of {of} cells have those of their nearest relatives, {first}of {where}"


def _name(spread: Spread) -> str:
    trial = spread.trial
    return f"{trial.dataset}/{trial.backbone}/{format_value(trial.augmentations)}"


def _differing(own: Spread, other: Spread) -> str:
    """` with epochs 3, lr 0.1`: in what a relative differs that its name does not tell."""
    named = ("dataset", "backbone", "augmentations")
    fields = [
        f"{name} {format_value(theirs) if theirs is not None else 'tuned'}"
        for name, ours, theirs in zip(CELL_FIELDS, own.trial.cell, other.trial.cell, strict=True)
        if name not in named and ours != theirs
    ]
    shown = fields[:NAMED_FIELDS] + (
        [f"{len(fields) - NAMED_FIELDS} more fields"] if len(fields) > NAMED_FIELDS else []
    )
    return f" with {', '.join(shown)}" if shown else ""
