"""What the ledger has of a search: its members, how far it is, and who the finalists are.

A trial is a member where its run has the search's tag and its config is one that the search could suggest.
Nothing here looks at a test metric.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces import Search, Selection
from search_spaces.searches import SEED
from study.ledger.records import DATA, PRUNED, TrialRecord
from trainables.metrics import OBJECTIVES
from trainables.trial import ARM_FIELDS, TrialConfig, coerce, format_value

STAGE = "stage"
SEARCHED, FINAL = "search", "final"
"""Values of that tag: trials that the searcher asked for, and trials of finalists."""
DIVERGED = ("NonFiniteLoss", "NonFiniteOutputs")
"""Errors that tell of the configuration, not of the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A searched trial.

    Attributes:
        config: of the trial.
        number: in the order of suggestion, from 1, for each method.
        state: `finished`; `pruned` (stopped early); `diverged` (its loss was not finite); `failed` (for
            another reason); `half-done`.
        objectives: values of the search's, in their order; None unless finished with all of them.
        epochs: trained before it was pruned; all of them otherwise.
        run_id: of its MLflow run.
    """

    config: TrialConfig
    number: int
    state: str
    objectives: tuple[float, ...] | None
    epochs: int
    run_id: str

    @property
    def ended(self) -> bool:
        """Whether it is not to be gone on with."""
        return self.state != "half-done"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a search is.

    Attributes:
        search: with how many trials it is to have.
        members: of each method, in the order of suggestion; no more than the search asks for.
        stale: trials that do not count, as their data have changed since.
        numbers: the highest number that each method has given, stale ones and those beyond included.
    """

    search: Search
    members: Mapping[str, Sequence[Member]]
    known: Mapping[str, Member] = field(default_factory=dict)
    """Trials that the search could suggest and that the ledger has for another reason, by key."""
    stale: int = 0
    numbers: Mapping[str, int] = field(default_factory=dict)

    @property
    def all(self) -> list[Member]:
        """The members of all methods."""
        return [member for members in self.members.values() for member in members]

    @property
    def missing(self) -> int:
        """Configurations that are still to be trained, begun ones included."""
        return self.search.trials * len(self.members) - sum(member.ended for member in self.all)

    def count(self, *states: str, method: str | None = None) -> int:
        """How many members (of a method) are in one of these states."""
        members = self.all if method is None else self.members[method]
        return sum(member.state in states for member in members)

    def ranked(self, method: str) -> list[Member]:
        """The finished members of a method, best first.

        By the first objective; where there are several, what no other one dominates comes first. Of equals
        the earlier one.
        """
        done = [
            (member, member.objectives) for member in self.members[method] if member.objectives is not None
        ]
        sign = -1.0 if OBJECTIVES[self.search.objectives[0]] == "maximize" else 1.0

        def rank(item: tuple[Member, tuple[float, ...]]) -> tuple[bool, float, int]:
            member, values = item
            dominated = any(self.search.better(other, values) for _, other in done)
            return dominated, sign * values[0], member.number

        return [member for member, _ in sorted(done, key=rank)]

    def finalists(self) -> dict[str, list[Member]]:
        """The best configurations of each method, best first."""
        return {method: self.ranked(method)[: self.search.finalists] for method in self.members}

    def final_selection(self) -> Selection:
        """The finalists' trials with their fresh seeds."""
        finalists = [member.config for members in self.finalists().values() for member in members]
        trials = self.search.finals(finalists)
        seeds = f"{self.search.seeds} fresh seed{'s' if self.search.seeds > 1 else ''}"
        step = f"finalists: {len(finalists)} configurations x {seeds}: {len(trials)} trials"
        return Selection(space=self.search.name, trials=tuple(trials), steps=(step,))


def tag_of(search: Search) -> str:
    """The tag that makes a run a member of the search; its value is the member's number."""
    return f"search.{search.name}"


def standing(
    search: Search, records: Mapping[str, TrialRecord], digests: Mapping[str, str | None]
) -> Standing:
    """How far a search is by what the ledger has.

    Args:
        search: with how many trials it is to have.
        records: all trials of the ledger, by key.
        digests: SHA-256 of each dataset as it is at hand; of others nothing is stale.
    """
    tag = tag_of(search)
    same = {**search.fixed, **search.assigned, "seed": SEED}
    # Fields that a method has no use for are not as they were given.
    same_text = {name: format_value(coerce(name, same[name])) for name in same if name not in ARM_FIELDS}
    members: dict[str, list[Member]] = {method: [] for method in search.methods}
    known: dict[str, Member] = {}
    numbers: dict[str, int] = {}
    stale = 0
    for record in records.values():
        if any(record.params.get(name) != text for name, text in same_text.items()):
            continue
        try:
            config = TrialConfig.from_params(record.params)
        except ValueError:
            continue  # of another version
        if config.key != record.key or config.method not in members or search.recall(config) is None:
            continue
        number = int(record.tags[tag]) if record.tags.get(tag, "").isdigit() else 0
        numbers[config.method] = max(numbers.get(config.method, 0), number)
        digest = digests.get(config.dataset)
        if digest is not None and record.tags.get(DATA, digest) != digest:
            stale += bool(number)
        elif number:
            members[config.method].append(_member(search, config, number, record))
        else:
            known[config.key] = _member(search, config, number, record)
    counted = {
        method: sorted(found, key=lambda member: (member.number, member.run_id))[: search.trials]
        for method, found in members.items()
    }
    return Standing(search=search, members=counted, known=known, stale=stale, numbers=numbers)


def objectives_of(search: Search, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
    """Values of the search's objectives; None where one is missing or not finite."""
    values = tuple(metrics.get(name, math.nan) for name in search.objectives)
    return values if all(map(math.isfinite, values)) else None


def failure_state(reason: str) -> str:
    """`diverged` or `failed`, by the line that says why a trial failed."""
    return "diverged" if reason.startswith(DIVERGED) else "failed"


def _member(search: Search, config: TrialConfig, number: int, record: TrialRecord) -> Member:
    values, epochs = None, config.epochs
    if record.status == "FINISHED":
        values = objectives_of(search, record.metrics)
        state = "finished" if values is not None else "failed"
    elif record.status == "FAILED":
        state = failure_state(record.tags.get("failure", ""))
    elif record.status == "KILLED" and record.tags.get(PRUNED, "").isdigit():
        state, epochs = "pruned", int(record.tags[PRUNED])
    else:
        state = "half-done"
    return Member(
        config=config, number=number, state=state, objectives=values, epochs=epochs, run_id=record.run_id
    )


def describe(standing: Standing, *, retry_failed: bool = False) -> list[str]:
    """How far a search is, in lines for people."""
    search = standing.search
    what = f"{search.trials} configurations of each of {', '.join(search.methods)}"
    lines = [f"search {search.name}: {what}, by {', '.join(search.objectives)}"]
    for method, members in standing.members.items():
        counts = {state: standing.count(state, method=method) for state in STATES}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        to_search = search.trials - sum(member.ended for member in members)
        if retry_failed:
            to_search += counts["failed"]
        lines.append(f"  {method}: {told or 'none yet'}; to search: {to_search}")
    if standing.stale:
        lines.append(f"{standing.stale} stale ones do not count: their data have changed since")
    return lines


STATES = ("finished", "pruned", "diverged", "failed", "half-done")
