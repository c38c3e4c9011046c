"""Arms as values: every text of one is made and read in one place."""

import re

import pytest

from trainables.arms import CE, CONTROL, Arm, weight_text


@pytest.mark.parametrize(
    ("label", "arm", "title"),
    [
        ("ce", Arm(), "CE"),
        ("siamese-0", Arm(0.0), "γ = 0"),
        ("siamese-1e-05", Arm(1e-5), "γ = 10⁻⁵"),
        ("siamese-0.25", Arm(0.25), "γ = 0.25"),
        ("ce epochs=2000", Arm(options=("epochs=2000",)), "CE (epochs=2000)"),
        (
            "siamese-0.001 views=asymmetric lambd=0.01",
            Arm(0.001, options=("views=asymmetric", "lambd=0.01")),
            "γ = 10⁻³ (views=asymmetric, lambd=0.01)",
        ),
    ],
)
def test_labels_round_trip(label: str, arm: Arm, title: str) -> None:
    assert Arm.parse(label) == arm
    assert str(arm) == label
    assert arm.title == title


@pytest.mark.parametrize(
    "bad",
    [
        *("", "CE", "siamese", "siamese-", "siamese-x", "siamese-nan", "siamese-inf", "siamese--1"),
        *("siamese-0.10", "siamese-1e-3", "siamese-0.0", "barlow_twins-0.1", "simclr-0.1"),
        *("unsupervised-0.1", "unsupervised-x-1", "unsupervised-siamese-0.1", "fixmatch", "fixmatch-01"),
    ],
)
def test_what_is_no_arm(bad: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^arm: got '{re.escape(bad)}'.*; allowed: ce, siamese-0, siamese-0"
    ):
        Arm.parse(bad)


def test_a_misspelt_arm_gets_the_nearest_one() -> None:
    message = (
        "arm: got 'vicregg-0.1' (did you mean 'vicreg'?); allowed: ce, siamese-0, siamese-0.001, vicreg-0.1,"
        " unsupervised-vicreg-0.1, fixmatch-1, …"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Arm.parse("vicregg-0.1")


def test_another_term_is_called_by_its_own_name() -> None:
    arm = Arm(0.1, "vicreg", ("views=asymmetric",))
    assert str(arm) == "vicreg-0.1 views=asymmetric"
    assert Arm.parse(str(arm)) == arm
    assert arm.title == "VICReg, γ = 0.1 (views=asymmetric)"
    assert arm.setting == "VICReg views=asymmetric"
    assert arm.fields == {"method": "siamese", "gamma": 0.1, "term": "vicreg"}


def test_beside_other_terms_the_first_is_named_too() -> None:
    arm = Arm.parse("siamese-0.001 term=barlow_twins views=asymmetric")
    assert arm.title == "Barlow Twins, γ = 10⁻³ (views=asymmetric)"
    assert arm.setting == "Barlow Twins views=asymmetric"
    assert str(arm) == "siamese-0.001 term=barlow_twins views=asymmetric"


def test_methods_of_their_own_say_so() -> None:
    alone, fixmatch = Arm(0.1, "vicreg", method="unsupervised"), Arm(1.0, method="fixmatch")
    assert [str(alone), str(fixmatch)] == ["unsupervised-vicreg-0.1", "fixmatch-1"]
    assert [alone.title, fixmatch.title] == ["VICReg without labels, γ = 0.1", "FixMatch, γ = 1"]
    assert [alone.setting, fixmatch.setting] == ["VICReg without labels", "FixMatch"]
    for arm in (alone, fixmatch, Arm(0.01, method="unsupervised")):
        assert Arm.parse(str(arm)) == arm
        assert not arm.has_control
    assert Arm(0.1).has_control
    assert alone.fields == {"method": "unsupervised", "gamma": 0.1, "term": "vicreg"}


def test_baselines_rank_before_what_is_compared_with_them() -> None:
    assert [Arm.parse(label).rank for label in (CE, "ce epochs=2000", CONTROL, "siamese-0.01")] == [
        0,
        0,
        1,
        2,
    ]
    assert Arm().setting == Arm(0.1).setting == ""


@pytest.mark.parametrize(
    ("gamma", "text"), [(0, "0"), (1, "1"), (0.1, "0.1"), (10, "10"), (100, "10²"), (0.002, "0.002")]
)
def test_weights_are_powers_of_ten_where_these_read_better(gamma: float, text: str) -> None:
    assert weight_text(gamma) == text
