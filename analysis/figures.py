"""Figures of results, drawn from the tidy DataFrame of trials."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import ColorType
from scipy import stats

from analysis.comparisons import values_of
from analysis.labels import MINUS, arm_text, difference_text, points
from analysis.paired import LEVEL, Vector
from analysis.trials import finished

BASELINE_COLOUR = "0.35"
GREY = 3
"""Its place in the cycle `petroff10`."""
DENSITY = 160
"""Pixels an inch of figures, and of what is rasterised in a PDF."""
METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
"""Left out, so that the same results give the same files."""
CURVES = {"train/acc": "Training accuracy", "val/acc": "Validation accuracy", "train/ce": "Cross-entropy"}
"""Per epoch, in the order in which panels are chosen; two are shown."""
TRADES = {
    "view_agreement": "View agreement",
    "test_ece": "Calibration error (ECE)",
}
"""What accuracy is held against: invariance to augmentation, and calibration."""


def arm_colours(arms: Sequence[str]) -> dict[str, ColorType]:
    """A colour for each arm, told apart by colour-blind readers; cross-entropy alone is grey."""
    others = [arm for arm in arms if arm != "ce"]
    # Without its grey: that is the baseline's.
    cycle = [colour for i, colour in enumerate(mpl.color_sequences["petroff10"]) if i != GREY]
    colours = {arm: cycle[i % len(cycle)] for i, arm in enumerate(others)}
    return {arm: colours.get(arm, BASELINE_COLOUR) for arm in arms}


def accuracy_by_arm(cell: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Every seed's accuracy beside the arm's mean, a panel a metric.

    Lines join the arms of one seed: what is compared is paired by seed.

    Args:
        cell: the trials of one cell.
        metrics: name -> title of each panel.
    """
    arms = list(dict.fromkeys(cell["arm_label"]))
    colours = arm_colours(arms)
    figure, grid = _panels(len(metrics))
    for axes, (metric, title) in zip(grid, metrics.items(), strict=True):
        values = values_of(cell, metric).T
        axes.plot(range(len(arms)), values, color="0.75", linewidth=1, marker="o", markersize=4, zorder=1)
        for place, arm in enumerate(arms):
            mean = values.loc[arm].mean()
            axes.plot(place, mean, "_", color=colours[arm], markersize=22, markeredgewidth=3)
        _name_arms(axes, arms)
        axes.set_title(title, fontsize=11)
        axes.margins(x=0.15)
        _per_cent(axes.yaxis)
    return figure


def learning_curves(curves: pd.DataFrame, arms: Sequence[str]) -> Figure | None:
    """Mean over seeds of what each epoch measured, and the range of the seeds; None without curves.

    Args:
        curves: of `analysis.curves.read_curves`, of one cell.
        arms: their labels, in order.
    """
    metrics = [name for name in CURVES if name in curves and curves[name].notna().any()][:2]
    if not metrics:
        return None
    colours = arm_colours(arms)
    figure, grid = _panels(len(metrics))
    for axes, metric in zip(grid, metrics, strict=True):
        for arm, seeds in curves.groupby("arm_label", sort=False):
            over = seeds.groupby("epoch")[metric]
            epochs, mean = over.mean().index, over.mean()
            axes.plot(epochs, mean, color=colours[str(arm)], linewidth=1.4, label=arm_text(str(arm)))
            axes.fill_between(
                epochs, over.min(), over.max(), color=colours[str(arm)], alpha=0.15, linewidth=0
            )
        axes.set_title(CURVES[metric], fontsize=11)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if metric.endswith("acc"):
            _per_cent(axes.yaxis)
    _legend(figure, grid[0])
    return figure


def accuracy_by_gamma(panels: Mapping[str, pd.DataFrame], gammas: Mapping[str, float]) -> Figure | None:
    """Test accuracy against γ: mean and 95 % t interval over seeds; cross-entropy alone as a line.

    Args:
        panels: title -> seeds × arms, fractions.
        gammas: γ of each arm that has one; arms of which several have the same γ cannot be drawn.

    Returns:
        None where fewer than two γ are known.
    """
    arms = sorted(gammas, key=lambda arm: gammas[arm])
    if len(arms) < 2 or len(set(gammas.values())) < len(arms):
        return None
    figure, grid = _panels(len(panels))
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        known = [arm for arm in arms if arm in values and values[arm].notna().any()]
        places = [arms.index(arm) for arm in known]
        means, halves = _mean_and_half(values[known])
        colours = arm_colours(["ce", *arms])
        axes.plot(places, means, color="0.6", linewidth=1, zorder=1)
        for place, arm, mean, half in zip(places, known, means, halves, strict=True):
            axes.errorbar(place, mean, half, fmt="o", color=colours[arm], capsize=3)
        if "ce" in values and values["ce"].notna().any():
            (mean,), (half,) = _mean_and_half(values[["ce"]])
            axes.axhline(mean, color=BASELINE_COLOUR, linewidth=1.2, linestyle="--", label="CE")
            if np.isfinite(half):
                axes.axhspan(mean - half, mean + half, color=BASELINE_COLOUR, alpha=0.12, linewidth=0)
            axes.legend(frameon=False, fontsize=9, loc="best")
        axes.set_xticks(range(len(arms)), [arm_text(arm).removeprefix("γ = ") for arm in arms])
        axes.set_xlabel("γ")
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.15)
        _per_cent(axes.yaxis)
    return figure


