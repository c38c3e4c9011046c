"""What a search asks for, and what is recalled of it from a trial alone."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from search_spaces import (
    SEARCHES,
    SPACES,
    Parameter,
    Search,
    add_selection_arguments,
    choice,
    for_methods,
    integers,
    loguniform,
    search_from,
    searches,
    selection,
    selection_from,
    uniform,
    with_a_term,
    with_projector,
    with_two_views,
)
from search_spaces.search_design import SEED
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
        ("learning_rate", "has parameter 'learning_rate'.*; allowed: fields of TrialConfig"),
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
        (["--trials", "9" * 30], r"--trials: got 9{30}, which makes .* trials; allowed: at most 20,000"),
        (
            ["--trials", "5000", "--seeds-per-configuration", "3"],
            "-configuration: got 3, which makes 30,000 ",
        ),
        (["--finalists", "9" * 30], "--finalists: got 9{30}, which makes "),
        (["--seeds", "9" * 30], "--seeds: got '9{30}'; allowed: at most 1000"),
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


RIVALS = {
    "ce": {"method": "ce"},
    "control": {"method": "siamese", "gamma": 0.0},
    "barlow_twins": {"method": "siamese", "term": "barlow_twins"},
    "wide": {"method": "siamese", "embedding_dim": 512},
}


def rivals(**changes: Any) -> Search:
    """Methods that share their `method`; their weights are of other orders of magnitude."""
    about = {
        "name": "s",
        "fixed": {**FIXED, "augmentations": ("rrc", "solarize"), "hidden_dim": 64},
        "methods": RIVALS,
        "parameters": (
            Parameter("lr", loguniform(1e-3, 1.0)),
            Parameter("gamma", loguniform(1e-5, 1e-2), when=for_methods("barlow_twins")),
            Parameter("gamma", loguniform(1.0, 100.0), when=for_methods("wide", "control")),
            Parameter("lambd", loguniform(5e-4, 5e-2), when=with_a_term),
        ),
    }
    return Search(**{**about, **changes})


def test_methods_are_names_with_fixed_fields_and_ranges_of_their_own() -> None:
    search = rivals()
    drawn = {method: search.draw_of(method) for method in RIVALS}
    assert {trial.gamma for trial in drawn["control"]} == {0.0}  # fixed, hence not suggested
    assert all(1e-5 <= trial.gamma <= 1e-2 for trial in drawn["barlow_twins"] if trial.gamma is not None)
    assert all(1.0 <= trial.gamma <= 100.0 for trial in drawn["wide"] if trial.gamma is not None)
    assert {trial.embedding_dim for trial in drawn["wide"]} == {512}
    for method, trials in drawn.items():
        suggested = {"lr"} if method in ("ce", "control") else {"lr", "gamma", "lambd"}
        for trial in trials:
            assert search.method_of(trial) == method
            recalled = search.recall(trial)
            assert recalled is not None
            assert recalled.keys() == suggested
        ranges = {
            allowed.high for trial in trials if (r := search.recall(trial)) for _, allowed in r.values()
        }
        assert (1e-2 in ranges, 100.0 in ranges) == (method == "barlow_twins", method == "wide")


def test_a_trial_is_of_the_method_that_could_have_suggested_it() -> None:
    search = rivals()
    trial = search.draw_of("barlow_twins")[0]
    assert search.method_of(trial.replace(gamma=0.0)) == "control"
    assert search.method_of(trial.replace(method="ce")) == "ce"
    assert search.method_of(trial.replace(gamma=5.0)) is None  # a weight of `wide` with another width
    assert search.method_of(trial.replace(gamma=5.0, embedding_dim=512)) == "wide"
    # Fields that do not matter without a term are no part of a trial, and do not tell methods apart.
    fixed = {**RIVALS["control"], "embedding_dim": 512}
    assert rivals(methods={"control": fixed}).method_of(trial.replace(gamma=0.0)) == "control"


def test_methods_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SEARCHES", {"rivals": rivals})
    some = search_from(given("--space", "rivals", "--only", "method=control,barlow_twins"))
    assert some is not None
    assert some.methods == {name: RIVALS[name] for name in ("control", "barlow_twins")}
    with pytest.raises(ValueError, match=r"no trial has 'controls' \(did you mean 'control'\?\)"):
        search_from(given("--space", "rivals", "--only", "method=controls"))
    weight = ["--space", "rivals", "--set", "gamma=0.01"]
    with pytest.raises(ValueError, match="--set: gamma is fixed by the method 'control' of this search"):
        search_from(given(*weight))
    set_ = search_from(given(*weight, "--only", "method=barlow_twins"))
    assert set_ is not None
    assert {trial.gamma for trial in set_.draw()} == {0.01}


def test_the_weight_of_the_default_search_can_be_set_to_the_controls() -> None:
    assert {trial.gamma for trial in searching("--set", "gamma=0").draw()} == {0.0, None}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"a b": {"method": "ce"}}, "a search has a method named 'a b'; allowed: letters, digits, _ . -"),
        ({"a": {"gamma": 0.1}}, "method 'a' of a search fixes method=None; allowed: ce, siamese"),
        ({"a": {"method": "ce", "lrs": 1}}, r"method 'a' of a search fixes 'lrs' \(did you mean 'lr'\?\)"),
        ({"a": {"method": "ce", "seed": 1}}, "method 'a' of a search fixes 'seed'"),
        (
            {"a": {"method": "ce"}, "b": {"method": "ce"}},
            "methods 'a' and 'b' of a search fix the same fields",
        ),
    ],
)
def test_methods_that_are_none_are_refused(methods: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rivals(methods=methods)


def test_two_ranges_of_one_field_at_once_are_refused() -> None:
    twice = (Parameter("lr", loguniform(1e-3, 1.0)), Parameter("lr", loguniform(1e-5, 1e-3)))
    with pytest.raises(
        ValueError, match="search 's': two ranges of lr apply to ce: their `when` must exclude"
    ):
        rivals(parameters=twice).draw()


@pytest.mark.parametrize("name", ["cifar", "widths"])
def test_searches_in_the_documentation_can_be_typed(name: str) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs/search.md").read_text()
    (code,) = [part for part in text.split("```python\n")[1:] if part.startswith(f"def {name}(")]
    known = dict(vars(searches))
    exec(code.partition("```")[0], known)  # noqa: S102  # what the documentation says
    search = known[name]()
    for method in search.methods:
        assert {search.method_of(trial) for trial in search.draw_of(method)} == {method}


def test_fields_of_the_projector_are_those_of_terms_that_have_one() -> None:
    methods = {name: {"method": "siamese", "term": name} for name in ("vicreg", "kl")}
    methods |= {"control": {"method": "siamese", "gamma": 0.0}, "fixmatch": {"method": "fixmatch"}}
    weight = Parameter("gamma", loguniform(1e-3, 1.0), when=with_two_views)
    width = Parameter("embedding_dim", choice(32, 64), when=with_projector)
    search = rivals(methods=methods, parameters=(weight, width))
    suggested = {name: set(search.recall(search.draw_of(name)[0]) or ()) for name in methods}
    both, one = {"gamma", "embedding_dim"}, {"gamma"}
    assert suggested == {"vicreg": both, "kl": one, "control": set(), "fixmatch": one}
