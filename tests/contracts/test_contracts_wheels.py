"""Each library installs alone, from its wheel, in a clean environment, and its README runs there; so does the tutorial."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import zipfile
from contextlib import suppress
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
    command(UV, "venv", "--quiet", "--seed", "--python", sys.executable, folder)  # with pip, as everybody has it
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


@pytest.fixture(scope="module")
def igpo(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed from its wheel; the libraries are found by name beside it."""
    return install(tmp_path_factory.mktemp("newcomer") / "venv", *wheels.values()).with_name("igpo")


def test_the_command_runs_from_the_four_wheels(igpo: Path, tmp_path: Path) -> None:
    assert "train" in command(igpo, "--help", cwd=tmp_path)
    assert command(igpo, "plugins", "--json", cwd=tmp_path).lstrip().startswith("[")


def on_a_terminal(script: str, folder: Path, path: Path) -> str:
    """What a person sees of commands that are typed into a terminal of 100 columns, without colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
    clean = {name: text for name, text in os.environ.items() if name not in {"PYTHONPATH", "NO_COLOR", "COLUMNS"}}
    running = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=clean | {"PATH": f"{path}{os.pathsep}{clean['PATH']}", "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # how Linux says that nobody is left at the other end
        while part := os.read(ours, 65536):
            said += part
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode("utf-8", "replace")).replace("\r", "")
    assert running.wait() == 0, f"{script}\n{text[-3000:]}"
    return text


def words(text: str) -> set[str]:
    """What stays the same from machine to machine; not `xxxx`, a curve where there are no colours."""
    return {word for word in re.findall(r"[A-Za-z]{3,}", text) if len(set(word)) > 1}


def test_the_tutorial_says_what_a_newcomer_sees(igpo: Path, tmp_path: Path) -> None:
    """All of its commands, as printed, in an empty directory, and each word of what it shows of their output."""
    said, shown = "", 0
    for block in blocks(ROOT / "docs" / "tutorial.md"):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif block.language == "console" and "installed" in block.words:
            said = on_a_terminal(block.commands, tmp_path, igpo.parent)
        elif block.language == "text":
            assert words(block.text) - words(said) == set(), f"line {block.line} of the tutorial; said: {said[-3000:]}"
            shown += 1
    assert shown >= 4
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"first", "plain", "mine"}


def test_a_first_plug_in_written_to_the_letter(igpo: Path, tmp_path: Path) -> None:
    """The page of a kind, every command of it: as one file, then as a package that is installed and tested."""
    said = [
        on_a_terminal(block.commands, tmp_path, igpo.parent)
        for block in blocks(ROOT / "docs" / "plugins" / "injection.md")
        if block.language == "console"
    ]
    assert len(said) == 3
    assert "3 passed" in said[2]
    assert "injection middle" in said[2].splitlines()[-1]
    assert "middle 0.1.0" in command(igpo, "plugins", "show", "injection", "middle", cwd=tmp_path)
    assert "--injection.share" in command(igpo, "train", "--help", "--injection", "middle", cwd=tmp_path)
    assert "--injection middle" in (tmp_path / "runs" / "tiny-1" / "report.html").read_text()


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_wheels_install_and_compile_on_newer_pythons(version: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    """Without what they need: torch has no build for these at every place."""
    python = tmp_path / "venv" / "bin" / "python"
    made = subprocess.run(
        [UV, "venv", "--quiet", "--offline", "--python", version, tmp_path / "venv"],
        env=os.environ | {"PYENV_VERSION": version},  # where it is installed by pyenv, its shim would only complain
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no Python {version} at hand: {made.stderr.strip().splitlines()[0]}")
    command(UV, "pip", "install", "--quiet", "--no-deps", "--python", python, *wheels.values())
    (folder,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    command(python, "-W", "error", "-m", "compileall", "-q", "-f", *folder.glob("igpo_*"))
    # As torch does; importlib's own lazy modules cannot be loaded so by these versions.
    (tmp_path / "deletes.py").write_text("import sys\n_one = 1\ndelattr(sys.modules[__name__], '_one')\ntwo = 2\n")
    script = (
        f"import sys; sys.path += [{str(folder / 'igpo_rl')!r}, '.']; import later; assert later.load('deletes').two"
    )
    command(python, "-P", "-c", script, cwd=tmp_path)
    assert len(list(folder.rglob("igpo_*/**/*.pyc"))) > 100
