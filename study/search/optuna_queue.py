"""Which configuration next: Optuna suggests, the ledger answers what it has, Ray Tune trains the rest.

Optuna's own study lives in memory. At the start it is told what the ledger has: finished and pruned trials
with their values; half-done ones are the first that it suggests.
"""

import hashlib
import logging
import math
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from search_spaces import Search
from study.cluster.trial_queue import Budget, Jobs
from study.ledger.optuna_study import make_study
from study.ledger.search_state import SEARCHED, STAGE, Member, Standing, failure_state, objectives_of, tag_of
from study.recording.events import Event, Failed, Found, Pruned, Succeeded
from trainables.metrics import OBJECTIVES
from trainables.trial import TrialConfig

MEASURED = "val/acc"
"""What each epoch tells a scheduler, and Optuna of a trial that was stopped early."""
REPEATS = 200
"""Suggestions in a row that bring nothing new, after which a method has no more configurations."""
STARTUP = 10
"""Most trials of TPE that are random, before it learns from them."""
FACTOR = 2
"""Of halving: one of so many goes on at each rung."""
GRACE, LAST_RUNG = 0.2, 2 / 3
"""Shares of the epochs: before the first no trial is stopped, and none after the last: it is nearly done."""

Make = Callable[[TrialConfig, Mapping[str, str]], dict[str, Any]]
"""What runs a trial whose run is to have these tags beside the usual ones."""

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.getLogger("ray.tune.search.optuna.optuna_search").setLevel(logging.ERROR)


class Suggestions(Jobs):
    """Jobs that are made up one after the other, until each method has as many trials as it is to have.

    Attributes:
        exhausted: methods that have no more configurations, fewer than asked for.
    """

    def __init__(
        self,
        standing: Standing,
        make: Make,
        *,
        sampler: str = "tpe",
        seed: int = 0,
        histories: Mapping[str, Mapping[int, float]] | None = None,
        on_found: Callable[[Found], None] = lambda event: None,
        budget: Budget | None = None,
        places: Callable[[], int] = lambda: 1,
        retry_failed: bool = False,
    ) -> None:
        """Tell Optuna what is known.

        Args:
            standing: how far the search is.
            make: makes the job of a trial.
            sampler: one of `SAMPLERS`.
            seed: of the sampler, beside the search's name and how much it was told.
            histories: validation accuracy by epoch of the search's members, by key.
            on_found: told of trials that the ledger has already.
            budget: no trial is begun that would not fit into what is left of it; None: no limit.
            places: trials at once: what is suggested before it can begin knows less than it could.
            retry_failed: run failed members again.
        """
        super().__init__([], budget)
        search = standing.search
        self.exhausted: set[str] = set()
        self._search = search
        self._make = make
        self._places = places
        self._on_found = on_found
        self._known = dict(standing.known)
        self._rows: dict[str, dict[int, float]] = {
            key: dict(history) for key, history in (histories or {}).items()
        }
        self._methods = {
            method: _Method(
                search,
                method,
                members,
                self._rows,
                sampler=sampler,
                seed=seed,
                number=standing.numbers.get(method, 0),
                retry_failed=retry_failed,
            )
            for method, members in standing.members.items()
        }

    def suggest(self, trial_id: str) -> Any:
        """The next job, which may have to be made up first."""
        if len(self.handed_out) >= self._places():
            return None
        while not any(job["key"] in self.open for job in self._waiting) and self._ask():
            pass
        return super().suggest(trial_id)

    def trained(self, config: TrialConfig, rows: Sequence[Mapping[str, float]]) -> None:
        """Take note of epochs of an open trial."""
        known = self._rows.setdefault(config.key, {})
        known |= {int(row["epoch"]): row[MEASURED] for row in rows if MEASURED in row}

    def end(self, event: Event) -> None:
        """Tell Optuna how a trial has ended."""
        super().end(event)
        config = event.config
        values, epochs = None, config.epochs
        match event:
            case Succeeded(_, objectives):
                values = objectives_of(self._search, objectives)
                state = "finished" if values is not None else "failed"
            case Pruned(_, row):
                state, epochs = "pruned", int(row["epoch"])
            case Failed(_, reason):
                state = failure_state(reason)
            case _:
                return  # interrupted: nobody suggests any more
        self._methods[config.method].end(config, state, values, epochs)

    def _ask(self) -> bool:
        """Ask for one more configuration; False where there is none to be asked for."""
        open_ones = [method for method in self._methods.values() if not method.complete(self._search.trials)]
        open_ones = [method for method in open_ones if method.name not in self.exhausted]
        if not open_ones:
            return False
        method = min(open_ones, key=lambda method: (not method.half_done, len(method.members)))
        ask_id, config = method.ask()
        key = config.key
        if key in method.half_done:
            number = method.half_done.pop(key)
        elif key in method.members:
            method.repeat(ask_id, config)
            if method.repeats >= REPEATS:
                self.exhausted.add(method.name)
            return True
        else:
            number = method.number = method.number + 1
        method.members[key] = None
        method.repeats = 0
        method.asked[key] = [ask_id]
        tags = {STAGE: SEARCHED, tag_of(self._search): str(number)}
        known = self._known.get(key)
        if known is not None and known.ended and known.state != "pruned":
            self._on_found(Found(config, known.run_id, tags))
            method.end(config, known.state, known.objectives, known.epochs)
        else:
            self.add(config, self._make(config, tags))
        return True


