"""Whether a file of your own stands alone: files beside it would not be on other machines."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = ("analysis", "search_spaces", "study", "trainables")


def why_not_alone(tree: ast.Module, folder: Path | None) -> tuple[int, str] | None:
    """The line of an import of a file beside this one, and what to say of it; None: there is none.

    Args:
        tree: the file.
        folder: where it lies; None: look at relative imports alone.
    """
    for line, name in _imported(tree):
        if not name or (folder is not None and _is_beside(name, folder)):
            what = f"{name!r}, which lies" if name else "something"
            return line, (
                f"imports {what} beside this file and would be missing on other machines; allowed: one file"
                " that has all it needs, and installed packages"
            )
    return None


def _imported(tree: ast.Module) -> Iterable[tuple[int, str]]:
    """Line and top-level package of each import, wherever it is; an empty name: relative to this file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "" if node.level else (node.module or "").partition(".")[0]


def _is_beside(name: str, folder: Path) -> bool:
    if name in PROJECT or name in sys.stdlib_module_names:
        return False
    module, package = folder / f"{name}.py", folder / name
    if not (module.is_file() or any(package.glob("*.py"))):
        return False
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution(name)
        return False  # a package in development may lie here and be installed all the same
    spec = importlib.util.find_spec(name)
    found = spec.origin if spec else None
    return found is None or Path(found).resolve() in (module.resolve(), (package / "__init__.py").resolve())
