"""What a trial is, and its identity."""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from typing import Any

import pytest

from trainables import trial
from trainables.setting import FIRST_RELEASE
from trainables.trial import ARM_FIELDS, DEFAULTS, FIELDS, SETTINGS, TrialConfig, format_value, parse_value

REQUIRED = {"dataset": "stl10", "backbone": "convnet", "augmentations": ("rrc", "solarize"), "seed": 0}

# Another valid value of every field. In a siamese trial with gamma > 0 and some augmentation each of them
# makes another trial. A new field needs an entry here.
OTHER = {
    "dataset": "folder:mine",
    "fold": "seed",
    "train_size": 200,
    "unlabeled_size": 100,
    "val_fraction": 0.1,
    "data_seed": 7,
    "backbone": "resnet18",
    "feature_dim": 512,
    "hidden_dim": 512,
    "embedding_dim": 64,
    "augmentations": ("hflip",),
    "crop_scale_min": 0.5,
    "hflip_p": 1.0,
    "grayscale_p": 0.5,
    "solarize_p": 0.5,
    "views": "asymmetric",
    "second_view": "clean",
    "method": "ce",
    "gamma": 0.001,
    "term": "vicreg",
    "mix_weight": 2.0,
    "vicreg_invariance": 10.0,
    "vicreg_variance": 10.0,
    "vicreg_covariance": 2.0,
    "whitening_size": 64,
    "ntxent_temperature": 0.2,
    "supcon_temperature": 0.2,
    "target_momentum": 0.9,
    "fixmatch_threshold": 0.8,
    "projector": "mlp_bn",
    "predictor_dim": 256,
    "lambd": 0.01,
    "center": False,
    "epochs": 2,
    "batch_size": 64,
    "lr": 0.02,
    "momentum": 0.5,
    "weight_decay": 5e-5,
    "lr_schedule": "cosine",
    "precision": "bf16",
    "seed": 1,
}
USED_WITH: dict[str, dict[str, Any]] = {
    "mix_weight": {"term": "mixed_barlow_twins"},
    "vicreg_invariance": {"term": "vicreg"},
    "vicreg_variance": {"term": "vicreg"},
    "vicreg_covariance": {"term": "vicreg"},
    "whitening_size": {"term": "wmse", "embedding_dim": 32},
    "ntxent_temperature": {"term": "ntxent"},
    "supcon_temperature": {"term": "supcon"},
    "target_momentum": {"term": "byol"},
    "predictor_dim": {"term": "simsiam"},
    "fixmatch_threshold": {"method": "fixmatch"},
    "hflip_p": {"augmentations": ("hflip", "solarize")},
}
"""With what a field matters that does not matter in every siamese trial with gamma > 0."""
FIELDS_OF_FILES = ("term_code", "code")
"""Fields that matter only where a file of your own is loaded: test_extensions.py has them."""
VARIED = [field for field in FIELDS if field not in FIELDS_OF_FILES]
FIRST = {field: value for field, value in OTHER.items() if SETTINGS[field].as_before is FIRST_RELEASE}
"""Those of the fields of the first release."""
GAMMAS = (0, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.1 + 0.2, 1, 10, 1e16, 1e22)


def siamese(**changes: Any) -> TrialConfig:
    return TrialConfig(**{**REQUIRED, "method": "siamese", "gamma": 0.01, **changes})


def ce(**changes: Any) -> TrialConfig:
    return TrialConfig(**{**REQUIRED, "method": "ce", **changes})


# A literal that has to change here means that every finished trial in every ledger becomes unknown: that
# is right only where training or evaluation got another meaning, and then PROTOCOL is raised.
@pytest.mark.parametrize(
    ("config", "key"),
    [
        (ce(dataset="digits"), "f6e2e4182c79d0f3"),
        (siamese(dataset="digits"), "3be0326f4a39fd0b"),
        (siamese(dataset="cifar10", gamma=0, augmentations=(), seed=3), "5c9f00d570baa30a"),
        (siamese(**{**FIRST, "augmentations": ("solarize",), "method": "siamese"}), "b0e5e89bcd4ea1bf"),
        (siamese(data_seed=0), "54d32e3484326379"),
        (
            siamese(fold="seed", second_view="clean", augmentations=("hflip",), hflip_p=1),
            "61ba1ac38650e087",
        ),
    ],
    ids=["ce", "siamese", "siamese-0", "no-default-left", "data-seed", "readings"],
)
def test_keys_never_change(config: TrialConfig, key: str) -> None:
    assert config.key == key


