"""The frames of a search: every searched trial, the finalists, and the trials shown beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats.comparisons import ComparedArms, arm_configs, comparisons, values_of
from analysis.trials import finished, load
from search_spaces import SPACES, Selection
from search_spaces.searches import SEED
from search_spaces.seeds import SeedPlan
from study.ledger.records import TrialRecord
from study.ledger.search_state import SearchState, SearchTrial
from trainables.arms import CE
from trainables.trial import two_views

METHOD_TITLES = {"ce": "CE", "siamese": "Siamese"}
SHARED_FIELDS = (
    *("dataset", "train_size", "unlabeled_size", "val_fraction", "data_seed", "fold"),
    *("backbone", "feature_dim", "epochs", "lr_schedule"),
)
"""Fields that arms of another space take from the search, to be shown beside its finalists."""


@dataclass(frozen=True)
class SearchStudy:
    """A search with its state, and all trials of the ledger by key; how many fresh seeds were planned."""

    state: SearchState
    records: Mapping[str, TrialRecord]
    plan: SeedPlan | None = None

    @cached_property
    def finalists(self) -> dict[str, SearchTrial]:
        """The searched trial of each finalist, by label: `CE 1`."""
        return {
            f"{METHOD_TITLES[method]} {rank}": member
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
        return {**self.state.search.fixed, **self.state.search.assigned}

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
        alone = [label for label, member in self.finalists.items() if member.config.method == CE]
        if self.finals.empty:
            return None
        means = values_of(self.finals, "val_acc")[alone].mean().dropna()
        return None if means.empty else str(means.idxmax())

    @cached_property
    def compared(self) -> pd.DataFrame:
        """Finalists of two views compared with the baseline (`analysis.stats.comparisons`); may be empty."""
        pairs = [label for label, member in self.finalists.items() if two_views(member.config)]
        groups = []
        if self.baseline and pairs:
            configs = {label: arm_configs(self.finals)[label] for label in (self.baseline, *pairs)}
            families = {self.baseline: dict.fromkeys(pairs, self.baseline)}
            groups = [ComparedArms(cell=0, trials=self.finals, configs=configs, families=families)]
        return comparisons(self.finals, groups)


def members_frame(study: SearchStudy, stopped: Mapping[str, float]) -> pd.DataFrame:
    """One row per searched trial: number, state, objectives and every parameter; nothing of test images.

    `stopped` is the validation accuracy when a trial was stopped early, by key.
    """
    search = study.state.search
    rows = []
    for member in study.state.all:
        values = member.objectives or (np.nan,) * len(search.objectives)
        row = {
            "method": member.config.method,
            "number": member.number,
            "state": member.state,
            "epochs": member.epochs if member.state in ("finished", "pruned") else np.nan,
            "value": values[0],
            "stopped": stopped.get(member.config.key, np.nan),
            **dict(zip(search.objectives, values, strict=True)),
            **{name: value for name, (value, _) in (search.recall(member.config) or {}).items()},
            "key": member.config.key,
            "run_id": member.run_id,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def pareto_front(study: SearchStudy, done: pd.DataFrame, objectives: tuple[str, str]) -> list[bool]:
    """Which finished trials (rows of `members_frame`) no other one dominates in both objectives."""
    pair = study.state.search.replace(objectives=objectives)
    values = list(done[list(objectives)].itertuples(index=False, name=None))
    return [not any(pair.better(other, own) for other in values) for own in values]
