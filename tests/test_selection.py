"""Which trials a space and the command line mean."""

import argparse
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from search_spaces import SPACES, add_selection_arguments, select, selection, selection_from, spaces, tags
from search_spaces.families import families
from search_spaces.names import arm_labels
from search_spaces.spaces import RIVALS
from trainables.arms import CE, CONTROL, Arm
from trainables.catalogue import TERMS
from trainables.trial import FIELDS, TrialConfig, format_value

Pairs = list[tuple[str, int]]

ARMS = ["ce", "siamese-0", "siamese-0.001", "siamese-0.01"]


def arms_and_seeds(trials: Iterable[TrialConfig]) -> Pairs:
    return [(trial.arm, trial.seed) for trial in trials]


@pytest.fixture(scope="module", autouse=True)
def _spaces_made_once() -> Iterator[None]:
    """Making the 1,600 trials of `ablations` takes a sixth of a second; nobody changes what a space gives."""
    with pytest.MonkeyPatch.context() as patch:
        for name, space in list(spaces._spaces.items()):
            patch.setitem(spaces._spaces, name, functools.cache(space))
        yield


def test_quickstart_is_four_arms_by_three_seeds_of_one_cell() -> None:
    trials = select("quickstart").trials
    assert arms_and_seeds(trials) == [(arm, seed) for seed in range(3) for arm in ARMS]
    assert len({trial.cell for trial in trials}) == 1


SET = {
    "dataset": "folder:mine@48",
    "fold": "seed",
    "train_size": "200",
    "unlabeled_size": "100",
    "val_fraction": "0.2",
    "data_seed": "7",
    "backbone": "resnet34",
    "feature_dim": "512",
    "hidden_dim": "512",
    "embedding_dim": "64",
    "augmentations": "hflip+solarize",
    "crop_scale_min": "0.5",
    "hflip_p": "1.0",
    "grayscale_p": "0.5",
    "solarize_p": "0.5",
    "views": "symmetric",
    "second_view": "clean",
    "method": "siamese",
    "gamma": "0.5",
    "term": "vicreg",
    "mix_weight": "2.0",
    "vicreg_invariance": "5.0",
    "vicreg_variance": "5.0",
    "vicreg_covariance": "2.0",
    "whitening_size": "64",
    "ntxent_temperature": "0.1",
    "supcon_temperature": "0.2",
    "target_momentum": "0.9",
    "fixmatch_threshold": "0.8",
    "projector": "mlp_bn",
    "predictor_dim": "256",
    "lambd": "0.1",
    "center": "false",
    "epochs": "2",
    "batch_size": "64",
    "lr": "0.2",
    "momentum": "0.5",
    "weight_decay": "0.5",
    "lr_schedule": "cosine",
    "precision": "fp32",
    "seed": "17",
}
"""A value to set for every field; a new field needs an entry here."""
SET_WITH = {
    "mix_weight": ["term=mixed_barlow_twins"],
    "vicreg_invariance": ["term=vicreg"],
    "vicreg_variance": ["term=vicreg"],
    "vicreg_covariance": ["term=vicreg"],
    "whitening_size": ["term=wmse", "embedding_dim=32"],
    "ntxent_temperature": ["term=ntxent"],
    "supcon_temperature": ["term=supcon"],
    "target_momentum": ["term=byol"],
    "predictor_dim": ["term=simsiam"],
    "fixmatch_threshold": ["method=fixmatch", "augmentations=solarize"],
}
"""What is set, too, where a field does not matter otherwise."""

PUBLISHED = ["ce", "siamese-0.0001", "siamese-0.001", "siamese-0.01"]


