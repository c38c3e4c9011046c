"""The figure of what the arms of a cell were trained on: images and their augmented views."""

import functools
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import views
from analysis.plots.cache import FigureCache, Partial
from analysis.plots.kept import VIEWS, class_names, kept_arrays
from analysis.plots.projections import baseline_first, shown_seed
from analysis.render.section import RenderedFigure
from analysis.render.text import arm_title, join_and, number_of
from analysis.trials import finished
from study.ledger.ledger import Ledger


def view_figures(cell: pd.DataFrame, number: int, ledger: Ledger, cache: FigureCache) -> list[RenderedFigure]:
    """The images that the arms of a cell were trained on first; none where no trial has kept them."""
    if (seed := shown_seed(cell)) is None:
        return []
    shown = cache.add(
        f"views-{number}",
        cell,
        functools.partial(_draw, cell, seed, ledger),
        f"The first images of the first training step of seed {seed}, and the views that each arm was shown"
        " of them: the network's input before it is normalised. Arms that saw the same share their rows."
        " Images of more than 48 pixels are reduced to that.",
        "Training images and their augmented views, rows by arm",
    )
    return [replace(figure, photo=True) for figure in shown]


def _draw(cell: pd.DataFrame, seed: int, ledger: Ledger) -> Figure | Partial | None:
    done = finished(cell)
    of_seed = done[done["seed"] == seed]
    runs = dict(zip(of_seed["arm_label"], of_seed["run_id"], strict=True))
    samples, without = {}, []
    for arm in baseline_first(list(runs)):
        try:
            samples[arm] = _read(ledger, runs[arm])
        except OSError:  # of a trial that is older than this artifact, or whose files were deleted
            without.append(arm_title(arm))
    figure = views.draw(samples, class_names(cell, ledger))
    remarks = [f"Without {join_and(without)}: no views were kept."] if without else []
    if (left := len(views.groups_of_arms(samples)) - views.MOST_GROUPS) > 0:
        remarks.append(f"{number_of(left, 'more group')} of arms with views of their own are left out.")
    return Partial(figure=figure, lacking=" ".join(remarks)) if figure and remarks else figure


def _read(ledger: Ledger, run_id: str) -> views.Sample:
    with kept_arrays(ledger, run_id, VIEWS) as kept:
        pictures = tuple(kept[name] for name in ("view1", "view2") if name in kept)
        return views.Sample(original=kept["original"], views=pictures, labels=kept["labels"])
