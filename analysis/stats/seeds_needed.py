"""How many seeds the comparisons of a study need, from what their differences varied by."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.stats.comparisons import TESTED, values_of
from analysis.stats.power import DIFFERENCE
from analysis.stats.spreads import Results, spreads, with_relatives, with_seed_0
from analysis.trials import cells_of, config_of, finished
from trainables.trial import TrialConfig

_ABOUT = ("cell", "arm_label", "baseline", "baseline_label", "comparisons")
_COLUMNS = (
    *(*_ABOUT, "measured_in", "measured_as", "n", "sd", "planned", "detectable"),
    *("seeds", "seeds_low", "seeds_high", "hours"),
)


def seeds_needed_by(trials: pd.DataFrame) -> pd.DataFrame:
    """What the planned seeds of each comparison find, and what 1 point takes.

    Returns:
        One row per cell × arm × baseline: `cell, arm_label, baseline` (the family's name), `baseline_label`,
        `comparisons` (m of the family, tested at 0.05 / m), `measured_in, measured_as` (number of the cell
        and comparison that `n` seeds and their standard deviation `sd` of the differences are from),
        `planned` seeds, `detectable`: the smallest difference that these find with 80 % power; `seeds`,
        `seeds_low`, `seeds_high`: seeds that 1 point takes, by `sd` and by the ends of its 95 % interval;
        `hours`: of training and evaluating all arms of the cell with `seeds` seeds, one after another.
        Fractions; NaN where nothing is measured.
    """
    cells = cells_of(trials)
    arms: dict[int, dict[str, TrialConfig]] = {}
    for first in trials.drop_duplicates(["cell", "arm_label"]).to_dict("records"):
        arms.setdefault(first["cell"], {})[first["arm_label"]] = with_seed_0(config_of(first))
    places = {next(iter(configs.values())).cell: number for number, configs in arms.items()}
    found = spreads({place: arms[number] for place, number in places.items()}, _results(cells, arms))
    seconds = {number: _seconds_a_seed(cell) for number, cell in cells.items()}
    planned = {number: _planned(cell) for number, cell in cells.items()}
    rows: list[dict[str, object]] = []
    for spread in with_relatives(found, found):
        number = places[spread.trial.cell]
        about = (number, spread.arm, spread.family, spread.baseline, spread.comparisons)
        row: dict[str, object] = {"n": spread.n, "planned": planned[number][spread.arm]}
        if spread.known:
            source = spread.relative or spread
            seeds, low, high = spread.seeds_for(DIFFERENCE)
            row |= {
                "measured_in": places[source.trial.cell],
                "measured_as": f"{source.arm} - {source.baseline}",
                "sd": spread.sd,
                "detectable": spread.detectable(planned[number][spread.arm]),
                "seeds": seeds,
                "seeds_low": low,
                "seeds_high": high,
                "hours": seeds * seconds[number] / 3600,
            }
        rows.append({**dict(zip(_ABOUT, about, strict=True)), **row})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _planned(cell: pd.DataFrame) -> dict[str, int]:
    """Seeds of each arm."""
    return {str(arm): int(count) for arm, count in cell["arm_label"].value_counts().items()}


def _results(cells: Mapping[int, pd.DataFrame], arms: Mapping[int, Mapping[str, TrialConfig]]) -> Results:
    """Test accuracies by trial (with seed 0) and seed."""
    results = {}
    for number, cell in cells.items():
        for label, column in values_of(cell, TESTED).items():
            values = {int(str(seed)): float(value) for seed, value in column.dropna().items()}
            results[arms[number][str(label)]] = values
    return results


def _seconds_a_seed(cell: pd.DataFrame) -> float:
    """Seconds of training and evaluation of all arms with one seed; NaN if an arm was not measured."""
    if "train_seconds" not in cell or "evaluate_seconds" not in cell:
        return np.nan
    done = finished(cell)
    seconds = (done["train_seconds"] + done["evaluate_seconds"]).groupby(done["arm_label"]).mean()
    return float(seconds.reindex(cell["arm_label"].unique()).sum(skipna=False))
