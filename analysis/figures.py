"""Figures of results, drawn from the tidy DataFrame of trials."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.labels import arm_text
from analysis.trials import finished


def accuracy_by_arm(cell: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Every seed's accuracy beside the arm's mean, a panel a metric.

    Lines join the arms of one seed: what is compared is paired by seed.

    Args:
        cell: the trials of one cell.
        metrics: name -> title of each panel.
    """
    arms = list(dict.fromkeys(cell["arm_label"]))
    done = finished(cell)
    figure = Figure(figsize=(3.6 * len(metrics), 3.2), layout="constrained")
    grid = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, (metric, title) in zip(grid, metrics.items(), strict=True):
        values = done.pivot_table(index="arm_label", columns="seed", values=metric, sort=False).reindex(arms)
        axes.plot(range(len(arms)), values, color="0.75", linewidth=1, marker="o", markersize=4, zorder=1)
        axes.plot(
            range(len(arms)), values.mean(axis=1), "_", color="#3f90da", markersize=22, markeredgewidth=3
        )
        axes.set_xticks(range(len(arms)), [arm_text(arm) for arm in arms])
        axes.set_title(title, fontsize=11)
        axes.margins(x=0.15)
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write the figure as PNG and PDF; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    for path in (png, pdf):
        figure.savefig(path, dpi=200)
    return png, pdf
