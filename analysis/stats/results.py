"""What is computed of the trials of a study, each of it once."""

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from analysis.stats.between_cells import between_cells
from analysis.stats.comparisons import comparisons
from analysis.stats.factors import Effects, effects_of
from analysis.stats.one_by_one import one_by_one
from analysis.stats.pooling import pooled_comparisons
from analysis.stats.seeds_needed import seeds_needed_by
from analysis.stats.summary import summarise
from analysis.trials import groups_of


@dataclass(frozen=True)
class Results:
    """The results of a study.

    `trials` are the frame of `analysis.trials.load`; `images` the differences over test images, which take
    artifacts (`analysis.sections.generality.over_images`): without rows where they were not read.
    """

    trials: pd.DataFrame
    images: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Mean and standard deviation of each cell, arm and metric."""
        return summarise(self.trials)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """The paired comparisons of each cell."""
        return comparisons(self.trials)

    @cached_property
    def pooled(self) -> list[pd.DataFrame]:
        """The comparisons pooled over all cells."""
        return pooled_comparisons(self.trials)

    @cached_property
    def pooled_by_group(self) -> dict[int, list[pd.DataFrame]]:
        """The comparisons pooled over the cells of each group."""
        groups = groups_of(self.trials).items()
        return {number: pooled_comparisons(self.trials, set(group["cell"])) for number, group in groups}

    @cached_property
    def effects(self) -> dict[int, Effects]:
        """The effects of augmentations in each group."""
        return {number: effects_of(group) for number, group in groups_of(self.trials).items()}

    @cached_property
    def seeds_needed(self) -> pd.DataFrame:
        """What the planned seeds find, and what 1 point takes, in each comparison."""
        return seeds_needed_by(self.trials)

    @cached_property
    def between_cells(self) -> pd.DataFrame:
        """How effects differ between cells."""
        return between_cells(self.trials)

    @cached_property
    def one_by_one(self) -> dict[int, pd.DataFrame]:
        """What each augmentation contributes, in the groups that leave out or add one at a time."""
        found = {number: one_by_one(group) for number, group in groups_of(self.trials).items()}
        return {number: compared for number, compared in found.items() if len(compared)}

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """What is written as CSV, by the file's name."""
        labels = dict(zip(self.trials["group"], self.trials["group_label"], strict=True))
        pooled = [t.assign(over=labels[n]) for n, tables in self.pooled_by_group.items() for t in tables]
        pooled += [table.assign(over="all") for table in self.pooled] if len(labels) > 1 else []
        single = [t.assign(group_label=labels[n]) for n, t in self.one_by_one.items()]
        contrasts = [self.between_cells] if len(self.between_cells) else []
        frames = {"pooled.csv": pooled, "one_by_one.csv": single, "between_cells.csv": contrasts}
        return {
            "summary.csv": self.summary,
            "paired.csv": self.compared,
            "images.csv": self.images,
            "seeds_needed.csv": self.seeds_needed,
            **{name: pd.concat(tables, ignore_index=True) for name, tables in frames.items() if tables},
        }
