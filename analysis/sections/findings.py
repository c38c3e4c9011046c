"""What a study says, in sentences that the adjusted intervals allow, and no more.

An arm is called higher or lower than its baseline only where the interval adjusted after Holm leaves out zero
and at least three seeds stand behind it. Otherwise nothing is shown, which is never said as "equal".
"""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from analysis.render.text import arm_text, interval, joined, number_of, points
from analysis.sections.differences import baseline_text
from analysis.stats.comparisons import TESTED, claimed, pooled_comparisons
from analysis.stats.paired import FEWEST, LEVEL


def findings(trials: pd.DataFrame, compared: pd.DataFrame) -> list[str]:
    """The main findings of a study, a sentence or two each.

    Args:
        trials: of `analysis.trials.load`.
        compared: of `analysis.stats.comparisons.comparisons`.
    """
    tested = compared[compared["metric"] == TESTED]
    if tested.empty or not (tested["n"] > 0).any():
        return ["No arm has results for the same seeds as a baseline: nothing is compared."]
    if len(set(trials["cell"])) == 1:
        return cell_findings(tested)
    sentences = []
    for pooled in pooled_comparisons(trials):
        kind = f" ({pooled['kind'].iloc[0]})" if pooled["kind"].iloc[0] else ""
        for cells, part in pooled.groupby("cells", sort=False):
            over = f"Over {cells} cells together{kind}, and for these only: "
            without = [
                baseline_text(str(name))
                for name, family in part.groupby("baseline", sort=False)
                if not (family["n"] > 0).any()
            ]
            if without:
                sentences.append(
                    f"{over}nothing is compared with {joined(without)}, as no seed has finished all arms of"
                    " such a comparison in all of them."
                )
            sentences += [over + sentence[0].lower() + sentence[1:] for sentence in cell_findings(part)]
    return sentences + [
        _counted(str(baseline), family) for baseline, family in tested.groupby("baseline", sort=False)
    ]


def cell_findings(compared: pd.DataFrame) -> list[str]:
    """What the comparisons of one cell, or of pooled cells, allow to be said, baseline by baseline."""
    single = "metric" in compared
    if single:
        compared = compared[compared["metric"] == TESTED]
    sentences = []
    for baseline, family in compared.groupby("baseline", sort=False):
        there, against = family[family["n"] > 0], baseline_text(str(baseline))
        if there.empty:
            if single:  # of pooled cells `findings` says more
                sentences.append(f"Nothing can be compared with {against}: results are missing.")
            continue
        sentences += _family(against, there)
        lacking = [_subject(row) for row in family[family["n"] == 0].to_dict("records")]
        if lacking:
            sentences.append(f"{joined(lacking)} cannot be compared with {against}: results are missing.")
    return sentences


def _family(baseline: str, family: pd.DataFrame) -> list[str]:
    n = int(family["n"].max())
    if n < FEWEST:
        return [f"Against {baseline} nothing can be shown with {number_of(n, 'seed')}; it takes {FEWEST}."]
    sure = claimed(family)
    sentences = [
        f"{_subject(row)} has a {'higher' if row['delta'] > 0 else 'lower'} test accuracy than {baseline}:"
        f" {points(row['delta'])} points (adjusted 95 % interval"
        f" {interval(row['delta_low_holm'], row['delta_high_holm'])}, n = {n})."
        for row in family[sure].to_dict("records")
    ]
    alike = family["delta_low_holm"].isna()
    sentences += [
        f"{_subject(row)} differs from {baseline} by {points(row['delta'])} points of test accuracy in all"
        f" {n} seeds: without any spread there is no test."
        for row in family[alike].to_dict("records")
    ]
    open_ = family[~sure & ~alike]
    if open_.empty:
        return sentences
    names = joined([_subject(row) for row in open_.to_dict("records")])
    low, high = open_["delta_low_holm"].min(), open_["delta_high_holm"].max()
    reach = (
        f" differences from {interval(low, high)} points remain possible (adjusted 95 % intervals, n = {n});"
    )
    sentences.append(
        f"Against {baseline} no difference in test accuracy is shown for {names}:{reach} that is no evidence"
        " of equality."
    )
    return sentences


def _counted(baseline: str, family: pd.DataFrame) -> str:
    """How many comparisons of single cells allow a claim, and how many would by chance."""
    possible = family[family["n"] >= FEWEST]
    sure = family[claimed(family)]
    cells = int(possible["cell"].nunique())
    where = f"In single cells, against {baseline_text(baseline)}"
    if not cells:
        return f"{where}: too few seeds for a claim; it takes {FEWEST}."
    higher = int((sure["delta"] > 0).sum())
    return (
        f"{where}: {higher} of {len(possible)} comparisons are higher and {len(sure) - higher} lower by their"
        f" adjusted intervals. These are adjusted within each cell only: of {cells} cells without any true"
        f" difference {LEVEL * cells:.1f} would show one on average."
    )


def _subject(row: Mapping[Hashable, Any]) -> str:
    return arm_text(row["arm_label"])
