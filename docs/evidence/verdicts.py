"""What the protocol lets the study say: `python docs/evidence/verdicts.py [FOLDER]`.

FOLDER is a report of the space `evidence`, by default `report/` beside this file: its `trials.parquet`, and
its `tables/images.csv` for intervals over new seeds and new test images. Writes `verdicts.md`, `verdicts.csv`
(all comparisons) and `contrasts.csv` (between cells) there.
"""

import sys
from collections.abc import Mapping
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
from trainables.arms import CE, CONTROL

TITLES = (
    "5,000 labels, crops and flips",
    "5,000 labels, all four augmentations",
    "5,000 labels, no augmentation",
    "1,000 labels, crops and flips",
)
"""Of `CELLS`, the primary one first."""
PRIMARY, NO_VIEWS = 0, 2
BARLOW_TWINS = ("siamese-0.001 term=barlow_twins", "siamese-0.01 term=barlow_twins")
LEVEL = 0.05
GUESSING = 0.1
"""Accuracy that stands for a failed trial, to see whether verdicts depend on it."""
WORDS = {
    ("claimed", True): "higher",
    ("claimed", False): "lower",
    ("small", True): "smaller than 1 point",
    ("small", False): "smaller than 1 point",
}
HELPS = {"higher": "helps", "lower": "hurts"}


def judged(trials: pd.DataFrame) -> pd.DataFrame:
    """The comparisons of test accuracy in the cells of the protocol, with `place` (in `CELLS`) and `said`.

    Where a trial failed, its verdict must be the same with an accuracy of 10 % in its place.
    """
    found = _comparisons(trials)
    failed = trials["status"] == "FAILED"
    if failed.any():
        filled = trials.copy()
        filled.loc[failed, ["status", TESTED]] = "FINISHED", GUESSING
        differs = _comparisons(filled)["said"].to_numpy() != found["said"].to_numpy()
        found.loc[differs, "said"] = "undecided"
    return found


def _comparisons(trials: pd.DataFrame) -> pd.DataFrame:
    found = comparisons(trials)
    found = found[found["metric"] == TESTED]
    found = found.assign(place=found["cell"].map(_places(trials))).dropna(subset="place")
    pairs = zip(found["verdict"], found["delta"], strict=True)
    said = [WORDS.get((verdict, delta > 0), "undecided") for verdict, delta in pairs]
    return found.assign(place=found["place"].astype(int), said=said).reset_index(drop=True)


def _places(trials: pd.DataFrame) -> dict[int, int]:
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


def second_view(rows: Mapping[str, str]) -> str:
    """The sentence about a second view, from what is said against `ce` and against twice the epochs."""
    equal, twice = rows["ce"], rows["twice"]
    if equal not in HELPS:
        return equal if equal == twice else "undecided"
    if equal == twice:
        return HELPS[equal]
    said = f"{HELPS[equal]} at equal epochs"
    worse = {"lower": "worse than the same images on one view", "higher": "better than them on one view"}
    return f"{said}, {worse[twice]}" if twice in worse else said


def sentences(found: pd.DataFrame) -> Table:
    """What is said in each cell, and whether it is said in at least one, allowing for the number of cells."""
    rows = []
    views = {
        place: part.set_index(part["baseline_label"].map(family))
        for place, part in found[found["arm_label"] == CONTROL].groupby("place")
    }
    said = {place: second_view(part["said"].to_dict()) for place, part in views.items() if place != NO_VIEWS}
    smallest = {place: part["p_holm"].max() for place, part in views.items() if place in said}
    rows.append(("A second view", *_across(said, smallest)))
    terms = found[found["baseline_label"] == CONTROL]
    for arm, part in terms.groupby("arm_label", sort=False):
        by_place = part.set_index("place")
        said = {place: HELPS.get(text, text) for place, text in by_place["said"].items()}
        rows.append((difference_title(str(arm), None), *_across(said, by_place["p_holm"].to_dict())))
    for arm in BARLOW_TWINS:
        part = found[(found["arm_label"] == arm) & (found["baseline_label"] == CE)].set_index("place")
        title = f"{difference_title(arm, CE)}, the thesis's comparison"
        rows.append((title, *_across(part["said"].to_dict(), part["p_holm"].to_dict())))
    return Table(
        name="sentences",
        title="What is said in each cell",
        corner="",
        columns=(*TITLES, "In at least one cell"),
        rows=tuple((title, entries(*texts)) for title, *texts in rows),
        caption="Of a second view: γ = 0 against CE and against CE for twice the epochs. Of terms: against"
        " γ = 0. In at least one cell: the smallest adjusted p of the cells (of a second view: the larger of"
        " both comparisons), times their number.",
    )


