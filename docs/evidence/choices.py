"""What was chosen for each arm, on validation images: `python docs/evidence/choices.py [FOLDER]`.

FOLDER is a report of the space `evidence_tuning`, by default `tuning/` beside this file: its
`trials.parquet`. Writes `tries.csv` and `tries.md` there: every try, and which one the protocol's rule takes.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import pandas as pd

from analysis.trials import FRAME
from search_spaces.evidence import REPEATED, REPEATED_SEED, TUNED_IN, TUNING_SEED, Row
from trainables.command_line import CommandLine, path

HERE = Path(__file__).resolve().parent
HELP = "a report of the space evidence_tuning (default: tuning/ beside this file)"

METRIC = "val_acc"
SEEDS = {TUNING_SEED: "first", REPEATED_SEED: "second"}


def tries(trials: pd.DataFrame) -> pd.DataFrame:
    """A row for each try: `arm`, `lr`, `gamma`, validation accuracy of both seeds, their `mean`, `chosen`.

    Of the two tries of an arm that were best with the first seed, which were repeated, the one with the
    higher mean is chosen; of equal ones that with the smaller learning rate, then with the smaller weight.
    """
    named = _named(trials)
    table = named.pivot_table(index=["arm", "lr", "gamma"], columns="seed", values=METRIC, dropna=False)
    known = named.groupby(["arm", "lr", "gamma"]).size().index  # a pivot makes all products of the values
    table = table.reindex(columns=list(SEEDS.values())).loc[known].reset_index()
    table["mean"] = table[list(SEEDS.values())].mean(axis=1, skipna=False)
    order = table.dropna(subset="mean").sort_values(["mean", "lr", "gamma"], ascending=[False, True, True])
    table["chosen"] = table.index.isin(order.groupby("arm").head(1).index)
    return table.sort_values(["arm", "lr", "gamma"], key=_as_in_protocol, ignore_index=True)


def _named(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials with the protocol's names of arms, and of seeds as in `SEEDS`."""
    return trials.assign(
        arm=[_arm(row) for row in trials.to_dict("records")],
        seed=trials["seed"].map(SEEDS),
        gamma=trials["gamma"].fillna(0.0),
    )


def chosen(table: pd.DataFrame) -> dict[str, Row]:
    """What is chosen for each arm, as `search_spaces.evidence.CHOSEN` has it."""
    found: dict[str, Row] = {}
    for row in table[table["chosen"]].to_dict("records"):
        weight = {"gamma": row["gamma"]} if _has_weights(row["arm"]) else {}
        found[row["arm"]] = {**weight, "lr": row["lr"]}
    return found


def _arm(row: Mapping[str, object]) -> str:
    """The arm's name in `search_spaces.evidence`."""
    if row["method"] == "ce":
        return "ce" if row["epochs"] == TUNED_IN["epochs"] else "ce-twice"
    if not row["gamma"]:
        return "control"
    return f"{row['term']} {row['gamma']:g}" if row["term"] == "barlow_twins" else str(row["term"])


def _as_in_protocol(column: pd.Series) -> pd.Series:
    return column.map({arm: place for place, arm in enumerate(REPEATED)}) if column.name == "arm" else column


def main(folder: Path) -> None:
    """Write what was tried, from the report in this folder."""
    if not (folder / FRAME).is_file():
        raise ValueError(f"{folder} has no {FRAME}; allowed: a report of the space evidence_tuning")
    trials = pd.read_parquet(folder / FRAME)
    table = tries(trials)
    table.to_csv(folder / "tries.csv", index=False)
    shown = table.astype(object)
    accuracies = [*SEEDS.values(), "mean"]
    shown[accuracies] = table[accuracies].map(lambda value: "–" if pd.isna(value) else f"{100 * value:.2f}")
    for row in _named(trials[trials["status"] == "FAILED"]).to_dict("records"):
        same = (table[["arm", "lr", "gamma"]] == [row["arm"], row["lr"], row["gamma"]]).all(axis=1)
        shown.loc[same, row["seed"]] = "diverged"
    pairs = zip(table["arm"], table["gamma"], strict=True)
    shown["gamma"] = [f"{gamma:g}" if _has_weights(arm) else "" for arm, gamma in pairs]
    shown["chosen"] = ["yes" if value else "" for value in table["chosen"]]
    titles = ["arm", "learning rate", "γ", *(f"seed {seed}" for seed in SEEDS), "mean", "chosen"]
    text = shown.set_axis(titles, axis="columns").to_markdown(index=False, disable_numparse=True)
    about = "# What was tried for each arm\n\nAccuracy on 5,000 validation images after the last epoch, in %."
    page = f"{about}\n\n{text}\n\n–: not tried with this seed.\n"
    (folder / "tries.md").write_text(page, encoding="utf-8")


def _has_weights(arm: str) -> bool:
    """Whether the arm's weight was tuned, too."""
    return "gamma" in REPEATED[arm][0]


if __name__ == "__main__":
    parser = CommandLine(prog="choices.py", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="FOLDER", type=path, default=HERE / "tuning", help=HELP)
    try:
        main(parser.parse_args().folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
