"""The queue of a search: Optuna suggests configurations, the ledger answers those that it has.

Optuna's studies, one a method, are in memory. At the start they get the ledger's configurations: finished
and pruned ones with their values; half-done ones are the first that are suggested. A configuration is trained
with its first seed, and if that one finishes, with its other seeds; then Optuna is told the mean.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler

from search_spaces import Search
from search_spaces.search_design import SEED, Parameter
from study.cluster.trial_queue import Budget, MakeJob, TrialQueue
from study.ledger.optuna_study import bounds, make_study, trial_state, user_attributes
from study.ledger.search_members import Member, SearchTrial
from study.ledger.search_state import (
    SEARCH_STAGE,
    STAGE_TAG,
    SearchState,
    failure_state,
    member_of,
    membership_tag,
    objectives_of,
)
from study.recording.events import CacheHit, Event, Failed, Pruned, Succeeded
from study.search.asha import INTERMEDIATE_METRIC
from trainables.trial import TrialConfig

MAX_REPEATS = 200
"""Consecutive suggestions that bring nothing new, after which a method has no more configurations."""
STARTUP_TRIALS = 10
"""At most so many of TPE's first trials are random."""


class OptunaQueue(TrialQueue):
    """Jobs that are suggested one after the other, until each method has the requested number of trials.

    `exhausted` methods have fewer configurations than requested.
    """

    def __init__(
        self,
        state: SearchState,
        make_job: MakeJob,
        *,
        sampler: str = "tpe",
        seed: int = 0,
        histories: Mapping[str, Mapping[int, float]] | None = None,
        on_cache_hit: Callable[[CacheHit], None] = lambda event: None,
        budget: Budget | None = None,
        capacity: Callable[[], int] = lambda: 1,
        scheduler: TrialScheduler | None = None,
        retry_failed: bool = False,
        on_forgone: Callable[[Sequence[TrialConfig]], None] = lambda trials: None,
    ) -> None:
        """Give Optuna what the ledger has; `budget`, `capacity` and `scheduler` as in `TrialQueue`.

        `sampler` is one of `SAMPLERS`, `seed` adds to its seed. `histories` has the validation accuracy by
        epoch of the search's members, by key. `on_cache_hit` is called with trials that the ledger has,
        `on_forgone` with those that are not trained, as the first seed of their configuration has no result.
        """
        super().__init__((), budget, capacity, scheduler)
        self.exhausted: set[str] = set()
        self._search = state.search
        self._make_job = make_job
        self._on_cache_hit, self._on_forgone = on_cache_hit, on_forgone
        self._open: dict[TrialConfig, Member] = {}  # suggested and not ended, by configuration
        self._reusable = dict(state.reusable)
        self._histories = {key: dict(history) for key, history in (histories or {}).items()}
        again = ("half-done", "failed") if retry_failed else ("half-done",)
        self._methods = {
            method: MethodSearch(state, method, again, self._histories, sampler=sampler, seed=seed)
            for method in state.members
        }

    def suggest(self, trial_id: str) -> Any:
        """The next job, which may have to be suggested first."""
        if len(self._running) >= self._capacity():
            return None
        while not any(job["key"] in self.unfinished for job in self._pending) and self._suggest_one():
            pass
        return super().suggest(trial_id)

    def record_epochs(self, config: TrialConfig, rows: Sequence[Mapping[str, float]]) -> None:
        """Take note of trained epochs of an unfinished trial."""
        history = self._histories.setdefault(config.key, {})
        history |= {int(row["epoch"]): row[INTERMEDIATE_METRIC] for row in rows if INTERMEDIATE_METRIC in row}

    def end(self, event: Event) -> None:
        """Tell Optuna how a trial has ended."""
        super().end(event)
        trial = event.config
        values, epochs = None, trial.epochs
        match event:
            case Succeeded(objectives=objectives):
                values = objectives_of(self._search, objectives)
                state = "finished" if values is not None else "failed"
            case Pruned(_, row):
                state, epochs = "pruned", int(row["epoch"])
            case Failed(_, reason):
                state = failure_state(reason)
            case _:
                return  # interrupted: there are no more suggestions
        ended = SearchTrial(config=trial, state=state, objectives=values, epochs=epochs, run_id="")
        self._advance(self._open[trial.replace(seed=SEED)].with_trial(ended))

    def _suggest_one(self) -> bool:
        """Ask Optuna for one more configuration; False where no method needs or has one."""
        left = [m for m in self._methods.values() if m.name not in self.exhausted and not m.complete]
        if not left:
            return False
        method = min(left, key=lambda method: (not method.half_done, len(method.members)))
        trial, config = method.ask()
        another = self._search.method_of(config) != method.name  # whose member it is, or would be
        if another or (config.key in method.members and config.key not in method.half_done):
            if method.repeat(trial, config) >= MAX_REPEATS:
                self.exhausted.add(method.name)
            return True
        self._advance(method.add(trial, config))
        return True

    def _advance(self, member: Member) -> None:
        """Run what a configuration takes now, or take it from the ledger; tell its method of the end."""
        tags = {STAGE_TAG: SEARCH_STAGE, membership_tag(self._search): str(member.number)}
        while hits := [found for trial in member.next() if (found := self._answer(trial))]:
            for found in hits:
                self._on_cache_hit(CacheHit(found.config, found.run_id, tags))
                member = member.with_trial(found)
        if not member.ended:
            self._open[member.config] = member
            for trial in member.next():
                if trial.key not in self.unfinished:
                    self.add(trial, self._make_job(trial, tags))
            return
        self._open.pop(member.config, None)
        self._methods[member.method].end(member)
        if forgone := [t for t in self._search.searched(member.config) if t.seed not in member.trials]:
            self._on_forgone(forgone)

    def _answer(self, trial: TrialConfig) -> SearchTrial | None:
        """What the ledger has of a trial that has ended and is no member's."""
        known = self._reusable.get(trial.key)
        return known if known is not None and known.ended and known.state != "pruned" else None


