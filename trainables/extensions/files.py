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

from trainables.catalogue import AugmentationInfo, TermInfo, add_own, remove_own
from trainables.extensions import LISTS, TERM_INPUTS, Function, Mark, functions
from trainables.extensions.neighbours import PROJECT, why_not_alone
from trainables.extensions.signatures import inputs_of, required, why_no_name, why_not_callable
from trainables.extensions.source import bound, digest_of
from trainables.metrics import Metric, add_own_metric, remove_own_metric
from trainables.relevance import with_need
from trainables.setting import ALWAYS, nearest

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(f"{ROOT / package}/" for package in PROJECT)


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

    def item(self, kind: str, name: str) -> Item | None:
        """What it defines of that kind and name."""
        return next((item for item in self.items if (item.kind, item.name) == (kind, name)), None)

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

    def locate(self, error: BaseException, line: int | None = None) -> ExtensionError:
        """What to say of an error that calling this file's code raised: with its line, else `line`."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == self.name]
        # What this project says is whole; an error of Python or a library needs its type.
        ours = isinstance(error, ValueError) and frames and frames[-1].filename.startswith(OURS)
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        return self.error(lines[-1] if lines else line, message)

    def error(self, line: int | None, message: str) -> ExtensionError:
        """An error with this file and a line of it."""
        return _error(self.name, line, message)


_loaded: dict[str, OwnFile] = {}


def loaded() -> list[OwnFile]:
    """The files that this process has loaded, each in its last version."""
    return list(_loaded.values())


def file_of(kind: str, name: str) -> tuple[OwnFile, Item] | None:
    """The loaded file that defines something, and what it says of it."""
    found = ((file, file.item(kind, name)) for file in loaded())
    return next(((file, item) for file, item in found if item), None)


def load_file(path: Path) -> OwnFile:
    """Load a file; see `load_source`. It may import no file beside it, which other machines do not have."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise ExtensionError(f"{path} cannot be read: it is no regular file")
        source = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.py")]
        raise ExtensionError(f"{path}: no such file{nearest(path.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExtensionError(f"{path} cannot be read: {error}") from None
    return load_source(path.name, source, folder=path.parent)


def load_source(name: str, source: str, *, folder: Path | None = None) -> OwnFile:
    """Run a file and make what it defines known to this process; once for each version of it.

    What an earlier version of it defined is forgotten. After an error, that version is still known.

    Args:
        name: of the file.
        source: its text.
        folder: where it lies; None: it is checked already.

    Raises:
        ExtensionError: a syntax error, an exception, a name that exists already, or a function with
            parameters that what it is called with does not have.
    """
    if name in _loaded and _loaded[name].source == source:
        return _loaded[name]
    try:
        tree = ast.parse(source, filename=name)
        code = compile(tree, name, "exec")
    except SyntaxError as error:
        raise _error(name, error.lineno, error.msg) from None
    except ValueError as error:  # null bytes
        raise _error(name, None, str(error)) from None
    if alone := why_not_alone(tree, folder):
        raise _error(name, *alone)
    file = _run(name, source, code)
    found = [(_item(file, tree, mark, function), mark, function) for mark, function in _marked(file, tree)]
    for item, _, function in found:
        elsewhere = next(
            (other.name for other in loaded() if other.name != name and other.item(item.kind, item.name)),
            None,
        )
        if wrong := why_no_name(item.kind, item.name, elsewhere) or why_not_callable(item.kind, function):
            raise file.error(item.line, f"{item.kind} {item.name!r} {wrong}")
    _forget(name)
    for item, mark, function in found:
        _add(item, mark, function)
    _loaded[name] = dataclasses.replace(file, items=tuple(item for item, *_ in found))
    sys.modules[file.module.__name__] = file.module
    return _loaded[name]


def load_shipped(files: Iterable[Mapping[str, str]]) -> None:
    """Load what `OwnFile.shipped` has of files, and forget others: a worker may have served another study."""
    files = list(files)
    for name in {file.name for file in loaded()}.difference(file["name"] for file in files):
        _forget(name)
    for file in files:
        load_source(file["name"], file["source"])


def _error(name: str, line: int | None, message: str) -> ExtensionError:
    where = f"{name}:{line}" if line else name
    return ExtensionError(f"{where}: {message.splitlines()[0] if message else 'no reason given'}")


def _run(name: str, source: str, code: types.CodeType) -> OwnFile:
    """The file with what it defines by itself."""
    module = types.ModuleType(f"own_file_{Path(name).stem}")
    module.__file__ = name
    # So that tracebacks show lines of a file that may not be on this machine.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    file = OwnFile(name, source, module, ())
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    try:
        exec(code, module.__dict__)  # noqa: S102  # what the user asked for
    except (Exception, SystemExit) as error:
        raise file.locate(error) from error
    finally:
        del sys.modules[module.__name__]
        if before is not None:
            sys.modules[module.__name__] = before
    return file


def _forget(name: str) -> None:
    """Make what a file has added unknown again."""
    file = _loaded.pop(name, None)
    if file is None:
        return
    for item in file.items:
        del functions[item.kind, item.name]
        if item.kind == "metric":
            remove_own_metric(item.name)
        else:
            remove_own(item.kind, item.name)
    sys.modules.pop(file.module.__name__, None)


def _marked(file: OwnFile, tree: ast.Module) -> list[tuple[Mark, Function]]:
    """The functions that are decorated or listed, in the order of the file, each once."""
    values = vars(file.module)
    found: dict[int, tuple[Mark, Function]] = {}
    for value in values.values():
        mark = getattr(value, "__dict__", {}).get("study_mark")
        if isinstance(mark, Mark) and callable(value) and value.__module__ == file.module.__name__:
            found[id(value)] = mark, value
    for kind, name in LISTS.items():
        listed, line = values.get(name, ()), _line_of(tree, name)
        if isinstance(listed, types.MappingProxyType):  # the built-in ones, imported
            continue
        if not isinstance(listed, list | tuple):
            raise file.error(line, f"{name} is of type {type(listed).__name__}; allowed: a list of functions")
        for value in listed:
            if not hasattr(value, "__name__") or isinstance(value, type) or not callable(value):
                raise file.error(line, f"{name} has {value!r}; allowed: functions")
            mark, _ = found.setdefault(id(value), (Mark(kind), value))
            if mark.kind != kind:
                raise file.error(line, f"{name} has {value.__name__!r}; it is a {mark.kind} already")
    places = {id(value): place for place, value in reversed(list(enumerate(values.values())))}
    return sorted(found.values(), key=lambda pair: places.get(id(pair[1]), 0))


def _item(file: OwnFile, tree: ast.Module, mark: Mark, function: Function) -> Item:
    name = function.__name__
    line = _line_of(tree, name)
    if vars(file.module).get(name) is not function:
        raise file.error(line, f"{mark.kind} {name!r} is not a function at the top level of the file")
    options = f"p={float(mark.p)} numbers={mark.numbers}" if mark.kind == "augmentation" else ""
    return Item(mark.kind, name, digest_of(tree, name, options), line or 1)


def _line_of(tree: ast.Module, name: str) -> int | None:
    """The line where a file gives a name its meaning, the last one if there are several."""
    return next((node.lineno for node in reversed(tree.body) if name in bound(node)), None)


def _add(item: Item, mark: Mark, function: Function) -> None:
    """Make a checked item known."""
    title = mark.title or item.name.replace("_", " ")
    inputs = inputs_of(item.kind, function)
    functions[item.kind, item.name] = function
    if item.kind == "term":
        needs = {TERM_INPUTS[name] for name in inputs}
        if needs & {"predictions", "target_z"}:
            needs.add("z")
        add_own("term", item.name, TermInfo(title=title, needs=tuple(sorted(needs))), item.code)
    elif item.kind == "augmentation":
        about = AugmentationInfo(p=float(mark.p), numbers=mark.numbers if "u" in inputs else 0)
        add_own("augmentation", item.name, about, item.code)
    elif item.kind == "backbone":
        add_own("backbone", item.name, None, item.code)
    else:
        where = with_need("z", "projector") if "z" in inputs else ALWAYS
        add_own_metric(
            item.name, item.code, Metric(title=title, unit=mark.unit, better=mark.better, where=where)
        )


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
