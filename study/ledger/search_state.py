"""The state of a search in the ledger: its members, their progress, and the finalists.

A configuration is a member if the run of one of its trials has the search's tag and the search could suggest
it. No test metric is used here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces import Search, Selection
from search_spaces.search_design import SEED
from study.ledger.records import DATA_TAG, PRUNED_TAG, TrialRecord, is_result
from study.ledger.search_members import STATES, Member, SearchTrial
from trainables.metrics import OBJECTIVES
from trainables.trial import ARM_FIELDS, TrialConfig, coerce, format_value

STAGE_TAG = "stage"
SEARCH_STAGE, FINAL_STAGE = "search", "final"
"""Values of that tag: trials that the search suggested, and trials of finalists."""
DIVERGED = ("NonFiniteLoss", "NonFiniteOutputs")
"""Errors caused by the configuration, not by the machine."""


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """The progress of a search.

    Attributes:
        members: of each method, in the order of suggestion; no more than the search asks for.
        reusable: trials in the ledger that the search could train but did not, by key.
        stale: number of configurations that do not count because their data have changed.
        last_numbers: the highest number that each method has assigned, stale and surplus members included.
        unseen: the first seed that no searched configuration was ever trained with.
    """

    search: Search
    members: Mapping[str, Sequence[Member]]
    reusable: Mapping[str, SearchTrial] = field(default_factory=dict)
    stale: int = 0
    last_numbers: Mapping[str, int] = field(default_factory=dict)
    unseen: int = SEED + 1

    @property
    def all(self) -> list[Member]:
        """The members of all methods."""
        return [member for members in self.members.values() for member in members]

    @property
    def missing(self) -> int:
        """Number of configurations still to be trained, half-done ones included."""
        return self.search.trials * len(self.members) - sum(member.ended for member in self.all)

    def count(self, *states: str, method: str | None = None) -> int:
        """How many members (of a method) are in one of these states."""
        members = self.all if method is None else self.members[method]
        return sum(member.state in states for member in members)

    def ranked(self, method: str) -> list[Member]:
        """The finished members of a method, best first.

        By the first objective; with several objectives, those that no other one dominates come first. Ties
        are broken by number.
        """
        finished = [
            (member, member.objectives) for member in self.members[method] if member.objectives is not None
        ]
        sign = -1.0 if OBJECTIVES[self.search.objectives[0]] == "maximize" else 1.0

        def rank(item: tuple[Member, tuple[float, ...]]) -> tuple[bool, float, int]:
            member, values = item
            dominated = any(self.search.better(other, values) for _, other in finished)
            return dominated, sign * values[0], member.number

        return [member for member, _ in sorted(finished, key=rank)]

    def finalists(self) -> dict[str, list[Member]]:
        """The best configurations of each method, best first."""
        return {method: self.ranked(method)[: self.search.finalists] for method in self.members}

    def final_selection(self) -> Selection:
        """The finalists' trials with their fresh seeds."""
        finalists = [member.config for members in self.finalists().values() for member in members]
        trials = self.search.finals(finalists, max(self.unseen, SEED + self.search.seeds_per_configuration))
        seeds = f"{self.search.seeds} fresh seed{'s' if self.search.seeds > 1 else ''}"
        step = f"finalists: {len(finalists)} configurations x {seeds}: {len(trials)} trials"
        return Selection(space=self.search.name, trials=tuple(trials), steps=(step,))


def membership_tag(search: Search) -> str:
    """The tag on all runs of a member of the search; its value is the member's number."""
    return f"search.{search.name}"


