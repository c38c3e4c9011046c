"""The figures of a report with their captions."""

import contextlib
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis import embeddings
from analysis.plots import accuracy
from analysis.plots import effects as effect_plots
from analysis.plots.cache import Figure, Gallery, Partial
from analysis.plots.curves import read_curves
from analysis.render.text import METRICS, number_of, seeds_text, slug, span
from analysis.sections.differences import baseline_text
from analysis.stats.comparisons import TESTED, pooled_comparisons, settings_note, settings_text, values_of
from analysis.stats.factors import Effects
from analysis.stats.paired import pool
from analysis.trials import cell_labels, finished
from study.ledger.ledger import Ledger

CELLS_WITH_FIGURES = 24
"""Most cells of a study whose single cells get figures: beyond, nobody looks at them one by one."""
CELLS_WITH_EMBEDDINGS = 12
"""Likewise for PCA and t-SNE, which take seconds an arm."""
PANELS = 120
"""Most panels of all small multiples of a report."""


def cell_figures(
    cell: pd.DataFrame, number: int, cells: int, ledger: Ledger, gallery: Gallery
) -> list[Figure]:
    """The figures of one cell.

    Args:
        cell: its trials.
        number: of the cell.
        cells: how many there are in the study.
        ledger: where artifacts are.
        gallery: to draw into.
    """
    done = finished(cell)
    if done.empty or cells > CELLS_WITH_FIGURES or TESTED not in cell:
        return []
    metrics = {name: METRICS[name] for name in (TESTED, "test_augfull_acc") if name in cell}
    arms = list(dict.fromkeys(cell["arm_label"]))
    shown = gallery.add(
        f"accuracy-{number}",
        cell,
        lambda: accuracy.accuracy_by_arm(cell, metrics),
        "Accuracy of every seed (grey, joined by seed) and mean over seeds (coloured).",
        "Accuracy by arm, a point a seed",
    )
    n = span(set(done.groupby("arm_label")["seed"].nunique()))
    shown += gallery.add(
        f"curves-{number}",
        cell,
        lambda: _curves(cell, arms, ledger),
        f"Learning curves: mean over the finished seeds of each arm, n = {n}; the band reaches from the"
        " lowest to the highest seed. Training accuracy is measured on augmented images while the network"
        " still changes.",
        "Learning curves, a line an arm",
    )
    if cells <= CELLS_WITH_EMBEDDINGS:
        shown += _embeddings(cell, number, ledger, gallery)
    return shown


def _curves(cell: pd.DataFrame, arms: Sequence[str], ledger: Ledger) -> Drawing | Partial | None:
    curves, lacking = read_curves(cell, ledger)
    drawing = accuracy.learning_curves(curves, arms)
    if drawing is None or not lacking:
        return drawing
    without = f"Without {number_of(lacking, 'trial')} whose history could not be read."
    return Partial(drawing=drawing, lacking=without)


def _embeddings(cell: pd.DataFrame, number: int, ledger: Ledger, gallery: Gallery) -> list[Figure]:
    """PCA and t-SNE of what the trials of a cell kept; none where it is not kept any more."""

    def read(seed: int, split: str) -> tuple[Callable[[], Drawing], str]:
        panels = embeddings.read(cell, seed, split, ledger)
        return lambda: embeddings.draw(panels), embeddings.caption(panels, split, seed)

    return _by_split(cell, f"embeddings-{{}}-{number}", "PCA and t-SNE of {}, a panel an arm", read, gallery)


def _multiples(group: pd.DataFrame, number: int, ledger: Ledger, gallery: Gallery) -> list[Figure]:
    """PCA of the features of every subset and arm, a page a split."""
    cells = [cell for _, cell in group.groupby("cell", sort=False)]

    def read(seed: int, split: str) -> tuple[Callable[[], Drawing], str]:
        def draw() -> Drawing:
            rows = [(cell["subset"].iloc[0], embeddings.read(cell, seed, split, ledger)) for cell in cells]
            return embeddings.multiples(rows)

        return draw, (
            f"PCA of the features h of {embeddings.SPLITS[split]} by augmentations and arm, seed {seed},"
            " coloured by class; each row is turned onto its first panel. Small numbers: silhouette and"
            f" leave-one-out accuracy of {embeddings.NEIGHBOURS} nearest neighbours among the images shown."
        )

    return _by_split(
        group, f"subsets-{{}}-{number}", "PCA of {}, a row a subset, a column an arm", read, gallery
    )


def _by_split(
    trials: pd.DataFrame,
    name: str,
    alt: str,
    read: Callable[[int, str], tuple[Callable[[], Drawing], str]],
    gallery: Gallery,
) -> list[Figure]:
    """A figure for each split of which features were kept; `read` gives how to draw it, and its caption."""
    seed = embeddings.shown_seed(trials)
    shown: list[Figure] = []
    for split, images in embeddings.SPLITS.items() if seed is not None else ():
        with contextlib.suppress(OSError):  # features may be deleted to save space
            draw, caption = read(int(str(seed)), split)
            shown += gallery.add(name.format(split), trials, draw, caption, alt.format(images))
    return shown


