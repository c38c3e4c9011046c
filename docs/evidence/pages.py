"""The computed parts of the pages: `python docs/evidence/pages.py [REPORT]`.

REPORT is a report of the space `evidence`, by default `report/` beside this file. In the project's README and
in that beside this file, each part stands between `<!-- study: NAME -->` and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd
import verdicts
from verdicts import BARLOW_TWINS, LEVEL, PLANNED, PRIMARY, SMALL, TESTED, TITLES, UNDECIDED

from analysis.render.table import Entry, Table, entries
from analysis.render.text import (
    arm_title,
    difference_title,
    format_points,
    interval,
    join_and,
    number_of,
    span,
    spread_text,
)
from analysis.stats.published import THESIS
from analysis.trials import config_of
from search_spaces.evidence import CELLS
from trainables.arms import CE, CONTROL
from trainables.command_line import CommandLine, path

HERE = Path(__file__).resolve().parent
PAGES = (HERE.parents[1] / "README.md", HERE / "README.md")
PART = re.compile(r"(<!-- study: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
UNDER_WAY = "**The study is under way.** No result is stated until every cell has three seeds."
TWICE = "CE, twice the epochs"
"""Label and title of an arm that is a cell by itself for the program, as it has other epochs."""
GOES_ON = True
"""Whether the budget of the protocol allows more seeds."""
IN_THESIS = {0: ("4.9", "rrc+hflip"), 1: ("4.2", "rrc+hflip+grayscale+solarize")}
"""Places of cells with the table of the thesis that has the same network and augmentations."""


def parts(report: Path) -> dict[str, str]:
    """The text of each part, by name: `headline`, `progress` and `results`.

    Raises:
        ValueError: see `verdicts.read`.
    """
    trials, found = verdicts.read(report)
    own = placed(trials)
    if seeds_of(found) < PLANNED[0]:
        return {"headline": UNDER_WAY, "progress": progress(own), "results": ""}
    said, between = verdicts.sentences(found, verdicts.planned_cells(trials)), verdicts.contrasts(trials)
    titles = {number: TITLES[place] for number, place in verdicts.places_of(trials).items()}
    tables = [
        said,
        spread_table(own, TESTED, "Test accuracies"),
        spread_table(own, "train_acc", "Training accuracies"),
        spread_table(own, "test_ece", "Calibration errors on test images"),
        verdicts.contrast_table(between, titles),
        spread_table(own, "linear_probe_acc", "Linear probes on the trained networks"),
        thesis_table(own),
    ]
    summary = f"{verdicts.summary(trials, found, between)} {ahead(own)}"
    results = [summary, *map(section, tables)]
    return {
        "headline": f"{headline(said)}\n\n{compact(primary_table(own, found))}\n\n{decided(found)}",
        "progress": progress(own),
        "results": "\n\n".join(results),
    }


def placed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with `place`, that of their cell in `CELLS`; those of twice the epochs are arms there."""
    rows = []
    for row in trials.to_dict("records"):
        trial = config_of(row)
        for place, cell in enumerate(CELLS):
            if all(getattr(trial, name) == value for name, value in cell.items() if name != "epochs"):
                label = row["arm_label"] if trial.epochs == cell["epochs"] else TWICE
                rows.append({**row, "place": place, "arm_label": label})
    return pd.DataFrame(rows)


def seeds_of(found: pd.DataFrame) -> int:
    """The number of seeds that every comparison has."""
    return int(found["n"].min()) if found["place"].nunique() == len(CELLS) else 0


def progress(own: pd.DataFrame) -> str:
    """How many trials there are, and what they took."""
    done = own[own["status"] == "FINISHED"]
    failed = int((own["status"] == "FAILED").sum())
    again = int((done["attempts"].astype(int) > 1).sum())
    longest = done["cpu_seconds"].max() / 60
    return (
        f"{number_of(len(done), 'trial')} have ended, {failed or 'none'} failed. They took"
        f" {done['cpu_seconds'].sum() / 3600:.1f} hours of CPU time,"
        f" {done['cpu_seconds'].mean() / 60:.1f} minutes each on average and {longest:.1f} at most;"
        f" {again or 'none'} took more than one attempt, after an interruption."
    )


