"""How many comparisons allow a claim, beside how many would do so by chance."""

from collections.abc import Sequence

import pandas as pd

from analysis.stats.comparisons import claimed
from analysis.stats.paired import FEWEST
from search_spaces.families import LEVEL

MOST_FOR_A_PROBABILITY = 10
"""Above so many families the bound on the probability of any false claim says little: it nears 1."""


def claims_line(compared: pd.DataFrame, family: Sequence[str], what: str = "comparisons") -> list[str]:
    """One sentence on the claims over all families of these comparisons; none where no claim is possible.

    `family` are the columns that tell one family from another. Each keeps its probability of any false claim
    at 5 %; together they do not.
    """
    possible = compared[compared["n"] >= FEWEST]
    if possible.empty:
        return []
    families = len(possible.drop_duplicates(list(family)))
    counted = f"In all, {int(claimed(possible).sum())} of {len(possible)} {what} allow a claim"
    if families == 1:
        chance = f"one would do so with a probability of up to {100 * LEVEL:.0f} %"
        return [f"{counted}. If no arm truly differed, {chance}."]
    counted += f", in {families} families that are each adjusted by themselves"
    if families <= MOST_FOR_A_PROBABILITY:
        chance = f"one of them would do so with a probability of up to {100 * LEVEL * families:.0f} %"
    else:
        chance = f"up to {LEVEL * families:.1f} of these families would have one on average"
    return [f"{counted}. If no arm truly differed, {chance}."]
