"""How many seeds each cell takes until its comparisons are decided, and what the ledger knows of plans."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.stats.verdicts import SeedSchedule, decided_selection, planned_steps
from search_spaces import Selection, select
from search_spaces.seeds import SeedPlan, cell_digest, parse_seeds
from study.ledger import seed_plans
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from study.ledger.seed_plans import adopt_seed_plans, declare_seed_plans, plans_at_look, read_seed_plans
from trainables.trial import TrialConfig

Accuracy = Callable[[TrialConfig], float]
RANGE = SeedPlan(low=3, high=12)


def noise(trial: TrialConfig) -> float:
    return random.Random(trial.key).gauss(0, 0.01)  # noqa: S311  # not for secrets


def alike(trial: TrialConfig) -> float:
    return 0.8 + noise(trial)


def record(trial: TrialConfig, accuracy: float, status: str = "FINISHED") -> TrialRecord:
    return TrialRecord(
        key=trial.key,
        run_id=trial.key,
        status=status,
        params=trial.to_params(),
        tags={},
        metrics={"test_acc": accuracy},
        changed=0,
    )


def selected(seeds: SeedPlan = RANGE, space: str = "quickstart", **options: object) -> Selection:
    return select(space, seeds=seeds, **options)  # type: ignore[arg-type]


def run_all(
    selection: Selection, accuracy: Accuracy, *, shuffle: int = 0, until: int | None = None
) -> dict[str, TrialRecord]:
    """The records of a study that trains what the schedule asks for, two at a time in some order."""
    chance = random.Random(shuffle)  # noqa: S311  # not for secrets
    plans, records = selection.seed_plans, {}
    schedule = SeedSchedule(selection, records, plans)
    waiting = list(schedule.selection.trials)
    while waiting and (until is None or len(records) < until):
        trial = waiting.pop(chance.randrange(min(2, len(waiting))))
        records[trial.key] = record(trial, accuracy(trial))
        waiting += schedule.take(trial, "FINISHED", accuracy(trial))
    return records


def seeds_of(records: Mapping[str, TrialRecord]) -> int:
    return len({found.params["seed"] for found in records.values()})


def test_a_clear_difference_takes_the_fewest_seeds() -> None:
    def apart(trial: TrialConfig) -> float:
        return 0.5 + 0.1 * len(trial.arm) + 0.001 * trial.seed + noise(trial) / 100

    selection = selected()
    found = run_all(selection, apart)
    assert len(found) == 12
    decided = SeedSchedule(selection, found, selection.seed_plans)
    assert decided.most.trials == decided.selection.trials
    assert SeedSchedule(selection, {}, selection.seed_plans).most.trials == selection.trials
    assert decided_selection(selection, found, selection.seed_plans).trials == selection.trials[:12]


def test_no_difference_takes_the_most_seeds_or_fewer_with_a_margin() -> None:
    assert seeds_of(run_all(selected(), alike)) == 12
    assert seeds_of(run_all(replace(selected(), margin=50.0), alike)) == 3
    assert 3 < seeds_of(run_all(replace(selected(), margin=2.0), alike)) < 12


def test_all_arms_of_a_cell_get_the_same_seeds() -> None:
    for found in (run_all(replace(selected(), margin=2.0), alike, shuffle=n) for n in range(3)):
        arms: dict[str, set[str]] = {}
        for each in found.values():
            arms.setdefault(each.params["gamma"], set()).add(each.params["seed"])
        assert len({frozenset(seeds) for seeds in arms.values()}) == 1


def test_the_order_in_which_trials_end_and_interruptions_change_nothing() -> None:
    selection = replace(selected(), margin=2.0)
    whole = run_all(selection, alike)
    for stop in (1, 13, 14, 18, len(whole)):
        assert run_all(selection, alike, shuffle=stop).keys() == whole.keys()
        half = run_all(selection, alike, shuffle=stop, until=stop)
        wanted = SeedSchedule(selection, half, selection.seed_plans).selection.trials
        assert half.keys() <= whole.keys()
        assert {trial.key for trial in wanted} <= whole.keys()


def test_cells_are_decided_one_by_one_and_controls_elsewhere_join_theirs() -> None:
    chosen = ["dataset=cifar10", "backbone=resnet18", "augmentations=rrc"]
    selection = replace(selected(space="controls", only=chosen), margin=2.0)
    found = run_all(selection, alike)
    taken: dict[str, set[int]] = {}
    for trial in selection.trials:
        if trial.key in found:
            taken.setdefault(cell_digest(trial), set()).add(trial.seed)
    assert len(taken) > 1
    assert len({frozenset(seeds) for seeds in taken.values()}) == 1  # one unit: compared with each other
    several = replace(selected(space="ablations", only=["dataset=cifar10", "backbone=resnet18"]), margin=2.0)
    counts = {}
    for trial in several.trials:
        counts.setdefault(cell_digest(trial), set())
    for each in run_all(several, alike).values():
        counts[cell_digest(TrialConfig.from_params(each.params))].add(each.params["seed"])
    assert len({len(seeds) for seeds in counts.values()}) > 1


def test_a_failed_trial_has_ended() -> None:
    selection = selected(SeedPlan(low=3, high=4))
    records = {t.key: record(t, alike(t)) for t in selection.trials if t.seed < 3}
    lost = selection.trials[0]
    records[lost.key] = record(lost, np.nan, "FAILED")
    schedule = SeedSchedule(selection, records, selection.seed_plans)
    assert len(schedule.selection.trials) == 16
    del records[lost.key]
    schedule = SeedSchedule(selection, records, selection.seed_plans)
    assert len(schedule.selection.trials) == 12
    assert {trial.seed for trial in schedule.take(lost, "FAILED", None)} == {3}
    assert schedule.outcome == "1 of 1 cells not finished"
    assert schedule.most.trials == selection.trials  # a fourth seed is the last


def test_seeds_without_results_decide_nothing() -> None:
    """A failure in each of three seeds, in three arms, leaves none. An arm that always fails is let go."""
    selection = replace(selected(SeedPlan(low=3, high=5)), margin=50.0)
    first = [trial for trial in selection.trials if trial.seed < 3]
    arms = sorted({trial.arm for trial in first})
    failed = {trial.key for trial in first if trial.arm == arms[trial.seed]}
    states = {trial: "FAILED" if trial.key in failed else "FINISHED" for trial in first}
    records = {trial.key: record(trial, alike(trial), status) for trial, status in states.items()}
    assert len(SeedSchedule(selection, records, selection.seed_plans).selection.trials) == 16
    states = {trial: "FAILED" if trial.arm == arms[1] else "FINISHED" for trial in first}
    records = {trial.key: record(trial, alike(trial), status) for trial, status in states.items()}
    schedule = SeedSchedule(selection, records, selection.seed_plans)
    assert schedule.outcome == "1 of 1 cells decided after 3 seeds"


def test_steps_fill_the_slots() -> None:
    selection = selected()
    assert [planned_steps(selection, slots).step for slots in (None, 2, 4, 9, 1000)] == [1, 1, 1, 2, 9]
    assert SeedPlan(low=3, high=8, step=2).looks == (3, 5, 7, 8)
    stepped = replace(selection, seeds=planned_steps(selection, 9))
    assert seeds_of(run_all(replace(stepped, margin=2.0), alike)) % 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "--seeds: got 0; allowed: an integer >= 1"),
        ("5..3", "--seeds: got 5"),
        ("2..8", "--seeds: got 2..8; allowed: a range from 3 on"),
        ("3-8", "--seeds: got '3-8'; allowed: an integer >= 1, or a range such as 3..12"),
        ("", "--seeds: got ''"),
    ],
)
def test_bad_seeds_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        parse_seeds(text)


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Ledger:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Ledger(
        uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "artifacts"
    )


def test_the_first_plan_of_a_cell_stays(store: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_seed_plans(store, "quickstart") == {}
    three, other = select("quickstart"), select("quickstart", assign=["epochs=2"], seeds=7, margin=0.5)
    (cell,), (another,) = three.seed_plans, other.seed_plans
    first = declare_seed_plans(store, three, {})
    assert first[cell] == SeedPlan(low=3, high=3, date=first[cell].date)
    assert first[cell].date
    assert declare_seed_plans(store, selected(), {}) == first
    both = declare_seed_plans(store, other, {})
    assert (both[another].low, both[another].margin) == (7, 0.5)
    assert read_seed_plans(store, "quickstart") == both
    assert read_seed_plans(store, "thesis") == {}
    assert plans_at_look(store, other, {}) == both
    # As read by MLflow's client, too; and in parts where there are many cells.
    monkeypatch.setattr(seed_plans, "CELLS_PER_TAG", 3)
    many = select("ablations", seeds=2)
    declared = declare_seed_plans(store, many, {})
    assert declared.keys() == many.seed_plans.keys()
    monkeypatch.setattr("study.ledger.sqlite_reader.SCHEMA", "another")
    assert read_seed_plans(store, "ablations") == declared


def test_a_look_at_a_space_is_a_look_at_what_it_is_joined_to(
    store: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, more = select("quickstart", seeds=4), select("quickstart,controls", seeds=9)
    first = declare_seed_plans(store, alone, {})
    joined = declare_seed_plans(store, more, {})
    assert joined.items() > first.items()
    assert {plan.low for plan in joined.values()} == {4, 9}
    # What was declared for the union alone counts for each of its spaces.
    again = declare_seed_plans(store, select("controls", seeds=2), {})
    assert {again[cell].low for cell in select("controls").seed_plans} == {9}
    assert read_seed_plans(store, "thesis") == {}
    assert set(store.studies()) == {"quickstart", "quickstart+controls"}
    monkeypatch.setattr("study.ledger.sqlite_reader.SCHEMA", "another")  # by MLflow's client, too
    assert read_seed_plans(store, "controls") == {c: p for c, p in joined.items() if c not in first}


def test_some_of_the_seeds_are_a_part_of_the_plan(store: Ledger) -> None:
    """Seeds that several machines share, or the tasks of a job array, are planned together."""
    arms = "arm=ce,siamese-0"
    whole = select("quickstart", only=[arms], assign=["epochs=2"], seeds=7)
    for seed in ("3", "0,1"):
        part = select("quickstart", only=[f"seed={seed}", arms], assign=["epochs=2"], seeds=7)
        assert {trial.seed for trial in part.trials} == set(map(int, seed.split(",")))
        assert part.seed_plans == whole.seed_plans
        assert declare_seed_plans(store, part, {}) == declare_seed_plans(store, whole, {})
    (plan,) = whole.seed_plans.values()
    assert plan.low == 7
    assert select("quickstart", assign=["seed=5"]).seed_plans.popitem()[1].low == 1


def test_what_an_earlier_study_has_counts_as_its_plan(store: Ledger) -> None:
    asked = select("quickstart", seeds=6)
    records = {t.key: record(t, 0.5) for t in asked.trials if t.seed < 3}
    assert adopt_seed_plans(store, asked, lambda: records) == {}  # nobody has looked
    store.log_study("quickstart", {"report.html": b""})
    (plan,) = adopt_seed_plans(store, asked, lambda: records).values()
    assert (plan.low, plan.high, plan.adopted) == (3, 3, True)
    assert declare_seed_plans(store, asked, records) == read_seed_plans(store, "quickstart")


def test_a_ledger_that_cannot_be_written_costs_the_record_alone(
    store: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.ledger.tracking_uri import LedgerError

    def refuse(*_: object) -> None:
        raise LedgerError("read-only")

    monkeypatch.setattr(Ledger, "tag_study", refuse)
    asked = select("quickstart")
    assert plans_at_look(store, asked, {}) == asked.seed_plans
