"""Early stopping in a search: ASHA, for each method separately."""

import math
from collections.abc import Iterable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search_spaces import Search
from search_spaces.search_design import SEED
from study.cluster import ray_internals
from trainables.trial import TrialConfig

INTERMEDIATE_METRIC = "val/acc"
"""What each epoch reports to the scheduler, and to Optuna for a trial that was stopped early."""
REDUCTION_FACTOR = 2
"""One of so many trials continues at each rung."""
GRACE, LAST_RUNG = 0.2, 2 / 3
"""Fractions of the epochs: no trial is stopped before the first, nor after the last: it is nearly done."""


class PerMethodASHA(FIFOScheduler):
    """Stops a trial after few epochs where others of its method were better by then.

    Only the first seed of a configuration competes; its other seeds are trained to their end.
    Trials are compared, hence may be stopped, at the epochs in `rungs`, but never at the last one: a trial
    that reaches it is evaluated.
    """

    def __init__(self, search: Search) -> None:
        """Know no trial yet."""
        super().__init__()
        epochs = max(config.epochs for config in search.draw())
        first = max(1, round(GRACE * epochs))
        last = max(first, math.floor(LAST_RUNG * epochs))
        powers = range(int(math.log(last / first, REDUCTION_FACTOR)) + 1)
        self.rungs = tuple(first * REDUCTION_FACTOR**power for power in powers)
        self._schedulers: dict[str, ASHAScheduler] = {
            method: ASHAScheduler(
                time_attr="row/epoch",
                metric=f"row/{INTERMEDIATE_METRIC}",
                mode="max",
                grace_period=first,
                max_t=last,
                reduction_factor=REDUCTION_FACTOR,
                stop_last_trials=False,
            )
            for method in search.methods
        }
        self._search = search
        self._methods: dict[str, str] = {}  # of trials that are known, by key

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: it is rebuilt from the ledger."""
        return {}

    def replay(self, key: str, method: str, history: Iterable[tuple[int, float]]) -> None:
        """Take in the epochs of a trial, in order: it counts at every rung that it has reached."""
        asha = self._schedulers[method]
        if key not in self._methods:
            self._methods[key] = method
            ray_internals.add_to_asha(asha, key)
        for epoch, value in history:
            ray_internals.report_to_asha(asha, key, {"row/epoch": epoch, f"row/{INTERMEDIATE_METRIC}": value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Identify a trial by its key: a second attempt is the same trial."""
        key, params = trial.config["key"], trial.config["params"]
        if params["seed"] != str(SEED):
            return
        method = self._methods.get(key) or self._search.method_of(TrialConfig.from_params(params))
        if method is not None:
            self.replay(key, method, ())

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial continues."""
        key, last = trial.config["key"], int(trial.config["params"]["epochs"])
        method = self._methods.get(key)
        if method is None:
            return str(TrialScheduler.CONTINUE)
        if "resumed" in result:
            rows = [row for row in result["resumed"] if INTERMEDIATE_METRIC in row]
            self.replay(key, method, [(int(row["epoch"]), row[INTERMEDIATE_METRIC]) for row in rows])
        if f"row/{INTERMEDIATE_METRIC}" not in result or int(result["row/epoch"]) >= last:
            return str(TrialScheduler.CONTINUE)
        return ray_internals.report_to_asha(self._schedulers[method], key, result)
