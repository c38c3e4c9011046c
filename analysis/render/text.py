"""How metrics, arms and numbers are called where people read them."""

import math
import re
import statistics
from collections.abc import Collection, Sequence

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

DIAGNOSTICS = {
    "test_acc_bnrecal": ("Test, batch-norm re-estimated", "%"),
    "knn_acc": ("kNN on h", "%"),
    "test_ce": ("Test cross-entropy", ""),
    "test_ece": ("Calibration error (ECE)", "%"),
    "val_ece": ("Validation calibration error (ECE)", "%"),
    "view_agreement": ("View agreement", "%"),
    "view_cosine": ("View cosine", ""),
    "effective_rank": ("Effective rank of h", ""),
    "z_effective_rank": ("Effective rank of z", ""),
    "silhouette": ("Silhouette of h", ""),
    "train_seconds": ("Training time", "s"),
    "evaluate_seconds": ("Evaluation time", "s"),
}
"""Other final metrics: name, and the unit in which people read them."""

CLAIMED = "*"
"""Beside a difference whose adjusted interval leaves out zero."""
NO_VALUE = "–"
MINUS = "−"
TIMES = "×"

_SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_RAISED = str.maketrans("-0123456789", _SUPERSCRIPTS)
_LOWERED = str.maketrans(_SUPERSCRIPTS, "-0123456789")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    TIMES: r"$\times$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "√": r"$\surd$",
    "→": r"$\to$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "<": "$<$",
    ">": "$>$",
    MINUS: "$-$",
    NO_VALUE: "--",
    "—": "---",
    "…": r"\dots{}",
    "\u00a0": "~",
}


def arm_text(label: str) -> str:
    """`CE`, `γ = 0`, `γ = 10⁻³` for an arm's label; fields that follow the arm stand in parentheses."""
    arm, _, rest = label.partition(" ")
    text = "CE" if arm == "ce" else f"γ = {_number(arm.removeprefix('siamese-'))}"
    return f"{text} ({rest.replace(' ', ', ')})" if rest else text


def gamma_text(gamma: float) -> str:
    """`0`, `10⁻³`."""
    return _number(repr(gamma).removesuffix(".0"))


def difference_text(arm: str, baseline: str) -> str:
    """`γ = 10⁻³ − CE` for the labels of an arm and its baseline."""
    return f"{arm_text(arm)} {MINUS} {arm_text(baseline)}"


def joined(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def seeds_text(seeds: Sequence[object]) -> str:
    """`seed 2`, `seeds 2, 3`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def number_of(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def span(counts: Collection[int]) -> str:
    """`3`, or `2–3`: of several numbers the ends."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def spread_text(values: Sequence[float]) -> str:
    """What people read of values over seeds: mean ± standard deviation, of one or two the values."""
    if not len(values):
        return NO_VALUE
    if len(values) <= 2:
        return " / ".join(f"{100 * value:.1f}" for value in values)
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def is_plain(name: str) -> bool:
    """Whether a file's name stays in its folder: ours do."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


def slug(text: str) -> str:
    """Text for names of files and of LaTeX's labels."""
    return re.sub("[^A-Za-z0-9.]+", "-", text).strip("-")


def points(value: float, digits: int = 1) -> str:
    """A difference of fractions in points, with its sign; `–` for NaN."""
    if math.isnan(value):
        return NO_VALUE
    text = f"{100 * value:+.{digits}f}"
    return (text if float(text) else text.replace("-", "+")).replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """`−1.0 to +2.0`, in points; `–` where there is none."""
    return NO_VALUE if math.isnan(low) else f"{points(low)} to {points(high)}"


def p_value(value: float) -> str:
    """Three digits; never rounded to 0, nor across the level of 0.05."""
    if math.isnan(value):
        return NO_VALUE
    if value < 0.001:
        return "< 0.001"
    return f"{value:.4f}" if 0.0495 <= value < 0.0505 else f"{value:.3f}"


def latex(text: str) -> str:
    """Text as plain LaTeX sets it, with its special characters escaped."""
    raised = re.sub(f"[{_SUPERSCRIPTS}]+", lambda m: f"$^{{{m[0].translate(_LOWERED)}}}$\0", text)
    parts = re.split(r"(\$\^\{[-0-9]+\}\$\0)", raised)
    whole = "".join(
        part.removesuffix("\0") if part.endswith("\0") else "".join(_LATEX.get(char, char) for char in part)
        for part in parts
    )
    # LaTeX knows Latin letters beyond ASCII; it would stop at any other character.
    return "".join(char for char in whole if char < "\u0180")


def _number(text: str) -> str:
    """10**n where the number is one and not between 0.1 and 10, where the plain number reads better."""
    mantissa, _, exponent = f"{float(text):e}".partition("e")
    power = int(exponent)
    return f"10{str(power).translate(_RAISED)}" if float(mantissa) == 1 and abs(power) > 1 else text