class _Method:
    """One method's study of Optuna's.

    Attributes:
        name: of the method.
        number: of the last configuration.
        members: by key, with how they ended; None: not yet.
        half_done: key -> number of members that are to be run first.
        asked: key -> Optuna's trials that wait for its end.
        repeats: suggestions in a row that brought nothing new.
    """

    def __init__(
        self,
        search: Search,
        name: str,
        members: Sequence[Member],
        rows: Mapping[str, Mapping[int, float]],
        *,
        sampler: str,
        seed: int,
        number: int,
        retry_failed: bool,
    ) -> None:
        again = {"half-done", "failed"} if retry_failed else {"half-done"}
        ended = [member for member in members if member.state not in again]
        first = [member for member in members if member.state in again]
        self.name = name
        self.number = number
        self.members: dict[str, tuple[str, tuple[float, ...] | None] | None] = {
            member.config.key: (member.state, member.objectives) for member in ended
        }
        self.half_done = {member.config.key: member.number for member in first}
        self.members |= dict.fromkeys(self.half_done)
        self.asked: dict[str, list[str]] = {}
        self.repeats = 0
        self._search = search
        self._rows = rows
        self._made: TrialConfig | None = None
        several = len(search.objectives) > 1
        modes = ["max" if OBJECTIVES[objective] == "maximize" else "min" for objective in search.objectives]
        storage = optuna.storages.InMemoryStorage()
        make_study(search, name, ended, rows, storage)
        self._optuna = OptunaSearch(
            self._define,
            metric=list(search.objectives) if several else search.objectives[0],
            mode=modes if several else modes[0],
            sampler=make_sampler(sampler, _seed_of(search, name, len(ended), seed), search.trials),
            storage=storage,
            study_name=name,
            points_to_evaluate=[_values(search, member.config) for member in first],
        )

    def _define(self, trial: Any) -> None:
        self._made = self._search.config(self.name, trial)

    def complete(self, trials: int) -> bool:
        """Whether nothing is to be suggested any more."""
        return not self.half_done and len(self.members) >= trials

    def ask(self) -> tuple[str, TrialConfig]:
        """A configuration, and what Optuna knows it by."""
        ask_id = uuid.uuid4().hex
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's, that asking takes long: the first time imports a library
            self._optuna.suggest(ask_id)
        if self._made is None:
            raise AssertionError("Optuna has suggested nothing")
        return ask_id, self._made

    def repeat(self, ask_id: str, config: TrialConfig) -> None:
        """Answer for a configuration that was suggested before."""
        self.repeats += 1
        outcome = self.members[config.key]
        if outcome is None:
            self.asked.setdefault(config.key, []).append(ask_id)
        else:
            self._tell(ask_id, config, *outcome)

    def end(self, config: TrialConfig, state: str, values: tuple[float, ...] | None, epochs: int) -> None:
        """Tell Optuna how a member has ended."""
        self.members[config.key] = (state, values)
        for ask_id in self.asked.pop(config.key, []):
            self._tell(ask_id, config, state, values, epochs)

    def _tell(
        self,
        ask_id: str,
        config: TrialConfig,
        state: str,
        values: tuple[float, ...] | None,
        epochs: int = 0,
    ) -> None:
        several = len(self._search.objectives) > 1
        if state == "finished" and values is not None:
            told = dict(zip(self._search.objectives, values, strict=True))
            self._optuna.on_trial_complete(ask_id, told)
            return
        if state == "pruned" and not several:
            for epoch, value in self._rows.get(config.key, {}).items():
                if not epochs or epoch <= epochs:
                    told = {self._search.objectives[0]: value, TRAINING_ITERATION: epoch}
                    self._optuna.on_trial_result(ask_id, told)
        # Without a value "pruned" is worse than all others to Optuna, and "failed" says nothing.
        self._optuna.on_trial_complete(ask_id, None, error=state == "failed" or several)


