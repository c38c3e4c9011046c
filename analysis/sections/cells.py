"""The tables of single cells: rows are metrics, columns arms."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.render.section import RenderedFigure, Section
from analysis.render.table import Entry, Table, readable
from analysis.render.text import NO_VALUE, arm_title, number_of, over_seeds, spread_text
from analysis.sections.by_seed import seed_table
from analysis.sections.claims import claims_line
from analysis.sections.differences import difference_table
from analysis.sections.findings import cell_findings
from analysis.stats.comparisons import TESTED
from analysis.stats.results import Results
from analysis.trials import cell_labels, cells_of, finished
from trainables.metrics import ACCURACIES, METRICS
from trainables.setting import ALWAYS

OPEN_CELLS = 2
"""Most cells whose details are unfolded at first."""


def _diagnostics() -> list[str]:
    """The metrics that describe a network, those of files of your own at the end."""
    return [name for name, metric in METRICS.items() if metric.table == "diagnostics"]


def cell_sections(results: Results, figures: Mapping[int, Sequence[RenderedFigure]]) -> list[Section]:
    """A section for each cell, foldable if there are several; `figures` are by number of the cell."""
    cells = cells_of(results.trials)
    single = len(cells) == 1
    sections = []
    for number, cell in cells.items():
        *accuracies, diagnostics, seeds = _tables(results, number)
        compared = results.compared[results.compared["cell"] == number]
        unfolding = {"Every seed": seeds, "Diagnostics": diagnostics}
        folds = [
            Section(title=title, folded=True, tables=(table,), headed=False)
            for title, table in unfolding.items()
            if table
        ]
        sections.append(
            Section(
                title=cell["cell_label"].iloc[0],
                folded=None if single else len(cells) > OPEN_CELLS,
                extent=f"{len(finished(cell))} of {len(cell)} trials",
                findings=() if single else (*cell_findings(compared), *_claims(compared)),
                tables=tuple(filter(None, accuracies)),
                headed=False,
                parts=tuple(folds),
                figures=tuple(figures[number]),
            )
        )
    return sections


def _claims(compared: pd.DataFrame) -> list[str]:
    return claims_line(compared[compared["metric"] == TESTED], ("baseline",))


def cell_tables(results: Results, cell: int) -> list[Table]:
    """The tables of one cell: accuracies, differences and diagnostics where there are any, every seed."""
    return [table for table in _tables(results, cell) if table]


def _tables(results: Results, cell: int) -> tuple[Table, Table | None, Table | None, Table]:
    compared = results.compared[results.compared["cell"] == cell]
    title = f"{cell_labels(results.trials)[cell]}: differences"
    return (
        cell_table(results.summary, results.trials, cell),
        difference_table(compared, f"differences-{cell}", title),
        diagnostics_table(results.summary, results.trials, cell),
        seed_table(results.trials, cell),
    )


def cell_table(summary: pd.DataFrame, trials: pd.DataFrame, cell: int) -> Table:
    """The accuracies of one cell in per cent.

    Entries are `mean ± SD` over n >= 3 seeds, both values for two, the value for one. If fewer seeds have a
    value than are planned, the entry says how many. In the row of test accuracy the highest mean is bold.
    """
    part = summary[(summary["cell"] == cell) & summary["metric"].isin(list(ACCURACIES))]
    planned = trials[trials["cell"] == cell]
    known = set(part.loc[part["n"] > 0, "metric"]) or {TESTED}
    if "rrc" in part["augmentations"].iloc[0].split("+"):
        known.discard("test_augcrop_acc")  # the same images as under the cell's own augmentations
    table = Table(
        name=f"cell-{cell}",
        title=str(planned["cell_label"].iloc[0]),
        corner="Accuracy (%)",
        columns=tuple(map(arm_title, dict.fromkeys(part["arm_label"]))),
        rows=accuracy_rows(part[part["metric"].isin(known)]),
        caption=_caption(part[part["metric"] == TESTED], settings_note(planned)),
    )
    return readable(table)


def accuracy_rows(summary: pd.DataFrame) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    """A row for each accuracy in these rows of `summarise`, which are of one cell."""
    parts = dict(list(summary.groupby("metric")))
    return tuple(
        (title, tuple(entry(row) for _, row in parts[name].iterrows()))
        for name, title in ACCURACIES.items()
        if name in parts
    )


def entry(row: pd.Series, *, scale: float = 100.0, digits: int = 1) -> Entry:
    """The entry for a row of `summarise`, by default in per cent."""
    text = spread_text([float(value) for value in row["values"].split()], scale=scale, digits=digits)
    if row["n"] != row["planned"]:
        text += f" ({row['n']} of {row['planned']})"
    return Entry(text=text, bold=bool(row["best"]), runs=tuple(row["run_ids"].split()), metric=row["metric"])


def diagnostics_table(summary: pd.DataFrame, trials: pd.DataFrame, cell: int) -> Table | None:
    """What describes the networks of a cell beside their accuracy; None if nothing was recorded.

    Entries as in `cell_table`; a dash where an arm does not have the metric. A metric that every trial has
    keeps its row even where these trials are older than it.
    """
    part = summary[(summary["cell"] == cell) & (summary["n"] > 0) & summary["metric"].isin(_diagnostics())]
    if part.empty:
        return None
    arms = list(dict.fromkeys(summary.loc[summary["cell"] == cell, "arm_label"]))
    rows = []
    for name in _diagnostics():
        by_arm = {row["arm_label"]: row for _, row in part[part["metric"] == name].iterrows()}
        if by_arm or METRICS[name].where is ALWAYS:
            percent = METRICS[name].unit == "%"
            large = max((abs(row["mean"]) for row in by_arm.values()), default=0) >= 10
            scale, digits = 100.0 if percent else 1.0, 1 if percent or large else 3
            entries = tuple(
                entry(by_arm[arm], scale=scale, digits=digits) if arm in by_arm else Entry(text=NO_VALUE)
                for arm in arms
            )
            rows.append((f"{METRICS[name].title}{' (%)' if percent else ''}", entries))
    label = trials.loc[trials["cell"] == cell, "cell_label"].iloc[0]
    return Table(
        name=f"diagnostics-{cell}",
        title=f"{label}: diagnostics",
        corner="Diagnostic",
        columns=tuple(map(arm_title, arms)),
        rows=tuple(rows),
        caption=f"Measured after the last epoch, {_over_seeds(part)}. They describe the trained networks and"
        " are not compared: no p-values. Linear probe: logistic regression on the frozen features instead of"
        " the network's own classifier. kNN: test images classified by their nearest training images in h,"
        " with votes weighted by similarity, or 20 equal ones (too many where classes have few images)."
        " ECE if perfectly calibrated: what chance gives with these confidences on so many test images; an"
        " ECE that is no larger shows no miscalibration. Agreement and cosine of two views: equal"
        " predictions, right or wrong, and similar features for two augmented views of a test image; kappa is"
        " 0 where predictions agree by chance. Effective rank: dimensions that the features fill."
        f" {NO_VALUE}: not recorded (z is used where γ > 0; earlier trials lack later metrics).",
    )


def _over_seeds(summary: pd.DataFrame) -> str:
    return f"{over_seeds(set(summary['n']))} {'seed' if set(summary['n']) == {1} else 'seeds'}"


def _caption(tested: pd.DataFrame, settings: str) -> str:
    """The caption of a cell's accuracies, from its rows of test accuracy."""
    text = f"Accuracy in %, {_over_seeds(tested)}.{settings}"
    missing = int((tested["planned"] - tested["finished"]).sum())
    if missing:
        text += f" {missing} of {number_of(int(tested['planned'].sum()), 'trial')} missing."
    odd = int((tested["finished"] - tested["n"]).sum())
    if odd:
        text += f" {number_of(odd, 'finished trial')} without a finite test accuracy."
    return " ".join([text, *bold_caption(tested)])


def bold_caption(tested: pd.DataFrame) -> list[str]:
    """What bold means in a table of these rows of `summarise`, of test accuracy; empty if nothing is bold."""
    shared = set(tested.loc[tested["best"], "shared"])
    if not shared:
        return []
    over = " over the seeds that every arm has" if (tested["n"] > tested["shared"]).any() else ""
    return [
        f"Bold: the highest mean test accuracy{over}, and every mean that reads the same to one decimal. It"
        " does not say which arms differ: their differences do."
    ]


def settings_text(trials: pd.DataFrame) -> str:
    """What the arms of these cells share beside their names: `views asymmetric, lambd 0.01`."""
    parts = dict.fromkeys(part for text in trials["settings"].unique() for part in text.split(", ") if part)
    return ", ".join(parts)


def settings_note(trials: pd.DataFrame) -> str:
    """The same as a sentence of a caption, with a space before it; empty if there is nothing."""
    text = settings_text(trials)
    return f" Arms of two views: {text}." if text else ""
