"""What a choice of γ by validation images is worth."""

import math
from collections import Counter

import pandas as pd

from analysis.render.table import Table, entries
from analysis.render.text import NO_VALUE, left_out
from analysis.stats.selection import choices
from trainables.arms import CE, CONTROL, Arm, weight_text


def selected_tables(trials: pd.DataFrame) -> list[Table]:
    """A row for each choice that a study allows; empty if there is none."""
    rows, lost = [], set()
    one_cell = trials["cell_label"].nunique() == 1
    for choice in choices(trials):
        selected, setting = choice.selected, Arm.parse(choice.arms[-1]).setting
        n = len(selected.test)
        chosen = ", ".join(f"{_gamma(arm)} ({k} of {n})" for arm, k in Counter(selected.chosen).most_common())
        texts = (
            *(_per_cent(float(selected.test.mean())), _between(selected.low, selected.high), f"{n}", chosen),
            *(_per_cent(choice.beside[CE]), _per_cent(choice.beside[CONTROL])),
            *(_per_cent(selected.optimistic), _gamma(selected.optimistic_arm)),
        )
        name = choice.cell_label + (f" ({setting})" if setting else "")
        rows.append((setting if one_cell and setting else name, entries(*texts)))
        lost |= set(choice.dropped)
    table = Table(
        name="selected",
        title="What a choice of γ is worth",
        corner="Term" if one_cell and len(rows) > 1 else "Cell",
        columns=(
            *("Selected", "95 % interval", "n", "γ (seeds)", "CE", "γ = 0"),
            *("Best on test (optimistic)", "γ (best)"),
        ),
        rows=tuple(rows),
        caption="Test accuracy in %, mean over n seeds. Selected: for each seed the γ (0 among them where it"
        " was trained) with the highest mean validation accuracy over the other seeds. The choices of n"
        " seeds share most of their images and seeds, so the interval is that of the jackknife, which repeats"
        " the whole choice without each seed; it is rather too wide than too narrow. CE and γ = 0: without"
        " any choice, over the same seeds. Best on test: the highest mean; chosen with the images that it is"
        " measured on, it is too high: of five γ without any effect, the best lies half a standard deviation"
        " above their mean at n = 5." + left_out(" where an arm lacks them", lost),
    )
    return [table] if rows else []


def _per_cent(value: float) -> str:
    return NO_VALUE if math.isnan(value) else f"{100 * value:.1f}"


def _between(low: float, high: float) -> str:
    return NO_VALUE if math.isnan(low) else f"{100 * max(low, 0):.1f} to {100 * min(high, 1):.1f}"


def _gamma(arm: str) -> str:
    return weight_text(Arm.parse(arm).gamma or 0.0)
