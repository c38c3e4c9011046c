"""The figures of a study's report, with their captions."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import accuracy, embeddings
from analysis.plots import effects as effect_plots
from analysis.plots.cache import FigureCache, Partial
from analysis.plots.kept import class_names
from analysis.plots.projections import (
    NEIGHBOURS,
    SHOWN_ARMS,
    SPLITS,
    read,
    read_rows,
    shown_arms,
    shown_seed,
)
from analysis.render.section import RenderedFigure
from analysis.render.text import arm_title, left_out, number_of, slug, span
from analysis.sections.cells import settings_note, settings_text
from analysis.sections.views import view_figures
from analysis.stats.comparisons import TESTED, pooled_values
from analysis.stats.results import Results
from analysis.trials import cell_labels, cells_of, finished
from study.ledger.ledger import Ledger
from study.ledger.records import is_result
from trainables.metrics import ACCURACIES

CELLS_WITH_FIGURES = 24
"""Most cells of a study with figures of single cells: beyond, nobody looks at them one by one."""
CELLS_WITH_EMBEDDINGS = 12
"""Most cells of a study with PCA and t-SNE of single cells, which take seconds per arm."""
PANELS = 120
"""Most panels of all small multiples of a report."""


def omitted(cells: int) -> tuple[str, ...]:
    """A note on what the report of so many cells does not draw, and how to see it; empty if it draws all."""
    if cells <= CELLS_WITH_EMBEDDINGS:
        return ()
    if cells > CELLS_WITH_FIGURES:
        what = f"figures of single cells and intervals over test images (up to {CELLS_WITH_FIGURES} cells)"
    else:
        what = f"t-SNE of single cells (up to {CELLS_WITH_EMBEDDINGS} cells; PCA up to {PANELS} panels)"
    return (
        f"With {cells} cells this report leaves out {what}. `python analysis/report.py` with `--only`"
        " has them for some cells, `python analysis/embeddings.py` the embeddings of all.",
    )


def cell_figures(
    cell: pd.DataFrame, number: int, cells: int, ledger: Ledger, cache: FigureCache
) -> list[RenderedFigure]:
    """The figures of one cell of a study of so many `cells`."""
    done = finished(cell)
    if done.empty or cells > CELLS_WITH_FIGURES or TESTED not in cell:
        return []
    metrics = {name: ACCURACIES[name] for name in (TESTED, "test_augfull_acc") if name in cell}
    shown = cache.add(
        f"accuracy-{number}",
        cell,
        lambda: accuracy.accuracy_by_arm(cell, metrics),
        "Accuracy of every seed (grey, joined by seed) and mean over seeds (coloured).",
        "Accuracy by arm, a point per seed",
    )
    n = span(set(done.groupby("arm_label")["seed"].nunique()))
    shown += cache.add(
        f"curves-{number}",
        cell,
        lambda: _draw_curves(cell, ledger),
        f"Learning curves: mean over the finished seeds of each arm, n = {n}; the band reaches from the"
        " lowest to the highest seed. Training accuracy is measured on augmented images while the network"
        " still changes.",
        "Learning curves, a line per arm",
    )
    shown += view_figures(cell, number, ledger, cache)
    if cells <= CELLS_WITH_EMBEDDINGS and not cache.quick:
        shown += embedding_figures(cell, number, ledger, cache)
    return shown


def settled_cells(trials: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The cells, by number, whose PCA and t-SNE no trial that is still to end will change.

    They show the lowest seed, of all arms unless these are too many: which are shown then depends on all.
    """
    cells = cells_of(trials)
    if len(cells) > CELLS_WITH_EMBEDDINGS:
        return {}
    return {
        number: cell
        for number, cell in cells.items()
        if cell["arm_label"].nunique() <= SHOWN_ARMS
        and (cell.loc[cell["seed"] == cell["seed"].min(), "status"] == "FINISHED").all()
    }


