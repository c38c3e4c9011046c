"""The members of a search: configurations, and the trials with which they are tried, one for each seed."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from search_spaces.search_design import SEED
from trainables.trial import TrialConfig

STATES = ("finished", "pruned", "diverged", "failed", "half-done")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTrial:
    """A searched trial: a configuration with one of its seeds.

    Attributes:
        state: one of `STATES`: `pruned` was stopped early, `diverged` had a loss that was not finite,
            `failed` failed for another reason.
        objectives: values of the search's objectives, in their order; None unless finished with all of them.
        epochs: trained before it was pruned; all of them otherwise.
    """

    config: TrialConfig
    state: str
    objectives: tuple[float, ...] | None
    epochs: int
    run_id: str

    @property
    def ended(self) -> bool:
        """Whether it is not to be resumed."""
        return self.state != "half-done"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A searched configuration: what is suggested, counted and ranked.

    Its trial with the first seed may be stopped early. If that one finishes, the other seeds are trained to
    their end.

    Attributes:
        config: its trial with the first seed.
        method: its name in the search.
        number: in the order of suggestion, from 1, for each method.
        trials: what the ledger has of it, by seed; of no more seeds than the search asks for.
        planned: how many seeds that is.
    """

    config: TrialConfig
    method: str
    number: int
    trials: Mapping[int, SearchTrial]
    planned: int = 1

    @property
    def state(self) -> str:
        """One of `STATES`: of the first seed if that has ended without a result, else of all together."""
        first, *others = (self.trials.get(SEED + i) for i in range(self.planned))
        if first is None or first.state != "finished":
            return first.state if first is not None else "half-done"
        states = {trial.state if trial is not None else "half-done" for trial in others}
        # The other seeds are not stopped early: one that was, by another study, is to be continued.
        if states & {"half-done", "pruned"}:
            return "half-done"
        return next((state for state in ("diverged", "failed") if state in states), "finished")

    @property
    def ended(self) -> bool:
        """Whether nothing of it is to be trained."""
        return self.state != "half-done"

    @property
    def objectives(self) -> tuple[float, ...] | None:
        """Means over seeds of the search's objectives, in their order; None unless all seeds finished."""
        return tuple(map(fmean, self._values)) if self.state == "finished" else None

    @property
    def errors(self) -> tuple[float, ...] | None:
        """Standard errors of these means (n - 1 in the variance); None for one seed, or unless finished."""
        if self.state != "finished" or self.planned < 2:
            return None
        return tuple(stdev(values) / math.sqrt(len(values)) for values in self._values)

    @property
    def _values(self) -> list[tuple[float, ...]]:
        """The values of each objective by seed."""
        known = [trial.objectives for trial in self.trials.values() if trial.objectives is not None]
        return list(zip(*known, strict=True))

    @property
    def epochs(self) -> int:
        """Epochs that its first seed was trained before it was stopped early; all of them otherwise."""
        first = self.trials.get(SEED)
        return first.epochs if first is not None else self.config.epochs

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs of its trials, by seed."""
        return tuple(trial.run_id for trial in self.trials.values())

    def without(self, states: Collection[str]) -> "Member":
        """This member as if its trials in one of these states were not there: they are to be run again."""
        kept = {seed: trial for seed, trial in self.trials.items() if trial.state not in states}
        return dataclasses.replace(self, trials=kept)

    def with_trial(self, trial: SearchTrial) -> "Member":
        """This member with one more trial."""
        trials = {**self.trials, trial.config.seed: trial}
        return dataclasses.replace(self, trials=dict(sorted(trials.items())))

    def missing(self) -> list[TrialConfig]:
        """The trials that it still takes if none ends early, the first seed first."""
        if self.ended:
            return []
        seeds = range(SEED, SEED + self.planned)
        done = {seed for seed, trial in self.trials.items() if trial.ended and trial.state != "pruned"}
        return [self.config.replace(seed=seed) for seed in seeds if seed not in done]

    def next(self) -> list[TrialConfig]:
        """The trials that can be run now: the first seed alone, then all others."""
        missing = self.missing()
        return missing[:1] if missing and missing[0].seed == SEED else missing
