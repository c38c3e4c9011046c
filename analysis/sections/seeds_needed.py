"""What the seeds of a study can find, and how many it would take."""

import pandas as pd

from analysis.render.section import Section
from analysis.render.table import Entry, Table, entries
from analysis.render.text import NO_VALUE, arm_title, difference_title, join_and, number_of, span
from analysis.stats.power import DIFFERENCE, POWER
from analysis.stats.results import Results
from analysis.trials import cell_labels
from search_spaces.families import LEVEL

NAMED_RELATIVES = 3
"""Most cells whose stand-ins a caption names."""

_ITSELF = "other arms"


def seeds_section(results: Results) -> Section:
    """The section; empty if no differences were measured."""
    needed = results.seeds_needed
    known = needed.dropna(subset="sd")
    if known.empty:
        return Section(id="seeds", title="Seeds needed")
    return Section(
        id="seeds",
        title="Seeds needed",
        paragraphs=(_sentence(known),),
        tables=(_table(results, needed),),
        headed=False,
    )


def _sentence(known: pd.DataFrame) -> str:
    """What finding 1 point everywhere takes."""
    by_cell = known.groupby("cell", sort=False)[["planned", "seeds", "hours"]].max()
    cells = len(by_cell)
    where = "every comparison" if cells == 1 else f"every comparison of each of these {cells} cells"
    seeds = f"{span(set(by_cell['seeds'].astype(int)))} seeds of all arms"
    if cells == 1:
        most = known.sort_values("seeds").iloc[-1]
        seeds += f" ({most['seeds_low']:.0f} to {most['seeds_high']:.0f} by the interval of the SD)"
    text = (
        f"To find a true difference of {100 * DIFFERENCE:g} point in {where} with {100 * POWER:.0f} % power"
        f" takes {seeds}; planned are {span(set(by_cell['planned']))}."
    )
    hours = by_cell["hours"].dropna()
    if hours.empty:
        return text
    part = "" if len(hours) == cells else f" in the {len(hours)} cells whose times are known"
    return f"{text} That is {_hours(hours.sum())} of training and evaluation{part}, one trial after another."


def _table(results: Results, needed: pd.DataFrame) -> Table:
    """A row per comparison of a single cell; of several, one per group of cells and baseline."""
    trials = results.trials
    if len(set(trials["cell"])) == 1:
        titles = [
            difference_title(*pair)
            for pair in zip(needed["arm_label"], needed["baseline_label"], strict=True)
        ]
        parts = [part for _, part in needed.groupby(needed.index)]
        corner = "Test accuracy (points)"
    else:
        groups = dict(zip(trials["cell"], trials["group_label"], strict=True))
        grouped = needed.groupby([needed["cell"].map(groups), "baseline"], sort=False)
        titles = [
            f"{group} {NO_VALUE} against {arm_title(str(baseline))}" for (group, baseline), _ in grouped
        ]
        parts, corner = [part for _, part in grouped], "Cells and baseline"
    return Table(
        name="seeds-needed",
        title="What the seeds find",
        corner=corner,
        columns=(
            "n",
            "SD of differences",
            "Planned",
            f"Found with {100 * POWER:.0f} %",
            "Seeds for 1 point",
            "by the SD's interval",
            "Time",
        ),
        rows=tuple((title, _row(part)) for title, part in zip(titles, parts, strict=True)),
        caption=_caption(needed, cell_labels(trials)),
    )


def _row(part: pd.DataFrame) -> tuple[Entry, ...]:
    """The range over the comparisons; time of all cells, each with the seeds that its comparisons take."""
    known = part.dropna(subset="sd")
    planned = span(set(part["planned"]))
    if known.empty:
        return entries(NO_VALUE, NO_VALUE, planned, *[NO_VALUE] * 4)
    hours = known.groupby("cell")["hours"].max()
    return entries(
        span(set(known["n"])),
        _range(100 * known["sd"]),
        planned,
        _range(100 * known["detectable"]),
        span(set(known["seeds"].astype(int))),
        f"{known['seeds_low'].min():.0f} to {known['seeds_high'].max():.0f}",
        _hours(hours.sum()) if hours.notna().all() else NO_VALUE,
    )


def _range(values: pd.Series) -> str:
    """`1.3`, or `0.8 to 2.1`; NaN is left out."""
    if values.isna().all():
        return NO_VALUE
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"


def _hours(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _caption(needed: pd.DataFrame, labels: dict[int, str]) -> str:
    most = int(needed["comparisons"].max())
    text = (
        "SD: of the paired differences in test accuracy between the n seeds that both arms have, in points."
        f" Found: the smallest true difference that the planned seeds find with {100 * POWER:.0f} % power in"
        f" a paired t-test at {LEVEL} / m, with m comparisons with one baseline (up to {most}): Holm's"
        " first step. Seeds for 1 point: the same for a difference of 1"
        " point, and for both ends of the SD's 95 % interval: an SD of few seeds is uncertain. All this holds"
        " for a number of seeds fixed before looking at results. Time: all arms of the cells with that"
        " many seeds, one trial after another, by their mean times."
    )
    own = needed["arm_label"] + " - " + needed["baseline_label"]
    borrowed = needed[
        needed["sd"].notna() & ((needed["measured_in"] != needed["cell"]) | (needed["measured_as"] != own))
    ]
    relatives = {
        labels[row["cell"]]: labels[row["measured_in"]] if row["measured_in"] != row["cell"] else _ITSELF
        for row in borrowed.to_dict("records")
    }
    if relatives:
        named = [f"{there} for {here}" for here, there in list(relatives.items())[:NAMED_RELATIVES]]
        more = len(relatives) - len(named)
        named += [f"others for {number_of(more, 'more cell')}"] if more > 0 else []
        text += (
            " Where two arms have fewer than 3 seeds in common, the nearest measured comparison stands in: of"
            f" {join_and(named)}."
        )
    return text