def _across(said: Mapping[int, str], p: Mapping[int, float]) -> list[str]:
    least = min(1.0, min(p.values()) * len(p))
    return [
        *(said.get(place, "–") for place in range(len(TITLES))),
        f"{'yes' if least <= LEVEL else 'no'} (p = {p_value(least)})",
    ]


def comparison_table(found: pd.DataFrame, place: int) -> Table:
    """All comparisons in a cell."""
    part = found[found["place"] == place]
    return Table(
        name=f"comparisons-{place}",
        title=TITLES[place],
        corner="Test accuracy (points)",
        columns=("n", "Difference", "Adjusted interval", "New seeds and images", "p", "Said"),
        rows=tuple(
            (
                difference_title(row["arm_label"], row["baseline_label"]),
                entries(
                    str(row["n"]),
                    format_points(row["delta"]),
                    interval(row["delta_low_holm"], row["delta_high_holm"]),
                    interval(row["both_low"], row["both_high"]),
                    p_value(row["p_holm"]),
                    row["said"],
                ),
            )
            for row in part.to_dict("records")
        ),
        caption="Adjusted interval and p: by the rule for 3..8 seeds, after Holm within the family. New seeds"
        " and images: 95 % interval for both, not adjusted.",
    )


def contrasts(trials: pd.DataFrame) -> pd.DataFrame:
    """The nine contrasts with the primary cell: γ = 0 − CE, and each of Barlow Twins − γ = 0."""
    found = between_cells(trials, [(CONTROL, CE), *((arm, CONTROL) for arm in BARLOW_TWINS)])
    said = ["differs" if verdict == "claimed" else "undecided" for verdict in found["verdict"]]
    return found.assign(said=said)


def contrast_table(found: pd.DataFrame, titles: Mapping[int, str]) -> Table:
    """The contrasts as a table."""
    return Table(
        name="contrasts",
        title=f"Compared with {TITLES[PRIMARY]}",
        corner="Test accuracy (points)",
        columns=("n", "Difference", "Adjusted interval", "p", "Said"),
        rows=tuple(
            (
                f"{difference_title(row['arm_label'], row['baseline_label'])}: {titles[row['cell']]}",
                entries(
                    str(row["n"]),
                    format_points(row["delta"]),
                    interval(row["delta_low_holm"], row["delta_high_holm"]),
                    p_value(row["p_holm"]),
                    row["said"],
                ),
            )
            for row in found.to_dict("records")
        ),
        caption="The difference in this cell less the same in the primary cell, paired by seed; after Holm"
        " over all nine.",
    )


def main(folder: Path) -> None:
    """Write what is said of the report in this folder."""
    trials = pd.read_parquet(folder / FRAME)
    found = judged(trials)
    images = pd.read_csv(folder / "tables/images.csv")
    pair = ["cell", "arm_label", "baseline_label"]
    found = found.merge(images[[*pair, "both_low", "both_high"]], how="left", on=pair)
    between = contrasts(trials)
    titles = {row["cell"]: TITLES[row["place"]] for row in found[["cell", "place"]].to_dict("records")}
    claims = found["said"].isin(HELPS)
    families = found.groupby(["place", found["baseline_label"].map(family)])["said"].agg(
        lambda said: said.isin(HELPS).any()
    )
    tables = [sentences(found), *(comparison_table(found, place) for place in range(len(TITLES)))]
    text = "\n\n".join(to_markdown(table, 2) for table in (*tables, contrast_table(between, titles)))
    count = (
        f"Claimed are {claims.sum()} of {len(found)} comparisons, in {families.sum()} of {len(families)}"
        f" families. If nothing differed, {LEVEL * len(families):.1f} families would have a claim by chance."
    )
    (folder / "verdicts.md").write_text(f"# What the study says\n\n{count}\n\n{text}\n", encoding="utf-8")
    found.insert(1, "where", found["place"].map(dict(enumerate(TITLES))))
    found.drop(columns="place").to_csv(folder / "verdicts.csv", index=False)
    between.to_csv(folder / "contrasts.csv", index=False)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2]) if len(sys.argv) > 1 else Path(__file__).parent / "report")