def test_thesis_is_ten_cells_by_five_arms_by_five_seeds() -> None:
    trials = select("thesis").trials
    assert len(trials) == 250
    assert len({trial.cell for trial in trials}) == 10
    for cell in {trial.cell for trial in trials}:
        members = [trial for trial in trials if trial.cell == cell]
        assert {(t.arm, t.seed) for t in members} == {
            (arm, seed) for arm in [*PUBLISHED, "siamese-0"] for seed in range(5)
        }
    for trial in trials:
        assert (trial.epochs, trial.precision, trial.val_fraction) == (1000, "bf16", 0)
        assert trial.batch_size == {"vgg16": 512, "resnet18": 128}[trial.backbone]
        assert (trial.lr, trial.momentum, trial.weight_decay) == (0.01, 0.9, 1e-4)
        siamese = trial.method == "siamese"
        assert trial.unlabeled_size == (5000 if siamese and trial.dataset == "stl10" else 0)
        colour = {"grayscale", "solarize"} & set(trial.augmentations)
        assert trial.views == ("asymmetric" if siamese and colour else "symmetric")


def test_every_thesis_trial_says_which_table_it_feeds() -> None:
    tables: dict[str, set[tuple[str, ...]]] = {}
    for trial in select("thesis").trials:
        cell = (trial.dataset, trial.backbone, format_value(trial.augmentations))
        labels = tags("thesis", trial)
        assert labels["space"] == "thesis"
        tables.setdefault(labels["thesis.table"], set()).add(cell)
    every = "rrc+hflip+grayscale+solarize"
    assert tables == {
        "4.1": {("cifar10", "vgg16", every)},
        "4.2": {("cifar10", "resnet18", every)},
        "4.3": {("stl10", "vgg16", every)},
        "4.4": {("stl10", "resnet18", every)},
        "4.5": {("cifar10", "resnet18", "rrc")},
        "4.6": {("cifar10", "resnet18", "hflip")},
        "4.7": {("cifar10", "resnet18", "grayscale")},
        "4.8": {("cifar10", "resnet18", "solarize")},
        "4.9": {("cifar10", "resnet18", "rrc+hflip")},
        "4.10": {("cifar10", "resnet18", "grayscale+solarize")},
    }
    assert tags("ablations", select("ablations").trials[0]) == {"space": "ablations"}
    # A trial that another space asked for first feeds its table all the same.
    shared = set(select("controls").trials) & set(select("thesis").trials)
    assert len(shared) == 100
    assert all(tags("controls", t) == {**tags("thesis", t), "space": "controls"} for t in shared)
    fast = next(trial for trial in select("controls").trials if trial.lr == 0.02)
    assert tags("controls", fast) == {"space": "controls"}
    short = select("thesis", assign=["epochs=2"], seeds=7).trials[-1]
    assert "thesis.table" in tags("thesis", short)
    assert "thesis.table" in tags("thesis", select("thesis", seeds=7).trials[-1])
    other = select("thesis", only=["dataset=cifar10"], assign=["dataset=folder:mine"]).trials[0]
    assert tags("thesis", other) == {"space": "thesis"}  # not the thesis's images


def test_readings_change_one_thing_of_the_thesis_at_a_time() -> None:
    trials, thesis = select("readings").trials, set(select("thesis").trials)
    cells: dict[tuple[object, ...], list[TrialConfig]] = {}
    for trial in trials:
        cells.setdefault((trial.dataset, trial.hflip_p, trial.fold), []).append(trial)
    assert {cell: len(members) for cell, members in cells.items()} == {
        ("cifar10", 0.5, "none"): 13 * 5,
        ("cifar10", 1.0, "none"): 5 * 5,
        ("stl10", 0.5, "seed"): 5 * 10,
    }
    assert len(thesis & set(trials)) == 25  # the reading of the thesis itself, trained once for both
    as_thesis = {"views": "asymmetric", "second_view": "augmented", "hflip_p": 0.5, "fold": "none"}
    for trial in trials:
        kept = {name: getattr(trial, name) for name in as_thesis if trial.uses(name)}
        changed = [name for name, value in kept.items() if value != as_thesis[name]]
        assert len(changed) <= 1
        if trial.seed < 5:
            assert trial.replace(**as_thesis) in thesis


