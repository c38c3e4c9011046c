"""What a search would still train, by what the ledger has."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from study.cli import options
from study.cli.invocation import Invocation, parse_invocation
from study.ledger.ledger import Ledger
from study.ledger.records import PRUNED_TAG, TrialRecord
from study.search_session import _likely_trials, plan_lines, plan_search
from trainables.trial import TrialConfig


@pytest.fixture
def invocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invocation:
    """The default search in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return parse_invocation(options.parser().parse_args(["--space", "search"]), Console(quiet=True))


def record(invocation: Invocation, config: TrialConfig, status: str, number: int, **tags: str) -> TrialRecord:
    """A searched trial on such places as the call's, a second an image of a view."""
    size = invocation.sizes[invocation.selection.trials[0]]
    return TrialRecord(
        key=config.key,
        run_id=config.key,
        status=status,
        params=config.to_params(),
        tags={
            "search.search": str(number),
            "stage": "search",
            "device": invocation.allocation.device or "cpu Model",
            "threads": str(invocation.allocation.threads),
            **tags,
        },
        metrics={
            "val_acc": 0.9,
            "val_ece": 0.1,
            "train_seconds": float(config.epochs * size.epoch),
            "evaluate_seconds": 1.0,
        }
        if status == "FINISHED"
        else {},
        changed=number,
    )


def test_half_done_and_failed_members_are_forecast(
    invocation: Invocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what another call has suggested this one has drawn nothing: it must find the sizes itself."""
    assert invocation.search is not None
    first, *_ = [trial for trial in invocation.selection.trials if trial.method == "ce"]
    known, half_done, failed = (first.replace(lr=lr) for lr in (0.0123, 0.0234, 0.0345))
    assert not {known, half_done, failed} & set(invocation.sizes)
    records = [
        record(invocation, known, "FINISHED", 1),
        record(invocation, half_done, "RUNNING", 2),
        record(invocation, failed, "FAILED", 3, failure="RuntimeError: no"),
    ]
    monkeypatch.setattr(Ledger, "trials", lambda _: {record.key: record for record in records})
    ahead = plan_search(invocation)
    assert ahead.to_run == {half_done: 0}
    assert ahead.forecast.seconds(half_done) == pytest.approx(ahead.forecast.seconds(first))
    assert "  ce: 1 finished, 1 failed, 1 half-done; to search: 10" in ahead.lines
    invocation.args.retry_failed = True
    ahead = plan_search(invocation)
    assert set(ahead.to_run) == {half_done, failed}
    assert "  ce: 1 finished, 1 failed, 1 half-done; to search: 11" in ahead.lines
    assert any(line.startswith("forecast: ") for line in plan_lines(invocation))


def test_all_seeds_of_a_configuration_are_forecast(
    invocation: Invocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = invocation.search
    assert search is not None
    invocation = dataclasses.replace(invocation, search=search.replace(seeds_per_configuration=3))
    first, other, *_ = search.draw_of("ce")
    records = [
        record(invocation, first, "FINISHED", 1),
        record(invocation, other, "KILLED", 2, **{PRUNED_TAG: "12"}),
    ]
    monkeypatch.setattr(Ledger, "trials", lambda _: {record.key: record for record in records})
    ahead = plan_search(invocation)
    assert ahead.to_run == {first.replace(seed=1): 0, first.replace(seed=2): 0}
    assert ahead.lines[0].endswith("12 configurations of each of ce, siamese, 3 seeds each, by val_acc")
    assert "  ce: 1 pruned, 1 half-done; to search: 11" in ahead.lines
    likely = _likely_trials(ahead.state, ahead.to_run)
    assert len(likely) == 2 + 3 * (10 + 12)
    one = plan_search(dataclasses.replace(invocation, search=search))
    assert len(_likely_trials(one.state, one.to_run)) == 10 + 12
    assert any(line.startswith("forecast: ") for line in plan_lines(invocation))