class MethodSearch:
    """One method's Optuna study.

    `members` are its configurations by key, as they ended (None: not yet); `half_done` ones are run first.
    """

    def __init__(
        self,
        state: SearchState,
        name: str,
        again: Collection[str],
        histories: Mapping[str, Mapping[int, float]],
        *,
        sampler: str,
        seed: int,
    ) -> None:
        """Start with the method's ended members; those whose state is in `again` are suggested first."""
        search, members = state.search, state.members[name]
        ended = [member for member in members if member.state not in again]
        half_done = [member.without(again) for member in members if member.state in again]
        self.name = name
        self.members: dict[str, Member | None] = {member.config.key: member for member in ended}
        self.half_done = {member.config.key: member for member in half_done}
        self.members |= dict.fromkeys(self.half_done)
        self._search = search
        self._histories = histories
        self._last_number = state.last_numbers.get(name, 0)
        self._repeats = 0
        self._asked: dict[str, list[optuna.Trial]] = {}  # wait for the end of a member, by its key
        suggesting = make_sampler(sampler, search, name, len(ended), seed)
        self._study = make_study(search, name, ended, histories, suggesting)
        for member in half_done:
            suggested = search.recall(member.config) or {}
            self._study.enqueue_trial({parameter: value for parameter, (value, _) in suggested.items()})

    @property
    def complete(self) -> bool:
        """Whether nothing needs to be suggested any more."""
        return not self.half_done and len(self.members) >= self._search.trials

    def ask(self) -> tuple[optuna.Trial, TrialConfig]:
        """Optuna's next trial, and its configuration."""
        trial = self._study.ask()
        return trial, self._search.config(self.name, partial(_suggest, trial))

    def add(self, trial: optuna.Trial, config: TrialConfig) -> Member:
        """Make a suggested configuration a member, unless it is one that is half-done; returns it."""
        member = self.half_done.pop(config.key, None)
        if member is None:
            self._last_number += 1
            member = member_of(self._search, self.name, config, self._last_number, {})
        self.members[config.key] = None
        self._asked[config.key] = [trial]
        self._repeats = 0
        return member

    def repeat(self, trial: optuna.Trial, config: TrialConfig) -> int:
        """Answer for a member that is suggested again; returns the number of consecutive repeats."""
        self._repeats += 1
        member = self.members.get(config.key)
        if member is None:
            self._asked.setdefault(config.key, []).append(trial)
        else:
            self._tell(trial, member)
        return self._repeats

    def end(self, member: Member) -> None:
        """Tell Optuna how a member has ended."""
        self.members[member.config.key] = member
        for trial in self._asked.pop(member.config.key, []):
            self._tell(trial, member)

    def _tell(self, trial: optuna.Trial, member: Member) -> None:
        told = trial_state(self._search, member.state)
        if member.state == "pruned" and told == TrialState.PRUNED:
            for epoch, value in self._histories.get(member.config.key, {}).items():
                if epoch <= member.epochs:
                    trial.report(value, epoch)
        for name, value in user_attributes(member.errors).items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, member.objectives, state=told)


def _suggest(trial: optuna.Trial, parameter: Parameter) -> Any:
    return getattr(trial, f"suggest_{parameter.range.kind}")(parameter.name, **bounds(parameter.range))


def make_sampler(
    name: str, search: Search, method: str, known: int, seed: int
) -> optuna.samplers.BaseSampler:
    """The sampler of that name in `SAMPLERS`, for a method of which `known` members have ended."""
    # Another seed when a search is resumed, or its first suggestions would be repeated.
    digest = hashlib.sha256(f"{search.name} {method} {known} {seed}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = min(STARTUP_TRIALS, math.ceil(search.trials / 3))
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=startup,
                independent_sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
                warn_independent_sampling=False,
            )
        # Several trials run at once: without constant_liar it would suggest similar ones.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
