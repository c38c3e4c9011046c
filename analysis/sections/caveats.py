"""What a reader should know beside the results: what is missing, what was held fixed, where it ran."""

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from analysis.trials import TAGS, finished
from search_spaces import Selection
from study.ledger import tracking_uri
from trainables.trial import ARM_FIELDS, CELL_FIELDS, SETTINGS, FieldValue, TrialConfig, format_value

SHOWN_OPEN_TRIALS = 200
"""Trials without a result that a report lists one by one."""


def counts(trials: pd.DataFrame) -> dict[str, Any]:
    """What was planned and what is missing."""
    status = trials["status"].value_counts()
    open_trials = trials[trials["status"] != "FINISHED"]
    first = open_trials[["name", "status", "failure"]].head(SHOWN_OPEN_TRIALS)
    shown = first.fillna({"failure": ""}).to_dict("records")
    return {
        "planned": len(trials),
        "finished": int(status.get("FINISHED", 0)),
        "by_status": {
            name: int(status[key])
            for key, name in (
                ("FAILED", "failed"),
                ("KILLED", "interrupted"),
                ("RUNNING", "running"),
                ("MISSING", "not begun"),
            )
            if key in status
        },
        "open_trials": shown,
        "more_open": len(open_trials) - len(shown),
        "cells_planned": int(trials["cell"].nunique()),
        "arms_planned": int(trials.groupby("cell")["arm_label"].nunique().max()),
        "seeds_planned": int(trials["seed"].nunique()),
        "seconds": float(trials.get("train_seconds", pd.Series(dtype=float)).sum()),
    }


def held_fixed(trials: Sequence[TrialConfig]) -> dict[str, str]:
    """The fields that have one value in all trials that use them."""
    return {
        title: format_value(getattr(using[0], name))
        for name, title, using in _users(trials)
        if len({getattr(trial, name) for trial in using}) == 1
    }


def _users(trials: Sequence[TrialConfig]) -> list[tuple[str, str, list[TrialConfig]]]:
    """Each field that names neither arm nor seed, what people call it, and the trials that use it."""
    users = []
    for name in (*CELL_FIELDS, *(name for name in ARM_FIELDS if name not in ("method", "gamma"))):
        using = [trial for trial in trials if trial.uses(name)]
        title = SETTINGS[name].used_by.title
        if using:
            users.append((name, f"{name} ({title})" if title else name, using))
    return users


def going_with(trials: Sequence[TrialConfig]) -> dict[str, str]:
    """The fields that vary with the dataset or the backbone alone: `batch_size` -> `512 with vgg16, …`."""
    varying = [of for of in _users(trials) if of[0] not in ("dataset", "backbone")]
    found = {}
    for name, title, using in varying:
        for keys in (("dataset",), ("backbone",), ("dataset", "backbone")):
            values: dict[tuple[object, ...], set[FieldValue]] = {}
            for trial in using:
                with_ = tuple(getattr(trial, key) for key in keys)
                values.setdefault(with_, set()).add(getattr(trial, name))
            kinds = {value for having in values.values() for value in having}
            if len(kinds) > 1 and all(len(having) == 1 for having in values.values()):
                found[title] = ", ".join(
                    f"{format_value(*having)} with {' · '.join(map(str, with_))}"
                    for with_, having in values.items()
                )
                break
    return found


def provenance(selection: Selection, trials: pd.DataFrame) -> dict[str, str]:
    """Where the numbers come from."""
    done = finished(trials)
    known = {tag: sorted(done[tag].dropna().unique()) for tag in TAGS if tag not in ("attempts", "git.dirty")}
    ended = pd.to_datetime(done["changed"], unit="ms", utc=True)
    days = sorted({f"{moment:%Y-%m-%d}" for moment in (ended.min(), ended.max()) if not pd.isna(moment)})
    typed = shlex.join(["python", *(tracking_uri.redacted(word) for word in sys.orig_argv[1:])])
    return {
        "selection": " → ".join(selection.steps),
        "trials ended": " to ".join(days),
        **{tag: ", ".join(values) for tag, values in known.items() if values},
        "report": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {typed}",
    }


def oddities(trials: pd.DataFrame) -> list[str]:
    """What a reader should know of how the trials came about, beyond what every trial had in common."""
    done = finished(trials)
    notes = []
    for tag, what in (("device", "kinds of devices"), ("threads", "numbers of threads")):
        counts = done.groupby("cell_label", sort=False)[tag].nunique()
        mixed = [str(label) for label in counts.index[counts > 1]]
        if mixed:
            kinds = ", ".join(sorted(done[tag].dropna().unique()))
            notes.append(
                f"Arms of one cell ran on different {what} ({kinds}): {_some(mixed)}. Their results are"
                " comparable, but not bit for bit."
            )
    for tag, what in (("git.commit", "commits"), ("version.torch", "versions of PyTorch")):
        values = sorted(done[tag].dropna().unique())
        if len(values) > 1:
            notes.append(
                f"Trials ran with {len(values)} {what}: {', '.join(value[:12] for value in values)}."
            )
    dirty = int((done["git.dirty"] == "true").sum())
    if dirty:
        notes.append(
            f"{dirty} of {len(done)} trials ran from a working tree with changes that no commit holds."
        )
    again = int((pd.to_numeric(done["attempts"], errors="coerce") > 1).sum())
    if again:
        notes.append(
            f"{again} of {len(done)} trials were begun more than once: interrupted and gone on"
            " with, or retried."
        )
    return notes


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more cells" if len(names) > most else "")
