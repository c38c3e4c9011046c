"""Which sampler finds more in equally many trials, on objectives whose best point is known.

    python benchmarks/search_samplers.py [--seeds 20] [--trials 24]

Nothing is trained: the search asks and is told through the same code as in a study, one trial after the
other, and the "validation accuracy" of a configuration is 1 minus a quadratic of its distance (on logarithmic
scales where the parameter has one) to a point that is drawn anew for each seed. Two categories cost a tenth
each where they are wrong.
"""

import argparse
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from scipy.stats import ttest_rel

from search_spaces import Parameter, Search, choice, loguniform, uniform
from search_spaces.searches import SAMPLERS
from study.ledger.search_state import SearchState
from study.recording.events import Succeeded
from study.search.optuna_queue import OptunaQueue
from trainables.trial import TrialConfig

FIXED = {
    "dataset": "digits",
    "val_fraction": 0.1,
    "backbone": "convnet",
    "augmentations": ("rrc", "solarize"),
    "epochs": 9,
}
RANGES = {"lr": (1e-3, 1.0, True), "weight_decay": (1e-6, 1e-2, True), "crop_scale_min": (0.1, 1.0, False)}
RANGES |= {"solarize_p": (0.0, 1.0, False)}
CHOICES = {"batch_size": (25, 50, 100, 200), "lr_schedule": ("constant", "cosine")}


PARAMETERS = (
    *(
        Parameter(name, (loguniform if log else uniform)(low, high))
        for name, (low, high, log) in RANGES.items()
    ),
    *(Parameter(name, choice(*choices)) for name, choices in CHOICES.items()),
)
"""Four numbers and two categories."""


def objective(seed: int) -> Callable[[TrialConfig], float]:
    """A quadratic with its best point, value 1, drawn from the seed."""
    dice = random.Random(seed)  # noqa: S311  # nothing is secret here
    best = {name: dice.random() for name in RANGES}
    right = {name: dice.choice(choices) for name, choices in CHOICES.items()}

    def value(config: TrialConfig) -> float:
        loss = 0.1 * sum(getattr(config, name) != choice for name, choice in right.items())
        for name, (low, high, log) in RANGES.items():
            x = getattr(config, name)
            place = math.log(x / low) / math.log(high / low) if log else (x - low) / (high - low)
            loss += (place - best[name]) ** 2
        return 1 - loss

    return value


def best_found(sampler: str, seed: int, trials: int) -> float:
    """The best value among `trials` configurations."""
    methods = {"ce": {"method": "ce"}}
    search = Search(name="quadratic", fixed=FIXED, parameters=PARAMETERS, methods=methods, trials=trials)
    jobs = OptunaQueue(
        SearchState(search=search, members={"ce": ()}),
        lambda config, tags: {"key": config.key},
        sampler=sampler,
        seed=seed,
    )
    value, found = objective(seed), []
    while isinstance(job := jobs.suggest(str(len(found))), dict):
        config = jobs.unfinished[job["key"]]
        found.append(value(config))
        jobs.end(Succeeded(config, {"val_acc": found[-1]}))
        jobs.on_trial_complete(str(len(found) - 1))
    assert len(found) == trials, len(found)
    return max(found)


def main() -> None:
    """Print the mean best value of each sampler and the paired difference to random search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=24)
    args = parser.parse_args()
    found = {name: [best_found(name, seed, args.trials) for seed in range(args.seeds)] for name in SAMPLERS}
    print(f"best of {args.trials} trials, mean over {args.seeds} seeds (1 is the best there is)")
    for name, values in found.items():
        line = f"{name:8} {statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
        if name != "random":
            wins = sum(a > b for a, b in zip(values, found["random"], strict=True))
            p = ttest_rel(values, found["random"]).pvalue
            line += f"   better than random in {wins} of {args.seeds}, paired t-test p = {p:.2g}"
        print(line)


if __name__ == "__main__":
    main()
