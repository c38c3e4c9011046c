"""The source of a file of your own: which of its statements a function depends on, as a digest."""

import ast
import hashlib
import symtable
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, slots=True)
class _Statement:
    """A statement at the top level of a file.

    Attributes:
        text: as Python understands it, without docstrings and the decorators that mark a function.
        binds: the names that it gives a meaning to; `*`: nobody knows which.
        uses: the global names that it reads, anywhere within it.
    """

    node: ast.stmt
    text: str
    binds: set[str]
    uses: set[str]

    @property
    def imports(self) -> bool:
        return isinstance(self.node, ast.Import | ast.ImportFrom)


def digest_of(tree: ast.Module, name: str, options: str = "") -> str:
    """12 hex digits of SHA-256 over a definition and all in the file that it uses, however indirectly.

    Statements are compared as Python understands them: comments, docstrings, blank lines, quotes and the
    order of imports change nothing, and neither do statements that the definition does not use. What a name
    means elsewhere (in an installed package) is no part of it.

    Args:
        tree: the file.
        name: of a function or class at its top level.
        options: what else counts.
    """
    statements = _statements(tree)
    concerned = [one.binds | changes for one, changes in zip(statements, _changes(statements), strict=True)]
    wanted, included = {name, "*"}, set[int]()
    while more := {i for i, names in enumerate(concerned) if i not in included and names & wanted}:
        included |= more
        wanted = wanted.union(*(statements[i].uses for i in more))
    used = [statements[i] for i in sorted(included)]
    # The order of imports means nothing, and `import scipy.stats` after `import scipy` binds nothing new.
    imports = sorted({statement.text for statement in used if statement.imports})
    others = [statement.text for statement in used if not statement.imports]
    text = "\n".join([*imports, *others, options])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _statements(tree: ast.Module) -> list[_Statement]:
    """What runs when the file is loaded."""
    marks = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "trainables.extensions"
        for alias in node.names
    }
    found = []
    for node in _one_by_one(tree):
        if not _only_as_a_script(node):
            text = _plain(node, marks)
            binds, uses = _names(text)
            star = isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
            found.append(_Statement(node, text, {"*"} if star else binds, uses))
    return found


def _changes(statements: Sequence[_Statement]) -> list[set[str]]:
    """The names whose values each statement may change without binding them: `SCALES["a"] = 1`."""
    imported = {name for statement in statements if statement.imports for name in statement.binds}
    reached: dict[str, set[str]] = {}
    for statement in statements:
        if isinstance(statement.node, _DEFINITIONS):
            for name in statement.binds:
                reached.setdefault(name, set()).update(statement.uses - imported)
    return [_changed(statement.node, imported, reached) for statement in statements]


def _one_by_one(tree: ast.Module) -> Iterable[ast.stmt]:
    """The statements at the top level, each import of several names as several imports."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]  # what it binds
                yield ast.Import(names=[ast.alias(name, alias.asname)])
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                yield ast.ImportFrom(module=statement.module, names=[alias], level=statement.level)
        else:
            yield statement


def _only_as_a_script(node: ast.stmt) -> bool:
    """Whether it is what a file does when it is run by itself: a study only loads it."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" and not node.orelse


def _plain(statement: ast.stmt, marks: set[str]) -> str:
    """A statement as text, without docstrings and marks, whose options count by their values."""
    copy = ast.parse(ast.unparse(statement))
    for node in ast.walk(copy):
        if isinstance(node, _DEFINITIONS):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            node.decorator_list = [one for one in node.decorator_list if not _is_mark(one, marks)]
    return ast.unparse(copy)


def _is_mark(decorator: ast.expr, marks: set[str]) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id in marks


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning to."""
    return _names(ast.unparse(statement))[0]


def _names(text: str) -> tuple[set[str], set[str]]:
    """The names that a statement binds, and the global ones that it uses."""
    top = symtable.symtable(text, "statement", "exec")
    symbols = top.get_symbols()
    binds = {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
    uses = {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
    within = list(top.get_children())
    while within:
        scope = within.pop()
        uses |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global()}
        within += scope.get_children()
    return binds, uses


def _changed(node: ast.stmt, imported: set[str], reached: dict[str, set[str]]) -> set[str]:
    """Names whose values a statement may change without binding them.

    Args:
        node: a statement at the top level.
        imported: names that imports bind.
        reached: what functions and classes of the file use, by their names.
    """
    found: set[str] = set()
    for simple in _simple(node):
        if isinstance(simple, ast.Expr):
            if not isinstance(simple.value, ast.Constant):
                found |= _within_reach(_names(ast.unparse(simple))[1], reached)
            continue
        for part in ast.walk(simple):
            target = part.func if isinstance(part, ast.Call) else part
            stored = isinstance(getattr(part, "ctx", None), ast.Store | ast.Del)
            if isinstance(target, ast.Attribute | ast.Subscript):
                name = _base(target)
                if name and (stored or (isinstance(part, ast.Call) and name not in imported)):
                    found.add(name)
    return found


def _within_reach(names: set[str], reached: dict[str, set[str]]) -> set[str]:
    """The names, and what the functions among them use."""
    found: set[str] = set()
    new = set(names)
    while new:
        found |= new
        new = {name for one in new for name in reached.get(one, ())} - found
    return found


def _simple(node: ast.AST) -> Iterable[ast.stmt]:
    """The statements within loops, conditions and the like; nothing within functions and classes."""
    if isinstance(node, _DEFINITIONS):
        return
    bodies = (ast.stmt, ast.excepthandler, ast.match_case)
    inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, bodies)]
    for child in inner:
        yield from _simple(child)
    if not inner and isinstance(node, ast.stmt):
        yield node


def _base(node: ast.expr) -> str | None:
    """`a` of `a.b["c"].d`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None