def decided(found: pd.DataFrame) -> str:
    """How many comparisons are decided, and what becomes of the others."""
    known = found["direction"] != UNDECIDED
    primary = found["place"] == PRIMARY
    most = PLANNED[1]
    after = ""
    if GOES_ON and (found.loc[~known, "n"] < most).any():
        after = (
            f" The study goes on: cells with open ones get more seeds, {most} at most. Verdicts hold at"
            " every look."
        )
    return (
        f"Decided are {known[primary].sum()} of the {primary.sum()} comparisons in this cell and"
        f" {known.sum()} of all {len(found)}.{after} Each interval excludes 0 where its adjusted p is below"
        f" {LEVEL}; they do not hold jointly."
    )


def ahead(own: pd.DataFrame) -> str:
    """How often cross-entropy for twice the epochs is ahead of an arm with two views: no verdict."""
    pairs = [
        (row[TWICE], row[arm])
        for place, cell in enumerate(CELLS)
        if cell["augmentations"]
        for _, row in values_of(own, place, TESTED).iterrows()
        for arm in row.index.difference([CE, TWICE])
        if row[[TWICE, arm]].notna().all()
    ]
    above = sum(twice > other for twice, other in pairs)
    return (
        "A description, not a verdict: where images are augmented, cross-entropy for twice the epochs has"
        f" the higher test accuracy in {above} of {len(pairs)} pairs with an arm of two"
        " views and the same seed. These are not independent: they share baselines and test images."
    )


def headline(said: Table) -> str:
    """What is said of the primary comparisons, in a few words."""
    texts = {title: row[PRIMARY].text for title, row in said.rows}
    view, _, steps = texts["A second view"].partition("; without any second view, ")
    terms = {arm_title(arm).replace(", γ", " at γ"): texts[arm_title(arm)] for arm in BARLOW_TWINS}
    if len(set(terms.values())) == 1:
        terms = {"Barlow Twins at either γ": next(iter(terms.values()))}
    beyond = join_and([clause(subject, text) for subject, text in terms.items()])
    alone = f" (Without any second view, {steps}.)" if steps else ""
    first = f"In 20 epochs on 5,000 labelled photographs, {clause('a second view', view)}.{alone}"
    return f"**{first} Beyond it, {beyond}.**"


def clause(subject: str, said: str) -> str:
    """What is said of the subject, like `helps` or `undecided`, as a part of a sentence."""
    said = said.replace("; ", ", ")
    if said.startswith(UNDECIDED):
        return f"whether {subject} helps is {said}"
    return f"{subject} makes a difference {said}" if said.startswith(SMALL) else f"{subject} {said}"


def primary_table(own: pd.DataFrame, found: pd.DataFrame) -> Table:
    """The primary comparisons, with both accuracies over the seeds that both arms have."""
    part = found[found["place"] == PRIMARY]
    views = part[(part["arm_label"] == CONTROL) & part["family"].isin({"ce", "twice"})]
    terms = part[part["arm_label"].isin(BARLOW_TWINS) & (part["family"] == "control")]
    accuracies = values_of(own, PRIMARY, TESTED)
    rows = []
    for row in pd.concat([views, terms]).to_dict("records"):
        arms = [row["arm_label"], TWICE if row["family"] == "twice" else row["baseline_label"]]
        shared = accuracies[arms].dropna()
        texts = (
            str(row["n"]),
            *(spread_text(shared[arm].tolist()) for arm in arms),
            format_points(row["delta"]),
            interval(row["delta_low_holm"], row["delta_high_holm"]),
            row["said"],
        )
        rows.append((difference_title(row["arm_label"], row["baseline_label"]), entries(*texts)))
    columns = ("Seeds", "Accuracy (%)", "of the baseline", "Difference (points)", "Interval", "Said")
    return _table(TITLES[PRIMARY], columns, rows)