class Halving(FIFOScheduler):
    """ASHA for each method by itself: stops a trial after few epochs where others were better by then.

    A trial that comes to its last epoch is never stopped there: it is evaluated.

    Attributes:
        rungs: epochs at which trials are compared, hence where one may be stopped.
    """

    def __init__(self, search: Search) -> None:
        """Know of no trial yet."""
        super().__init__()
        epochs = max(config.epochs for config in search.draw())
        first = max(1, round(GRACE * epochs))
        last = max(first, math.floor(LAST_RUNG * epochs))
        powers = range(int(math.log(last / first, FACTOR)) + 1)
        self.rungs = tuple(first * FACTOR**power for power in powers)
        self._of: dict[str, ASHAScheduler] = {
            method: ASHAScheduler(
                time_attr="row/epoch",
                metric=f"row/{MEASURED}",
                mode="max",
                grace_period=first,
                max_t=last,
                reduction_factor=FACTOR,
                stop_last_trials=False,
            )
            for method in search.methods
        }
        self._known: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: it is made anew from the ledger."""
        return {}

    def replay(self, key: str, method: str, history: Iterable[tuple[int, float]]) -> None:
        """Take in the epochs of a trial, in order: it counts at every rung that it has reached."""
        asha, known = self._of[method], SimpleNamespace(trial_id=key)
        if key not in self._known:
            self._known.add(key)
            asha.on_trial_add(None, known)
        for epoch, value in history:
            asha.on_trial_result(None, known, {"row/epoch": epoch, f"row/{MEASURED}": value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Know a trial by its key: a second attempt is the same trial."""
        self.replay(trial.config["key"], trial.config["params"]["method"], ())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        key, params = trial.config["key"], trial.config["params"]
        if "resumed" in result:
            rows = [row for row in result["resumed"] if MEASURED in row]
            self.replay(key, params["method"], [(int(row["epoch"]), row[MEASURED]) for row in rows])
        if f"row/{MEASURED}" not in result or int(result["row/epoch"]) >= int(params["epochs"]):
            return str(TrialScheduler.CONTINUE)
        known = SimpleNamespace(trial_id=key)
        return str(self._of[params["method"]].on_trial_result(tune_controller, known, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing to do: what counts was taken in epoch by epoch."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do."""


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers.

    Args:
        name: one of `SAMPLERS`.
        seed: of its random numbers.
        trials: how many it will suggest in all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = min(STARTUP, math.ceil(trials / 3))
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=startup,
                independent_sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
                warn_independent_sampling=False,
            )
        # Several trials run at once: without the liar it would suggest their like again.
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def _seed_of(search: Search, method: str, told: int, seed: int) -> int:
    """Of the sampler: another one when a search goes on, or its first suggestions would come again."""
    digest = hashlib.sha256(f"{search.name} {method} {told} {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _values(search: Search, config: TrialConfig) -> dict[str, Any]:
    return {name: value for name, (value, _) in (search.recall(config) or {}).items()}