def test_ablations_are_every_combination() -> None:
    trials = select("ablations").trials
    assert len(trials) == len({trial.key for trial in trials}) == 1600
    combinations = {
        (t.backbone, t.dataset, t.augmentations, t.arm, t.seed)
        for t in trials
        if t.views == "symmetric" and t.val_fraction == 0.1 and t.epochs == 1000
    }
    assert len(combinations) == 2 * 2 * 16 * 5 * 5
    unlabelled = {(t.dataset, t.method): t.unlabeled_size for t in trials}
    assert unlabelled == {
        ("cifar10", "ce"): 0,
        ("cifar10", "siamese"): 0,
        ("stl10", "ce"): 0,
        ("stl10", "siamese"): 5000,
    }


def test_matched_cells_without_unlabelled_images() -> None:
    trials = select("ablations", only=["dataset=stl10"], assign=["unlabeled_size=0"]).trials
    assert len(trials) == 800
    assert not any(trial.unlabeled_size for trial in trials)
    contrast = select("unlabelled").trials
    assert len(contrast) == 2 * (1 + 2 * 4) * 5
    every = {trial for trial in contrast if trial.unlabeled_size == 0}
    assert every < set(trials)  # trained once for both


def test_controls_hold_the_thesis_against_simpler_explanations() -> None:
    trials = set(select("controls").trials)
    thesis = set(select("thesis").trials)
    assert {trial.arm for trial in trials & thesis} == {"ce", "siamese-0"}
    new = [trial for trial in trials - thesis if trial.seed == 0]
    twice = [trial for trial in new if trial.epochs == 2000]
    fast = [trial for trial in new if trial.lr == 0.02]
    equal = [trial for trial in new if trial.method == "siamese"]
    assert len(new) == len(twice) + len(fast) + len(equal)
    assert len(twice) == len(fast) == 10
    assert all(trial.method == "ce" for trial in twice + fast)
    assert all(trial.weight_decay == 5e-5 for trial in fast)
    # Without grayscale and solarize the thesis's own two views are drawn alike.
    assert len(equal) == 7
    assert all(trial.gamma == 0 and trial.views == "symmetric" for trial in equal)


def test_set_goes_on_from_what_the_space_gave() -> None:
    """ce has no unlabelled images, but its space gave it some: with another method they come back."""
    only = ["dataset=stl10", "arm=ce", "augmentations=rrc"]
    trials = select("ablations", only=only, assign=["method=siamese", "gamma=0.1"]).trials
    assert {trial.unlabeled_size for trial in trials} == {5000}


@pytest.mark.parametrize("field", SET)
def test_only_and_set_work_on_every_field(field: str) -> None:
    assert {*SET} | {"code", "term_code"} == {*FIELDS}  # those two are found, not set
    ablations = select("ablations").trials
    values = [format_value(getattr(trial, field)) for trial in ablations]
    kept = [trial for trial, value in zip(ablations, values, strict=True) if value == values[-1]]
    assert list(select("ablations", only=[f"{field}={values[-1]}"]).trials) == kept
    changed = select(
        "ablations",
        only=["dataset=stl10", "arm=siamese-0.01"],
        assign=[*SET_WITH.get(field, ()), f"{field}={SET[field]}"],
    )
    using = [trial for trial in changed.trials if trial.uses(field)]
    assert {format_value(getattr(trial, field)) for trial in using} == {SET[field]}


# As the first release had them: another digest means that finished trials in every ledger become unknown.
KEYS = {
    "quickstart": (12, "0589cfd2c24c7e0e"),
    "thesis": (250, "2234e2f84bbf8538"),
    "controls": (235, "5407fbce13d0491f"),
    "readings": (140, "141063954107e1c4"),
    "ablations": (1600, "c7f201caf1d97d43"),
    "unlabelled": (90, "c779adfde1034889"),
    "rivals": (370, "f76651d89be24532"),
    "evidence": (105, "a2c150b61962bd92"),
    "evidence_tuning": (54, "56e42973be9fbdeb"),
}


