"""What the ledger has of a search, as a study of Optuna's."""

from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search_spaces import Search
from search_spaces.searches import Range
from study.ledger.search_state import Member
from trainables.metrics import OBJECTIVES

optuna.logging.set_verbosity(optuna.logging.ERROR)


def make_study(
    search: Search,
    name: str,
    members: Sequence[Member],
    histories: Mapping[str, Mapping[int, float]],
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """A study that knows members that have ended.

    Args:
        search: that they are members of.
        name: of the study.
        members: of one method.
        histories: validation accuracy by epoch of those that were stopped early, by key.
        storage: of the study; None: its own, in memory.
    """
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[OBJECTIVES[objective] for objective in search.objectives],  # type: ignore[misc]
    )
    for member in members:
        study.add_trial(frozen(search, member, histories.get(member.config.key, {})))
    return study


def frozen(search: Search, member: Member, history: Mapping[int, float]) -> optuna.trial.FrozenTrial:
    """A member as a trial of Optuna's that has ended.

    Args:
        search: that it is a member of.
        member: how it ended.
        history: validation accuracy by epoch.
    """
    recalled = search.recall(member.config)
    if recalled is None:
        raise ValueError(f"{member.config.name} is no trial of search {search.name!r}")
    several = len(search.objectives) > 1
    state = {
        "finished": TrialState.COMPLETE,
        "pruned": TrialState.FAIL if several else TrialState.PRUNED,
        "diverged": TrialState.FAIL if several else TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }[member.state]
    intermediate = {}
    if member.state == "pruned" and not several:
        intermediate = {epoch: value for epoch, value in history.items() if epoch <= member.epochs}
    return optuna.trial.create_trial(
        state=state,
        values=list(member.objectives) if member.objectives is not None else None,
        params={name: value for name, (value, _) in recalled.items()},
        distributions={name: distribution(allowed) for name, (_, allowed) in recalled.items()},
        intermediate_values=intermediate,
    )


def distribution(allowed: Range) -> optuna.distributions.BaseDistribution:
    """A parameter's range in Optuna's terms."""
    if allowed.kind == "categorical":
        return CategoricalDistribution(allowed.choices)
    if allowed.kind == "int":
        return IntDistribution(
            int(allowed.low), int(allowed.high), log=allowed.log, step=int(allowed.step or 1)
        )
    return FloatDistribution(allowed.low, allowed.high, log=allowed.log, step=allowed.step)