def load_search_state(
    search: Search, records: Mapping[str, TrialRecord], digests: Mapping[str, str | None]
) -> SearchState:
    """The state of a search, from all trials in the ledger.

    `digests` has the current SHA-256 of datasets; trials on other data are stale.
    """
    known: dict[TrialConfig, list[tuple[int, SearchTrial]]] = {}  # with their numbers, by configuration
    methods: dict[TrialConfig, str] = {}
    last_numbers: dict[str, int] = {}
    stale: set[TrialConfig] = set()
    unseen = SEED + 1
    for record, trial in _own_trials(search, records):
        config = trial.replace(seed=SEED)
        method = methods.get(config) or search.method_of(config)
        if method is None:
            continue
        number = _number(search, record)
        last_numbers[method] = max(last_numbers.get(method, 0), number)
        unseen = max(unseen, trial.seed + 1) if number else unseen
        digest = digests.get(trial.dataset)
        if digest is not None and record.tags.get(DATA_TAG, digest) != digest:
            stale |= {config} if number else set()
            continue
        methods[config] = method
        known.setdefault(config, []).append((number, _search_trial(search, trial, record)))
    members: dict[str, list[Member]] = {method: [] for method in search.methods}
    reusable: dict[str, SearchTrial] = {}
    for config, trials in known.items():
        own = {trial.config.seed: trial for number, trial in trials if number}
        reusable |= {trial.config.key: trial for number, trial in trials if not number}
        if own:
            number = min(number for number, _ in trials if number)
            members[methods[config]].append(member_of(search, methods[config], config, number, own))
    counted = {
        method: sorted(found, key=lambda member: (member.number, member.run_ids))[: search.trials]
        for method, found in members.items()
    }
    return SearchState(
        search=search,
        members=counted,
        reusable=reusable,
        stale=len(stale),
        last_numbers=last_numbers,
        unseen=unseen,
    )


def member_of(
    search: Search, method: str, config: TrialConfig, number: int, trials: Mapping[int, SearchTrial]
) -> Member:
    """The member with those of its trials, by seed, that count in this search."""
    planned = search.seeds_per_configuration
    own = {seed: trials[seed] for seed in sorted(trials) if seed < SEED + planned}
    return Member(config=config, method=method, number=number, trials=own, planned=planned)


def _own_trials(
    search: Search, records: Mapping[str, TrialRecord]
) -> Iterator[tuple[TrialRecord, TrialConfig]]:
    """The trials, of any seed, that have the fields that all trials of the search share."""
    shared = {**search.fixed, **search.assigned}
    varying = {"seed"}.union(*search.methods.values())
    # A config has defaults, not the given values, in arm fields that its method does not use.
    expected = {
        name: format_value(coerce(name, value))
        for name, value in shared.items()
        if name not in ARM_FIELDS and name not in varying
    }
    for record in records.values():
        if any(record.params.get(name) != text for name, text in expected.items()):
            continue
        try:
            config = TrialConfig.from_params(record.params)
        except ValueError:
            continue  # logged by another version
        if config.key == record.key:
            yield record, config


def _number(search: Search, record: TrialRecord) -> int:
    """The number of the member that a run belongs to; 0 for none."""
    text = record.tags.get(membership_tag(search), "")
    return int(text) if text.isdigit() else 0


def objectives_of(search: Search, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
    """Values of the search's objectives; None where one is missing or no result."""
    values = tuple(metrics.get(name, math.nan) for name in search.objectives)
    return values if all(map(is_result, values)) else None


def failure_state(reason: str) -> str:
    """`diverged` or `failed`, from the line that says why a trial failed."""
    return "diverged" if reason.startswith(DIVERGED) else "failed"


def _search_trial(search: Search, config: TrialConfig, record: TrialRecord) -> SearchTrial:
    values, epochs = None, config.epochs
    if record.status == "FINISHED":
        values = objectives_of(search, record.metrics)
        state = "finished" if values is not None else "failed"
    elif record.status == "FAILED":
        state = failure_state(record.tags.get("failure", ""))
    elif record.status == "KILLED" and record.tags.get(PRUNED_TAG, "").isdigit():
        state, epochs = "pruned", int(record.tags[PRUNED_TAG])
    else:
        state = "half-done"
    return SearchTrial(config=config, state=state, objectives=values, epochs=epochs, run_id=record.run_id)


def describe(state: SearchState, *, retry_failed: bool = False) -> list[str]:
    """The progress of a search, in lines for people."""
    search = state.search
    per_method = f"{search.trials} configurations of each of {', '.join(search.methods)}"
    if search.seeds_per_configuration > 1:
        per_method += f", {search.seeds_per_configuration} seeds each"
    lines = [f"search {search.name}: {per_method}, by {', '.join(search.objectives)}"]
    for method, members in state.members.items():
        counts = {name: state.count(name, method=method) for name in STATES}
        progress = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        to_search = search.trials - sum(member.ended for member in members)
        if retry_failed:
            to_search += counts["failed"]
        lines.append(f"  {method}: {progress or 'none yet'}; to search: {to_search}")
    if state.stale:
        lines.append(f"{state.stale} stale ones do not count: their data have changed")
    return lines
