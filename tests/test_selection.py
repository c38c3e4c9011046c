"""Which trials a space and the command line mean."""

import argparse
import re
from collections.abc import Iterable
from typing import Any

import pytest

from search_spaces import SPACES, add_selection_arguments, select, selection, selection_from
from trainables.trial import TrialConfig

Pairs = list[tuple[str, int]]

ARMS = ["ce", "siamese-0", "siamese-0.001", "siamese-0.01"]


def arms_and_seeds(trials: Iterable[TrialConfig]) -> Pairs:
    return [(trial.arm, trial.seed) for trial in trials]


def test_quickstart_is_four_arms_by_three_seeds_of_one_cell() -> None:
    trials = select("quickstart").trials
    assert arms_and_seeds(trials) == [(arm, seed) for seed in range(3) for arm in ARMS]
    assert len({trial.cell for trial in trials}) == 1


@pytest.mark.parametrize("space", SPACES)
def test_spaces_are_distinct_trials_with_a_line_for_people(space: str) -> None:
    trials = SPACES[space]()
    assert len({trial.key for trial in trials}) == len(trials)
    assert SPACES[space].__doc__.splitlines()[0].endswith(".")


def test_seeds() -> None:
    assert arms_and_seeds(select("quickstart", seeds=1).trials) == [(arm, 0) for arm in ARMS]
    assert [trial.seed for trial in select("quickstart", seeds=5).trials] == sorted([*range(5)] * 4)


@pytest.mark.parametrize(
    ("only", "left"),
    [
        (["arm=ce"], [("ce", 0), ("ce", 1), ("ce", 2)]),
        (["seed=1"], [(arm, 1) for arm in ARMS]),
        (["arm=siamese-0.01,ce", "seed=0,2"], [(arm, s) for s in (0, 2) for arm in ("ce", "siamese-0.01")]),
        (["gamma=0.01"], [("siamese-0.01", seed) for seed in range(3)]),  # ce has no gamma
        (["gamma=0"], [("siamese-0", seed) for seed in range(3)]),  # … not even 0
        (["gamma=none"], [("ce", seed) for seed in range(3)]),
        (["gamma=1e-2", "seed=0"], [("siamese-0.01", 0)]),
        (["augmentations=solarize+rrc", "method=ce", "seed=0"], [("ce", 0)]),
    ],
)
def test_only(only: list[str], left: Pairs) -> None:
    assert arms_and_seeds(select("quickstart", only=only).trials) == left


def test_set_replaces_a_field_in_all_trials() -> None:
    trials = select("quickstart", assign=["epochs=2", "augmentations=hflip+rrc"]).trials
    assert {(trial.epochs, trial.augmentations) for trial in trials} == {(2, ("rrc", "hflip"))}
    assert arms_and_seeds(trials) == arms_and_seeds(select("quickstart").trials)


@pytest.mark.parametrize(
    ("assign", "left"),
    [
        ("seed=7", [(arm, 7) for arm in ARMS]),
        ("gamma=0.01", [(arm, seed) for seed in range(3) for arm in ("ce", "siamese-0.01")]),
        ("method=ce", [("ce", seed) for seed in range(3)]),
    ],
)
def test_set_merges_trials_that_become_equal(assign: str, left: Pairs) -> None:
    assert arms_and_seeds(select("quickstart", assign=[assign]).trials) == left


def test_steps_say_how_many_trials_are_left() -> None:
    selected = select("quickstart", seeds=2, only=["method=siamese"], assign=["epochs=2", "gamma=0.1"])
    assert selected.space == "quickstart"
    assert selected.steps == (
        "space quickstart: 12 trials",
        "--seeds 2: 8",
        "--only method=siamese: 6",
        "--set epochs=2 --set gamma=0.1: 2",
    )


