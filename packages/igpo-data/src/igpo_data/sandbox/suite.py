"""Tests as a data set has them, made ready to be run apart from the program: which names are the program's?

Tests are trusted to be honest, never to be harmless: they run in a sandbox of their own.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterator

from attrs import frozen


@frozen
class Suite:
    """Source that raises where a program is wrong, and what it calls."""

    source: str
    calls: tuple[tuple[str, str], ...]
    """Names that the source uses but does not define, each with the expression that it stands for in the program."""


def prepare(tests: str, entry_point: str | None = None, prefix: str = "") -> Suite:
    """Asserts, or a `check(candidate)` that is called with `entry_point`; ValueError where nothing would be tested.

    What `prefix` defines beside the entry point (a helper, imports) is at hand in the tests, so that a program cannot
    replace it.
    """
    root = entry_point.partition(".")[0].partition("(")[0].strip() if entry_point else ""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"the tests are no Python: {error}") from error
    source = f"{_helpers(prefix, root)}\n{ast.unparse(tree)}"
    own, used = _names(source)
    if "check" in own and "check" not in _used_at_top(tree):
        source += "\ncheck(candidate)"
        used.add("candidate")
        if not entry_point:
            raise ValueError("the tests define check(candidate), but no entry_point says which function to give it")
    free = {name for name in used - own if not hasattr(builtins, name) or name == root}
    if not free:
        raise ValueError("the tests never call the program; set entry_point to the name of the function that they test")
    return Suite(
        source, tuple((name, entry_point if name == "candidate" and entry_point else name) for name in sorted(free))
    )


def _helpers(prefix: str, root: str) -> str:
    """The code before the completion, without the function that is tested."""
    for end in ("", "\n    pass\n"):  # A prompt that ends in a line "def f():" is no program yet.
        try:
            tree = ast.parse(prefix + end)
        except (SyntaxError, ValueError):
            continue
        tree.body = [node for node in tree.body if getattr(node, "name", None) != root]
        return ast.unparse(tree)
    return ""


def _names(source: str) -> tuple[set[str], set[str]]:
    """Names that a source defines at its top level, and global names that it uses anywhere."""
    own: set[str] = set()
    used: set[str] = set()
    for table in _scopes(symtable.symtable(source, "tests", "exec")):
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            if top and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                own.add(symbol.get_name())
            elif symbol.is_referenced() and (top or symbol.is_global()):
                used.add(symbol.get_name())
    return own, used


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _used_at_top(tree: ast.Module) -> set[str]:
    """Names that are used outside functions and classes."""
    statements = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.id for each in statements for node in ast.walk(each) if isinstance(node, ast.Name)}
