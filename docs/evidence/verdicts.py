"""What the protocol lets the study say: `python docs/evidence/verdicts.py [FOLDER]`.

FOLDER is a report of the space `evidence`, by default `report/` beside this file: its `trials.parquet`, and
its `tables/images.csv` for intervals over new seeds and new test images. Writes `verdicts.md`, `verdicts.csv`
(all comparisons) and `contrasts.csv` (between cells) there.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import pandas as pd

from analysis.render.table import Table, entries, to_markdown
from analysis.render.text import difference_title, format_points, interval, p_value
from analysis.stats.between_cells import between_cells
from analysis.stats.comparisons import TESTED, comparisons
from analysis.trials import FRAME, config_of
from search_spaces.evidence import CELLS
from search_spaces.seeds import SeedPlan
from trainables.arms import CE, CONTROL
from trainables.command_line import CommandLine, path

HERE = Path(__file__).resolve().parent
HELP = "a report of the space evidence (default: report/ beside this file)"

TITLES = (
    "5,000 labels, crops and flips, 20 epochs",
    "5,000 labels, all four augmentations, 20 epochs",
    "5,000 labels, no augmentation, 20 epochs",
    "1,000 labels, crops and flips, 60 epochs",
)
"""Of `CELLS`, the primary one first."""
PRIMARY, NO_VIEWS = 0, 2
PLANNED = (3, 8, 1.0)
"""Seeds at least and at most, and the margin in points."""
BARLOW_TWINS = ("siamese-0.001 term=barlow_twins", "siamese-0.01 term=barlow_twins")
LEVEL = 0.05
GUESSING = 0.1
"""Accuracy in place of that of a failed trial, to see whether verdicts depend on it."""
KEYS = ["cell", "arm_label", "baseline_label"]
HELPS = {"higher": "helps", "lower": "hurts"}
SMALL = "smaller than 1 point"
UNDECIDED = "undecided"


def judged(trials: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of test accuracy in the cells of the protocol.

    Beside the columns of `analysis.stats.comparisons`: `place` (in `CELLS`), `family` (`ce`, `twice` or
    `control`), `direction` (`higher`, `lower`, or what else is said), `is_small` (within the margin), and
    `p_said`: the adjusted p, 1 where there is none. Where trials failed, all must be the same with an
    accuracy of 10 % in their place.

    Raises:
        ValueError: a cell was not planned as the protocol has it.
    """
    _check_plans(trials)
    places = places_of(trials)
    found = comparisons(trials)
    found = _described(found[(found["metric"] == TESTED) & found["cell"].isin(places)])
    found = found.assign(place=found["cell"].map(places), family=found["baseline_label"].map(family))
    if (trials["status"] == "FAILED").any():
        other = comparisons(_with_guesses(trials))
        other = _described(other[other["metric"] == TESTED]).set_index(KEYS)
        other = other.reindex(pd.MultiIndex.from_frame(found[KEYS]))
        differs = other["direction"].to_numpy() != found["direction"].to_numpy()
        found.loc[differs, "direction"] = UNDECIDED
        found["is_small"] &= other["is_small"].to_numpy(bool) & ~differs
        found["p_said"] = found["p_said"].mask(differs, 1.0).clip(lower=other["p_said"].to_numpy())
    return found.reset_index(drop=True)


def _described(found: pd.DataFrame) -> pd.DataFrame:
    """Comparisons or contrasts with what they allow to say."""
    bound = PLANNED[2] / 100
    low, high = found["delta_low_holm"], found["delta_high_holm"]
    small = (low > -bound) & (high < bound) & (found["n"] >= PLANNED[0])
    direction = [
        ("higher" if delta > 0 else "lower") if verdict == "claimed" else SMALL if is_small else UNDECIDED
        for verdict, delta, is_small in zip(found["verdict"], found["delta"], small, strict=True)
    ]
    return found.assign(direction=direction, is_small=small, p_said=found["p_holm"].fillna(1.0))


def _with_guesses(trials: pd.DataFrame) -> pd.DataFrame:
    failed = trials["status"] == "FAILED"
    filled = trials.copy()
    filled.loc[failed, ["status", TESTED]] = "FINISHED", GUESSING
    return filled


