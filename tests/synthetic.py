"""Ledgers and frames made of numbers that a test chooses."""

import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.trials import load
from search_spaces import Selection
from study.ledger.pages import run_name
from study.ledger.records import TrialRecord
from trainables.trial import TrialConfig

BEGAN = 1_700_000_000_000
TAGS = {
    "device": "cpu test",
    "threads": "1",
    "host": "here",
    "attempts": "1",
    "git.commit": "0" * 40,
    "git.dirty": "false",
    "data.sha256": "d" * 64,
    "version.torch": "2.0",
    "version.study": "0.1.0",
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """A trial to be written."""

    config: TrialConfig
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final ones, without prefix."""
    status: str = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    ended: int | None = None
    """ms since 1970; None: a second after the one before."""


def results(config: TrialConfig, gain: float = 0.0) -> dict[str, float]:
    """All final metrics of a trial, with an accuracy that has a seed's luck and the arm's gain in it."""
    random = np.random.default_rng([config.seed, len(config.augmentations)])
    own = np.random.default_rng(int(config.key, 16))
    accuracy = 0.6 + 0.03 * random.normal() + 0.01 * own.normal() + gain * (config.gamma or 0) ** 0.25
    metrics = {
        "train_aug_acc": accuracy + 0.2,
        "train_acc": accuracy + 0.25,
        "test_acc": accuracy,
        "test_acc_bnrecal": accuracy,
        "test_aug_acc": accuracy - 0.1,
        "test_augcrop_acc": accuracy - 0.15,
        "test_augfull_acc": accuracy - 0.2,
        "test_ce": 1.5 - accuracy,
        "test_ece": 0.05 + 0.01 * abs(own.normal()),
        "test_ece_floor": 0.04 + 0.01 * (1 - accuracy),
        "linear_probe_acc": accuracy + 0.02,
        "knn_weighted_acc": accuracy - 0.01,
        "knn_acc": accuracy - 0.02,
        "view_agreement": accuracy - 0.2,
        "view_kappa": accuracy - 0.25,
        "view_both_right": accuracy - 0.3,
        "view_cosine": 0.5 + 0.05 * own.normal(),
        "effective_rank": 40 + own.normal(),
        "silhouette": 0.2 + 0.01 * own.normal(),
        "train_seconds": 100 + own.normal(),
        "evaluate_seconds": 5.0,
    }
    if config.val_fraction:
        metrics["val_acc"] = accuracy + 0.01 * own.normal()
    if config.gamma:
        metrics["z_effective_rank"] = 20 + own.normal()
        metrics["z_linear_probe_acc"] = accuracy - 0.05
    return metrics


def config(arm: str, seed: int, **fields: Any) -> TrialConfig:
    """A trial on digits; `arm` is `ce` or a γ."""
    method = {"method": "ce"} if arm == "ce" else {"method": "siamese", "gamma": float(arm)}
    defaults = {"dataset": "digits", "backbone": "convnet", "augmentations": ("rrc", "hflip")}
    return TrialConfig(**{**defaults, **fields, **method, "seed": seed})


def frame(results: Mapping[TrialConfig, float | Mapping[str, float] | None], **tags: str) -> pd.DataFrame:
    """What `analysis.trials.load` gives for trials with these test accuracies or metrics; None: missing."""
    records = {
        config.key: TrialRecord(
            key=config.key,
            run_id=f"run-{config.key}",
            status="FINISHED",
            params={},
            tags={**TAGS, **tags},
            metrics=value if isinstance(value, Mapping) else {"test_acc": value},
            changed=BEGAN,
        )
        for config, value in results.items()
        if value is not None
    }
    return load(Selection(space="test", trials=tuple(results), steps=("a test",)), records)


def fill(database: Path, artifacts: Path, made: Iterable[Made], experiment: str = "test") -> list[str]:
    """Write trials into a store that has the experiment, as a long study leaves it; returns their run ids.

    Straight into MLflow's tables: its client takes 40 ms a trial.
    """
    connection = sqlite3.connect(database)
    (number,) = connection.execute(
        "select experiment_id from experiments where name = ?", (experiment,)
    ).fetchone()
    run_ids = []
    for i, trial in enumerate(made):
        run_id = uuid.uuid4().hex
        run_ids.append(run_id)
        folder = artifacts / run_id / "artifacts"
        start, end = BEGAN + 1000 * i, BEGAN + 1000 * i + 500
        end = trial.ended or end
        ended = None if trial.status == "RUNNING" else end
        connection.execute(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
            " start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " values (?, ?, 'UNKNOWN', '', '', 'test', ?, ?, ?, '', 'active', ?, ?)",
            (run_id, run_name(trial.config), trial.status, start, ended, folder.absolute().as_uri(), number),
        )
        known_by = {"kind": "trial", "trial.key": trial.config.key, "arm": trial.config.arm}
        tags = {**known_by, **TAGS, **trial.tags, "mlflow.runName": run_name(trial.config)}
        connection.executemany(
            "insert into tags (key, value, run_uuid) values (?, ?, ?)",
            [(name, value, run_id) for name, value in tags.items()],
        )
        connection.executemany(
            "insert into params (key, value, run_uuid) values (?, ?, ?)",
            [(name, value, run_id) for name, value in trial.config.to_params().items()],
        )
        rows = [
            (f"final/{name}", 0.0 if np.isnan(value) else value, end, 0, bool(np.isnan(value)), run_id)
            for name, value in trial.metrics.items()
        ]
        for table in ("metrics", "latest_metrics"):
            connection.executemany(
                f"insert into {table} (key, value, timestamp, step, is_nan, run_uuid)"  # noqa: S608
                " values (?, ?, ?, ?, ?, ?)",
                rows,
            )
        for name, content in trial.artifacts.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    connection.commit()
    connection.close()
    return run_ids