@pytest.mark.parametrize("space", SPACES)
def test_keys_of_all_spaces_never_change(space: str) -> None:
    keys = sorted(trial.key for trial in SPACES[space]())
    assert (len(keys), hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]) == KEYS[space]


def test_rivals_are_arms_of_one_cell_with_one_control() -> None:
    for dataset, count in (("cifar10", 36), ("stl10", 38)):
        cell = [trial for trial in select("rivals").trials if (trial.dataset, trial.seed) == (dataset, 0)]
        assert len({trial.cell for trial in cell}) == 1
        assert len({trial.key for trial in cell}) == len(cell) == count
        assert sum(trial.arm == "siamese-0" for trial in cell) == 1
        assert {trial.term for trial in cell if trial.uses("term")} == {*RIVALS} == {*TERMS}
        labels = arm_labels(cell)
        assert len(set(labels.values())) == count
        assert all(Arm.parse(label).title for label in labels.values())
        compared = families({label: trial for trial, label in labels.items()})
        with_control = {label for trial, label in labels.items() if trial.method == "siamese" and trial.gamma}
        assert compared[CONTROL] == dict.fromkeys(with_control, "siamese-0")
        assert compared[CE] == {label: "ce" for label in labels.values() if label != "ce"}
        assert compared.get("fixmatch-0") == ({"fixmatch-1": "fixmatch-0"} if dataset == "stl10" else None)


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
        "3 arms became equal: siamese-0, siamese-0.001, siamese-0.01 (now siamese-0.1)",
        "no control is left: every arm with two views has γ > 0",
    )


def test_set_sweeps_every_combination_of_its_values() -> None:
    swept = select("quickstart", only=["arm=ce,siamese-0"], assign=["epochs=30,60", "lr=0.1,0.2,0.1"])
    found = {(t.arm, t.seed, t.epochs, t.lr) for t in swept.trials}
    arms = ("ce", "siamese-0")
    assert found == {(a, s, e, lr) for a in arms for s in range(3) for e in (30, 60) for lr in (0.1, 0.2)}
    assert len(swept.trials) == len(found)
    assert [trial.seed for trial in swept.trials] == sorted([*range(3)] * 8)
    assert swept.steps[-1] == "--set epochs=30,60 --set lr=0.1,0.2,0.1: 4 x 6 = 24"
    once = [select("quickstart", only=["arm=ce"], assign=[f"epochs={n}"]).trials for n in (30, 60)]
    both = select("quickstart", only=["arm=ce"], assign=["epochs=30,60"]).trials
    assert sorted(t.key for t in both) == sorted(t.key for trials in once for t in trials)


def test_of_several_assignments_of_a_field_the_last_counts() -> None:
    selected = select("quickstart", assign=["epochs=2,3", "lr=0.1", "epochs=5"])
    assert {(trial.epochs, trial.lr) for trial in selected.trials} == {(5, 0.1)}
    assert selected.steps[1:] == (
        "--set epochs=2,3: replaced by --set epochs=5",
        "--set epochs=5 --set lr=0.1: 12",
    )


@pytest.mark.parametrize(
    ("space", "assign", "lines"),
    [
        ("quickstart", ["epochs=2,3"], ["--set epochs=2,3: 2 x 12 = 24"]),
        (
            "quickstart",
            ["gamma=0,0.1"],
            [
                "--set gamma=0,0.1: 2 x 12, 9 of them distinct",
                "3 arms became equal: siamese-0, siamese-0.001, siamese-0.01 (now siamese-0, siamese-0.1)",
            ],
        ),
        (
            "quickstart",
            ["method=ce"],
            [
                "--set method=ce: 3",
                "4 arms became equal: ce, siamese-0, siamese-0.001, siamese-0.01 (now ce)",
            ],
        ),
        ("quickstart", ["seed=0"], ["--set seed=0: 4"]),  # seeds became equal, not arms
        (
            "unlabelled",
            ["unlabeled_size=0", "gamma=0"],
            [
                "--set unlabeled_size=0 --set gamma=0: 20",
                "8 arms became equal: siamese-0 unlabeled_size=0, siamese-0.0001 unlabeled_size=0,"
                " siamese-0.001 unlabeled_size=0, siamese-0.01 unlabeled_size=0,"
                " siamese-0 unlabeled_size=5000, siamese-0.0001 unlabeled_size=5000,"
                " siamese-0.001 unlabeled_size=5000, siamese-0.01 unlabeled_size=5000 (now siamese-0)",
            ],
        ),
    ],
)
def test_arms_that_set_makes_equal_are_told(space: str, assign: list[str], lines: list[str]) -> None:
    assert list(select(space, assign=assign).steps[1:]) == lines


