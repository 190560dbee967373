"""What `igpo new` writes works before anything is changed, for every kind of plug-in."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from igpo_cli.config import resolve
from igpo_cli.main import run
from igpo_cli.plugins import KINDS, Catalogue


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; modules that are imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith(("new_", "one_")):
            del sys.modules[name]


def installed(package: Path, site: Path) -> Path:
    """What an editable installation does: metadata with the entry points into `site`, and the folder for sys.path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {target}\n" for name, target in project["entry-points"]["igpo"].items())
    (info / "entry_points.txt").write_text(f"[igpo]\n{points}")
    return package / "src"


def test_packages_of_all_kinds_pass_their_own_checks_and_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [folder / "site"]
    for kind in KINDS:
        assert run(["new", f"new-{kind}", "--kind", kind]) == 0
        paths.append(installed(folder / f"new-{kind}", folder / "site"))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "."],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout
    assert f"{3 * len(KINDS)} passed" in ended.stdout

    for path in paths:
        monkeypatch.syspath_prepend(path)
    catalogue = Catalogue.installed()
    assert catalogue.warnings == []
    for kind in KINDS:
        row = catalogue.find(kind, f"new-{kind}")
        assert (row.distribution, row.target) == (f"new-{kind}", f"new_{kind}.{kind}:New{kind.capitalize()}")
        assert resolve("tiny", None, {kind: f"new-{kind}"}, catalogue).values[kind]["name"] == f"new-{kind}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_is_a_plug_in_with_options(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", f"one-{kind}", "--kind", kind, "--file"]) == 0
    assert [path.name for path in folder.iterdir()] == [f"one_{kind}.py"]
    catalogue = Catalogue.installed()
    catalogue.add_file(f"one_{kind}.py")
    config = resolve("tiny", None, {kind: f"one-{kind}"}, catalogue)
    assert type(config.plugin(kind)) is catalogue.load(kind, f"one-{kind}")
    capsys.readouterr()
    assert run(["plugins", "show", kind, f"one-{kind}", "--plugin", f"one_{kind}.py"]) == 0
    option = next(name for name in config.values[kind] if name != "name")
    assert option in capsys.readouterr().out


def test_options_of_a_new_plug_in_stand_in_help(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["new", "one-more", "--kind", "injection", "--file"])
    assert run(["train", "--help", "--plugin", "one_more.py", "--injection", "one-more"]) == 0
    shown = capsys.readouterr().out
    assert "--injection.share" in shown
    assert "Share of the chunks that is shown." in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        ("My-Idea", "loss", "small letters"),
        ("my_idea", "loss", "small letters"),
        ("../idea", "loss", "small letters"),
        ("class", "loss", "small letters"),
        ("llada", "sampler", "a sampler named 'llada' already (igpo-sampling 0.1.0)"),
        ("torch", "loss", "hide the module 'torch'"),
        ("idea", "losses", "Did you mean 'loss'?"),
    ],
)
def test_a_name_that_would_not_work_is_refused(
    name: str, kind: str, fault: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["new", name, "--kind", kind]) == 2
    assert fault in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("flags", [[], ["--file"]])
def test_nothing_is_overwritten(flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = folder / ("one_idea.py" if flags else "one-idea")
    there.write_text("mine")
    assert run(["new", "one-idea", "--kind", "filter", *flags]) == 2
    assert f"{there.name} exists" in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert list(folder.iterdir()) == [there]


@pytest.mark.slow
def test_a_package_installs_with_pip(folder: Path) -> None:
    run(["new", "new-idea", "--kind", "injection"])
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in ours))

    def command(*words: str | Path) -> str:
        ended = subprocess.run([python, "-m", *words], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    command("pip", "install", "--editable", "new-idea")
    assert "3 passed" in command("pytest", "-q", "new-idea")
    assert "new-idea" in command("igpo_cli", "plugins", "injection")
    small = ["--sft.steps", "1", "--steps", "1", "--prompts", "2", "--group", "2", "--sampler.steps", "2"]
    small += ["--eval.heldout.limit", "2", "--eval.common.limit", "2", "--trackers", ""]
    command("igpo_cli", "train", "--injection", "new-idea", *small)
    command("igpo_cli", "report", "runs/tiny-1")
    assert "new-idea" in Path("runs/tiny-1/report.html").read_text()
