"""Which metrics of which finished trials can be measured again without training, and what the others lack."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from search_spaces import Selection
from study.ledger.records import DATA_TAG, TrialRecord
from trainables.datasets.sources import DataError
from trainables.metrics import METRICS, OWN, WEIGHTS
from trainables.trial import TrialConfig, nearest

NOT_FINISHED = "not finished; study/run.py trains what is missing"
NO_WEIGHTS = "no weights kept; study/run.py --keep weights keeps those of the trials that it trains"
OTHER_DATA = "trained on data that have changed since"
NAMED_TRIALS = 3
"""Trials that a line names one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Metrics to measure for a finished trial, by the artifact of its run from which each is computed."""

    trial: TrialConfig
    record: TrialRecord
    names: Mapping[str, tuple[str, ...]]


@dataclass(kw_only=True, slots=True)
class Measurement:
    """Which trials of a selection have some metrics, which can be measured, and which cannot.

    Attributes:
        names: of the metrics.
        tasks: what can be measured now.
        has: trials that have a metric already, by its name; `without`: those that never have it, such as a
            validation accuracy without validation images.
        lacking: what cannot be measured: for each metric and reason, the trials.
    """

    names: Sequence[str]
    tasks: list[Task] = field(default_factory=list)
    has: dict[str, list[TrialConfig]] = field(default_factory=dict)
    without: dict[str, list[TrialConfig]] = field(default_factory=dict)
    lacking: dict[tuple[str, str], list[TrialConfig]] = field(default_factory=dict)

    def lack(self, trial: TrialConfig, names: Iterable[str], reason: str) -> None:
        """Note that a trial has none of these metrics, and why."""
        for name in names:
            self.lacking.setdefault((name, reason), []).append(trial)


def parse_metrics(text: str) -> tuple[str, ...]:
    """The metrics in `NAME[,NAME]`; `linear_probe` stands for `linear_probe_acc`, like other accuracies.

    A metric of a loaded file is called as there. ValueError for one that does not exist or that only training
    gives.
    """
    allowed = [name for name, metric in METRICS.items() if metric.measured_from]
    names = [f"{name}_acc" if f"{name}_acc" in allowed else OWN.get(name, name) for name in text.split(",")]
    for name in names:
        if name not in allowed:
            known = [*(name for name in allowed if name not in OWN.values()), *OWN]
            raise ValueError(f"--metric: got {name!r}{nearest(name, known)}; allowed: {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def make_measurement(
    selection: Selection,
    ledger: Mapping[str, TrialRecord],
    names: Sequence[str],
    digest_of: Callable[[str], str | None],
    *,
    force: bool = False,
) -> Measurement:
    """Decide for each trial and metric whether it is there, can be measured, or why not.

    Args:
        selection: the trials.
        ledger: its records by key.
        names: of the metrics.
        digest_of: the SHA-256 of a dataset as it is prepared here, None where it is not known; called for
            trials alone that are to be measured from their weights. DataError: the data cannot be had.
        force: measure also what is there.
    """
    found = Measurement(names=names)
    for trial in selection.trials:
        record = ledger.get(trial.key)
        having = [name for name in names if METRICS[name].where.holds(trial)]
        for name in names:
            if name not in having:
                found.without.setdefault(name, []).append(trial)
        if record is None or record.status != "FINISHED":
            found.lack(trial, having, NOT_FINISHED)
            continue
        present = [] if force else [name for name in having if name in record.metrics]
        for name in present:
            found.has.setdefault(name, []).append(trial)
        _add_task(found, trial, record, [name for name in having if name not in present], digest_of)
    return found


def _add_task(
    found: Measurement,
    trial: TrialConfig,
    record: TrialRecord,
    names: Iterable[str],
    digest_of: Callable[[str], str | None],
) -> None:
    """Add what is to be measured of a finished trial; note what cannot be."""
    by_artifact: dict[str | None, list[str]] = {}
    for name in names:
        kept = (artifact for artifact in METRICS[name].measured_from if artifact in record.kept)
        by_artifact.setdefault(next(kept, None), []).append(name)
    possible: dict[str, tuple[str, ...]] = {}
    for artifact, of_it in by_artifact.items():
        if artifact is None:
            found.lack(trial, of_it, NO_WEIGHTS)
        elif artifact == WEIGHTS and (reason := _why_not_on_these_data(trial, record, digest_of)):
            found.lack(trial, of_it, reason)
        else:
            possible[artifact] = tuple(of_it)
    if possible:
        found.tasks.append(Task(trial=trial, record=record, names=possible))


def _why_not_on_these_data(
    trial: TrialConfig, record: TrialRecord, digest_of: Callable[[str], str | None]
) -> str | None:
    """Why the data here are not those that a trial was trained on; None: they are, as far as it is known."""
    try:
        digest = digest_of(trial.dataset)
    except DataError as error:
        return f"the data are not here: {error}"
    same = digest is None or record.tags.get(DATA_TAG, digest) == digest
    return None if same else OTHER_DATA


def describe(found: Measurement, measured: Mapping[str, int], verb: str = "measured") -> list[str]:
    """What became of each metric, in lines for people.

    `measured`: how many trials were, by metric; or are, where `verb` says so.
    """
    lines = []
    for name in found.names:
        counts = {
            verb: measured.get(name, 0),
            "have it already": len(found.has.get(name, ())),
            f"never have it ({METRICS[name].where.title})": len(found.without.get(name, ())),
        }
        counts["not measured"] = sum(len(trials) for (of, _), trials in found.lacking.items() if of == name)
        lines.append(f"{name}: {', '.join(f'{n} {what}' for what, n in counts.items() if n)}")
    reasons: dict[tuple[str, tuple[TrialConfig, ...]], list[str]] = {}
    for (name, reason), trials in found.lacking.items():
        reasons.setdefault((reason, tuple(trials)), []).append(name)
    for (reason, lacking), names in reasons.items():
        what = "" if len(found.names) == 1 else f"{', '.join(names)}: "
        count = "1 trial" if len(lacking) == 1 else f"{len(lacking)} trials"
        lines.append(f"  {what}{count}: {reason} ({_some(lacking)})")
    return lines


def _some(trials: Sequence[TrialConfig]) -> str:
    """Their names, or the first ones and how many more."""
    more = len(trials) - NAMED_TRIALS
    named = ", ".join(trial.name for trial in trials[:NAMED_TRIALS])
    return f"{named} and {more} more" if more > 0 else named
