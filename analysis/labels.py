"""How metrics and arms are called where people read them."""

METRICS = {
    "train_aug_acc": "Train (augmented)",
    "train_acc": "Train (clean)",
    "val_acc": "Validation",
    "test_acc": "Test",
    "test_aug_acc": "Test (augmented)",
    "test_augcrop_acc": "Test (augmented and cropped)",
    "test_augfull_acc": "Test (all augmentations)",
}
"""Accuracies in the order of tables, with their names."""

NO_VALUE = "–"
MINUS = "−"

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def arm_text(label: str) -> str:
    """`CE`, `γ = 0`, `γ = 10⁻³` for an arm's label; fields that follow the arm stay."""
    arm, _, rest = label.partition(" ")
    text = "CE" if arm == "ce" else f"γ = {_number(arm.removeprefix('siamese-'))}"
    return f"{text}, {rest}" if rest else text


def arm_latex(label: str) -> str:
    """The same for LaTeX."""
    arm, _, rest = label.partition(" ")
    if arm == "ce":
        text = "CE"
    else:
        exponent = _power_of_ten(arm.removeprefix("siamese-"))
        number = arm.removeprefix("siamese-") if exponent is None else f"10^{{{exponent}}}"
        text = rf"$\gamma = {number}$"
    return f"{text}, {rest.replace('_', chr(92) + '_')}" if rest else text


def difference_text(arms: tuple[str, str]) -> str:
    """`γ = 10⁻³ − CE` for the labels of an arm and its baseline."""
    return f" {MINUS} ".join(map(arm_text, arms))


def difference_latex(arms: tuple[str, str]) -> str:
    """The same for LaTeX."""
    return " $-$ ".join(map(arm_latex, arms))


def _number(text: str) -> str:
    exponent = _power_of_ten(text)
    return text if exponent is None else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _power_of_ten(text: str) -> int | None:
    """n where the number is 10**n and not between 0.1 and 10, where the plain number reads better."""
    mantissa, _, exponent = f"{float(text):e}".partition("e")
    power = int(exponent)
    return power if float(mantissa) == 1 and abs(power) > 1 else None
