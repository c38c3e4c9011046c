"""The source of a file of your own: which of its statements a function depends on, as a digest."""

import ast
import hashlib
from collections.abc import Iterable

FOR_PEOPLE = ("title", "unit", "better")
"""Options of decorators that change no number."""
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def digest_of(tree: ast.Module, name: str) -> str:
    """12 hex digits of SHA-256 over a definition and all in the file that it uses, however indirectly.

    Statements are compared as Python understands them: comments, docstrings, blank lines and quotes change
    nothing, and neither do statements that the definition does not use. What a name means elsewhere (in an
    installed package) is no part of it.

    Args:
        tree: the file.
        name: of a function or class at its top level.
    """
    statements = [(set(_bound(statement)), _used(statement), statement) for statement in _one_by_one(tree)]
    wanted, included = {name}, set[int]()
    while True:
        more = {
            i
            for i, (bound, used, statement) in enumerate(statements)
            # A statement that binds no name may still change what one stands for: `SCALES.update(…)`.
            if i not in included and (bound & wanted or (not bound and used & wanted and _acts(statement)))
        }
        if not more:
            break
        included |= more
        wanted |= {name for i in more for name in statements[i][1]}
    text = "\n".join(_plain(statements[i][2]) for i in sorted(included))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _one_by_one(tree: ast.Module) -> Iterable[ast.stmt]:
    """The statements at the top level, each import of several names as several imports."""
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            yield from (ast.Import(names=[alias]) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                yield ast.ImportFrom(module=statement.module, names=[alias], level=statement.level)
        else:
            yield statement


def _bound(statement: ast.stmt) -> Iterable[str]:
    """Names that a statement at the top level binds, without those within functions and classes."""
    if isinstance(statement, _Definition):
        yield statement.name
        return
    if isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield (alias.asname or alias.name).partition(".")[0]
        return
    for node in ast.iter_child_nodes(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.stmt | ast.expr | ast.excepthandler | ast.withitem):
            yield from _bound(node)  # type: ignore[arg-type]  # whatever has children


def _used(statement: ast.stmt) -> set[str]:
    """Names that a statement reads, anywhere within it."""
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement may do something: all but docstrings and other constants."""
    return not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))


def _plain(statement: ast.stmt) -> str:
    """A statement as text, without docstrings and what decorators say for people alone."""
    copy = ast.parse(ast.unparse(statement))
    for node in ast.walk(copy):
        if isinstance(node, _Definition):
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
            for call in node.decorator_list:
                if isinstance(call, ast.Call):
                    call.keywords = [keyword for keyword in call.keywords if keyword.arg not in FOR_PEOPLE]
    return ast.unparse(copy)
