"""What a search asks for, and what is recalled of it from a trial alone."""

import argparse

import pytest

from search_spaces import SEARCHES, SPACES, Search, add_selection_arguments, search_from, selection_from
from search_spaces.search_design import SEED
from search_spaces.searches import Parameter, integers, loguniform, uniform
from trainables.trial import TrialConfig, format_value

FIXED = {"dataset": "digits", "val_fraction": 0.1, "backbone": "convnet", "augmentations": (), "epochs": 9}


def given(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_selection_arguments(parser)
    return parser.parse_args(words)


def searching(*words: str) -> Search:
    found = search_from(given("--space", "search", *words))
    assert found is not None
    return found


def fixed(parameter: Parameter) -> float:
    """Suggests always the same."""
    allowed = parameter.range
    return allowed.high if allowed.kind == "int" else (allowed.low + allowed.high) / 3


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_draws_trials_and_recalls_each(name: str) -> None:
    search = SEARCHES[name]()
    assert search.name == name
    assert name not in SPACES
    assert SEARCHES[name].__doc__
    drawn = search.draw()
    assert drawn == search.draw()
    for method in search.methods:  # no method suggests what is another's
        assert {search.method_of(trial) for trial in search.draw_of(method)} == {method}
    assert all(trial.seed == SEED and trial.val_fraction > 0 for trial in drawn)
    for trial in drawn:
        recalled = search.recall(trial)
        assert recalled is not None
        for parameter, (value, allowed) in recalled.items():
            has = getattr(trial, parameter)
            assert (format_value(has) if isinstance(has, tuple) else has) == value
            if allowed.kind == "categorical":
                assert value in allowed.choices
            else:
                assert allowed.low <= value <= allowed.high
        assert search.recall(TrialConfig.from_params(trial.to_params())) == recalled


def test_what_a_search_could_not_suggest_is_not_of_it() -> None:
    search = searching()
    trial = search.draw()[0]
    assert search.recall(trial) is not None
    for changes in ({"seed": 1}, {"epochs": 61}, {"lr": 0.9}, {"batch_size": 26}, {"momentum": 0.8}):
        assert search.recall(trial.replace(**changes)) is None, changes


def test_numbers_have_few_digits_and_stay_in_their_range() -> None:
    parameters = (
        Parameter("lr", loguniform(0.0012345, 0.0012346)),
        Parameter("weight_decay", uniform(1e-5, 1.0)),
        Parameter("feature_dim", integers(3, 8)),
    )
    config = Search(name="s", fixed=FIXED, parameters=parameters).config("ce", fixed)
    assert 0.0012345 <= config.lr <= 0.0012346
    assert config.weight_decay == 0.333
    assert config.feature_dim == 8


def test_a_field_that_is_set_is_not_asked_for() -> None:
    search = searching("--set", "lr=0.5", "--set", "augmentations=hflip+rrc", "--set", "epochs=3")
    for trial in search.draw():
        assert (trial.lr, trial.augmentations, trial.epochs) == (0.5, ("rrc", "hflip"), 3)
        recalled = search.recall(trial)
        assert recalled is not None
        assert not {"lr", "augmentations", "views"} & recalled.keys()
        assert "crop_scale_min" in recalled  # the set subset decides what else is asked for


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("learning_rate", "has parameter 'learning_rate'; allowed: fields of TrialConfig"),
        ("lrs", r"has parameter 'lrs' \(did you mean 'lr'\?\)"),
        ("seed", "has parameter 'seed'"),
        ("gamma", "gamma was suggested, but does not matter"),
    ],
)
def test_what_is_no_parameter_is_refused(asked: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Search(name="s", fixed=FIXED, parameters=(Parameter(asked, uniform(0.1, 1)),)).config("ce", fixed)


def test_finalists_have_seeds_that_the_search_never_saw() -> None:
    search = searching("--seeds", "2")
    configs = search.draw()[:2]
    finals = search.finals(configs)
    assert [trial.seed for trial in finals] == [1, 1, 2, 2]
    assert SEED not in {trial.seed for trial in finals}
    assert [trial.replace(seed=SEED) for trial in finals] == configs * 2


def test_options_of_a_search() -> None:
    search = searching(
        "--trials", "5", "--finalists", "3", "--objective", "val_acc,val_ece", "--only", "method=ce"
    )
    assert (search.trials, search.finalists, search.objectives) == (5, 3, ("val_acc", "val_ece"))
    assert search.methods == {"ce": {"method": "ce"}}
    assert searching().methods == {"ce": {"method": "ce"}, "siamese": {"method": "siamese"}}
    assert searching().seeds_per_configuration == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials: got 0; allowed: an integer >= 1"),
        (["--seeds", "0"], "--seeds: got 0"),
        (["--finalists", "-1"], "--finalists: got -1"),
        (
            ["--objective", "test_acc"],
            "--objective: got 'test_acc'.*allowed: val_acc, val_ece, train_seconds",
        ),
        (["--objective", "val_acc,val_acc"], "each name at most once"),
        (["--only", "arm=ce"], "--only: got 'arm=ce'; allowed with a search: method=ce,siamese"),
        (["--only", "method=cee"], r"no trial has 'cee' \(did you mean 'ce'\?\)"),
        (["--set", "seed=3"], "--set: a search has seed by itself"),
        (["--set", "method=ce"], "--set: a search has method by itself"),
        (["--seeds-per-configuration", "0"], "--seeds-per-configuration: got 0; allowed: an integer >= 1"),
        (
            ["--only", "method=ce", "--only", "method=siamese"],
            "--only: no method is left; allowed: method=ce,",
        ),
        (["--set", "lr=fast"], "--set: lr: got 'fast'; allowed: a number"),
        (["--set", "val_fraction=0"], "leaves a search no image to look at"),
    ],
)
def test_bad_options_are_one_clear_error(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        searching(*words)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("option", ["trials", "finalists", "seeds-per-configuration", "objective"])
def test_options_of_searches_are_refused_elsewhere(option: str) -> None:
    value = "val_acc" if option == "objective" else "3"
    with pytest.raises(ValueError, match=f"--{option}: got with 'quickstart'; allowed with a search: search"):
        selection_from(given("--space", "quickstart", f"--{option}", value))
