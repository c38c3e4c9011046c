"""Which metrics can be measured again, without training, and why not."""

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from search_spaces import Selection
from study.ledger.records import TrialRecord
from study.planning import weights
from study.planning.measurement import describe, make_measurement, parse_metrics
from study.planning.weights import format_bytes
from trainables.datasets.sources import DataError
from trainables.trial import TrialConfig

Tiny = Callable[..., TrialConfig]
WITH_WEIGHTS = {"artifacts": "config.json embeddings.npz history.parquet predictions.npz weights.safetensors"}


def record(trial: TrialConfig, tags: Mapping[str, str], **about: Any) -> TrialRecord:
    given = {"status": "FINISHED", "metrics": {"test_acc": 0.5}, **about}
    return TrialRecord(
        key=trial.key, run_id=f"run-{trial.key}", params=trial.to_params(), tags=tags, changed=0, **given
    )


@pytest.fixture
def study(tiny: Tiny) -> tuple[Selection, dict[str, TrialRecord]]:
    """Seven trials: with weights; without; of other data; in need of data; failed; without z; not begun."""
    with_weights, old, stale, homeless, failed, control, new = trials = (
        *(tiny(seed=seed) for seed in (0, 1, 2)),
        tiny(dataset="folder:mine", seed=3),
        tiny(seed=4),
        tiny(gamma=0, val_fraction=0, seed=5),
        tiny(seed=6),
    )
    tags = {**WITH_WEIGHTS, "data.sha256": "here"}
    found = (
        record(with_weights, tags, metrics={}),
        record(old, {"data.sha256": "here"}),
        record(stale, {**WITH_WEIGHTS, "data.sha256": "elsewhere"}, metrics={}),
        record(homeless, tags),
        record(failed, tags, status="FAILED"),
        record(control, tags, metrics={"knn_acc": 0.5}),
    )
    selection = Selection(space="quickstart", trials=trials, steps=())
    assert new.key not in {r.key for r in found}
    return selection, {r.key: r for r in found}


def digest_of(dataset: str) -> str:
    if dataset == "folder:mine":
        raise DataError("folder:mine: there is no folder data/mine")
    return "here"


def test_each_trial_is_measured_or_said_to_lack_something(study: tuple) -> None:
    selection, records = study
    names = ("knn_acc", "test_acc", "z_effective_rank", "val_acc")
    found = make_measurement(selection, records, names, digest_of)
    seeds = {task.trial.seed: dict(task.names) for task in found.tasks}
    both = {"predictions.npz": ("test_acc",)}
    assert seeds == {
        0: {"weights.safetensors": ("knn_acc", "z_effective_rank", "val_acc"), **both},
        2: both,  # needs no data
        5: both,
    }
    has = {name: [trial.seed for trial in trials] for name, trials in found.has.items()}
    assert has == {"test_acc": [1, 3], "knn_acc": [5]}
    assert {n: [t.seed for t in trials] for n, trials in found.without.items()} == {
        "z_effective_rank": [5],
        "val_acc": [5],
    }
    lacking = {
        (n, re.split("[:;]", reason)[0]): [t.seed for t in ts] for (n, reason), ts in found.lacking.items()
    }
    every = ("knn_acc", "z_effective_rank", "val_acc")
    assert lacking == {
        **{(name, "no weights kept"): [1] for name in every},
        **{(name, "trained on data that have changed since"): [2] for name in every},
        **{(name, "the data are not here"): [3] for name in every},
        **{(name, "not finished"): [4, 6] for name in (*every, "test_acc")},
    }


def test_lines_say_what_became_of_each_metric(study: tuple) -> None:
    selection, records = study
    found = make_measurement(selection, records, ("knn_acc", "val_acc"), digest_of)
    cell = "convnet/rrc+solarize/siamese-0.01"
    assert describe(found, Counter({"knn_acc": 1, "val_acc": 1})) == [
        "knn_acc: 1 measured, 1 have it already, 5 not measured",
        "val_acc: 1 measured, 1 never have it (val_fraction > 0), 5 not measured",
        "  knn_acc, val_acc: 1 trial: no weights kept; study/run.py --keep weights keeps those of the trials"
        f" that it trains (digits/{cell}/s1)",
        f"  knn_acc, val_acc: 1 trial: trained on data that have changed since (digits/{cell}/s2)",
        "  knn_acc, val_acc: 1 trial: the data are not here: folder:mine: there is no folder data/mine"
        f" (folder:mine/{cell}/s3)",
        "  knn_acc, val_acc: 2 trials: not finished; study/run.py trains what is missing"
        f" (digits/{cell}/s4, digits/{cell}/s6)",
    ]


def test_with_force_also_what_is_there_is_measured(study: tuple) -> None:
    selection, records = study
    found = make_measurement(selection, records, ("test_acc",), digest_of, force=True)
    assert [task.trial.seed for task in found.tasks] == [0, 1, 2, 3, 5]
    assert found.has == {}


def test_data_are_asked_for_only_where_weights_are_to_be_measured(study: tuple) -> None:
    selection, records = study
    asked: list[str] = []
    make_measurement(selection, records, ("test_acc",), lambda name: asked.append(name) or "here")
    assert asked == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "linear_prob",
            "--metric: got 'linear_prob' (did you mean 'linear_probe_acc'?); allowed: train_aug_",
        ),
        ("knn_acc,", "--metric: got ''; allowed: train_aug_acc, "),
        ("train_seconds", "--metric: got 'train_seconds'; allowed: "),
    ],
)
def test_a_metric_that_cannot_be_measured_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_metrics(text)


def test_metrics_are_named_once() -> None:
    assert parse_metrics("knn_acc,test_acc,knn_acc") == ("knn_acc", "test_acc")
    assert parse_metrics("linear_probe") == ("linear_probe_acc",)


def test_trials_from_before_the_tag_keep_what_all_did(tiny: Tiny) -> None:
    assert record(tiny(), {}).kept == set(WITH_WEIGHTS["artifacts"].split()) - {"weights.safetensors"}
    assert record(tiny(), WITH_WEIGHTS).kept == set(WITH_WEIGHTS["artifacts"].split())


def test_the_plan_says_which_finished_trials_keep_no_weights(study: tuple, tiny: Tiny, data_dir: Any) -> None:
    finished = [r for r in study[1].values() if r.status == "FINISHED"]
    line = "weights:  finished trials without, which are not trained again: 1"
    asked = Namespace(keep=["weights"], plan=False)
    assert weights.describe(asked, [tiny()], finished, data_dir) == [line]
    assert weights.describe(Namespace(keep=["weights"], plan=True), [], finished[:1], data_dir) == []
    assert weights.describe(Namespace(keep=[], plan=True), [tiny()], finished, data_dir) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(500, "0 kB"), (988_567, "989 kB"), (1_000_000, "1.0 MB"), (149_300_000, "149 MB"), (42.8e9, "42.8 GB")],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