def _check_plans(trials: pd.DataFrame) -> None:
    for text in trials["seed_plan"].unique():
        plan = None if pd.isna(text) else SeedPlan.from_json(text)
        if plan is None or (plan.low, plan.high, plan.margin) != PLANNED or plan.adopted:
            raise ValueError(
                f"the report has a cell that was planned with {plan} seeds; allowed: 3..8 with a margin of 1"
            )


def places_of(trials: pd.DataFrame) -> dict[int, int]:
    """The places in `CELLS` of the cells' numbers; those of cross-entropy for twice the epochs have none."""
    first = trials.drop_duplicates("cell")
    configs = {row["cell"]: config_of(row) for row in first.to_dict("records")}
    return {
        number: place
        for number, trial in configs.items()
        for place, cell in enumerate(CELLS)
        if all(getattr(trial, name) == value for name, value in cell.items())
    }


def family(baseline_label: str) -> str:
    """Which of the protocol's families: `ce`, `twice` or `control`."""
    return {CE: "ce", CONTROL: "control"}.get(baseline_label, "twice")


def second_view(equal: str, twice: str) -> str:
    """The sentence about a second view, from the directions against `ce` and against twice the epochs."""
    worse = "worse than the same images on one view"
    if equal in HELPS and equal == twice:
        return HELPS[equal]
    if equal not in HELPS:
        same = equal if equal == twice else UNDECIDED
        return f"{UNDECIDED} at equal epochs, {worse}" if twice == "lower" else same
    said = f"{HELPS[equal]} at equal epochs"
    return f"{said}, {worse}" if twice == "lower" else said


def qualified(row: Mapping[str, object], said: str | None = None) -> str:
    """What is said of a comparison, with what the protocol wants in the same sentence."""
    said = str(said or row["direction"])
    if row["direction"] not in HELPS:
        return said
    if row["is_small"]:
        said += ", by less than 1 point"
    low, high = (float(str(row[name])) for name in ("both_low", "both_high"))
    if pd.isna(low):
        return f"{said}; for new test images not known"
    return f"{said}; not shown for new test images" if low <= 0 <= high else said


def sentences(found: pd.DataFrame, cells: Mapping[str, int]) -> Table:
    """What is said in each cell, and whether it is said in at least one.

    That allows for the number of `cells` that were planned with an arm, whether they have results or not.
    """
    rows = [("A second view", *_second_views(found, cells[CONTROL] - 1))]
    terms = found[found["family"] == "control"]
    for arm, part in terms.groupby("arm_label", sort=False):
        title = difference_title(str(arm), None)
        rows.append((title, *_across(part, cells[str(arm)], _helps)))
    for arm in BARLOW_TWINS:
        part = found[(found["arm_label"] == arm) & (found["family"] == "ce")]
        title = f"{difference_title(arm, CE)}, the thesis's comparison"
        rows.append((title, *_across(part, cells[arm], qualified)))
    return Table(
        name="sentences",
        title="What is said in each cell",
        corner="",
        columns=(*TITLES, "In at least one cell"),
        rows=tuple((title, entries(*texts)) for title, *texts in rows),
        caption="Of a second view: γ = 0 against CE and against CE for twice the epochs. Of terms: against"
        " γ = 0. The thesis's comparison is to be read together with the rows above it. In at least one cell:"
        " the smallest adjusted p of the cells (of a second view: the larger of both comparisons) on that"
        " side, times their number. Primary: the first three rows in the first cell; all else is secondary.",
    )


def planned_cells(trials: pd.DataFrame) -> dict[str, int]:
    """In how many cells of the protocol each arm was planned."""
    own = trials[trials["cell"].isin(places_of(trials))]
    return {str(arm): count for arm, count in own.groupby("arm_label")["cell"].nunique().items()}


def _helps(row: Mapping[str, object]) -> str:
    return qualified(row, HELPS.get(str(row["direction"])))