def test_key_is_the_same_in_another_process() -> None:
    params = siamese().to_params()
    code = f"from trainables.trial import TrialConfig; print(TrialConfig.from_params({params}).key)"
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True
        )
        assert done.stdout.strip() == siamese().key


@pytest.mark.parametrize("field", VARIED)
def test_every_field_that_matters_changes_the_key(field: str) -> None:
    used = USED_WITH.get(field, {})
    assert siamese(**used, **{field: OTHER[field]}).key != siamese(**used).key
    if used:  # it is left out of the key elsewhere
        assert siamese(**{field: OTHER[field]}) == siamese()


def test_protocol_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = siamese().key
    monkeypatch.setattr(trial, "PROTOCOL", trial.PROTOCOL + 1)
    assert siamese().key != before


def test_a_later_field_changes_no_key_while_it_has_its_old_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    before = siamese().key, siamese(precision="bf16").key
    later = dataclasses.replace(SETTINGS["precision"], as_before="fp32")
    monkeypatch.setattr(trial, "SETTINGS", {**SETTINGS, "precision": later})
    assert siamese().key != before[0]  # left out of the key, as if the field did not exist
    assert siamese(precision="bf16").key == before[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[
            (ce(), ce(**{field: OTHER[field]}))
            for field in (
                "gamma",
                "lambd",
                "center",
                "views",
                "second_view",
                "hidden_dim",
                "embedding_dim",
                "unlabeled_size",
                "term",
                "projector",
                "fixmatch_threshold",
            )
        ],
        *[
            (siamese(gamma=0), siamese(gamma=0, **{field: OTHER[field]}))
            for field in ("term", "lambd", "center", "projector", "hidden_dim", "embedding_dim")
        ],
        (siamese(term="kl"), siamese(term="kl", projector="mlp_bn", hidden_dim=8, embedding_dim=9)),
        (siamese(term="vicreg"), siamese(term="vicreg", lambd=0.1, center=False, predictor_dim=3)),
        (
            siamese(term="wmse", embedding_dim=32),
            siamese(term="wmse", embedding_dim=32, whitening_size=128),
        ),
        (siamese(method="fixmatch"), siamese(method="fixmatch", term="byol", views="asymmetric")),
        *[
            (siamese(augmentations=subset), siamese(augmentations=subset, views="asymmetric"))
            for subset in ((), ("rrc",), ("hflip",), ("rrc", "hflip"))
        ],
        (siamese(augmentations=()), siamese(augmentations=(), second_view="clean")),
        (ce(augmentations=("rrc",)), ce(augmentations=("rrc",), hflip_p=1)),
        (siamese(dataset="digits"), siamese(dataset="digits", data_seed=3)),  # all images: nothing to choose
        (siamese(gamma=1), siamese(gamma=1.0)),
        (siamese(gamma=0.0), siamese(gamma=-0.0)),
        (siamese(weight_decay=0), siamese(weight_decay=-0.0)),
        (siamese(augmentations=("rrc", "solarize")), siamese(augmentations=("solarize", "rrc"))),
        (siamese(augmentations=("rrc", "solarize")), siamese(augmentations="solarize+rrc")),
        (siamese(augmentations=()), siamese(augmentations="none")),
    ],
    ids=lambda config: config.name,
)
def test_equal_trials_have_equal_keys(one: TrialConfig, other: TrialConfig) -> None:
    assert one == other
    assert one.key == other.key


def test_normalised_fields_have_their_defaults() -> None:
    config = ce(**{field: OTHER[field] for field in ARM_FIELDS if field in OTHER and field != "method"})
    assert {field: getattr(config, field) for field in ARM_FIELDS if field != "method"} == {
        field: DEFAULTS[field] for field in ARM_FIELDS if field != "method"
    }
    assert config.gamma is None


