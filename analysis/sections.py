"""The figures of a report with their captions, and what a reader should know of how its trials ran."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Drawing

from analysis import embeddings, figures
from analysis.comparisons import TESTED, baseline_text, pooled_comparisons, values_of
from analysis.curves import read_curves
from analysis.labels import METRICS
from analysis.overview import Effects
from analysis.paired import pool
from analysis.trials import cell_labels, finished
from study.ledger import Ledger

CELLS_WITH_FIGURES = 24
"""Most cells of a study whose single cells get figures: beyond, nobody looks at them one by one."""
CELLS_WITH_EMBEDDINGS = 12
"""Likewise for PCA and t-SNE, which take seconds an arm."""
PANELS = 120
"""Most panels of all small multiples of a report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure that was drawn.

    Attributes:
        name: of its files.
        caption: what it shows.
        alt: what it shows, for those who cannot see it.
        png: the file.
        pdf: the same for print.
        width: in CSS pixels.
    """

    name: str
    caption: str
    alt: str
    png: Path
    pdf: Path
    width: int


@dataclass(slots=True)
class Gallery:
    """Draws into a folder what is not there yet, or has changed.

    Attributes:
        folder: of the figures.
        known: digest of what each figure there was drawn from.
        drawn: all figures of this report.
    """

    folder: Path
    known: dict[str, str] = field(default_factory=dict)
    drawn: list[Figure] = field(default_factory=list)

    def add(
        self, name: str, source: pd.DataFrame, draw: Callable[[], Drawing | None], caption: str, alt: str
    ) -> list[Figure]:
        """The figure, drawn unless it is there; none where `draw` has nothing to draw.

        Args:
            name: of the files.
            source: the trials that it shows.
            draw: makes it.
            caption: what it shows.
            alt: the same in few words.
        """
        digest = hashlib.sha256((digest_of(source) + caption).encode()).hexdigest()
        png, pdf = (self.folder / f"{name}.{ending}" for ending in ("png", "pdf"))
        if self.known.get(name) != digest or not (png.exists() and pdf.exists()):
            drawing = draw()
            if drawing is None:
                return []
            figures.save(drawing, self.folder, name)
            self.known[name] = digest
        figure = Figure(name=name, caption=caption, alt=alt, png=png, pdf=pdf, width=_css_width(png))
        self.drawn.append(figure)
        return [figure]

    def sweep(self) -> None:
        """Remove figures of an earlier report that this one does not have."""
        names = {figure.name for figure in self.drawn}
        for name in self.known.keys() - names:
            for ending in ("png", "pdf"):
                (self.folder / f"{name}.{ending}").unlink(missing_ok=True)
        self.known = {name: digest for name, digest in self.known.items() if name in names}


def _css_width(png: Path) -> int:
    from PIL import Image

    with Image.open(png) as image:
        return round(image.width * 100 / figures.DENSITY)


def digest_of(trials: pd.DataFrame) -> str:
    """Of all that a rendering of these trials depends on: their state, and the code of this room."""
    state = trials[["key", "status", "run_id", "changed"]].to_csv(index=False)
    return hashlib.sha256((state + _code()).encode()).hexdigest()


@functools.cache
def _code() -> str:
    room = Path(__file__).parent
    files = sorted([*room.glob("*.py"), *room.glob("templates/*"), *room.glob("published/*")])
    return json.dumps([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


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
        lambda: figures.accuracy_by_arm(cell, metrics),
        "Accuracy of every seed (grey, joined by seed) and mean over seeds (coloured).",
        "Accuracy by arm, a point a seed",
    )
    shown += gallery.add(
        f"curves-{number}",
        cell,
        lambda: figures.learning_curves(read_curves(cell, ledger), arms),
        "Learning curves: mean over seeds; the band reaches from the lowest to the highest seed. Training"
        " accuracy is measured on augmented images while the network still changes.",
        "Learning curves, a line an arm",
    )
    if cells <= CELLS_WITH_EMBEDDINGS:
        shown += _embeddings(cell, number, ledger, gallery)
    return shown


def _embeddings(cell: pd.DataFrame, number: int, ledger: Ledger, gallery: Gallery) -> list[Figure]:
    """PCA and t-SNE of what the trials of a cell kept; none where it is not kept any more."""
    seed = embeddings.shown_seed(cell)
    shown: list[Figure] = []
    if seed is None:
        return shown
    for split, images in embeddings.SPLITS.items():
        with contextlib.suppress(OSError):  # features may be deleted to save space
            panels = embeddings.read(cell, seed, split, ledger)
            shown += gallery.add(
                f"embeddings-{split}-{number}",
                cell,
                lambda panels=panels: embeddings.draw(panels),  # type: ignore[misc]
                embeddings.caption(panels, split, seed),
                f"PCA and t-SNE of {images}, a panel an arm",
            )
    return shown


def group_figures(
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
        group: their trials.
        number: of the group.
        compared: of `analysis.comparisons.comparisons` for them.
        effects: of `analysis.overview.effects_of` for them.
        ledger: where artifacts are.
        gallery: to draw into.
        panels: of small multiples that the whole report would have.
    """
    if group["cell"].nunique() < 2 or finished(group).empty:
        return []
    subsets = dict(zip(group["cell"], group["subset"], strict=True))
    shown = _forests(group, compared, subsets, f"{number}", gallery)
    if effects:
        shown += gallery.add(
            f"effects-{number}",
            group,
            lambda: figures.effects_figure({title: table for title, (table, _) in effects.items()}),
            "What each augmentation does to test accuracy. Above: main effects with 95 % intervals, not"
            " adjusted. Below: interactions in points (how much larger one effect is with the other"
            " augmentation than without); bold: p <= 0.05 after Holm over all terms of the panel.",
            "Main effects and interactions of augmentations",
        )
    if panels <= PANELS:
        shown += _multiples(group, number, ledger, gallery)
    return shown


