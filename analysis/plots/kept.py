"""Arrays that trials kept as artifacts, and the names of the classes among them."""

import contextlib
import tokenize
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import font_manager

from analysis.trials import finished
from study.ledger.ledger import Ledger

VIEWS = "views.npz"
DAMAGED = (zipfile.BadZipFile, NotImplementedError, tokenize.TokenError, ValueError, EOFError, KeyError)
"""What zipfile and NumPy raise for a file with wrong bytes in it."""
LONGEST_NAME = 24
"""Characters of a class's name that are shown."""
_MARKUP = str.maketrans(dict.fromkeys("\\`<>[]!|*$", " "))
"""Signs that Markdown, or matplotlib, would take for more than a letter of a name."""


@contextlib.contextmanager
def kept_arrays(ledger: Ledger, run_id: str, name: str) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of an artifact; OSError if it is gone or damaged, or lacks an array that is asked for."""
    try:
        with ledger.artifacts.reading(run_id, name) as path, np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except DAMAGED as error:
        raise OSError(f"{name} of run {run_id} is damaged: {error}") from error
    finally:
        if name == VIEWS:  # earlier trials never had it: that is no reason to look for a lost file
            ledger.artifacts.unread.pop((run_id, name), None)


def class_names(trials: pd.DataFrame, ledger: Ledger) -> tuple[str, ...]:
    """Names of the classes of these trials' dataset, as they may be shown; empty where none is known.

    The newest trial is asked: the first ones may be older than the artifact that has the names.
    """
    done = finished(trials)
    if done.empty:
        return ()
    newest = str(done.sort_values("changed")["run_id"].iloc[-1])
    try:
        with kept_arrays(ledger, newest, VIEWS) as kept:
            names = [name.decode(errors="replace") for name in kept["classes"].tolist()]
    except (OSError, AttributeError):  # or an array that holds no bytes
        return ()
    return tuple(_shown(name, number) for number, name in enumerate(names))


def _shown(name: str, number: int) -> str:
    """A name that is plain text in every place, and not too long for any; the number if nothing is left."""
    printable = "".join(char if char.isprintable() else " " for char in unicodedata.normalize("NFC", name))
    text = " ".join(printable.translate(_MARKUP).split())
    return (text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…") or str(number)


def class_title(number: int, names: Sequence[str]) -> str:
    """The name of a class for tables: with its number where LaTeX might lack the letters of the name."""
    if number >= len(names):
        return str(number)
    name = names[number]
    return name if all(char < "\u0180" or char == "…" for char in name) else f"{number} ({name})"


def drawn_title(number: int, names: Sequence[str]) -> str:
    """The name of a class for figures; its number where it has none, or the font lacks its letters."""
    if number >= len(names):
        return str(number)
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    known = all(font.get_char_index(ord(char)) for char in names[number])
    return names[number] if known else str(number)