@pytest.mark.parametrize("field", VARIED)
def test_params_round_trip(field: str) -> None:
    config = siamese(**USED_WITH.get(field, {}), **{field: OTHER[field]})
    params = config.to_params()
    assert list(params) == list(FIELDS)
    assert all(type(text) is str for text in params.values())
    assert TrialConfig.from_params({**params, "arm": config.arm}) == config


@pytest.mark.parametrize("field", VARIED)
def test_values_round_trip_as_text(field: str) -> None:
    for value in (OTHER[field], DEFAULTS.get(field, REQUIRED.get(field, "siamese"))):
        assert parse_value(field, format_value(value)) == value


def test_values_as_text() -> None:
    assert format_value(True) == "true"
    assert format_value(None) == "none"
    assert format_value(()) == "none"
    assert format_value(("rrc", "hflip")) == "rrc+hflip"
    assert parse_value("train_size", "none") is None
    assert parse_value("augmentations", "hflip+rrc") == ("rrc", "hflip")
    for number in (0.1 + 0.2, 1e-300, 1 / 3):
        assert parse_value("lr", format_value(number)) == number


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("gama", "1", "unknown field 'gama' (did you mean 'gamma'?); allowed: dataset, train_size, "),
        ("epochs", "1.5", "epochs: got '1.5'; allowed: an integer"),
        ("train_size", "all", "train_size: got 'all'; allowed: an integer or none"),
        ("epochs", "none", "epochs: got 'none'; allowed: an integer"),
        ("lr", "fast", "lr: got 'fast'; allowed: a number"),
        ("gamma", "", "gamma: got ''; allowed: a number or none"),
        ("center", "True", "center: got 'True'; allowed: true or false"),
        ("augmentations", "rrc+flip", "augmentations: got 'flip' (did you mean 'hflip'?); allowed: rrc, "),
    ],
)
def test_text_that_is_no_value_of_the_field(field: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_value(field, text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "dataset",
            "digit",
            "dataset: got 'digit' (did you mean 'digits'?); allowed: cifar10, stl10, digits, folder:NAME or"
            " folder:NAME@SIZE",
        ),
        *[
            ("dataset", bad, f"dataset: got {bad!r}; allowed: cifar10, ")
            for bad in (
                "folder:",
                "folder:..",
                "folder:a/b",
                "folder:/etc",
                "folder:.hidden",
                "folder:a@",
                "folder:a@0",
                "folder:a@b",
                "folder:a b",
            )
        ],
        ("backbone", "resnet-18", "backbone: got 'resnet-18' (did you mean 'resnet18'?); allowed: convnet, "),
        ("backbone", "os.path", "backbone: got 'os.path'; allowed: convnet, "),
        ("views", "both", "views: got 'both'; allowed: symmetric, asymmetric"),
        ("method", "siames", "method: got 'siames' (did you mean 'siamese'?); allowed: ce, siamese"),
        ("lr_schedule", "cos", "lr_schedule: got 'cos' (did you mean 'cosine'?); allowed: constant, cosine"),
        ("precision", "fp16", "precision: got 'fp16' (did you mean 'bf16'?); allowed: fp32, bf16"),
        ("gamma", None, "gamma: required by method 'siamese'; allowed: a number >= 0"),
        ("term", "barlow", "term: got 'barlow' (did you mean 'barlow_twins'?); allowed: barlow_twins, "),
        ("projector", "bn", "projector: got 'bn' (did you mean 'mlp_bn'?); allowed: mlp, mlp_bn"),
        ("target_momentum", 1.5, "target_momentum: got 1.5; allowed: >= 0.0 and <= 1.0"),
        ("ntxent_temperature", 0, "ntxent_temperature: got 0.0; allowed: > 0.0"),
        ("whitening_size", 1, "whitening_size: got 1; allowed: >= 2"),
        ("gamma", -0.01, "gamma: got -0.01; allowed: >= 0.0"),
        ("lambd", -1, "lambd: got -1.0; allowed: >= 0.0"),
        ("weight_decay", -1, "weight_decay: got -1.0; allowed: >= 0.0"),
        ("gamma", "0.01", "gamma: got '0.01'; allowed: a number or none"),
        ("gamma", float("nan"), "gamma: got nan; allowed: a number or none"),
        ("lr", float("inf"), "lr: got inf; allowed: a number"),
        ("lr", True, "lr: got True; allowed: a number"),
        ("lr", 0, "lr: got 0.0; allowed: > 0.0"),
        ("momentum", 1, "momentum: got 1.0; allowed: >= 0.0 and < 1.0"),
        ("val_fraction", 1, "val_fraction: got 1.0; allowed: >= 0.0 and < 1.0"),
        ("crop_scale_min", 0, "crop_scale_min: got 0.0; allowed: > 0.0 and <= 1.0"),
        ("grayscale_p", 1.1, "grayscale_p: got 1.1; allowed: >= 0.0 and <= 1.0"),
        ("solarize_p", -0.1, "solarize_p: got -0.1; allowed: >= 0.0 and <= 1.0"),
        ("feature_dim", 0, "feature_dim: got 0; allowed: >= 1"),
        ("hidden_dim", 0, "hidden_dim: got 0; allowed: >= 1"),
        ("embedding_dim", 0, "embedding_dim: got 0; allowed: >= 1"),
        ("epochs", 0, "epochs: got 0; allowed: >= 1"),
        ("epochs", 2.0, "epochs: got 2.0; allowed: an integer"),
        ("batch_size", 1, "batch_size: got 1; allowed: >= 2"),
        ("train_size", 1, "train_size: got 1; allowed: >= 2"),
        ("unlabeled_size", -1, "unlabeled_size: got -1; allowed: >= 0"),
        ("data_seed", -1, "data_seed: got -1; allowed: >= 0"),
        ("seed", -1, "seed: got -1; allowed: >= 0"),
        ("seed", None, "seed: got None; allowed: an integer"),
        ("center", 1, "center: got 1; allowed: true or false"),
        ("augmentations", None, "augmentations: got None; allowed: names"),
        ("augmentations", "rrc+rrc", "augmentations: got 'rrc+rrc'; each name at most once"),
        ("augmentations", ("crop",), "augmentations: got 'crop'; allowed: rrc, hflip, grayscale, solarize"),
        ("augmentations", ("rrc", 3), "augmentations: got ('rrc', 3); allowed: names"),
    ],
)
def test_bad_value_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        siamese(**{field: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method": "fixmatch", "augmentations": ("rrc",)},
            "augmentations: got 'rrc' with method 'fixmatch'; allowed: subsets with grayscale or solarize,",
        ),
        ({"term": "wmse"}, "embedding_dim: got 128; allowed for wmse: less than the 128 images that are"),
        (
            {"term": "wmse", "embedding_dim": 64, "whitening_size": 64},
            "embedding_dim: got 64; allowed for wmse: less than the 64 images",
        ),
        (
            {"term": "wmse", "embedding_dim": 8, "whitening_size": 50},
            "whitening_size: got 50; allowed: a divisor of batch_size, 128",
        ),
        (
            {"method": "unsupervised", "gamma": 0},
            "gamma: got 0.0 with method 'unsupervised'; allowed: a numb",
        ),
        ({"method": "unsupervised", "gamma": None}, "gamma: required by method 'unsupervised'; allowed: a n"),
        ({"method": "fixmatch", "gamma": None}, "gamma: required by method 'fixmatch'; allowed: a number"),
        *[
            (
                {"method": "unsupervised", "term": term},
                f"term: got {term!r}, which cannot be trained without labels; allowed with method"
                " 'unsupervised': barlow_twins, mixed_barlow_twins, vicreg, wmse, ntxent, simsiam, byol, mse",
            )
            for term in ("supcon", "kl")
        ],
    ],
)
def test_what_a_term_cannot_be_trained_with(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        siamese(**fields)


def test_arms() -> None:
    assert ce().arm == "ce"
    names = [siamese(gamma=gamma).arm for gamma in GAMMAS]
    assert names[:5] == ["siamese-0", "siamese-1e-05", "siamese-0.0001", "siamese-0.001", "siamese-0.01"]
    assert len(set(names)) == len(GAMMAS)
    assert [float(name.removeprefix("siamese-")) for name in names] == list(GAMMAS)


@pytest.mark.parametrize("field", VARIED)
def test_cell_is_what_arms_and_seeds_share(field: str) -> None:
    used = USED_WITH.get(field, {})
    same = siamese(**used, **{field: OTHER[field]}).cell == siamese(**used).cell
    assert same == (field == "seed" or field in ARM_FIELDS)


def test_name_for_people() -> None:
    assert siamese(seed=3).name == "stl10/convnet/rrc+solarize/siamese-0.01/s3"
    assert ce(augmentations=()).name == "stl10/convnet/none/ce/s0"


def test_imports_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import trainables.trial;"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "{'trainables'}"


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_a_dataset_without_unlabelled_images(dataset: str) -> None:
    with pytest.raises(ValueError, match=rf"^unlabeled_size: got 100; allowed: 0 for {dataset}$"):
        siamese(dataset=dataset, unlabeled_size=100)
    for having in ("stl10", "folder:mine", "folder:mine@64"):
        assert siamese(dataset=having, unlabeled_size=100).unlabeled_size == 100


def test_a_dataset_without_folds() -> None:
    for dataset in ("digits", "cifar10", "folder:mine"):
        message = f"fold: got '3'; allowed: none for {dataset}, which has no folds"
        with pytest.raises(ValueError, match=f"^{message}$"):
            siamese(dataset=dataset, fold="3")
    with pytest.raises(
        ValueError, match=r"^fold: got 'seeds' \(did you mean 'seed'\?\); allowed: none, seed, 0,"
    ):
        siamese(fold="seeds")


def test_any_name_of_a_network_may_be_one_of_torchvisions() -> None:
    assert siamese(backbone="efficientnet_b0").name == "stl10/efficientnet_b0/rrc+solarize/siamese-0.01/s0"


def test_replace_goes_on_from_what_was_given() -> None:
    """What did not matter, and was normalised away, matters again with another method or gamma."""
    given = {"lambd": 0.01, "center": False, "hidden_dim": 512, "embedding_dim": 64}
    meant = siamese(gamma=0.1, unlabeled_size=100, **given)
    for config in (ce(unlabeled_size=100, **given), siamese(gamma=0, unlabeled_size=100, **given)):
        assert config.replace(method="siamese", gamma=0.1) == meant
    assert meant.replace(method="ce", gamma=None).replace(method="siamese", gamma=0.1) == meant
    flat = siamese(augmentations=("rrc",), views="asymmetric")
    assert flat.replace(augmentations=("solarize",)) == siamese(
        augmentations=("solarize",), views="asymmetric"
    )
    with pytest.raises(ValueError, match=r"^epochs: got 0; allowed: >= 1$"):
        meant.replace(epochs=0)


def test_what_was_given_is_no_part_of_identity() -> None:
    one, other = ce(lambd=0.01), ce()
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)
    assert pickle.loads(pickle.dumps(one)).replace(method="siamese", gamma=1).lambd == 0.01  # noqa: S301


