"""The ledger's trials of a search, as an Optuna study."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search_spaces import Search
from search_spaces.ranges import Range
from study.ledger.search_members import Member
from trainables.metrics import OBJECTIVES

DISTRIBUTIONS = {"categorical": CategoricalDistribution, "int": IntDistribution, "float": FloatDistribution}
STANDARD_ERRORS = "standard_errors"
"""User attribute of an Optuna trial: the standard error of each of its values, which are means over seeds."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_study(
    search: Search,
    name: str,
    members: Sequence[Member],
    histories: Mapping[str, Mapping[int, float]],
    sampler: optuna.samplers.BaseSampler | None = None,
) -> optuna.Study:
    """A study in memory with the ended members of one method.

    `histories` has the validation accuracy by epoch of those that were stopped early, by key.
    """
    study = optuna.create_study(
        sampler=sampler,
        study_name=name,
        directions=[OBJECTIVES[objective] for objective in search.objectives],  # type: ignore[misc]
    )
    for member in members:
        study.add_trial(_frozen(search, member, histories.get(member.config.key, {})))
    return study


def _frozen(search: Search, member: Member, history: Mapping[int, float]) -> optuna.trial.FrozenTrial:
    """An ended member as an Optuna trial; ValueError for a config that the search could not suggest."""
    suggested = search.recall(member.config)
    if suggested is None:
        raise ValueError(f"{member.config.name} is no trial of search {search.name!r}")
    state, intermediate = trial_state(search, member.state), {}
    if member.state == "pruned" and state == TrialState.PRUNED:
        intermediate = {epoch: value for epoch, value in history.items() if epoch <= member.epochs}
    return optuna.trial.create_trial(
        state=state,
        values=list(member.objectives) if member.objectives is not None else None,
        params={name: value for name, (value, _) in suggested.items()},
        distributions={name: DISTRIBUTIONS[r.kind](**bounds(r)) for name, (_, r) in suggested.items()},
        intermediate_values=intermediate,
        user_attrs=user_attributes(member.errors),
    )


def user_attributes(errors: Sequence[float] | None) -> dict[str, Any]:
    """What an Optuna trial knows besides its values: their standard errors, where several seeds gave them."""
    return {} if errors is None else {STANDARD_ERRORS: list(errors)}


def trial_state(search: Search, state: str) -> TrialState:
    """Optuna's state of an ended member; with several objectives it supports no pruning."""
    if state == "finished":
        return TrialState.COMPLETE
    # Without values, a pruned trial ranks behind all others; a failed one is ignored.
    return TrialState.FAIL if state == "failed" or len(search.objectives) > 1 else TrialState.PRUNED


def bounds(allowed: Range) -> dict[str, Any]:
    """A parameter's range as arguments of Optuna's distributions, and of its trials' `suggest` methods."""
    if allowed.kind == "categorical":
        return {"choices": allowed.choices}
    if allowed.kind == "int":
        low, high, step = int(allowed.low), int(allowed.high), int(allowed.step or 1)
        return {"low": low, "high": high, "step": step, "log": allowed.log}
    return {"low": allowed.low, "high": allowed.high, "step": allowed.step, "log": allowed.log}
