"""What is compared within a cell, as a value: an arm is parsed, printed, titled and ranked here alone.

As text an arm is `ce`, or its consistency term and the weight of it: `siamese-0`, `siamese-0.001` with Barlow
Twins, `vicreg-0.1`, `unsupervised-vicreg-0.1` without cross-entropies, `fixmatch-1`. A label adds the fields
that tell apart arms of one name within a cell: `siamese-0.001 views=asymmetric`. Standard library only.
"""

import math
import re
from dataclasses import dataclass

from trainables.catalogue import FIRST_TERM, TERMS
from trainables.setting import nearest

CE = "ce"
"""Cross-entropy on one view: the baseline of the thesis's claim."""
NAMED = f"term={FIRST_TERM}"
"""The option of arms of the first term that stand beside those of other terms: their title names it, too."""
CONTROL = "siamese-0"
"""Two views without a consistency term: the baseline of the effect of the term itself."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a comparison.

    Attributes:
        gamma: weight of the consistency term; None: one view, cross-entropy alone.
        term: one of `TERMS`; the first where gamma is None or 0, and with FixMatch.
        options: `field=value` of the fields that set it apart from arms of the same name.
        method: one of `METHODS`; with gamma None it is `ce`.
    """

    gamma: float | None = None
    term: str = FIRST_TERM
    options: tuple[str, ...] = ()
    method: str = "siamese"

    @classmethod
    def parse(cls, label: str) -> "Arm":
        """The arm of a label; the inverse of `str`.

        Raises:
            ValueError: no arm is called so.
        """
        name, *options = label.split(" ")
        if name == CE:
            return cls(options=tuple(options))
        head, _, rest = name.partition("-")
        method = head if head in ("unsupervised", "fixmatch") else "siamese"
        term, weight = head, rest
        if method == "unsupervised":
            term, _, weight = rest.partition("-")
        elif head in ("siamese", "fixmatch"):
            term = FIRST_TERM
        if term in TERMS and _is_weight(weight):
            arm = cls(float(weight), term, tuple(options), method)
            if arm.name == name:  # not siamese-0.10: one arm has one name
                return arm
        known = ("siamese", "unsupervised", "fixmatch", *TERMS)
        hint = "" if head in known else nearest(head, known)
        raise ValueError(
            f"arm: got {name!r}{hint}; allowed: ce, siamese-0, siamese-0.001, vicreg-0.1,"
            " unsupervised-vicreg-0.1, fixmatch-1, …"
        )

    def __str__(self) -> str:
        """The label."""
        return " ".join([self.name, *self.options])

    @property
    def name(self) -> str:
        """The label without its options."""
        if self.gamma is None:
            return CE
        kind = "siamese" if self.term == FIRST_TERM else self.term
        if self.method == "fixmatch":
            kind = self.method
        elif self.method == "unsupervised":
            kind = f"{self.method}-{self.term}"
        return f"{kind}-{repr(self.gamma).removesuffix('.0')}"

    @property
    def title(self) -> str:
        """What people read: `CE`, `γ = 0`, `γ = 10⁻³ (views=asymmetric)`."""
        if self.gamma is None:
            text = "CE"
        else:
            text = ", ".join(filter(None, [self._kind, f"γ = {weight_text(self.gamma)}"]))
        return f"{text} ({', '.join(self._told)})" if self._told else text

    @property
    def fields(self) -> dict[str, str | float]:
        """The fields of a trial that its name tells."""
        if self.gamma is None:
            return {"method": CE}
        return {"method": self.method, "gamma": self.gamma, "term": self.term}

    @property
    def has_control(self) -> bool:
        """Whether γ = 0 is what it would be without its term."""
        return self.gamma is not None and self.method == "siamese"

    @property
    def setting(self) -> str:
        """What arms that differ in γ alone have in common; empty for the first term without options."""
        return " ".join(filter(None, [self._kind, *self._told]))

    @property
    def rank(self) -> int:
        """Its place among arms: `ce` and its variants, the control, arms with a term."""
        return 0 if self.gamma is None else 1 + (self.gamma > 0)

    @property
    def _kind(self) -> str:
        """What is weighed by γ, for people; empty for two views with the first term."""
        if self.method == "fixmatch":
            return "FixMatch"
        if self.method == "unsupervised":
            return f"{TERMS[self.term].title} without labels"
        return "" if self.term == FIRST_TERM and NAMED not in self.options else TERMS[self.term].title

    @property
    def _told(self) -> tuple[str, ...]:
        """The options without the one that has the term named."""
        return tuple(option for option in self.options if option != NAMED)


def weight_text(gamma: float) -> str:
    """`0`, `10⁻³`: a power of ten where the number is one and not between 0.1 and 10, which read better."""
    text = repr(float(gamma)).removesuffix(".0")
    mantissa, _, exponent = f"{float(text):e}".partition("e")
    power = int(exponent)
    return f"10{str(power).translate(_RAISED)}" if float(mantissa) == 1 and abs(power) > 1 else text


def _is_weight(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e[+-]?\d+)?", text) is not None and math.isfinite(float(text))