def test_order_is_seed_by_seed_whatever_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def arm_by_arm() -> list[TrialConfig]:
        quickstart = SPACES["quickstart"]()
        return sorted(quickstart, key=lambda trial: (ARMS.index(trial.arm), -trial.seed))

    monkeypatch.setattr(selection, "SPACES", {"arm_by_arm": arm_by_arm})
    assert select("arm_by_arm").trials == select("arm_by_arm", seeds=3).trials
    assert arms_and_seeds(select("arm_by_arm").trials) == [(arm, seed) for seed in range(3) for arm in ARMS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"space": "quikstart"},
            "unknown space 'quikstart' (did you mean 'quickstart'?); allowed: quickstart",
        ),
        ({"seeds": 0}, "--seeds: got 0; allowed: an integer >= 1"),
        ({"only": ["arm"]}, "--only: got 'arm'; allowed: KEY=V[,V]"),
        ({"only": ["arm="]}, "--only: got 'arm='; allowed: KEY=V[,V]"),
        ({"only": ["=ce"]}, "--only: got '=ce'; allowed: KEY=V[,V]"),
        ({"only": ["gama=0"]}, "--only: unknown key 'gama' (did you mean 'gamma'?); allowed: arm, dataset, "),
        ({"only": ["gamma=x"]}, "--only: gamma: got 'x'; allowed: a number or none"),
        ({"only": ["gamma=0,"]}, "--only: gamma: got ''; allowed: a number or none"),
        (
            {"only": ["arm=siames-0.01"]},
            "--only arm: no trial has 'siames-0.01' (did you mean 'siamese-0.01'?); there are: "
            + ", ".join(ARMS),
        ),
        ({"only": ["seed=0,3"]}, "--only seed: no trial has '3'; there are: 0, 1, 2"),
        ({"only": ["arm=ce", "gamma=0"]}, "--only gamma: no trial has '0.0'; there are: none"),
        ({"assign": ["epochs"]}, "--set: got 'epochs'; allowed: KEY=VALUE"),
        ({"assign": ["augmentations="]}, "--set: got 'augmentations='; allowed: KEY=VALUE"),
        ({"assign": ["arm=ce"]}, "--set: 'arm' is derived; set method or gamma instead"),
        (
            {"assign": ["epoch=2"]},
            "--set: unknown field 'epoch' (did you mean 'epochs'?); allowed: dataset, ",
        ),
        ({"assign": ["epochs=two"]}, "--set: epochs: got 'two'; allowed: an integer"),
        ({"assign": ["epochs=0"]}, "--set: epochs: got 0; allowed: >= 1"),
        (
            {"assign": ["lr_schedule=cosin"]},
            "--set: lr_schedule: got 'cosin' (did you mean 'cosine'?); allowed: constant, cosine",
        ),
    ],
)
def test_bad_selection_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        select(**{"space": "quickstart", **arguments})


def test_selection_from_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_selection_arguments(parser)
    line = "--space quickstart --only arm=ce --only seed=0,1 --set epochs=2 --set lr=0.1 --seeds 2"
    expected = select("quickstart", only=["arm=ce", "seed=0,1"], assign=["epochs=2", "lr=0.1"], seeds=2)
    assert selection_from(parser.parse_args(line.split())) == expected
    with pytest.raises(ValueError, match=r"^--space: required; allowed: quickstart"):
        selection_from(parser.parse_args([]))


def test_assignments_are_made_together() -> None:
    """Method and gamma are only valid together, in whichever order they are typed."""
    for assign in (["method=siamese", "gamma=0.1"], ["gamma=0.1", "method=siamese"]):
        selected = select("quickstart", only=["arm=ce"], assign=assign)
        assert {trial.arm for trial in selected.trials} == {"siamese-0.1"}


def test_a_space_without_trials_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces import selection

    monkeypatch.setattr(selection, "SPACES", {"empty": list})
    with pytest.raises(ValueError, match=r"^space 'empty' has no trials$"):
        select("empty")
