"""What several cells say: pooled over them, and about cells in general."""

from collections.abc import Sequence

import pandas as pd

from analysis.render.table import Table, entries
from analysis.render.text import NO_VALUE, difference_title, format_points, interval, number_of, span
from analysis.sections.differences import difference_table


def many_cells(pooled: Sequence[pd.DataFrame], name: str, title: str) -> list[Table]:
    """Differences over cells, two tables per set of arms; `title` has a place for the number of cells."""
    tables = []
    for number, compared in enumerate(pooled):
        kind = f" ({compared['kind'].iloc[0]})" if compared["kind"].iloc[0] else ""
        end = f"-arms-{number}" if number else ""
        own_title = title.format(compared["cells"].max()) + kind
        tables.append(difference_table(compared, f"{name}{end}", own_title))
        tables.append(_in_general(compared, f"{name}-general{end}", f"{own_title}: cells in general"))
    return [table for table in tables if table]


def _in_general(compared: pd.DataFrame, name: str, title: str) -> Table | None:
    """Random effects over cells, from rows of `pooled_comparisons`; None where no arm has them."""
    shown = compared[compared["tau"].notna()]
    if shown.empty:
        return None
    rows = [
        entries(
            format_points(row["delta"]),
            interval(row["general_low"], row["general_high"]),
            NO_VALUE if pd.isna(row["tau"]) else f"{100 * row['tau']:.1f}",
            NO_VALUE if pd.isna(row["i_squared"]) else f"{100 * row['i_squared']:.0f} %",
            interval(row["new_low"], row["new_high"]),
        )
        for row in compared.to_dict("records")
    ]
    titles = map(difference_title, compared["arm_label"], compared["baseline_label"])
    return Table(
        name=name,
        title=title,
        corner="Test accuracy (points)",
        columns=("Difference", "Mean of all cells", "τ", "I²", "A new cell"),
        rows=tuple(zip(titles, rows, strict=True)),
        caption=f"The same differences over {span(set(shown['cells']))} cells, n ="
        f" {number_of(int(shown['n'].max()), 'seed')}, as a sample of all cells that come about as these did"
        " (random effects of cells and of seeds). Mean of all cells: 95 % interval. τ: standard deviation of"
        " the true difference between cells, in points; I²: the share of the variance of the cells' means"
        " that is not noise. A new cell: where the mean difference of as many seeds lies in one more cell,"
        " with 95 %; the true difference at least as often. These are no tests, and not adjusted.",
    )
