"""How many seeds were planned before a space was first looked at: tags of the space's run in the ledger."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from search_spaces import Search, Selection
from search_spaces.seeds import SeedPlan, cell_digest
from search_spaces.selection import JOIN
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from study.ledger.tracking_uri import LedgerError
from trainables.trial import TrialConfig

TAG = "seed_plan"
"""Tags `seed_plan.0`, … each hold a plan, and the cells that it counts for."""
FINALISTS = "finalists"
"""What stands for the cell of a search's finalists."""
CELLS_PER_TAG = 250
"""Digests of cells that fit into a tag, which may have 5,000 characters."""


def read_seed_plans(ledger: Ledger, space: str) -> dict[str, SeedPlan]:
    """The plan of each cell of the space, by the cell's digest; of several plans the first counts.

    What was declared for a joined space counts for those that it was joined from, and the other way round:
    who looked at `a` has looked at a part of `a+b`.
    """
    declared = [
        (json.loads(tags[name]), other != space, number, name)
        for number, (other, tags) in enumerate(_related(ledger, space).items())
        for name in tags
        if name.startswith(f"{TAG}.")
    ]
    plans: dict[str, SeedPlan] = {}
    for plan, *_ in sorted(declared, key=lambda each: (each[0]["date"] or "", *each[1:])):
        cells = plan.pop("cells")
        for cell in cells:
            plans.setdefault(cell, SeedPlan(**plan))
    return plans


def _related(ledger: Ledger, space: str) -> dict[str, dict[str, str]]:
    """The tags of the studies that have a space in common with this one, by name, the oldest first."""
    spaces = set(space.split(JOIN))
    studies = ledger.studies() if ledger.exists() else {}
    return {other: tags for other, tags in studies.items() if not spaces.isdisjoint(other.split(JOIN))}


def declare_seed_plans(
    ledger: Ledger,
    selection: Selection,
    records: Mapping[str, TrialRecord],
    plans: Mapping[str, SeedPlan] | None = None,
) -> dict[str, SeedPlan]:
    """Record the `plans` of cells that have none yet (by default the selection's own), with today's date.

    The experiment must exist. A plan is never changed: what was looked at once stays looked at.

    Returns:
        The plans that count, by the cells' digests.
    """
    known = adopt_seed_plans(ledger, selection, lambda: records)
    return _record(ledger, selection.space, known, selection.seed_plans if plans is None else plans)


def plans_at_look(
    ledger: Ledger,
    selection: Selection,
    records: Mapping[str, TrialRecord],
    plans: Mapping[str, SeedPlan] | None = None,
) -> dict[str, SeedPlan]:
    """As `declare_seed_plans`, for a report; in a ledger that cannot be written the plans stay unrecorded."""
    own = dict(selection.seed_plans if plans is None else plans)
    try:
        return declare_seed_plans(ledger, selection, records, own)
    except LedgerError:
        return plans_so_far(ledger, selection, own)


def plans_so_far(
    ledger: Ledger, selection: Selection, plans: Mapping[str, SeedPlan] | None = None
) -> dict[str, SeedPlan]:
    """As `declare_seed_plans`, but nothing is recorded."""
    own = selection.seed_plans if plans is None else plans
    return {**own, **read_seed_plans(ledger, selection.space)}


def plan_of_finalists(search: Search) -> dict[str, SeedPlan]:
    """The plan of a search's finalists: their fresh seeds."""
    return {FINALISTS: SeedPlan(low=search.seeds, high=search.seeds)}


def adopt_seed_plans(
    ledger: Ledger, selection: Selection, read_records: Callable[[], Mapping[str, TrialRecord]]
) -> dict[str, SeedPlan]:
    """For a study that was looked at before plans were recorded: the seeds that it has are its plan.

    The ledger's records are read for such a study only: on a server that takes seconds.

    Returns:
        The plans that count, by the cells' digests.
    """
    known = read_seed_plans(ledger, selection.space)
    if known or not _related(ledger, selection.space):
        return known
    return _record(ledger, selection.space, known, _adopted(selection, read_records()))


def check_margin(selection: Selection, plans: Mapping[str, SeedPlan]) -> None:
    """Raise LedgerError for a margin that was not declared before the first look at a cell."""
    given = selection.margin
    for cell in selection.seed_plans if given is not None else ():
        if cell in plans and plans[cell].margin != given:
            plan = plans[cell]
            declared = "no margin" if plan.margin is None else f"{plan.margin:g}"
            raise LedgerError(
                f"--margin: got {given:g}, but {declared} was declared on {plan.date}, before the first look;"
                " allowed: what was declared, or another --experiment"
            )


def _record(
    ledger: Ledger, space: str, known: Mapping[str, SeedPlan], plans: Mapping[str, SeedPlan]
) -> dict[str, SeedPlan]:
    """Add the plans of cells that are not known yet; returns all."""
    fresh: dict[SeedPlan, list[str]] = {}
    for cell, plan in plans.items():
        if cell not in known:
            fresh.setdefault(replace(plan, date=f"{datetime.now(UTC):%Y-%m-%d}"), []).append(cell)
    if not fresh:
        return dict(known)
    first = sum(name.startswith(f"{TAG}.") for name in ledger.study_tags(space))
    parts = [
        {**json.loads(plan.to_json()), "cells": cells[start : start + CELLS_PER_TAG]}
        for plan, cells in fresh.items()
        for start in range(0, len(cells), CELLS_PER_TAG)
    ]
    ledger.tag_study(
        space, {f"{TAG}.{first + number:03d}": json.dumps(part) for number, part in enumerate(parts)}
    )
    return {**known} | {cell: plan for plan, cells in fresh.items() for cell in cells}


def _adopted(selection: Selection, records: Mapping[str, TrialRecord]) -> dict[str, SeedPlan]:
    """What an earlier study has of each cell: the seeds that all arms have finished."""
    arms: dict[str, dict[TrialConfig, set[int]]] = {}
    for trial in selection.trials:
        record = records.get(trial.key)
        seeds = arms.setdefault(cell_digest(trial), {}).setdefault(trial.replace(seed=0), set())
        if record is not None and record.status == "FINISHED":
            seeds.add(trial.seed)
    counts = {cell: len(set.intersection(*seeds.values())) for cell, seeds in arms.items()}
    return {cell: SeedPlan(low=n, high=n, adopted=True) for cell, n in counts.items() if n}
