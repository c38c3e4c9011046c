"""Figures of results, drawn from the tidy DataFrame of trials."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from analysis.plots.style import (
    BASELINE_COLOUR,
    SIDEWAYS,
    arm_colours,
    legend_below,
    name_arms,
    panels_of,
    per_cent,
    sideways_panels,
)
from analysis.render.text import arm_title
from analysis.stats.comparisons import TESTED, values_of
from analysis.stats.paired import LEVEL, Vector
from analysis.trials import finished
from trainables.arms import CE, Arm, weight_text
from trainables.catalogue import FIRST_TERM, TERMS
from trainables.metrics import METRICS

TITLE_LETTERS = 34
"""Letters of a title that fit above a panel."""
MOST_LINES = 4
"""Settings that one panel shows against γ."""
CURVES = {"train/acc": "Training accuracy", "val/acc": "Validation accuracy", "train/ce": "Cross-entropy"}
"""Metrics of each epoch. The first two that a cell has are shown."""


def accuracy_by_arm(cell: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Every seed's accuracy beside the arm's mean, a panel per metric (name -> title).

    Lines join the arms of one seed: comparisons are paired by seed.
    """
    arms = list(dict.fromkeys(cell["arm_label"]))
    colours = arm_colours(arms)
    if len(arms) >= SIDEWAYS:
        return _accuracy_sideways(cell, metrics, arms)
    figure, grid = panels_of(len(metrics))
    for axes, (metric, title) in zip(grid, metrics.items(), strict=True):
        values = values_of(cell, metric).T
        axes.plot(range(len(arms)), values, color="0.75", linewidth=1, marker="o", markersize=4, zorder=1)
        for place, arm in enumerate(arms):
            mean = values.loc[arm].mean()
            axes.plot(place, mean, "_", color=colours[arm], markersize=22, markeredgewidth=3)
        name_arms(axes, arms)
        axes.set_title(title, fontsize=11)
        axes.margins(x=0.15)
        per_cent(axes.yaxis)
    return figure


def _accuracy_sideways(cell: pd.DataFrame, metrics: Mapping[str, str], arms: Sequence[str]) -> Figure:
    """`accuracy_by_arm` with a line for each arm, where their names would not fit below."""
    colours = arm_colours(arms)
    figure, grid = sideways_panels(len(metrics), arms)
    for axes, (metric, title) in zip(grid, metrics.items(), strict=True):
        values = values_of(cell, metric).T
        axes.plot(values, range(len(arms)), color="0.75", linewidth=1, marker="o", markersize=4, zorder=1)
        for place, arm in enumerate(arms):
            axes.plot(
                values.loc[arm].mean(), place, "|", color=colours[arm], markersize=13, markeredgewidth=3
            )
        axes.set_title(title, fontsize=11)
        per_cent(axes.xaxis)
    return figure


def learning_curves(curves: pd.DataFrame, arms: Sequence[str]) -> Figure | None:
    """Mean over seeds of the metrics of each epoch, and the range of the seeds; None without curves."""
    metrics = [name for name in CURVES if name in curves and curves[name].notna().any()][:2]
    if not metrics:
        return None
    colours = arm_colours(arms)
    figure, grid = panels_of(len(metrics))
    for axes, metric in zip(grid, metrics, strict=True):
        for arm, seeds in curves.groupby("arm_label", sort=False):
            over, colour = seeds.groupby("epoch")[metric].agg(["mean", "min", "max"]), colours[str(arm)]
            axes.plot(over.index, over["mean"], color=colour, linewidth=1.4, label=arm_title(str(arm)))
            axes.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)
        axes.set_title(CURVES[metric], fontsize=11)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if metric.endswith("acc"):
            per_cent(axes.yaxis)
    legend_below(figure, grid[0])
    return figure


