"""Whether networks have learned anything: test accuracy beside what guessing gives."""

import math

import numpy as np
import pandas as pd

from analysis.plots.kept import kept_arrays
from analysis.render.text import arm_title, join_and
from analysis.sections.figures import CELLS_WITH_FIGURES
from analysis.stats.comparisons import TESTED
from analysis.trials import cells_of, finished
from study.ledger.ledger import Ledger
from trainables.metrics import PREDICTIONS

CLEARLY = 3.0
"""Standard errors over test images above guessing, from which on an accuracy is no guess."""


def chance_findings(trials: pd.DataFrame, ledger: Ledger) -> list[str]:
    """A sentence for each cell with arms whose mean test accuracy is not clearly above guessing.

    Guessing is to name the most frequent class of the test images always. Their labels are among the
    predictions that trials keep; a cell whose newest ones cannot be read is left out.
    """
    cells = cells_of(trials)
    if TESTED not in trials or len(cells) > CELLS_WITH_FIGURES:
        return []
    return [text for cell in cells.values() for text in _of_cell(cell, ledger, several=len(cells) > 1)]


def _of_cell(cell: pd.DataFrame, ledger: Ledger, *, several: bool) -> list[str]:
    done = finished(cell)
    if done.empty:
        return []
    newest = str(done.sort_values("changed")["run_id"].iloc[-1])
    try:
        with kept_arrays(ledger, newest, PREDICTIONS) as kept:
            counts = np.unique(kept["labels"], return_counts=True)[1]
    except OSError:
        return []
    images = int(counts.sum())
    if not images:
        return []
    share = float(counts.max()) / images
    bound = share + CLEARLY * math.sqrt(share * (1 - share) / images)
    means = done.groupby("arm_label", sort=False)[TESTED].mean()
    low = [arm_title(str(arm)) for arm, mean in means.items() if mean < bound]
    if not low:
        return []
    where = f"{cell['cell_label'].iloc[0]}: " if several else ""
    named = f"{join_and(low)} {'is' if len(low) == 1 else 'are'}"
    who = "all arms are" if len(low) == len(means) else named
    return [
        f"{where}{who[0].upper()}{who[1:]} not clearly above guessing, which gets {100 * share:.1f} % of"
        f" these {images:,} test images right. Look at images, labels, step size and epochs before comparing."
    ]