def spread_table(own: pd.DataFrame, metric: str, title: str) -> Table:
    """Mean and standard deviation of a metric, of all arms in all cells."""
    values = [values_of(own, place, metric) for place in range(len(TITLES))]
    rows = []
    for label in dict.fromkeys(own["arm_label"]):
        known = (each[label].dropna().tolist() if label in each else [] for each in values)
        rows.append((arm_title(label), entries(*map(spread_text, known))))
    rows.append(("Seeds", entries(*(span(each.notna().sum().tolist()) for each in values))))
    return _table("", TITLES, rows, title, "In per cent, mean ± standard deviation over seeds.")


def thesis_table(own: pd.DataFrame) -> Table:
    """Test accuracies of the thesis, beside those here."""
    published = pd.read_csv(THESIS, comment="#", dtype={"table": str})
    published = published[(published["backbone"] == "resnet18") & (published["metric"] == TESTED)]
    columns, told = [], []
    for place, (table, augmentations) in IN_THESIS.items():
        part = published[(published["table"] == table) & (published["augmentations"] == augmentations)]
        columns += [f"Thesis, Table {table}", TITLES[place]]
        told.append((part.set_index("arm"), values_of(own, place, TESTED)))
    rows = []
    for label in (CE, *BARLOW_TWINS):
        texts = []
        for theirs, ours in told:
            row = theirs.loc[label.partition(" ")[0]]
            std = "" if pd.isna(row["std"]) else f" ± {row['std']:.2f}"
            texts.append(f"{row['mean']:.2f}{std}")
            texts.append(spread_text(ours[label].dropna().tolist()))
        rows.append((arm_title(label), entries(*texts)))
    caption = (
        "Test accuracy in per cent. The thesis trained on all 50,000 images for 1,000 epochs, with a learning"
        " rate of 0.01 for all arms. Its Table 4.9 has one run of each arm; of Table 4.2 it does not say how"
        " many."
    )
    return _table("", tuple(columns), rows, "Beside the thesis", caption)


def values_of(own: pd.DataFrame, place: int, metric: str) -> pd.DataFrame:
    """A metric of the finished trials in a cell: a row for each seed, a column for each arm."""
    part = own[(own["place"] == place) & (own["status"] == "FINISHED")]
    return part.pivot_table(index="seed", columns="arm_label", values=metric)


def section(table: Table) -> str:
    """The table under its heading, with its caption."""
    return f"## {table.title}\n\n{compact(table)}\n\n{table.caption}"


def compact(table: Table) -> str:
    """The table in Markdown, without padding."""
    lines = [[table.corner, *table.columns], ["---"] * (len(table.columns) + 1)]
    lines += [[title, *(entry.text for entry in row)] for title, row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(
    corner: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, tuple[Entry, ...]]],
    title: str = "",
    caption: str = "",
) -> Table:
    return Table(name="", title=title, corner=corner, columns=columns, rows=tuple(rows), caption=caption)


def filled(page: str, texts: Mapping[str, str]) -> str:
    """The page with its parts as they are now.

    Raises:
        ValueError: it has a part that there is not.
    """

    def new(part: re.Match[str]) -> str:
        if part["name"] not in texts:
            raise ValueError(f"study: {part['name']} is no part; allowed: {', '.join(texts)}")
        text = texts[part["name"]]
        return f"{part[1]}{text}\n{part[3]}" if text else f"{part[1]}{part[3]}"

    return PART.sub(new, page)


def main(report: Path = HERE / "report", pages: Sequence[Path] = PAGES) -> None:
    """Compute the parts of these pages anew."""
    texts = parts(report)
    for page in pages:
        page.write_text(filled(page.read_text(encoding="utf-8"), texts), encoding="utf-8")


if __name__ == "__main__":
    parser = CommandLine(prog="pages.py", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "report", nargs="?", metavar="REPORT", type=path, default=HERE / "report", help=verdicts.HELP
    )
    try:
        main(parser.parse_args().report)
    except (OSError, ValueError) as error:
        parser.error(str(error))
