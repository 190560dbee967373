"""Each library installs alone, from its wheel, in a clean environment, and its README runs there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from markdown_blocks import blocks

ROOT = Path(__file__).parents[2]
LIBRARIES = ("igpo-sampling", "igpo-rl", "igpo-data")
UV = str(Path(sys.executable).with_name("uv"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(*words: str | Path, **options: object) -> str:
    """Run a program and return what it prints; where it fails, the test fails with all of that."""
    find_links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or ""
    inherited = {name: text for name, text in os.environ.items() if name not in {"UV_LINK_MODE", "PYTHONPATH"}}
    ended = subprocess.run(
        list(map(str, words)), env=inherited | {"UV_FIND_LINKS": find_links}, text=True, capture_output=True, **options
    )
    assert ended.returncode == 0, f"{words}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def install(folder: Path, *wheels: Path) -> Path:
    """A new environment that holds the wheels and what they need, and nothing else; returns its python."""
    command(UV, "venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    torch = ["torch==2.13.0"] if os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") else []
    wanted = [*wheels, *(torch if any("torch" in needs(wheel) for wheel in wheels) else [])]
    command(UV, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "constraints.txt", *wanted)
    command(UV, "pip", "check", "--python", python)
    return python


def needs(wheel: Path) -> set[str]:
    """Names of the distributions that a wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return set(re.findall(r"^Requires-Dist: ([\w.-]+)", archive.read(metadata).decode(), re.MULTILINE))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The four wheels, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    command(UV, "build", "--quiet", "--wheel", "--all-packages", "--out-dir", folder, cwd=ROOT)
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in folder.glob("*.whl")}


def test_wheels_carry_licence_types_and_no_tests(wheels: dict[str, Path]) -> None:
    assert set(wheels) == {*LIBRARIES, "igpo-cli"}
    for distribution, wheel in wheels.items():
        module = distribution.replace("-", "_")
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        assert f"{module}/py.typed" in names
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        assert {name.split("/")[0] for name in names} == {module, names[-1].split("/")[0]}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_alone_runs_its_readme(library: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    python = install(tmp_path / "venv", wheels[library])
    readme = blocks(ROOT / "packages" / library / "README.md")
    example = "\n".join(block.text for block in readme if block.language == "python" and "sketch" not in block.words)
    assert example, "a README shows how to use its library"
    (tmp_path / "example.py").write_text(example)
    command(python, "-I", tmp_path / "example.py", cwd=tmp_path)
    listed = command(UV, "pip", "list", "--python", python)
    assert re.findall(r"^igpo-\w+", listed, re.MULTILINE) == [library]


def test_the_command_runs_from_the_four_wheels(wheels: dict[str, Path], tmp_path: Path) -> None:
    python = install(tmp_path / "venv", *wheels.values())
    igpo = python.with_name("igpo")
    assert "train" in command(igpo, "--help", cwd=tmp_path)
    assert command(igpo, "plugins", "--json", cwd=tmp_path).lstrip().startswith("[")