def forest(
    compared: pd.DataFrame,
    labels: Mapping[int, str],
    pooled: pd.DataFrame | None = None,
    *,
    known: Sequence[str] = (),
) -> Figure | None:
    """Paired differences in test accuracy, a row a cell: 95 % intervals, and adjusted ones as thin lines.

    Args:
        compared: rows of `analysis.comparisons.comparisons` for test accuracy and one baseline.
        labels: what to call the cells.
        pooled: rows of `pooled_comparisons` for the same baseline, drawn as diamonds below.
        known: all arms of the study, so that each has its colour of the other figures.
    """
    compared = compared[compared["n"] > 0]
    if compared.empty:
        return None
    arms = list(dict.fromkeys(zip(compared["arm_label"], compared["baseline_label"], strict=True)))
    colours = arm_colours(list(dict.fromkeys([*known, *(arm for arm, _ in arms)])))
    rows: dict[object, int] = {cell: place for place, cell in enumerate(dict.fromkeys(compared["cell"]))}
    step = 0.8 / max(len(arms), 2)
    height = 0.9 + (len(rows) + (pooled is not None)) * max(0.3, 0.13 * len(arms))
    figure = Figure(figsize=(7.4, height), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.3", linewidth=0.8)
    for i, arm in enumerate(arms):
        offset = (i - (len(arms) - 1) / 2) * step
        part = compared[(compared["arm_label"] == arm[0]) & (compared["baseline_label"] == arm[1])]
        places = np.array([rows[cell] for cell in part["cell"]]) + offset
        _intervals(axes, part, places, colours[arm[0]], label=difference_text(*arm))
        if pooled is not None:
            whole = pooled[(pooled["arm_label"] == arm[0]) & (pooled["baseline_label"] == arm[1])]
            _intervals(axes, whole, np.full(len(whole), len(rows) + offset), colours[arm[0]], marker="D")
    names = [labels[int(str(cell))] for cell in rows] + (["together"] if pooled is not None else [])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("Difference in test accuracy (points)")
    for line in range(1, len(names)):
        axes.axhline(line - 0.5, color="0.93", linewidth=0.8, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", MINUS))
    _legend(figure, axes)
    return figure


def _intervals(
    axes: Axes,
    rows: pd.DataFrame,
    places: Vector,
    colour: ColorType,
    *,
    marker: str = "o",
    label: str | None = None,
) -> None:
    for low, high, width in (("delta_low_holm", "delta_high_holm", 0.9), ("delta_low", "delta_high", 2.4)):
        axes.hlines(places, 100 * rows[low], 100 * rows[high], color=colour, linewidth=width)
    axes.plot(100 * rows["delta"], places, marker, color=colour, markersize=5, label=label)


def effects_figure(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Main effects of the augmentations with intervals, and a matrix of interactions for each column.

    Args:
        found: title -> table of `analysis.paired.effects`.
    """
    tables = list(found.values())
    factors = [term for term in tables[0].index if ":" not in term]
    columns = min(len(found), 4)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.3 * columns + 0.6, 2.6 + 2.15 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.4, 2.15 * rows])[:, 0]
    axes = above.subplots()
    axes.axhline(0, color="0.3", linewidth=0.8)
    colours = arm_colours(["ce" if title == "CE" else title for title in found])
    for i, (title, table) in enumerate(found.items()):
        places = np.arange(len(factors)) + (i - (len(found) - 1) / 2) * 0.8 / max(len(found), 2)
        part = 100 * table.loc[factors, ["effect", "low", "high"]]
        colour = colours.get(title, BASELINE_COLOUR)
        spread = [part["effect"] - part["low"], part["high"] - part["effect"]]
        axes.errorbar(
            places, part["effect"], spread, fmt="o", color=colour, markersize=4, capsize=2, label=title
        )
    axes.set_xticks(range(len(factors)), factors)
    axes.set_ylabel("Main effect (points)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    largest = max(100 * float(t.drop(factors)["effect"].abs().max()) for t in tables) or 1.0
    grid = below.subplots(rows, columns, squeeze=False).ravel()
    for panel in grid[len(found) :]:
        panel.set_axis_off()
    for panel, (title, table) in zip(grid, found.items(), strict=False):
        _interactions(panel, title, table, factors, largest)
    return figure


def _interactions(
    axes: Axes, title: str, table: pd.DataFrame, factors: Sequence[str], largest: float
) -> None:
    """A triangle of interactions in points; bold where p <= 0.05 after Holm."""
    matrix = np.full((len(factors), len(factors)), np.nan)
    for term, row in table.iterrows():
        if ":" in str(term):
            j, i = (factors.index(name) for name in str(term).split(":"))
            matrix[i, j] = 100 * row["effect"]
            weight = "bold" if row["p_holm"] <= LEVEL else "normal"
            axes.text(j, i, points(row["effect"]), ha="center", va="center", fontsize=8, fontweight=weight)
    axes.imshow(
        matrix[1:, :-1],
        cmap="PuOr_r",
        vmin=-1.6 * largest,
        vmax=1.6 * largest,
        extent=(-0.5, len(factors) - 1.5, len(factors) - 0.5, 0.5),
    )
    axes.set_xticks(range(len(factors) - 1), factors[:-1], rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(1, len(factors)), factors[1:], fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def trade_offs(trials: pd.DataFrame) -> Figure | None:
    """Test accuracy against invariance and against calibration, a point a trial; None without these."""
    done = finished(trials)
    metrics = [name for name in TRADES if name in done and done[name].notna().any()]
    if "test_acc" not in done or not metrics:
        return None
    arms = list(dict.fromkeys(trials["arm_label"]))
    colours = arm_colours(arms)
    size = float(np.clip(900 / max(len(done), 1), 5, 28))
    figure, grid = _panels(len(metrics))
    for axes, metric in zip(grid, metrics, strict=True):
        for arm in arms:
            part = done[done["arm_label"] == arm]
            axes.scatter(
                part[metric],
                part["test_acc"],
                s=size,
                color=colours[arm],
                alpha=0.75,
                linewidths=0,
                label=arm_text(arm),
                rasterized=True,
            )
        axes.set_xlabel(TRADES[metric])
        axes.set_ylabel("Test accuracy")
        _per_cent(axes.yaxis)
        _per_cent(axes.xaxis)
    _legend(figure, grid[0])
    return figure


def cost(trials: pd.DataFrame) -> Figure | None:
    """Training time of every trial by arm, a panel a group of cells that differ in augmentations alone."""
    done = finished(trials)
    if "train_seconds" not in done or done["train_seconds"].isna().all():
        return None
    groups = list(done.groupby("group_label", sort=False))
    arms = list(dict.fromkeys(trials["arm_label"]))
    colours = arm_colours(arms)
    unit, name = (
        (3600, "hours")
        if done["train_seconds"].median() > 7200
        else ((60, "minutes") if done["train_seconds"].median() > 120 else (1, "seconds"))
    )
    figure, grid = _panels(len(groups))
    width = min(22, 130 / len(arms))  # points: beside each other, not one line
    for axes, (label, group) in zip(grid, groups, strict=True):
        for place, arm in enumerate(arms):
            times = group.loc[group["arm_label"] == arm, "train_seconds"] / unit
            spread = np.linspace(-0.15, 0.15, len(times)) if len(times) > 1 else np.zeros(len(times))
            axes.plot(
                place + spread, times, "o", color=colours[arm], markersize=3, alpha=0.5, markeredgewidth=0
            )
            axes.plot(place, times.median(), "_", color=colours[arm], markersize=width, markeredgewidth=3)
        _name_arms(axes, arms)
        axes.set_ylim(0, 1.08 * done["train_seconds"].max() / unit)
        axes.set_title(str(label), fontsize=10)
        axes.set_ylabel(f"Training time ({name})")
    return figure


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, in rows of at most three."""
    columns = min(count, 3) if count != 4 else 2
    rows = -(-count // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:count])


def _mean_and_half(values: pd.DataFrame) -> tuple[Vector, Vector]:
    """Means over seeds and half the width of their 95 % t intervals; NaN for fewer than two."""
    n = values.notna().sum().to_numpy()
    error = values.std(ddof=1).to_numpy() / np.sqrt(n)
    return values.mean().to_numpy(), stats.t.isf(LEVEL / 2, np.maximum(n - 1, 1)) * error


def _name_arms(axes: Axes, arms: Sequence[str]) -> None:
    """The arms along the x-axis, slanted where they would not stand beside each other."""
    names = [arm_text(arm) for arm in arms]
    long = sum(map(len, names)) > 36
    axes.set_xticks(range(len(arms)), names, rotation=40 if long else 0, ha="right" if long else "center")


def _legend(figure: Figure, axes: Axes) -> None:
    """Below the panels, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names), default=1)
    fitting = int(figure.get_figwidth() / (0.075 * longest + 0.5))  # inches of a name at this size
    columns = max(1, min(len(names), 5, fitting))
    legend = figure.legend(
        handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([28])


def _per_cent(axis: "mpl.axis.Axis") -> None:
    """Ticks in per cent, few enough to stand beside each other."""
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %".replace("-", MINUS))


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write the figure as PNG and PDF (type that can be searched and edited); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    # Laid out once: that takes longer than drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with mpl.rc_context({"pdf.fonttype": 42}):
        for path in (png, pdf):
            figure.savefig(path, dpi=DENSITY, metadata=METADATA[path.suffix.removeprefix(".")])
    return png, pdf
