"""Figures of results, drawn from the tidy DataFrame of trials."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import stdtrit

from analysis.plots.style import BASELINE_COLOUR, arm_colours, legend_below, name_arms, panels_of, per_cent
from analysis.render.text import arm_text, gamma_text
from analysis.stats.comparisons import values_of
from analysis.stats.paired import LEVEL, Vector
from analysis.trials import finished

CURVES = {"train/acc": "Training accuracy", "val/acc": "Validation accuracy", "train/ce": "Cross-entropy"}
"""Per epoch, in the order in which panels are chosen; two are shown."""
TRADES = {
    "view_agreement": "View agreement",
    "test_ece": "Calibration error (ECE)",
}
"""What accuracy is held against: invariance to augmentation, and calibration."""


def accuracy_by_arm(cell: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Every seed's accuracy beside the arm's mean, a panel a metric.

    Lines join the arms of one seed: what is compared is paired by seed.

    Args:
        cell: the trials of one cell.
        metrics: name -> title of each panel.
    """
    arms = list(dict.fromkeys(cell["arm_label"]))
    colours = arm_colours(arms)
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


def learning_curves(curves: pd.DataFrame, arms: Sequence[str]) -> Figure | None:
    """Mean over seeds of what each epoch measured, and the range of the seeds; None without curves.

    Args:
        curves: of `analysis.plots.curves.read_curves`, of one cell.
        arms: their labels, in order.
    """
    metrics = [name for name in CURVES if name in curves and curves[name].notna().any()][:2]
    if not metrics:
        return None
    colours = arm_colours(arms)
    figure, grid = panels_of(len(metrics))
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
            per_cent(axes.yaxis)
    legend_below(figure, grid[0])
    return figure


def accuracy_by_gamma(panels: Mapping[str, pd.DataFrame], gammas: Mapping[str, float]) -> Figure | None:
    """Test accuracy against γ: mean and 95 % t interval over seeds; cross-entropy alone as a line.

    Arms that differ in more than γ are joined setting by setting: a line for each.

    Args:
        panels: title -> seeds × arms, fractions.
        gammas: γ of each arm by label; NaN for cross-entropy.

    Returns:
        None where fewer than two γ are known.
    """
    weights = sorted({gamma for gamma in gammas.values() if not np.isnan(gamma)})
    if len(weights) < 2:
        return None
    lines = _by_setting([arm for arm in gammas if not np.isnan(gammas[arm])], gammas)
    colours = arm_colours(list(gammas)) if len(lines) == 1 else arm_colours(list(lines))
    figure, grid = panels_of(len(panels))
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        drawn = False
        for i, (setting, arms) in enumerate(lines.items()):
            known = [arm for arm in arms if arm in values and values[arm].notna().any()]
            drawn |= bool(known)
            # Beside each other, not on top.
            places = [weights.index(gammas[arm]) + 0.08 * (i - (len(lines) - 1) / 2) for arm in known]
            means, halves = _mean_and_half(values[known])
            colour = colours[setting] if len(lines) > 1 else "0.6"
            axes.plot(places, means, color=colour, linewidth=1, zorder=1, label=setting or None)
            for place, arm, mean, half in zip(places, known, means, halves, strict=True):
                dot = colours[setting] if len(lines) > 1 else colours[arm]
                axes.errorbar(place, mean, half, fmt="o", color=dot, capsize=3)
        if "ce" in values and values["ce"].notna().any():
            drawn = True
            (mean,), (half,) = _mean_and_half(values[["ce"]])
            axes.axhline(mean, color=BASELINE_COLOUR, linewidth=1.2, linestyle="--", label="CE")
            if np.isfinite(half):
                axes.axhspan(mean - half, mean + half, color=BASELINE_COLOUR, alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=10)
        if not drawn:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no results", ha="center", color="0.4", transform=axes.transAxes)
            continue
        if len(lines) == 1 and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9, loc="best")
        axes.set_xticks(range(len(weights)), list(map(gamma_text, weights)))
        axes.set_xlim(-0.35, len(weights) - 0.65)
        axes.set_xlabel("γ")
        per_cent(axes.yaxis)
    if len(lines) > 1:
        legend_below(figure, max(grid, key=lambda axes: len(axes.get_legend_handles_labels()[0])))
    return figure


def _by_setting(arms: Sequence[str], gammas: Mapping[str, float]) -> dict[str, list[str]]:
    """Arms in the order of γ, by what sets them apart beside it; all share a control that has no setting."""
    settings: dict[str, list[str]] = {}
    for arm in sorted(arms, key=lambda arm: gammas[arm]):
        settings.setdefault(arm.partition(" ")[2], []).append(arm)
    alone = settings.get("", [])
    if len(settings) > 1 and alone and all(gammas[arm] == 0 for arm in alone):
        return {name: [*alone, *members] for name, members in settings.items() if name}
    return settings


def trade_offs(trials: pd.DataFrame) -> Figure | None:
    """Test accuracy against invariance and against calibration, a point a trial; None without these."""
    done = finished(trials)
    metrics = [name for name in TRADES if name in done and done[name].notna().any()]
    if "test_acc" not in done or not metrics:
        return None
    arms = list(dict.fromkeys(trials["arm_label"]))
    colours = arm_colours(arms)
    size = float(np.clip(900 / max(len(done), 1), 5, 28))
    figure, grid = panels_of(len(metrics))
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
        per_cent(axes.yaxis)
        per_cent(axes.xaxis)
    legend_below(figure, grid[0])
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
    figure, grid = panels_of(len(groups))
    width = min(22, 130 / len(arms))  # points: beside each other, not one line
    for axes, (label, group) in zip(grid, groups, strict=True):
        for place, arm in enumerate(arms):
            times = group.loc[group["arm_label"] == arm, "train_seconds"] / unit
            spread = np.linspace(-0.15, 0.15, len(times)) if len(times) > 1 else np.zeros(len(times))
            axes.plot(
                place + spread, times, "o", color=colours[arm], markersize=3, alpha=0.5, markeredgewidth=0
            )
            axes.plot(place, times.median(), "_", color=colours[arm], markersize=width, markeredgewidth=3)
        name_arms(axes, arms)
        axes.set_ylim(0, 1.08 * done["train_seconds"].max() / unit)
        axes.set_title(str(label), fontsize=10)
        axes.set_ylabel(f"Training time ({name})")
    return figure


def _mean_and_half(values: pd.DataFrame) -> tuple[Vector, Vector]:
    """Means over seeds and half the width of their 95 % t intervals; NaN for fewer than two."""
    n = values.notna().sum().to_numpy()
    error = values.std(ddof=1).to_numpy() / np.sqrt(n)
    return values.mean().to_numpy(), -stdtrit(np.maximum(n - 1, 1), LEVEL / 2) * error