def test_a_control_that_set_takes_away_is_told() -> None:
    steps = select("quickstart", only=["arm=ce,siamese-0"], assign=["gamma=0.1"]).steps
    assert steps[-1] == "no control is left: every arm with two views has γ > 0"


def test_several_spaces_are_their_union() -> None:
    thesis, controls = (select(name).trials for name in ("thesis", "controls"))
    both = select("thesis,controls")
    assert both.space == "thesis+controls"
    assert both.steps == ("space thesis: 250 trials", "space controls: 235 trials", "together: 385")
    assert len(both.trials) == 385
    assert set(both.trials) == {*thesis, *controls}
    assert all(both.space_of(trial) == "thesis" for trial in thesis)
    assert all(both.space_of(trial) == "controls" for trial in {*controls} - {*thesis})
    turned = select("controls,thesis")
    assert (turned.space, set(turned.trials)) == ("controls+thesis", set(both.trials))
    assert all(turned.space_of(trial) == "controls" for trial in controls)
    alone = select("thesis")
    assert {alone.space_of(trial) for trial in alone.trials} == {"thesis"}


def test_options_apply_to_the_union() -> None:
    options = {"only": ["dataset=cifar10", "arm=ce"], "assign": ["batch_size=64,128"], "seeds": 7}
    both = select("thesis,controls", **options)
    parts = {name: select(name, **options).trials for name in ("thesis", "controls")}
    assert set(both.trials) == {trial for part in parts.values() for trial in part}
    for trial in both.trials:
        assert both.space_of(trial) == ("thesis" if trial in parts["thesis"] else "controls")
    assert {trial.seed for trial in both.trials} == {*range(7)}
    assert [trial.seed for trial in both.trials] == sorted(trial.seed for trial in both.trials)


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
            "unknown space 'quikstart' (did you mean 'quickstart'?); allowed: quickstart, thesis, controls, ",
        ),
        (
            {"space": "ablations", "seeds": 1000},
            "--seeds: got 1000, which makes 320,000 trials; allowed: at most 20,000",
        ),
        (
            {"assign": [f"seed={','.join(map(str, range(100)))}", f"lr={','.join(map(str, range(1, 99)))}"]},
            "--set: got 9,800 combinations, which makes 117,600 trials; allowed: at most 20,000",
        ),
        (
            {"assign": [f"epochs={9**30}"]},
            "--set: epochs: got 42391158275216203514294433201; allowed: an integer of at most 922",
        ),
        ({"seeds": 0}, "--seeds: got 0; allowed: an integer >= 1, or"),
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
        ({"assign": ["epochs"]}, "--set: got 'epochs'; allowed: KEY=V[,V]"),
        ({"assign": ["augmentations="]}, "--set: got 'augmentations='; allowed: KEY=V[,V]"),
        ({"assign": ["epochs=3,"]}, "--set: epochs: got ''; allowed: an integer"),
        ({"assign": ["fold=none,0"]}, "--set: fold: got '0'; allowed: none for digits, which has no folds"),
        ({"space": "quickstart,"}, "unknown space ''; allowed: quickstart, thesis, "),
        ({"space": "quickstart,quickstart"}, "--space: got 'quickstart,quickstart'; each name at most once"),
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