def group_figures(
    trials: pd.DataFrame,
    group: pd.DataFrame,
    number: int,
    compared: pd.DataFrame,
    *,
    effects: Effects,
    ledger: Ledger,
    gallery: Gallery,
    panels: int,
) -> list[Figure]:
    """The figures of cells that differ in their augmentations alone; none for a single cell.

    Args:
        trials: of the whole study.
        group: theirs.
        number: of the group.
        compared: of `analysis.stats.comparisons.comparisons` for them.
        effects: of `analysis.stats.factors.effects_of` for them.
        ledger: where artifacts are.
        gallery: to draw into.
        panels: of small multiples that the whole report would have.
    """
    if group["cell"].nunique() < 2 or finished(group).empty:
        return []
    subsets = dict(zip(group["cell"], group["subset"], strict=True))
    together = pooled_comparisons(trials, set(group["cell"]))
    shown = _forests(group, compared, together, gallery, labels=subsets, name=f"{number}")
    if effects:
        shown += gallery.add(
            f"effects-{number}",
            group,
            lambda: effect_plots.effects_figure({title: table for title, (table, _) in effects.items()}),
            "What each augmentation does to test accuracy. Above: main effects with 95 % intervals, not"
            " adjusted. Below: interactions in points (how much larger one effect is with the other"
            " augmentation than without); bold: p <= 0.05 after Holm over all terms of the panel.",
            "Main effects and interactions of augmentations",
        )
    if panels <= PANELS:
        shown += _multiples(group, number, ledger, gallery)
    return shown


def _forests(
    trials: pd.DataFrame,
    compared: pd.DataFrame,
    together: Sequence[pd.DataFrame],
    gallery: Gallery,
    *,
    labels: dict[int, str],
    name: str,
) -> list[Figure]:
    """Paired differences in test accuracy over cells, a figure a baseline."""
    tested = compared[(compared["metric"] == TESTED) & compared["cell"].isin(set(trials["cell"]))]
    arms = list(dict.fromkeys(trials["arm_label"]))
    shown: list[Figure] = []
    for baseline, family in tested.groupby("baseline", sort=False):
        pooled = together[0] if len(together) == 1 else None
        if pooled is not None:
            pooled = pooled[(pooled["baseline"] == baseline) & (pooled["n"] > 0)]
            # All that is drawn, or none: a diamond for some of the rows would look like one for all.
            whole = set(pooled["cells"]) == {family["cell"].nunique()}
            pooled = pooled if whole else None
        diamonds = "" if pooled is None else " Diamonds: mean over cells within each seed."
        shown += gallery.add(
            f"forest-{slug(str(baseline))}-{name}",
            pd.concat([family.assign(label=family["cell"].map(labels), known=" ".join(arms)), pooled]),
            lambda family=family, pooled=pooled: effect_plots.forest(  # type: ignore[misc]
                family, labels, pooled, known=arms
            ),
            f"Difference in test accuracy to {baseline_text(str(baseline))}, paired by seed: mean, 95 %"
            " interval (thick) and interval adjusted after Holm within its cell (thin). A point without a"
            f" line has too few seeds, or no spread.{diamonds}",
            "Paired differences by cell",
        )
    return shown


def study_figures(trials: pd.DataFrame, compared: pd.DataFrame, gallery: Gallery) -> list[Figure]:
    """The figures that speak of the whole study."""
    if finished(trials).empty or TESTED not in trials:
        return []
    shown: list[Figure] = []
    groups = list(trials.groupby("group_label", sort=False))
    gammas = dict(zip(trials["arm_label"], trials["gamma"].astype(float), strict=True))
    panels, left_out = {}, set()
    alike = len({settings_text(group) for _, group in groups}) == 1
    for label, group in groups:
        values, dropped = pool([values_of(cell, TESTED) for _, cell in group.groupby("cell", sort=False)])
        own = f", {settings_text(group)}" if not alike and settings_text(group) else ""
        panels[f"{label} (n = {len(values)}{own})"] = values
        left_out |= set(dropped)
    missing = (
        f" Left out where a trial of them is missing: {seeds_text(sorted(left_out))}." if left_out else ""
    )
    several = trials["cell"].nunique() > len(groups)
    shown += gallery.add(
        "gamma",
        trials,
        lambda: accuracy.accuracy_by_gamma(panels, gammas),
        "Test accuracy against γ, mean over n seeds with its 95 % t interval"
        + (", averaged over augmentations within each seed" if several else "")
        + ". Intervals of single arms say how well each mean is known; arms are compared by their paired"
        f" differences, which are known better.{missing}{settings_note(trials) if alike else ''}",
        "Test accuracy against γ",
    )
    if not several and len(groups) > 1:
        together = pooled_comparisons(trials)
        shown += _forests(trials, compared, together, gallery, labels=cell_labels(trials), name="cells")
    shown += gallery.add(
        "trade-offs",
        trials,
        lambda: accuracy.trade_offs(trials),
        "Test accuracy against the agreement of predictions on two views of the same image (invariance) and"
        " against calibration error, a point a trial.",
        "Test accuracy against view agreement and calibration error",
    )
    shown += gallery.add(
        "cost",
        trials,
        lambda: accuracy.cost(trials),
        "Training time of every trial and median by arm, evaluation left out, as the machines were loaded.",
        "Training time by arm",
    )
    return shown
