"""Arms as values: every text of one is made and read in one place."""

import re

import pytest

from trainables import arms
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
        *("siamese-0.10", "siamese-1e-3", "siamese-0.0", "barlow_twins-0.1", "vicreg-0.1"),
    ],
)
def test_what_is_no_arm(bad: str) -> None:
    message = f"arm: got {bad!r}; allowed: ce, siamese-0, siamese-0.001, …"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Arm.parse(bad)


def test_another_term_is_called_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "TERMS", {**arms.TERMS, "vicreg": "VICReg"})
    arm = Arm(0.1, "vicreg", ("views=asymmetric",))
    assert str(arm) == "vicreg-0.1 views=asymmetric"
    assert Arm.parse(str(arm)) == arm
    assert arm.title == "VICReg, γ = 0.1 (views=asymmetric)"
    assert arm.setting == "VICReg views=asymmetric"
    assert arm.fields == {"method": "siamese", "gamma": 0.1, "term": "vicreg"}
    with pytest.raises(ValueError, match=r"allowed: ce, siamese-0, siamese-0\.001, vicreg-0\.1, …$"):
        Arm.parse("simclr-1")


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
