"""House rules that can be read off the files themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted((ROOT / "packages").iterdir())
SOURCES = sorted((ROOT / "packages").glob("*/src/**/*.py"))
LINES = 5

# Put together from parts, so that this file does not hold what it forbids.
MACHINE = re.compile(
    "|".join(
        [r"(?<![\w.~/*-])/(?:work|root|opt|home|Users)/\w", r"(?<![\w.~/*-])/tmp/\w"]
        + [re.escape(".".join(host)) for host in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
        + [re.escape(".".join(host)) for host in (("debian", "org"), ("127", "0", "0", "1:"))]
    )
)


def tracked() -> list[Path]:
    """Every file that git tracks or would track."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    ended = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip(f"not a git checkout: {ended.stderr.strip()}")
    return [ROOT / name for name in ended.stdout.split("\0") if name and (ROOT / name).is_file()]


def machine_words(text: str) -> list[str]:
    """Paths of one machine and hosts of registries that a text names."""
    return MACHINE.findall(text)


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    named = {}
    for path in tracked():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        if words := machine_words(text):
            named[str(path.relative_to(ROOT))] = words[:3]
    assert named == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see " + "/wor" + "k/main/x.py", True),
        ("'" + "/ho" + "me/ada/igpo'", True),
        ("index = https://" + "py" + "pi.org/simple", True),
        ("../shared/data and runs/work/x and ~/opt/x", False),
        ("a/b ratio, /proc/self/status, docs/home/x", False),
    ],
)
def test_machine_words_are_recognised(text: str, found: bool) -> None:
    assert bool(machine_words(text)) is found


def wordy(source: str) -> bool:
    """True for a module that does not say why it exists, or needs more than five lines for it."""
    docstring = ast.get_docstring(ast.parse(source))
    return docstring is None or len(docstring.splitlines()) > LINES


def test_modules_say_why_they_exist_in_five_lines_at_most() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES if path.name != "__about__.py"}
    assert [str(path.relative_to(ROOT)) for path, source in texts.items() if wordy(source)] == []
    assert wordy("import os\n")
    assert wordy('"""1\n2\n3\n4\n5\n6"""\n')


def test_no_module_is_named_after_nothing() -> None:
    assert [path for path in SOURCES if re.fullmatch(r"utils?|helpers?|common|misc", path.stem)] == []


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_carries_licence_types_and_its_version_in_the_changelog(package: Path) -> None:
    module = package / "src" / package.name.replace("-", "_")
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (module / "py.typed").exists()
    about = re.search(r'__version__ = "(.+)"', (module / "__about__.py").read_text())
    assert about
    assert re.search(rf"^## \[?{re.escape(about[1])}\b", (package / "CHANGELOG.md").read_text(), re.MULTILINE)
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_torch_has_no_upper_bound(package: Path) -> None:
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    assert [need for need in project["dependencies"] if re.match(r"torch\b.*(<|==|~=)", need)] == []
    assert not re.search(r"^torch\b", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
