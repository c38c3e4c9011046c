"""The findings of a study: sentences that the adjusted intervals allow, and no more.

An arm is called higher or lower than its baseline only if the interval adjusted after Holm excludes zero and
rests on at least three seeds. Otherwise no difference is shown, which is never called "equal".
"""

import pandas as pd

from analysis.render.text import (
    after_colon,
    arm_title,
    format_points,
    interval,
    join_and,
    number_of,
    p_value,
    range_text,
)
from analysis.sections.claims import claims_line
from analysis.sections.one_by_one import one_by_one_findings
from analysis.sections.rules import small_sentences
from analysis.stats.comparisons import TESTED, claimed
from analysis.stats.paired import FEWEST, LEVEL
from analysis.stats.results import Results
from search_spaces.families import EXACT, smallest_p


def findings(results: Results) -> list[str]:
    """The main findings of a study."""
    compared = results.compared
    tested = compared[compared["metric"] == TESTED]
    if tested.empty or not (tested["n"] > 0).any():
        nothing = "No arm has results for the same seeds as a baseline: nothing is compared"
        beside = _one_by_one(results)
        return [f"{nothing} within cells.", *beside] if beside else [f"{nothing}."]
    if len(set(results.trials["cell"])) == 1:
        return cell_findings(tested) + claims_line(tested, ("baseline",)) + sign_flip_findings(tested)
    sentences = []
    for pooled in results.pooled:
        kind = f" ({pooled['kind'].iloc[0]})" if pooled["kind"].iloc[0] else ""
        for cells, part in pooled.groupby("cells", sort=False):
            over = f"Over {cells} cells together{kind}, and for these only: "
            most = part.groupby("baseline", sort=False)["n"].max()
            if without := [arm_title(str(name)) for name in most.index[most == 0]]:
                sentences.append(
                    f"{over}nothing is compared with {join_and(without)}, as no seed has finished all arms of"
                    " such a comparison in all of them."
                )
            sentences += [over + after_colon(sentence) for sentence in cell_findings(part)]
    sentences += [
        _counted(str(baseline), family) for baseline, family in tested.groupby("baseline", sort=False)
    ]
    sentences += claims_line(tested, ("cell", "baseline"), "comparisons of single cells")
    return sentences + _one_by_one(results)


def apart_note(trials: pd.DataFrame) -> list[str]:
    """That terms are not compared with each other, where there are several."""
    if len(set(trials.loc[trials["gamma"] > 0, "term"])) < 2:
        return []
    return [
        "Each term is compared with the baselines, not with the other terms: that one is shown to help and"
        " another is not does not show that they differ."
    ]


def sign_flip_findings(compared: pd.DataFrame) -> list[str]:
    """What the exact test says of claims that rest on the t-test; empty if it agrees with all of them."""
    sure = compared[claimed(compared)]
    apart = sure[sure["p_sign_flip_joint"] > LEVEL]
    if apart.empty:
        return []
    which = "this claim" if len(sure) == 1 else f"{len(apart)} of these {len(sure)} claims"
    if len(apart) == len(sure) > 1:
        which = "these claims"
    floor, n = float(apart["p_floor"].min()), int(apart["n"].max())
    if floor > LEVEL:
        takes = next(count for count in range(n, EXACT) if smallest_p(count) <= LEVEL)
        return [
            f"{which[0].upper()}{which[1:]} {'rests' if len(apart) == 1 else 'rest'} on t-tests, which take"
            " differences between seeds as normally distributed. The exact sign-flip test does not, and"
            f" cannot tell yet: with {number_of(n, 'seed')} its p is {floor:.2g} at least; it takes {takes}."
        ]
    values = apart["p_sign_flip_joint"].agg(["min", "max"])
    p = " to ".join(dict.fromkeys(p_value(float(value)) for value in values))
    return [
        "The exact sign-flip test, which does not take differences as normally distributed, does not"
        f" confirm {which} (joint p of {p})."
    ]


def _one_by_one(results: Results) -> list[str]:
    labels = dict(zip(results.trials["group"], results.trials["group_label"], strict=True))
    return [
        sentence
        for number, compared in results.one_by_one.items()
        for sentence in one_by_one_findings(compared, labels[number] if len(labels) > 1 else "")
    ]


def cell_findings(compared: pd.DataFrame, *, seed: str = "seed") -> list[str]:
    """What the comparisons of one cell, or of pooled cells, show, baseline by baseline.

    `seed` is what to call a replicate.
    """
    single = "metric" in compared
    if single:
        compared = compared[compared["metric"] == TESTED]
    sentences = []
    for baseline, family in compared.groupby("baseline", sort=False):
        known, against = family[family["n"] > 0], arm_title(str(baseline))
        if known.empty:
            if single:  # `findings` says more about pooled cells
                sentences.append(f"Nothing can be compared with {against}: results are missing.")
            continue
        sentences += _family_findings(against, known, seed)
        if len(known) < len(family):
            lacking = _names(family[family["n"] == 0])
            sentences.append(f"{lacking} cannot be compared with {against}: results are missing.")
    return sentences


def _family_findings(baseline: str, family: pd.DataFrame, seed: str) -> list[str]:
    n = int(family["n"].max())
    if n < FEWEST:
        return [f"Against {baseline} nothing can be shown with {number_of(n, seed)}; it takes {FEWEST}."]
    sure, alike = claimed(family), family["delta_low_holm"].isna()
    sentences = [
        f"{arm_title(row['arm_label'])} has a {'higher' if row['delta'] > 0 else 'lower'} test accuracy than"
        f" {baseline}: {format_points(row['delta'])} points (Holm-adjusted interval"
        f" {interval(row['delta_low_holm'], row['delta_high_holm'])}, {_n(row['n'], seed)})."
        for row in family[sure].to_dict("records")
    ]
    sentences += [
        f"{arm_title(row['arm_label'])} differs from {baseline} by {format_points(row['delta'])} points of"
        f" test accuracy in all {row['n']} seeds: without any spread there is no test."
        for row in family[alike].to_dict("records")
    ]
    sentences += small_sentences(family, baseline)
    unclear = family[~sure & ~alike & (family["verdict"] != "small")]
    if len(unclear):
        low, high = unclear["delta_low_holm"].min(), unclear["delta_high_holm"].max()
        sentences.append(
            f"Against {baseline} no difference in test accuracy is shown for {_names(unclear)}:"
            f" differences {range_text(low, high)} remain possible (Holm-adjusted intervals, {_n(n, seed)});"
            " that is no evidence of equality."
        )
    return sentences


def _names(family: pd.DataFrame) -> str:
    return join_and([arm_title(arm) for arm in family["arm_label"]])


def _n(count: int, seed: str) -> str:
    """`n = 3`, or `n = 3 fresh seeds` where the seeds have a name."""
    return f"n = {count}" if seed == "seed" else f"n = {number_of(count, seed)}"


def _counted(baseline: str, family: pd.DataFrame) -> str:
    """How many comparisons of single cells allow a claim, and how many would do so by chance."""
    possible, sure = family[family["n"] >= FEWEST], family[claimed(family)]
    cells = int(possible["cell"].nunique())
    where = f"In single cells, against {arm_title(baseline)}"
    if not cells:
        return f"{where}: too few seeds for a claim; it takes {FEWEST}."
    higher = int((sure["delta"] > 0).sum())
    return (
        f"{where}: {higher} of {len(possible)} comparisons are higher and {len(sure) - higher} lower by their"
        f" adjusted intervals. These are adjusted within each cell only: of {cells} cells without any true"
        f" difference {LEVEL * cells:.1f} would show one on average."
    )