def _second_views(found: pd.DataFrame, cells: int) -> list[str]:
    rows = found[found["arm_label"] == CONTROL]
    said, sides = dict.fromkeys(range(len(TITLES)), "–"), []
    for place, part in rows.groupby("place"):
        by_family = part.set_index("family").to_dict("index")
        if place == NO_VIEWS or not {"ce", "twice"} <= by_family.keys():
            continue
        equal, twice = by_family["ce"], by_family["twice"]
        text = second_view(equal["direction"], twice["direction"])
        unsure = [qualified(row).partition("; ")[2] for row in (equal, twice) if row["direction"] in HELPS]
        said[int(str(place))] = "; ".join([text, *dict.fromkeys(filter(None, unsure))])
        sides.append({side: max(_p_on(equal, side), _p_on(twice, side)) for side in HELPS})
    steps = rows[(rows["place"] == NO_VIEWS) & (rows["family"] == "ce")]
    for row in steps[steps["direction"].isin(HELPS)].to_dict("records"):
        size = f"{format_points(row['delta'])} ({interval(row['delta_low_holm'], row['delta_high_holm'])})"
        for place, text in said.items():
            if text != "–":
                said[place] = f"{text}; without any second view, γ = 0 − CE is {size}"
    return [*said.values(), _in_one(sides, HELPS, cells)]


def _across(part: pd.DataFrame, cells: int, say: Callable[[Mapping[str, object]], str]) -> list[str]:
    """The cells' sentences of one comparison, and the last column."""
    rows = part.set_index("place").to_dict("index")
    said = [say(rows[place]) if place in rows else "–" for place in range(len(TITLES))]
    words = HELPS if (part["family"] == "control").all() else {side: side for side in HELPS}
    return [
        *said,
        _in_one([{side: _p_on(row, side) for side in HELPS} for row in rows.values()], words, cells),
    ]


def _p_on(row: Mapping[str, object], side: str) -> float:
    """The adjusted p where the interval lies on this side of 0, else 1."""
    return float(str(row["p_said"])) if row["direction"] == side else 1.0


def _in_one(sides: Sequence[Mapping[str, float]], words: Mapping[str, str], cells: int) -> str:
    least = {side: cells * min((each[side] for each in sides), default=1.0) for side in words}
    said = [f"{words[side]} (p {_p(value)})" for side, value in least.items() if value <= LEVEL]
    return ", ".join(said) or "no"


def _p(value: float) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def comparison_table(found: pd.DataFrame, place: int) -> Table:
    """All comparisons in a cell."""
    part = found[found["place"] == place]
    return Table(
        name=f"comparisons-{place}",
        title=TITLES[place],
        corner="Test accuracy (points)",
        columns=("n", "Difference", "Adjusted interval", "New seeds and images", "p", "Rule", "Said"),
        rows=tuple(
            (
                difference_title(row["arm_label"], row["baseline_label"]),
                entries(
                    str(row["n"]),
                    format_points(row["delta"]),
                    interval(row["delta_low_holm"], row["delta_high_holm"]),
                    interval(row["both_low"], row["both_high"]),
                    p_value(row["p_holm"]),
                    row["rule"],
                    row["said"],
                ),
            )
            for row in part.to_dict("records")
        ),
        caption="Adjusted interval and p: after Holm within the family. Rule: range, valid after any of the 3"
        " to 8 declared seeds; anytime: fewer. New seeds and images: 95 % interval for both, not adjusted.",
    )


def contrasts(trials: pd.DataFrame) -> pd.DataFrame:
    """The nine contrasts with the primary cell: γ = 0 − CE, and each of Barlow Twins − γ = 0."""
    pairs = [(CONTROL, CE), *((arm, CONTROL) for arm in BARLOW_TWINS)]
    found = _described(between_cells(trials, pairs))
    if (trials["status"] == "FAILED").any():
        other = _described(between_cells(_with_guesses(trials), pairs)).set_index(KEYS)
        other = other.reindex(pd.MultiIndex.from_frame(found[KEYS]))
        found.loc[other["direction"].to_numpy() != found["direction"].to_numpy(), "direction"] = UNDECIDED
    return found


