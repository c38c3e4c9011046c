"""The frames of a search: every configuration, the finalists, and the trials shown beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.comparisons import ComparedArms, arm_configs, comparisons, values_of
from analysis.trials import finished, load
from search_spaces import SPACES, Selection
from search_spaces.search_design import SEED
from search_spaces.seeds import SeedPlan
from study.ledger.records import TrialRecord
from study.ledger.search_members import Member
from study.ledger.search_state import SearchState
from trainables.arms import CE
from trainables.catalogue import TERMS
from trainables.trial import TrialConfig

METHOD_TITLES = {"ce": "CE", "siamese": "Siamese", "control": "Control", "fixmatch": "FixMatch"}
"""Titles of methods; one that is called as a consistency term has the term's, any other its name."""
SHARED_FIELDS = (
    *("dataset", "train_size", "unlabeled_size", "val_fraction", "data_seed", "fold"),
    *("backbone", "feature_dim", "epochs", "lr_schedule"),
)
"""Fields that arms of another space take from the search, to be shown beside its finalists."""


def method_title(method: str) -> str:
    """What people read of a search's method."""
    if method in TERMS and method not in METHOD_TITLES:
        return TERMS[method].title
    return METHOD_TITLES.get(method, method)


@dataclass(frozen=True)
class SearchStudy:
    """A search with its state, and all trials of the ledger by key; how many fresh seeds were planned."""

    state: SearchState
    records: Mapping[str, TrialRecord]
    plan: SeedPlan | None = None

    @cached_property
    def finalists(self) -> dict[str, Member]:
        """The searched configuration of each finalist, by label: `CE 1`."""
        return {
            f"{method_title(method)} {rank}": member
            for method, members in self.state.finalists().items()
            for rank, member in enumerate(members, 1)
        }

    @cached_property
    def finals(self) -> pd.DataFrame:
        """The finalists' trials (`analysis.trials.load`), as the arms of a single cell; may be empty."""
        selection = self.state.final_selection()
        if not selection.trials:
            return pd.DataFrame(columns=["key", "status", "run_id", "changed", "cell", "arm_label", "seed"])
        labels = {member.config: label for label, member in self.finalists.items()}
        trials = load(selection, self.records)
        plan = self.plan.to_json() if self.plan else None
        names = [labels[t.replace(seed=SEED)] for t in selection.trials]
        return trials.assign(cell=0, arm_label=names, seed_plan=plan)

    @cached_property
    def given(self) -> dict[str, Any]:
        """The fields that the search does not vary."""
        search = self.state.search
        by_method = set[str]().union(*search.methods.values())
        fixed = {name: value for name, value in search.fixed.items() if name not in by_method}
        return {**fixed, **search.assigned}

    @cached_property
    def beside(self) -> pd.DataFrame:
        """Finished trials of the space that is shown beside, with the same data and epochs."""
        space = self.state.search.beside
        same = {name: self.given[name] for name in SHARED_FIELDS if name in self.given}
        trials = dict.fromkeys(trial.replace(**same) for trial in (SPACES[space]() if space else ()))
        known = tuple(trial for trial in trials if trial.key in self.records)
        if not known:
            return pd.DataFrame()
        return finished(load(Selection(space=str(space), trials=known, steps=()), self.records))

    @cached_property
    def baseline(self) -> str | None:
        """The finalist of cross-entropy with the highest mean validation accuracy over the fresh seeds."""
        return self._best([label for label, config in self._configs.items() if config.method == CE])

    @cached_property
    def control(self) -> str | None:
        """The finalist of two views without a term (γ = 0) that is best likewise; None without such ones."""
        return self._best([label for label, config in self._supervised.items() if not config.gamma])

    @cached_property
    def compared(self) -> pd.DataFrame:
        """Finalists compared with the baseline and with the control (`analysis.stats.comparisons`); or empty.

        All methods but cross-entropy are compared with the baseline; those of `siamese` with a term also with
        the control.
        """
        others = [label for label, config in self._configs.items() if config.method != CE]
        with_term = [label for label, config in self._supervised.items() if config.gamma]
        wanted = {self.baseline: others, self.control: with_term}
        families = {name: dict.fromkeys(arms, name) for name, arms in wanted.items() if name and arms}
        groups = []
        if families:
            labels = dict.fromkeys([*families, *(arm for arms in families.values() for arm in arms)])
            configs = {label: arm_configs(self.finals)[label] for label in labels}
            groups = [ComparedArms(cell=0, trials=self.finals, configs=configs, families=families)]
        return comparisons(self.finals, groups)

    @property
    def _configs(self) -> dict[str, TrialConfig]:
        """The configuration of each finalist, by label."""
        return {label: member.config for label, member in self.finalists.items()}

    @property
    def _supervised(self) -> dict[str, TrialConfig]:
        """Those with cross-entropies of two views: without their term they would be the control."""
        return {label: config for label, config in self._configs.items() if config.method == "siamese"}

    def _best(self, labels: list[str]) -> str | None:
        """The finalist among these with the highest mean validation accuracy over the fresh seeds."""
        if self.finals.empty:
            return None
        means = values_of(self.finals, "val_acc")[labels].mean().dropna()
        return None if means.empty else str(means.idxmax())


def members_frame(study: SearchStudy, stopped: Mapping[str, float]) -> pd.DataFrame:
    """One row per configuration: number, state, objectives and every parameter; nothing of test images.

    Objectives are means over its seeds, where these are several with standard errors in columns `…_error`.
    `stopped` is the validation accuracy when its first seed was stopped early, by key.
    """
    search = study.state.search
    several = search.seeds_per_configuration > 1
    rows = []
    for member in study.state.all:
        nothing = (np.nan,) * len(search.objectives)
        values, errors = member.objectives or nothing, member.errors or nothing
        row = {
            "method": member.method,
            "number": member.number,
            "state": member.state,
            "epochs": member.epochs if member.state in ("finished", "pruned") else np.nan,
            "value": values[0],
            "stopped": stopped.get(member.config.key, np.nan),
            **dict(zip(search.objectives, values, strict=True)),
            **{name: value for name, (value, _) in (search.recall(member.config) or {}).items()},
            "key": member.config.key,
            "run_id": " ".join(member.run_ids),
        }
        if several:
            named = {f"{name}_error": error for name, error in zip(search.objectives, errors, strict=True)}
            row |= {**named, "seeds": finished_seeds(member)}
        rows.append(row)
    return pd.DataFrame(rows)


def finished_seeds(member: Member) -> int:
    """How many seeds of a configuration have values."""
    return sum(trial.objectives is not None for trial in member.trials.values())


def mean_of_runs(study: SearchStudy, metric: str) -> dict[str, float]:
    """Mean over seeds of a metric that is not an objective of the search, of finished members, by key."""
    values = {
        member.config.key: [
            study.records[trial.config.key].metrics.get(metric, np.nan) for trial in member.trials.values()
        ]
        for member in study.state.all
        if member.state == "finished"
    }
    return {key: fmean(by_seed) for key, by_seed in values.items()}


def pareto_front(study: SearchStudy, done: pd.DataFrame, objectives: tuple[str, str]) -> list[bool]:
    """Which finished configurations (rows of `members_frame`) no other one dominates in both objectives."""
    pair = study.state.search.replace(objectives=objectives)
    values = list(done[list(objectives)].itertuples(index=False, name=None))
    return [not any(pair.better(other, own) for other in values) for own in values]
