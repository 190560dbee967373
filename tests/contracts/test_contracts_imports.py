"""Who imports whom, and that nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("igpo_sampling", "igpo_rl", "igpo_data")
HEAVY = ("torch", "transformers", "accelerate", "datasets", "sympy", "math_verify", "reasoning_gym", "numpy", "pandas")


def targets(library: str) -> list[str]:
    """`module:Class` of every plug-in that the library provides."""
    module = importlib.import_module(f"{library}.plugin")
    hooks = [member for name, member in inspect.getmembers(module, inspect.isfunction) if name.startswith("igpo_")]
    return [target for hook in hooks for target in hook().values()]


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after the statement."""
    script = f"import sys; {statement}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(ast.literal_eval(ended.stdout.splitlines()[-1]))


def test_importing_a_heavy_package_is_noticed() -> None:
    assert "numpy" in loaded_by("import numpy")
    assert loaded_by("from igpo_rl import later; torch = later.load('torch')") == set()
    assert "torch" in loaded_by("from igpo_rl import later; torch = later.load('torch'); torch.arange(3)")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_and_its_plugins_import_nothing_heavy(library: str) -> None:
    modules = {target.partition(":")[0] for target in targets(library)}
    assert loaded_by(f"import {', '.join([library, *sorted(modules)])}") == set()


@pytest.mark.parametrize("library", LIBRARIES)
def test_plugins_exist_and_document_themselves(library: str) -> None:
    """One line on the class, which `igpo plugins` shows, and text under every option, which is its `--help`."""
    silent = []
    for target in targets(library):
        module, name = target.split(":")
        tree = ast.parse(inspect.getsource(importlib.import_module(module)))
        (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        if not ast.get_docstring(found):
            silent.append(target)
        for statement, after in zip(found.body, [*found.body[1:], None], strict=True):
            documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            option = isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation)
            if option and not documented:
                silent.append(f"{target}.{ast.unparse(statement.target)}")
    assert silent == []


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_import_contracts_hold() -> None:
    ended = lint_imports(ROOT)
    assert ended.returncode == 0, ended.stdout


def test_import_contracts_would_notice_a_sibling(tmp_path: Path) -> None:
    """The same contracts over a copy in which one library imports another."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for package in (ROOT / "packages").iterdir():
        shutil.copytree(package / "src", tmp_path, dirs_exist_ok=True)
    with (tmp_path / "igpo_rl" / "records.py").open("a") as source:
        source.write("\nimport igpo_data\n")
    ended = lint_imports(tmp_path)
    assert ended.returncode != 0
    assert "The three libraries never import each other BROKEN" in ended.stdout