def contrast_table(found: pd.DataFrame, titles: Mapping[int, str]) -> Table:
    """The contrasts as a table."""
    words = {"higher": "larger than in the primary cell", "lower": "smaller than in the primary cell"}
    return Table(
        name="contrasts",
        title=f"Compared with the primary cell: {TITLES[PRIMARY]}",
        corner="Test accuracy (points)",
        columns=("n", "Difference", "Adjusted interval", "p", "Rule", "Said"),
        rows=tuple(
            (
                f"{difference_title(row['arm_label'], row['baseline_label'])}: {titles[row['cell']]}",
                entries(
                    str(row["n"]),
                    format_points(row["delta"]),
                    interval(row["delta_low_holm"], row["delta_high_holm"]),
                    p_value(row["p_holm"]),
                    row["rule"],
                    words.get(row["direction"], row["direction"]),
                ),
            )
            for row in found.to_dict("records")
        ),
        caption="The difference in this cell less the same in the primary cell, paired by the seeds that both"
        " have; after Holm over all. Cells differ in more than their name: with fewer labels come more epochs"
        " and fewer steps, and learning rates were chosen in the primary cell. Without augmentations, γ = 0 −"
        " CE is no effect of a second view.",
    )


def summary(trials: pd.DataFrame, found: pd.DataFrame, between: pd.DataFrame) -> str:
    """How many claims there are beside what chance gives, and what became of the trials."""
    claims = [found["direction"].isin(HELPS), between["direction"].isin(HELPS)]
    families = found.assign(claim=claims[0]).groupby(["place", "family"])["claim"].any()
    count = len(families) + (len(between) > 0)
    states = ", ".join(
        f"{number} {status.lower()}" for status, number in trials["status"].value_counts().items()
    )
    return (
        f"Trials: {states}. Claimed are {sum(map(sum, claims))} of {len(found) + len(between)} comparisons"
        f" and contrasts, in {families.sum() + claims[1].any()} of {count} families. If nothing differed, at"
        f" most {LEVEL * count:.2f} families would have a claim on average."
    )


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The trials of the report in this folder, and its comparisons with intervals over new images.

    Raises:
        ValueError: it is no report of the space, or its tables are older than its trials.
    """
    if not (folder / FRAME).is_file():
        raise ValueError(f"{folder} has no {FRAME}; allowed: a report of the space evidence")
    trials = pd.read_parquet(folder / FRAME)
    found = judged(trials)
    images = pd.read_csv(folder / "tables/images.csv")[[*KEYS, "n", "both_low", "both_high"]]
    found = found.merge(images.rename(columns={"n": "n_images"}), how="left", on=KEYS)
    stale = found[found["n_images"].notna() & (found["n_images"] != found["n"])]
    if len(stale):
        raise ValueError(f"{folder}/tables/images.csv has other seeds than {FRAME}: render the report again")
    return trials, found.assign(said=[qualified(row) for row in found.to_dict("records")])


def main(folder: Path) -> None:
    """Write what is said of the report in this folder."""
    trials, found = read(folder)
    between = contrasts(trials)
    titles = {number: TITLES[place] for number, place in places_of(trials).items()}
    shown = [sentences(found, planned_cells(trials)), contrast_table(between, titles)]
    shown[1:1] = [comparison_table(found, place) for place in range(len(TITLES))]
    text = "\n\n".join(to_markdown(table, 2) for table in shown if table.rows)
    page = f"# What the study says\n\n{summary(trials, found, between)}\n\n{text}\n"
    (folder / "verdicts.md").write_text(page, encoding="utf-8")
    found.insert(1, "where", found["place"].map(dict(enumerate(TITLES))))
    hidden = ["place", "verdict", "direction", "n_images"]  # without the rule for failed trials
    found.drop(columns=hidden).to_csv(folder / "verdicts.csv", index=False)
    between.drop(columns="verdict").to_csv(folder / "contrasts.csv", index=False)


if __name__ == "__main__":
    parser = CommandLine(prog="verdicts.py", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=path, default=HERE / "report", help=HELP)
    try:
        main(parser.parse_args().folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
