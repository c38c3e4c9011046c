"""The queue of a search: Optuna suggests configurations, the ledger answers those that it has.

Optuna's study is in memory. At the start it gets the ledger's trials: finished and pruned ones with their
values; half-done ones are the first that it suggests.
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
from search_spaces.searches import Parameter
from study.cluster.trial_queue import Budget, MakeJob, TrialQueue
from study.ledger.optuna_study import bounds, make_study, trial_state
from study.ledger.search_state import (
    SEARCH_STAGE,
    STAGE_TAG,
    SearchState,
    failure_state,
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
Outcome = tuple[str, tuple[float, ...] | None]
"""The state of an ended member, and the values of its objectives if it is finished."""


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
    ) -> None:
        """Give Optuna what the ledger has; `budget`, `capacity` and `scheduler` as in `TrialQueue`.

        `sampler` is one of `SAMPLERS`, `seed` adds to its seed. `histories` has the validation accuracy by
        epoch of the search's members, by key. `on_cache_hit` is called with trials that the ledger has.
        """
        super().__init__((), budget, capacity, scheduler)
        self.exhausted: set[str] = set()
        self._search = state.search
        self._make_job = make_job
        self._on_cache_hit = on_cache_hit
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
        config = event.config
        values, epochs = None, config.epochs
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
        self._methods[config.method].end(config.key, (state, values), epochs)

    def _suggest_one(self) -> bool:
        """Ask Optuna for one more configuration; False where no method needs or has one."""
        left = [m for m in self._methods.values() if m.name not in self.exhausted and not m.complete]
        if not left:
            return False
        method = min(left, key=lambda method: (not method.half_done, len(method.members)))
        trial, config = method.ask()
        if config.key in method.members and config.key not in method.half_done:
            if method.repeat(trial, config) >= MAX_REPEATS:
                self.exhausted.add(method.name)
            return True
        tags = {STAGE_TAG: SEARCH_STAGE, membership_tag(self._search): str(method.add(trial, config))}
        known = self._reusable.get(config.key)
        if known is not None and known.ended and known.state != "pruned":
            self._on_cache_hit(CacheHit(config, known.run_id, tags))
            method.end(config.key, (known.state, known.objectives), known.epochs)
        else:
            self.add(config, self._make_job(config, tags))
        return True


class MethodSearch:
    """One method's Optuna study.

    `members` says by key how they ended (None: not yet); `half_done` ones, with their numbers, are run first.
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
        half_done = [member for member in members if member.state in again]
        self.name = name
        self.members: dict[str, Outcome | None] = {
            member.config.key: (member.state, member.objectives) for member in ended
        }
        self.half_done = {member.config.key: member.number for member in half_done}
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

    def add(self, trial: optuna.Trial, config: TrialConfig) -> int:
        """Make a suggested configuration a member; returns its number."""
        number = self.half_done.pop(config.key, None)
        if number is None:
            number = self._last_number = self._last_number + 1
        self.members[config.key] = None
        self._asked[config.key] = [trial]
        self._repeats = 0
        return number

    def repeat(self, trial: optuna.Trial, config: TrialConfig) -> int:
        """Answer for a member that is suggested again; returns the number of consecutive repeats."""
        self._repeats += 1
        outcome = self.members[config.key]
        if outcome is None:
            self._asked.setdefault(config.key, []).append(trial)
        else:
            self._tell(trial, config.key, outcome)
        return self._repeats

    def end(self, key: str, outcome: Outcome, epochs: int) -> None:
        """Tell Optuna how a member has ended, after so many epochs."""
        self.members[key] = outcome
        for trial in self._asked.pop(key, []):
            self._tell(trial, key, outcome, epochs)

    def _tell(self, trial: optuna.Trial, key: str, outcome: Outcome, epochs: float = math.inf) -> None:
        state, values = outcome
        told = trial_state(self._search, state)
        if state == "pruned" and told == TrialState.PRUNED:
            for epoch, value in self._histories.get(key, {}).items():
                if epoch <= epochs:
                    trial.report(value, epoch)
        self._study.tell(trial, values, state=told)


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
