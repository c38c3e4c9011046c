"""Loads a file of your own: finds what it defines, and makes it known beside what is built in."""

import ast
import dataclasses
import hashlib
import inspect
import linecache
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.catalogue import AugmentationInfo, TermInfo, add_own
from trainables.extensions import (
    LISTS,
    METRIC_INPUTS,
    TERM_INPUTS,
    Function,
    Mark,
    augmentation,
    backbone,
    functions,
    metric,
    term,
)
from trainables.extensions.functions import inputs_of, required, why_no_name, why_not_callable
from trainables.extensions.source import digest_of
from trainables.metrics import Metric, add_own_metric
from trainables.relevance import with_need
from trainables.setting import ALWAYS

_MARKS: dict[str, Callable[..., Any]] = {
    "term": term,
    "augmentation": augmentation,
    "backbone": backbone,
    "metric": metric,
}


class ExtensionError(ValueError):
    """Something is wrong with a file of your own; the message names the file and, where known, the line."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a file defines: a term, an augmentation, a backbone or a metric.

    Attributes:
        code: digest of its code.
        line: where it is defined.
    """

    kind: str
    name: str
    code: str
    line: int


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of your own that is loaded.

    Attributes:
        name: without its folder.
        source: its text.
        module: what it defines, by name.
        items: what it adds to a study.
    """

    name: str
    source: str
    module: types.ModuleType
    items: tuple[Item, ...]

    def has(self, item: Item) -> bool:
        """Whether it defines something of the same kind and name."""
        return any((own.kind, own.name) == (item.kind, item.name) for own in self.items)

    @property
    def stem(self) -> str:
        """The name without `.py`."""
        return self.name.removesuffix(".py")

    @property
    def digest(self) -> str:
        """12 hex digits of SHA-256 of the whole text."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    @property
    def shipped(self) -> dict[str, str]:
        """What another process needs, to load the same."""
        return {"name": self.name, "source": self.source}

    def locate(self, error: BaseException) -> ExtensionError:
        """The error that code of this file raised, with its line."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == _shown(self.name)]
        return _error(self.name, lines[-1] if lines else None, f"{type(error).__name__}: {error}")


_loaded: dict[str, OwnFile] = {}


def loaded() -> list[OwnFile]:
    """The files that this process has loaded, each in its last version."""
    return list(_loaded.values())


def load_file(path: Path) -> OwnFile:
    """Load a file; see `load_source`."""
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ExtensionError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExtensionError(f"{path} cannot be read: {error}") from None
    return load_source(path.name, source)


def load_source(name: str, source: str) -> OwnFile:
    """Run a file and make what it defines known to this process; once for each version of it.

    Raises:
        ExtensionError: a syntax error, an exception, a name that exists already, or a function with
            parameters that what it is called with does not have.
    """
    if name in _loaded and _loaded[name].source == source:
        return _loaded[name]
    try:
        tree = ast.parse(source, filename=_shown(name))
    except SyntaxError as error:
        raise _error(name, error.lineno, error.msg) from None
    module = types.ModuleType(f"own_file_{Path(name).stem}")
    module.__file__ = _shown(name)
    # So that tracebacks show lines of a file that may not be on this machine.
    linecache.cache[_shown(name)] = (len(source), None, source.splitlines(keepends=True), _shown(name))
    sys.modules[module.__name__] = module  # where dataclasses look for it
    file = OwnFile(name, source, module, ())
    try:
        exec(compile(tree, _shown(name), "exec"), module.__dict__)  # noqa: S102  # what the user asked for
    except Exception as error:
        raise file.locate(error) from error
    found = [(_item(file, tree, mark.kind, function), mark, function) for mark, function in _marked(file)]
    for item, _, function in found:
        elsewhere = next((other.name for other in loaded() if other.name != name and other.has(item)), None)
        if wrong := why_no_name(item.kind, item.name, elsewhere) or why_not_callable(item.kind, function):
            raise _error(name, item.line, f"{item.kind} {item.name!r} {wrong}")
    for item, mark, function in found:
        _add(item, mark.options, function)
    file = dataclasses.replace(file, items=tuple(item for item, *_ in found))
    _loaded[name] = file
    return file


def load_shipped(files: Iterable[Mapping[str, str]]) -> None:
    """Load what `OwnFile.shipped` has of files."""
    for file in files:
        load_source(file["name"], file["source"])


def _shown(name: str) -> str:
    return name


def _error(name: str, line: int | None, message: str) -> ExtensionError:
    where = f"{name}:{line}" if line else name
    return ExtensionError(f"{where}: {message.splitlines()[0] if message else 'no reason given'}")


def _marked(file: OwnFile) -> list[tuple[Mark, Function]]:
    """The functions that are decorated or listed, in the order of the file, each once."""
    values = vars(file.module)
    found: dict[int, tuple[Mark, Function]] = {}
    for value in values.values():
        mark = getattr(value, "__dict__", {}).get("study_mark")
        if isinstance(mark, Mark) and callable(value) and value.__module__ == file.module.__name__:
            found[id(value)] = mark, value
    for kind, name in LISTS.items():
        listed = values.get(name, ())
        # Not what the file imported under that name: the built-in terms are called TERMS, too.
        if isinstance(listed, list | tuple) and all(inspect.isfunction(value) for value in listed):
            for value in listed:
                if id(value) not in found:
                    marked = _MARKS[kind](value)
                    found[id(value)] = marked.__dict__["study_mark"], value
    return sorted(found.values(), key=lambda pair: pair[1].__code__.co_firstlineno)


def _item(file: OwnFile, tree: ast.Module, kind: str, function: Function) -> Item:
    name = function.__name__
    definitions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    line = next((node.lineno for node in definitions), function.__code__.co_firstlineno)
    if vars(file.module).get(name) is not function:
        raise _error(file.name, line, f"{kind} {name!r} is not a function at the top level of the file")
    return Item(kind, name, digest_of(tree, name), line)


def _add(item: Item, options: Mapping[str, Any], function: Function) -> None:
    """Make a checked item known."""
    title = options.get("title") or item.name.replace("_", " ")
    functions[item.kind, item.name] = function
    if item.kind == "term":
        needs = {TERM_INPUTS[name] for name in inputs_of(function, TERM_INPUTS)}
        if needs & {"predictions", "target_z"}:
            needs.add("z")
        add_own("term", item.name, TermInfo(title=title, needs=tuple(sorted(needs))), item.code)
    elif item.kind == "augmentation":
        numbers = options["numbers"] if len(required(function)) == 2 else 0
        add_own("augmentation", item.name, AugmentationInfo(p=options["p"], numbers=numbers), item.code)
    elif item.kind == "backbone":
        add_own("backbone", item.name, None, item.code)
    else:
        where = with_need("z", "projector") if "z" in inputs_of(function, METRIC_INPUTS) else ALWAYS
        about = Metric(title=title, unit=options["unit"], better=options["better"], where=where)
        add_own_metric(item.name, item.code, about)


def space_functions(file: OwnFile) -> dict[str, Callable[[], Any]]:
    """What may be spaces in a file: its functions without required parameters that are nothing else."""
    items = {item.name for item in file.items}
    return {
        name: value
        for name, value in vars(file.module).items()
        if inspect.isfunction(value)
        and value.__module__ == file.module.__name__
        and not name.startswith("_")
        and name not in items
        and not required(value)
    }