def _forests(
    trials: pd.DataFrame, compared: pd.DataFrame, labels: dict[int, str], name: str, gallery: Gallery
) -> list[Figure]:
    """Paired differences in test accuracy over cells, a figure a baseline."""
    tested = compared[(compared["metric"] == TESTED) & compared["cell"].isin(set(trials["cell"]))]
    together = pooled_comparisons(trials)
    arms = list(dict.fromkeys(trials["arm_label"]))
    shown: list[Figure] = []
    for baseline, family in tested.groupby("baseline", sort=False):
        pooled = together[0] if len(together) == 1 else None
        if pooled is not None:
            pooled = pooled[(pooled["baseline"] == baseline) & (pooled["n"] > 0)]
            pooled = None if pooled.empty else pooled
        diamonds = "" if pooled is None else " Diamonds: mean over cells within each seed."
        shown += gallery.add(
            f"forest-{str(baseline).replace('=', '-')}-{name}",
            trials,
            lambda family=family, pooled=pooled: figures.forest(  # type: ignore[misc]
                family, labels, pooled, known=arms
            ),
            f"Difference in test accuracy to {baseline_text(str(baseline))}, paired by seed: mean, 95 %"
            " interval (thick) and interval adjusted after Holm within its cell (thin). A point without a"
            f" line has too few seeds, or no spread.{diamonds}",
            "Paired differences by cell",
        )
    return shown


def _multiples(group: pd.DataFrame, number: int, ledger: Ledger, gallery: Gallery) -> list[Figure]:
    """PCA of the features of every subset and arm, a page a split."""
    seed = embeddings.shown_seed(group)
    shown: list[Figure] = []
    if seed is None:
        return shown
    cells = [cell for _, cell in group.groupby("cell", sort=False)]
    for split, images in embeddings.SPLITS.items():
        with contextlib.suppress(OSError):  # features may be deleted to save space

            def draw(split: str = split) -> Drawing:
                rows = [
                    (cell["subset"].iloc[0], embeddings.read(cell, seed, split, ledger)) for cell in cells
                ]
                return embeddings.multiples(rows)

            shown += gallery.add(
                f"subsets-{split}-{number}",
                group,
                draw,
                f"PCA of the features h of {images} by augmentations and arm, seed {seed}, coloured by class;"
                " each row is turned onto its first panel. Small numbers: silhouette and leave-one-out"
                " accuracy of 20 nearest neighbours among the images shown.",
                f"PCA of {images}, a row a subset, a column an arm",
            )
    return shown


def study_figures(trials: pd.DataFrame, compared: pd.DataFrame, gallery: Gallery) -> list[Figure]:
    """The figures that speak of the whole study."""
    if finished(trials).empty or TESTED not in trials:
        return []
    shown: list[Figure] = []
    groups = list(trials.groupby("group_label", sort=False))
    gammas = {row["arm_label"]: row["gamma"] for _, row in trials.dropna(subset="gamma").iterrows()}
    panels = {
        str(label): pool([values_of(cell, TESTED) for _, cell in group.groupby("cell", sort=False)])[0]
        for label, group in groups
    }
    several = trials["cell"].nunique() > len(groups)
    shown += gallery.add(
        "gamma",
        trials,
        lambda: figures.accuracy_by_gamma(panels, gammas),
        "Test accuracy against γ, mean over seeds with its 95 % t interval"
        + (", averaged over augmentations within each seed" if several else "")
        + ". Intervals of single arms say how well each mean is known; arms are compared by their paired"
        " differences, which are known better.",
        "Test accuracy against γ",
    )
    if not several and len(groups) > 1:
        shown += _forests(trials, compared, cell_labels(trials), "cells", gallery)
    shown += gallery.add(
        "trade-offs",
        trials,
        lambda: figures.trade_offs(trials),
        "Test accuracy against the agreement of predictions on two views of the same image (invariance) and"
        " against calibration error, a point a trial.",
        "Test accuracy against view agreement and calibration error",
    )
    shown += gallery.add(
        "cost",
        trials,
        lambda: figures.cost(trials),
        "Training time of every trial and median by arm, evaluation left out, as the machines were loaded.",
        "Training time by arm",
    )
    return shown


def fixed_and_odd(trials: pd.DataFrame) -> list[str]:
    """What a reader should know of how the trials came about, beyond what every trial had in common."""
    done = finished(trials)
    notes = []
    for tag, what in (("device", "kinds of devices"), ("threads", "numbers of threads")):
        counts = done.groupby("cell_label", sort=False)[tag].nunique()
        mixed = [str(label) for label in counts.index[counts > 1]]
        if mixed:
            kinds = ", ".join(sorted(done[tag].dropna().unique()))
            notes.append(
                f"Arms of one cell ran on different {what} ({kinds}): {_some(mixed)}. Their results are"
                " comparable, but not bit for bit."
            )
    for tag, what in (("git.commit", "commits"), ("version.torch", "versions of PyTorch")):
        values = sorted(done[tag].dropna().unique())
        if len(values) > 1:
            notes.append(
                f"Trials ran with {len(values)} {what}: {', '.join(value[:12] for value in values)}."
            )
    dirty = int((done["git.dirty"] == "true").sum())
    if dirty:
        notes.append(
            f"{dirty} of {len(done)} trials ran from a working tree with changes that no commit holds."
        )
    again = int((pd.to_numeric(done["attempts"], errors="coerce") > 1).sum())
    if again:
        notes.append(
            f"{again} of {len(done)} trials were begun more than once: interrupted and gone on"
            " with, or retried."
        )
    return notes


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more cells" if len(names) > most else "")
