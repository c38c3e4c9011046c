"""Arms, numbers and names as people read them."""

import math
import re
import statistics
from collections.abc import Collection, Sequence

from trainables.arms import Arm
from trainables.redact import plain

CLAIMED = "*"
"""Beside a difference whose adjusted interval excludes zero."""
NO_VALUE = "–"
UNBOUNDED = "unbounded"
MINUS = "−"
TIMES = "×"

_SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = str.maketrans(_SUPERSCRIPTS, "-0123456789")
_LATEX = {
    **{char: f"\\{char}" for char in "{}_%&#$"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    TIMES: r"$\times$",
    "γ": r"$\gamma$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "τ": r"$\tau$",
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


def after_colon(sentence: str) -> str:
    """The sentence in small letters where it begins with an ordinary word: names of terms keep their own."""
    ordinary = sentence.startswith(("Against ", "In ", "No ", "Nothing "))
    return sentence[0].lower() + sentence[1:] if ordinary else sentence


def arm_title(label: str) -> str:
    """`CE`, `γ = 0`, `γ = 10⁻³` for the label of an arm. Other names, like those of finalists, are titles."""
    try:
        return Arm.parse(label).title
    except ValueError:
        return label


def difference_title(arm: str, baseline: str | None) -> str:
    """`γ = 10⁻³ − CE` for the labels of an arm and its baseline; the arm's own title without one."""
    return f"{arm_title(arm)} {MINUS} {arm_title(baseline)}" if baseline else arm_title(arm)


def join_and(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def seeds_text(seeds: Sequence[object]) -> str:
    """`seed 2`, `seeds 2, 3`."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def number_of(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def span(counts: Collection[int]) -> str:
    """`3`, or the range of several numbers: `2–3`."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def over_seeds(counts: Collection[int]) -> str:
    """What `spread_text` shows: `mean ± standard deviation over n = 3–5`, or `values of n = 2`."""
    return f"{'mean ± standard deviation over' if max(counts) > 2 else 'values of'} n = {span(counts)}"


def left_out(why: str, seeds: Collection[int]) -> str:
    """The end of a caption: ` Left out, as …: seeds 2, 3.`; empty without seeds."""
    return f" Left out{why}: {seeds_text(sorted(seeds))}." if seeds else ""


def spread_text(values: Sequence[float], *, scale: float = 100.0, digits: int = 1) -> str:
    """Mean ± standard deviation over seeds, by default in per cent; for one or two seeds the values."""

    def shown(value: float) -> str:
        return f"{scale * value:.{digits}f}".replace("-", MINUS)

    if len(values) <= 2:
        return " / ".join(map(shown, values)) or NO_VALUE
    return f"{shown(statistics.fmean(values))} ± {shown(statistics.stdev(values))}"


def is_plain(name: str) -> bool:
    """Whether a file of this name stays in its folder."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None


def slug(text: str) -> str:
    """Text as part of the name of a file or a LaTeX label."""
    return re.sub("[^A-Za-z0-9.]+", "-", text).strip("-")


def format_points(value: float) -> str:
    """A difference of fractions in points, with its sign; `–` for NaN."""
    if math.isnan(value):
        return NO_VALUE
    text = f"{100 * value:+.1f}"
    return (text if float(text) else text.replace("-", "+")).replace("-", MINUS)


def interval(low: float, high: float) -> str:
    """`−1.0 to +2.0`, in points; `–` where there is none."""
    if math.isinf(low):
        return UNBOUNDED  # rules of several looks say nothing of so few seeds
    return NO_VALUE if math.isnan(low) else f"{format_points(low)} to {format_points(high)}"


def points_text(points: float) -> str:
    """`1 point`, `0.5 points`."""
    return f"{points:g} point{'' if points == 1 else 's'}"


def range_text(low: float, high: float) -> str:
    """`from −1.0 to +2.0 points`, or `of any size`."""
    return "of any size" if math.isinf(low) else f"from {interval(low, high)} points"


def p_value(value: float) -> str:
    """Three digits; never rounded to 0, nor across the level of 0.05."""
    if math.isnan(value):
        return NO_VALUE
    if value < 0.001:
        return "< 0.001"
    return f"{value:.4f}" if 0.0495 <= value < 0.0505 else f"{value:.3f}"


def latex(text: str) -> str:
    """Text as plain LaTeX sets it, with its special characters escaped."""
    whole = "".join(
        f"$^{{{part.translate(_LOWERED)}}}$" if i % 2 else "".join(_LATEX.get(char, char) for char in part)
        for i, part in enumerate(re.split(f"([{_SUPERSCRIPTS}]+)", plain(text)))
    )
    # LaTeX knows Latin letters beyond ASCII, but would stop at any other character.
    return "".join(char for char in whole if char < "\u0180")