def accuracy_by_gamma(panels: Mapping[str, pd.DataFrame], arms: Sequence[str]) -> Figure | None:
    """Test accuracy against γ: mean and 95 % t interval over seeds; cross-entropy alone as a line.

    Arms that differ in more than γ have a line for each setting. None for fewer than two γ. `panels` have by
    title seeds × arms, fractions; not all of the `arms` need be in each.
    """
    gammas = {label: Arm.parse(label).gamma for label in arms}
    weights = sorted({gamma for gamma in gammas.values() if gamma is not None})
    if len(weights) < 2:
        return None
    lines = _lines([label for label, gamma in gammas.items() if gamma is not None])
    if len(lines) > MOST_LINES:  # too many to follow, and two points make no curve
        lines = {name: on for name, on in lines.items() if len({gammas[label] for label in on} - {0}) > 1}
        return _by_setting(panels, lines) if lines else None
    colours = arm_colours(arms if len(lines) == 1 else list(lines))
    figure, grid = panels_of(len(panels))
    for axes, (title, panel) in zip(grid, panels.items(), strict=True):
        values = panel.dropna(axis="columns", how="all")
        known = {name: [arm for arm in on if arm in values] for name, on in lines.items()}
        for i, (setting, shown) in enumerate(known.items()):
            offset = 0.08 * (i - (len(lines) - 1) / 2)  # side by side, not on top of each other
            places = [weights.index(gammas[arm]) + offset for arm in shown]  # type: ignore[arg-type]
            means, halves = _mean_and_half(values[shown])
            joined = {"color": colours[setting], "label": setting} if len(lines) > 1 else {"color": "0.6"}
            axes.plot(places, means, linewidth=1, zorder=1, **joined)
            for place, arm, mean, half in zip(places, shown, means, halves, strict=True):
                dot = colours[setting if len(lines) > 1 else arm]
                axes.errorbar(place, mean, half, fmt="o", color=dot, capsize=3)
        if CE in values:
            (mean,), (half,) = _mean_and_half(values[[CE]])
            axes.axhline(mean, color=BASELINE_COLOUR, linewidth=1.2, linestyle="--", label=arm_title(CE))
            if np.isfinite(half):
                axes.axhspan(mean - half, mean + half, color=BASELINE_COLOUR, alpha=0.12, linewidth=0)
        axes.set_title(textwrap.fill(title, TITLE_LETTERS), fontsize=10)
        if values.empty:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no results", ha="center", color="0.4", transform=axes.transAxes)
            continue
        if len(lines) == 1 and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="best")
        axes.set_xticks(range(len(weights)), list(map(weight_text, weights)))
        axes.set_xlim(-0.35, len(weights) - 0.65)
        axes.set_xlabel("γ")
        per_cent(axes.yaxis)
    if len(lines) > 1:
        legend_below(figure, max(grid, key=lambda axes: len(axes.get_legend_handles_labels()[0])))
    return figure


def _by_setting(panels: Mapping[str, pd.DataFrame], lines: Mapping[str, Sequence[str]]) -> Figure:
    """`accuracy_by_gamma` with a panel for each setting: the mean and interval of every γ of one term."""
    figure, grid = panels_of(len(panels) * len(lines))
    for axes in grid[1:]:
        axes.sharey(grid[0])  # terms are compared by eye, too
    places = iter(grid)
    for title, panel in panels.items():
        values = panel.dropna(axis="columns", how="all")
        for name, on in lines.items():
            axes, shown = next(places), [arm for arm in on if arm in values]
            means, halves = _mean_and_half(values[shown])
            gammas = [Arm.parse(arm).gamma or 0.0 for arm in shown]
            axes.errorbar(range(len(shown)), means, halves, fmt="o-", color="C0", linewidth=1, capsize=3)
            if CE in values:
                mean, _ = _mean_and_half(values[[CE]])
                axes.axhline(mean[0], color=BASELINE_COLOUR, linewidth=1.2, linestyle="--")
            axes.set_title(name if len(panels) == 1 else f"{title}\n{name}", fontsize=9)
            axes.set_xticks(range(len(shown)), list(map(weight_text, gammas)))
            axes.set_xlabel("γ (dashed: CE)" if CE in values else "γ")
            per_cent(axes.yaxis)
    return figure