def test_what_is_tuned_is_no_part_of_identity_but_of_no_cell_either() -> None:
    slow, fast = (ce(lr=lr, tuned=("lr",)) for lr in (0.01, 0.1))
    assert (slow, slow.key, repr(slow.to_params())) == (ce(), ce().key, repr(ce().to_params()))
    assert slow.cell == fast.cell != ce().cell
    assert slow.replace(seed=3).tuned == ("lr",)
    assert ce(lr=0.1).name.endswith("/ce/s0")
    assert slow.name.endswith("/ce lr=0.01/s0")
    assert pickle.loads(pickle.dumps(fast)).cell == fast.cell  # noqa: S301
    # A value that somebody gives is not tuned for an arm.
    assert slow.replace(lr=0.1).cell == ce(lr=0.1).cell
    message = "tuned: got 'lrr' (did you mean 'lr'?); allowed: batch_size, lr, momentum, weight_decay,"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        ce(tuned=("lrr",))


def test_a_value_that_is_normalised_away_must_be_valid_all_the_same() -> None:
    for bad in ({"views": "nonsense"}, {"gamma": -3}, {"hidden_dim": 0}, {"lambd": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(bad))}: got "):
            ce(**bad)


def test_values_that_no_type_takes() -> None:
    with pytest.raises(ValueError, match=r"^lr: got 10*; allowed: a number$"):
        ce(lr=10**400)
    with pytest.raises(ValueError, match=r"^augmentations: got \(1,\); allowed: names$"):
        ce(augmentations=(1,))
