"""Values of fields and their text, by the type of the field. Standard library only."""

import contextlib
import math
import re
from typing import Any

from trainables.catalogue import AUGMENTATIONS
from trainables.setting import are_texts, ordered_subset

LARGEST = 2**63 - 1
"""Integer that tables of trials hold."""
FieldValue = str | int | float | bool | tuple[str, ...] | None


def format_value(value: FieldValue) -> str:
    """Text of a field's value, as in parameters, tables and on the command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "+".join(value) or "none"
    return "none" if value is None else str(value)


def parse(name: str, text: str, kind: type, optional: bool) -> Any:
    """The value that `text` stands for in a field of this type; ValueError where it does not fit."""
    if optional and text == "none":
        return None
    if kind is tuple:
        return ordered_subset(name, text, AUGMENTATIONS)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind is int and re.fullmatch(r"[+-]?\d+", text):
        with contextlib.suppress(ValueError):  # Python makes no number of more than 4,300 digits
            return int(text)
    if kind is float:
        with contextlib.suppress(ValueError):  # reported below, in the same words as for the other types
            return float(text)
    if kind is str:
        return text
    raise _type_error(name, text, kind, optional)


def in_type(name: str, value: object, kind: type, optional: bool) -> FieldValue:
    """`value` in the type of a field; ValueError where it does not fit."""
    if value is None and optional:
        return None
    if kind is tuple and are_texts(value):
        return ordered_subset(name, value, AUGMENTATIONS)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value) + 0.0  # -0.0 becomes 0.0
            if math.isfinite(number):
                return number
    elif kind in (int, bool, str) and type(value) is kind:
        if type(value) is int and abs(value) > LARGEST:
            raise ValueError(f"{name}: got {value}; allowed: an integer of at most {LARGEST}")
        return value
    raise _type_error(name, value, kind, optional)


def _type_error(name: str, value: object, kind: type, optional: bool) -> ValueError:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text", tuple: "names"}
    return ValueError(f"{name}: got {value!r}; allowed: {words[kind]}{' or none' if optional else ''}")