def _lines(arms: Sequence[str]) -> dict[str, list[str]]:
    """Arms by setting, in the order of γ; all settings with two cross-entropies share a control without."""
    settings: dict[str, list[str]] = {}
    for label in sorted(arms, key=lambda label: Arm.parse(label).gamma or 0.0):
        settings.setdefault(Arm.parse(label).setting, []).append(label)
    control = [label for label in settings.get("", []) if not Arm.parse(label).gamma]
    if len(settings) < 2 or not control:
        return settings
    lines = {}
    for name, members in settings.items():
        first = Arm.parse(members[0])
        if name:
            lines[name] = [*control, *members] if first.has_control and first.gamma else members
        elif len(members) > len(control):
            lines[TERMS[FIRST_TERM].title] = members
    return lines


def trade_offs(trials: pd.DataFrame) -> Figure | None:
    """Test accuracy against agreement of views and calibration, a point per trial; None without these."""
    done = finished(trials)
    metrics = [name for name in ("view_agreement", "test_ece") if name in done and done[name].notna().any()]
    if TESTED not in done or not metrics:
        return None
    arms = list(dict.fromkeys(trials["arm_label"]))
    colours = arm_colours(arms)
    look = {"s": np.clip(900 / max(len(done), 1), 5, 28), "alpha": 0.75, "linewidths": 0, "rasterized": True}
    figure, grid = panels_of(len(metrics))
    for axes, metric in zip(grid, metrics, strict=True):
        for arm in arms:
            part = done[done["arm_label"] == arm]
            axes.scatter(metric, TESTED, data=part, color=colours[arm], label=arm_title(arm), **look)
        axes.set_xlabel(METRICS[metric].axis)
        axes.set_ylabel(METRICS[TESTED].axis)
        per_cent(axes.yaxis)
        per_cent(axes.xaxis)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    legend_below(figure, grid[0])
    return figure


def cost(trials: pd.DataFrame) -> Figure | None:
    """Training time of every trial by arm, a panel per group of cells that differ in augmentations alone."""
    done = finished(trials)
    if "train_seconds" not in done or done["train_seconds"].isna().all():
        return None
    groups = list(done.groupby("group_label", sort=False))
    arms = list(dict.fromkeys(trials["arm_label"]))
    colours = arm_colours(arms)
    median = done["train_seconds"].median()
    unit, name = (3600, "hours") if median > 7200 else (60, "minutes") if median > 120 else (1, "seconds")
    sideways = len(arms) >= SIDEWAYS
    figure, grid = sideways_panels(len(groups), arms) if sideways else panels_of(len(groups))
    width = min(22, 130 / len(arms))  # in points: side by side, not one line
    for axes, (label, group) in zip(grid, groups, strict=True):
        for place, arm in enumerate(arms):
            times = (group.loc[group["arm_label"] == arm, "train_seconds"] / unit).to_numpy(float)
            spread = place + (
                np.linspace(-0.15, 0.15, len(times)) if len(times) > 1 else np.zeros(len(times))
            )
            middle = np.median(times) if len(times) else np.nan
            points, bar = (
                ((times, spread), (middle, place)) if sideways else ((spread, times), (place, middle))
            )
            axes.plot(*points, "o", color=colours[arm], markersize=3, alpha=0.5, markeredgewidth=0)
            mark = "|" if sideways else "_"
            axes.plot(*bar, mark, color=colours[arm], markersize=11 if sideways else width, markeredgewidth=3)
        most, title = 1.08 * done["train_seconds"].max() / unit, f"Training time ({name})"
        axes.set_title(textwrap.fill(str(label), TITLE_LETTERS), fontsize=10)
        if sideways:
            axes.set(xlim=(0, most), xlabel=title)
        else:
            name_arms(axes, arms)
            axes.set(ylim=(0, most), ylabel=title)
    return figure


def _mean_and_half(values: pd.DataFrame) -> tuple[Vector, Vector]:
    """Means over seeds and half the width of their 95 % t intervals; NaN for fewer than two."""
    n = values.notna().sum().to_numpy()
    error = values.std(ddof=1).to_numpy() / np.sqrt(n)
    return values.mean().to_numpy(), -stdtrit(np.maximum(n - 1, 1), LEVEL / 2) * error
