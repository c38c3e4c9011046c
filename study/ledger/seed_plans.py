"""How many seeds were planned before a space was first looked at: tags of the space's run in the ledger."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from search_spaces.seeds import SeedPlan
from study.ledger.ledger import Ledger

TAG = "seed_plan"
"""Tags `seed_plan.0`, … each hold a plan, and the cells that it counts for."""
CELLS_PER_TAG = 250
"""Digests of cells that fit into a tag, which may have 5,000 characters."""


def read_seed_plans(ledger: Ledger, space: str) -> dict[str, SeedPlan]:
    """The plan of each cell of the space, by the cell's digest; of several plans the first counts."""
    plans: dict[str, SeedPlan] = {}
    tags = ledger.study_tags(space) if ledger.exists() else {}
    for name in sorted(name for name in tags if name.startswith(f"{TAG}.")):
        declared = json.loads(tags[name])
        cells = declared.pop("cells")
        for cell in cells:
            plans.setdefault(cell, SeedPlan(**declared))
    return plans


def declare_seed_plans(ledger: Ledger, space: str, plans: Mapping[str, SeedPlan]) -> dict[str, SeedPlan]:
    """Record the plans of cells that have none yet, with today's date; returns those that count for all.

    The experiment must exist. A plan is never changed: what was looked at once stays looked at.
    """
    known = read_seed_plans(ledger, space)
    fresh: dict[SeedPlan, list[str]] = {}
    for cell, plan in plans.items():
        if cell not in known:
            fresh.setdefault(replace(plan, date=f"{datetime.now(UTC):%Y-%m-%d}"), []).append(cell)
    if not fresh:
        return known
    first = sum(name.startswith(f"{TAG}.") for name in ledger.study_tags(space))
    parts = [
        {**json.loads(plan.to_json()), "cells": cells[start : start + CELLS_PER_TAG]}
        for plan, cells in fresh.items()
        for start in range(0, len(cells), CELLS_PER_TAG)
    ]
    ledger.tag_study(
        space, {f"{TAG}.{first + number:03d}": json.dumps(part) for number, part in enumerate(parts)}
    )
    return known | {cell: plan for plan, cells in fresh.items() for cell in cells}