def _draw_curves(cell: pd.DataFrame, ledger: Ledger) -> Figure | Partial | None:
    curves, lacking = [], 0
    for trial in finished(cell)[["run_id", "arm_label", "seed"]].to_dict("records"):
        try:  # a run whose artifacts were deleted still has its metrics
            with ledger.artifacts.reading(trial["run_id"], "history.parquet") as path:
                history = pd.read_parquet(path)
        except (OSError, ValueError):
            lacking += 1
            continue
        numbers = history.select_dtypes("number")
        history[numbers.columns] = numbers.where(is_result(numbers))
        curves.append(history.assign(arm_label=trial["arm_label"], seed=trial["seed"]))
    if not curves:
        return None
    figure = accuracy.learning_curves(pd.concat(curves), list(dict.fromkeys(cell["arm_label"])))
    if figure is None or not lacking:
        return figure
    without = f"Without {number_of(lacking, 'trial')} whose history could not be read."
    return Partial(figure=figure, lacking=without)


def embedding_figures(
    cell: pd.DataFrame, number: int, ledger: Ledger, cache: FigureCache
) -> list[RenderedFigure]:
    """PCA and t-SNE of one cell, a figure per split; none if the embeddings are not kept any more."""
    shown: list[RenderedFigure] = []
    if (seed := shown_seed(cell)) is None:
        return shown
    arms = shown_arms(cell)
    among = cell[cell["arm_label"].isin(arms)]
    every, names = cell["arm_label"].nunique(), class_names(cell, ledger)
    left = (
        f" {len(arms)} of {every} arms: the baselines and those with the highest validation accuracy;"
        " analysis/embeddings.py draws all."
        if len(arms) < every
        else ""
    )
    for split, images in SPLITS.items():
        with contextlib.suppress(OSError):  # embeddings may have been deleted to save space
            panels = read(among, seed, split, ledger)
            shown += cache.add(
                f"embeddings-{split}-{number}",
                among[among["seed"] == seed],  # whatever becomes of other seeds
                functools.partial(embeddings.draw, panels, names),
                embeddings.caption(panels, split, seed) + left,
                f"PCA and t-SNE of {images}, a panel per arm",
                anywhere=True,
            )
    # The colours of classes stay apart on white: on a dark page, too, they are on a white card.
    return [replace(figure, photo=True) for figure in shown]


def _multiples(group: pd.DataFrame, number: int, ledger: Ledger, cache: FigureCache) -> list[RenderedFigure]:
    """PCA of every subset of augmentations and arm, a page per split."""
    shown: list[RenderedFigure] = []
    if (seed := shown_seed(group)) is None:
        return shown

    def draw(split: str) -> Figure:
        return embeddings.multiples(read_rows(group, seed, split, ledger))

    for split, images in SPLITS.items():
        with contextlib.suppress(OSError):
            shown += cache.add(
                f"subsets-{split}-{number}",
                group,
                functools.partial(draw, split),
                f"PCA of the features h of {images} by augmentations and arm, seed {seed}, coloured by class;"
                " each row is rotated onto its first panel. Small numbers: silhouette and leave-one-out"
                f" accuracy of {NEIGHBOURS} nearest neighbours among the images shown.",
                f"PCA of {images}, a row per subset, a column per arm",
            )
    return [replace(figure, photo=True) for figure in shown]


def group_figures(
    results: Results, group: pd.DataFrame, number: int, ledger: Ledger, cache: FigureCache
) -> list[RenderedFigure]:
    """The figures of a group of cells that differ in their augmentations alone; none for a single cell."""
    if group["cell"].nunique() < 2 or finished(group).empty:
        return []
    effects = results.effects[number]
    subsets = dict(zip(group["cell"], group["subset"], strict=True))
    shown = _forests(results, subsets, results.pooled_by_group[number], f"{number}", cache)
    if effects:
        shown += cache.add(
            f"effects-{number}",
            group,
            lambda: effect_plots.effects_figure({column: table for column, (table, _) in effects.items()}),
            "What each augmentation does to test accuracy. Above: main effects with 95 % intervals, not"
            " adjusted. Below: interactions in points (how much larger one effect is with the other"
            " augmentation than without); bold: p <= 0.05 after Holm over all terms of the panel.",
            "Main effects and interactions of augmentations",
        )
    if results.trials.groupby("cell")["arm_label"].nunique().sum() <= PANELS and not cache.quick:
        shown += _multiples(group, number, ledger, cache)
    return shown


