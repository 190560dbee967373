"""A package declares what it imports and imports what it declares, and CONTRIBUTING.md says why each is there."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted((ROOT / "packages").iterdir())
BY_NAME = {"tensorboard", "wandb"}
"""Used without an import of ours: accelerate's trackers of these names need them."""


def declared(package: Path) -> set[str]:
    """Import names of a package's dependencies and extras; a distribution's name with _ for - in every case here."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
    return {re.split(r"[\[<>=!~ ;]", need)[0].replace("-", "_") for need in needs}


def imported(source: str) -> set[str]:
    """Top-level names of everything that a source imports, at whatever depth, or loads lazily by name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"later.load", "importlib.import_module"}:
            names |= {word.value for word in node.args[:1] if isinstance(word, ast.Constant)}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_imports_are_found_at_any_depth() -> None:
    source = "import os, rich.live\ndef f():\n    from numpy import array\ntorch = later.load('torch')\n"
    assert imported(source) == {"rich", "numpy", "torch"}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_declared_is_imported_and_imported_is_declared(package: Path) -> None:
    sources = [path.read_text(encoding="utf-8") for path in (package / "src").rglob("*.py")]
    used = set().union(*map(imported, sources)) - {package.name.replace("-", "_")}
    assert used == declared(package) - BY_NAME


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = {re.split(r"[\[<>=]", need)[0] for need in workspace["dependency-groups"]["dev"]}
    libraries = set().union(*map(declared, PACKAGES)) - {package.name.replace("-", "_") for package in PACKAGES}
    wanted = {name.replace("_", "-") for name in libraries} | tools
    assert [name for name in sorted(wanted) if f"| `{name}` |" not in reasons] == []
