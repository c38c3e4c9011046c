"""What each augmentation contributes one by one, as sentences and as a table."""

import pandas as pd

from analysis.render.table import Table
from analysis.render.text import (
    after_colon,
    difference_title,
    format_points,
    interval,
    join_and,
    number_of,
    seeds_text,
    slug,
    span,
)
from analysis.sections.claims import claims_line
from analysis.sections.differences import difference_columns, difference_rows, sign_flip_note
from analysis.sections.rules import rule_sentences
from analysis.stats.comparisons import claimed
from analysis.stats.one_by_one import LEFT_OUT
from analysis.stats.paired import FEWEST

_FAMILY = ("design", "arm_label", "baseline_label")


def one_by_one_findings(compared: pd.DataFrame, label: str = "") -> list[str]:
    """What the comparisons of a group show (`analysis.stats.one_by_one`); `label` names the group."""
    sentences = []
    for _, family in compared.groupby(list(_FAMILY), sort=False, dropna=False):
        known = family[family["n"] > 0]
        if not known.empty:
            sentences += _family_findings(known)
    where = f"{label}, one by one: " if label else "One by one: "
    sentences += claims_line(compared, _FAMILY)
    return [where + after_colon(sentence) for sentence in sentences]


def _family_findings(family: pd.DataFrame) -> list[str]:
    first, n = family.iloc[0], int(family["n"].max())
    title = difference_title(first["arm_label"], first["baseline_label"])
    what = f"the difference {title}" if first["baseline_label"] else f"the test accuracy of {title}"
    if n < FEWEST:
        return [f"nothing can be shown on {what} with {number_of(n, 'seed')}; it takes {FEWEST}."]
    sure, alike = claimed(family), family["delta_low_holm"].isna()
    sentences = [
        f"{what} is {'higher' if row['delta'] > 0 else 'lower'} with {row['larger']} than with"
        f" {row['smaller']}: {format_points(row['delta'])} points (Holm-adjusted interval"
        f" {interval(row['delta_low_holm'], row['delta_high_holm'])}, n = {row['n']})."
        for row in family[sure].to_dict("records")
    ]
    sentences += [
        f"{what} differs by {format_points(row['delta'])} points between {row['larger']} and {row['smaller']}"
        f" in all {row['n']} seeds: without any spread there is no test."
        for row in family[alike].to_dict("records")
    ]
    unclear = family[~sure & ~alike]
    if len(unclear):
        possible = interval(unclear["delta_low_holm"].min(), unclear["delta_high_holm"].max())
        sentences.append(
            f"no effect on {what} is shown for {join_and(list(unclear['augmentation']))}: effects from"
            f" {possible} points remain possible (Holm-adjusted intervals, n = {n}); that is no evidence of"
            " equality."
        )
    return sentences


def one_by_one_tables(compared: pd.DataFrame, number: int, label: str) -> list[Table]:
    """A table for each design of a group, from rows of `analysis.stats.one_by_one`."""
    tables = []
    for design, rows in compared.groupby("design", sort=False):
        shown = rows[rows["n"] > 0]
        if shown.empty:
            continue
        what = (
            "the full set minus each with one left out"
            if design == LEFT_OUT
            else "each with one added minus none"
        )
        arms = map(difference_title, rows["arm_label"], rows["baseline_label"])
        titles = [f"{arm}: {name}" for arm, name in zip(arms, rows["augmentation"], strict=True)]
        tables.append(
            Table(
                name=f"{slug(str(design))}-{number}",
                title=f"{label}: {what}",
                corner="Test accuracy (points)",
                columns=difference_columns(shown),
                rows=difference_rows(titles, rows),
                caption=_caption(str(design), rows, shown),
            )
        )
    return tables


def _caption(design: str, rows: pd.DataFrame, shown: pd.DataFrame) -> str:
    if design == LEFT_OUT:
        what = f"with {rows['larger'].iloc[0]} minus the same without the augmentation that is named"
    else:
        least = rows["smaller"].iloc[0]
        what = (
            f"with the augmentation that is named {'alone' if least == 'none' else f'beside {least}'} minus"
        )
        what += f" that with {least}"
    size = int(rows.groupby(list(_FAMILY[1:]), sort=False, dropna=False).size().max())
    lost = sorted({seed for text in shown["dropped"] for seed in text.split()}, key=int)
    text = (
        f"Test accuracy {what}, paired by seed, n = {span(set(shown['n']))}."
        f" {' '.join(rule_sentences(shown))} Adjusted after Holm over the"
        f" {number_of(size, 'augmentation')} of an arm. Rows with a difference of arms: how much larger it"
        " is. P(higher): share of seeds in which the larger set is higher, and its 95 % interval."
        f" {sign_flip_note(shown)}"
    )
    return text + (f" Left out, as a trial of them is missing: {seeds_text(lost)}." if lost else "")