def _forests(
    results: Results,
    labels: Mapping[int, str],
    together: Sequence[pd.DataFrame],
    name: str,
    cache: FigureCache,
) -> list[RenderedFigure]:
    """Paired differences in test accuracy over the cells that have labels, a figure per baseline."""
    compared, trials = (frame[frame["cell"].isin(labels)] for frame in (results.compared, results.trials))
    tested, arms = compared[compared["metric"] == TESTED], list(dict.fromkeys(trials["arm_label"]))
    shown: list[RenderedFigure] = []
    for baseline, family in tested.groupby("baseline", sort=False):
        pooled = None
        if len(together) == 1:
            own = together[0][(together[0]["baseline"] == baseline) & (together[0]["n"] > 0)]
            # Only if all cells are pooled: a diamond for some of the rows would look like one for all.
            pooled = own if set(own["cells"]) == {family["cell"].nunique()} else None
        diamonds = "" if pooled is None else " Diamonds: mean over cells within each seed."
        shown += cache.add(
            f"forest-{slug(str(baseline))}-{name}",
            pd.concat([family.assign(label=family["cell"].map(labels), known=" ".join(arms)), pooled]),
            functools.partial(effect_plots.forest, family, labels, pooled, known=arms),
            f"Difference in test accuracy to {arm_title(str(baseline))}, paired by seed: mean, 95 %"
            " interval (thick) and interval adjusted after Holm within its cell (thin). Filled marks: the"
            " adjusted interval excludes zero, n >= 3. A point without a"
            f" line has too few seeds, or no spread.{diamonds}",
            "Paired differences by cell",
        )
    return shown


def study_figures(results: Results, cache: FigureCache) -> list[RenderedFigure]:
    """The figures of the whole study."""
    trials = results.trials
    if finished(trials).empty or TESTED not in trials:
        return []
    shown = _gamma_figure(trials, cache)
    groups = trials["group_label"].nunique()
    if trials["cell"].nunique() == groups > 1:
        shown += _forests(results, cell_labels(trials), results.pooled, "cells", cache)
    shown += cache.add(
        "trade-offs",
        trials,
        lambda: accuracy.trade_offs(trials),
        "Test accuracy against the share of test images predicted alike in two augmented views, right or"
        " wrong, and against calibration error, a point per trial.",
        "Test accuracy against agreement of two views and calibration error",
    )
    shown += cache.add(
        "cost",
        trials,
        lambda: accuracy.cost(trials),
        "Training time of every trial and median by arm, without evaluation, as the machines were loaded.",
        "Training time by arm",
    )
    return shown


def _gamma_figure(trials: pd.DataFrame, cache: FigureCache) -> list[RenderedFigure]:
    groups = list(trials.groupby("group_label", sort=False))
    alike = len({settings_text(group) for _, group in groups}) == 1
    panels, dropped = {}, set()
    for label, group in groups:
        values, lost = pooled_values(group)
        own = f", {settings_text(group)}" if not alike and settings_text(group) else ""
        panels[f"{label} (n = {len(values)}{own})"] = values
        dropped |= set(lost)
    several = trials["cell"].nunique() > len(groups)
    return cache.add(
        "gamma",
        trials,
        lambda: accuracy.accuracy_by_gamma(panels, list(dict.fromkeys(trials["arm_label"]))),
        "Test accuracy against γ, mean over n seeds with its 95 % t interval"
        + (", averaged over augmentations within each seed" if several else "")
        + ". Intervals of single arms say how well each mean is known; arms are compared by their paired"
        " differences, which are known better."
        + left_out(" where a trial of them is missing", dropped)
        + (settings_note(trials) if alike else ""),
        "Test accuracy against γ",
    )
