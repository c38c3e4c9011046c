"""Whether effects differ between cells, as a table."""

from collections.abc import Mapping

import pandas as pd

from analysis.render.table import Table
from analysis.render.text import difference_title, span
from analysis.sections.differences import difference_columns, difference_rows, sign_flip_note
from analysis.sections.rules import bounds_note, rule_sentences
from analysis.trials import cell_labels
from search_spaces.names import SEPARATOR


def between_cells_table(contrasts: pd.DataFrame, trials: pd.DataFrame) -> Table | None:
    """The contrasts of `analysis.stats.between_cells`; None without any."""
    shown = contrasts[contrasts["n"] > 0]
    if shown.empty:
        return None
    labels = cell_labels(trials)
    reference = int(contrasts["reference"].iloc[0])
    short = _what_differs({cell: labels[cell] for cell in [reference, *contrasts["cell"].unique()]})
    titles = [
        f"{difference_title(arm, baseline)}: {short[cell]}"
        for arm, baseline, cell in zip(
            contrasts["arm_label"], contrasts["baseline_label"], contrasts["cell"], strict=True
        )
    ]
    lacking = contrasts[contrasts["dropped"] != ""].drop_duplicates("cell")
    dropped = "; ".join(f"{row['dropped']} in {short[row['cell']]}" for row in lacking.to_dict("records"))
    joint = shown["p_sign_flip_joint"].notna().any()
    return Table(
        name="between-cells",
        title="Do effects differ between cells?",
        corner="Test accuracy (points)",
        columns=difference_columns(shown),
        rows=difference_rows(titles, contrasts),
        caption="The difference in this cell, less the same in"
        f" {labels[reference]}, paired by seed, n = {span(set(shown['n']))}."
        f" {' '.join(rule_sentences(shown))}{bounds_note(shown)} Adjusted after Holm for all"
        f" {len(contrasts)} rows. That an effect is claimed in one cell and not in another shows no"
        f" difference between them; such a contrast would."
        + (
            f" {sign_flip_note(shown)}"
            if joint
            else " No joint sign flips: not all rows have the same seeds."
        )
        + (f" Seeds that an arm of one of the two cells lacks: {dropped}." if dropped else ""),
    )


def _what_differs(labels: Mapping[int, str]) -> dict[int, str]:
    """The labels of cells without the parts that all of them have."""
    parts = {cell: label.split(SEPARATOR) for cell, label in labels.items()}
    shared = set.intersection(*(set(own) for own in parts.values()))
    return {cell: SEPARATOR.join(part for part in own if part not in shared) for cell, own in parts.items()}
