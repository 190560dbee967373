from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from a_distribution import install, sampler

from igpo_cli.errors import UsageError
from igpo_cli.main import run
from igpo_cli.plugins import KINDS, Catalogue


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path, like site-packages; what it holds is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "200")
    names = ("acme_plugin", "umbra_plugin", "mine")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield folder
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_the_built_ins_come_through_the_entry_points() -> None:
    rows = {(row.kind, row.name): row for row in Catalogue.installed().rows}
    assert {kind for kind, _ in rows} == set(KINDS)
    llada = rows["sampler", "llada"]
    assert (llada.distribution, llada.version) == ("igpo-sampling", "0.1.0")
    assert {row.status for row in rows.values()} == {"ok"}


def test_every_plug_in_loads_and_every_default_exists() -> None:
    catalogue = Catalogue.installed()
    for row in catalogue.rows:
        cls = catalogue.load(row.kind, row.name)
        assert callable(cls)
        assert catalogue.name_of(row.kind, cls) == row.name
    for kind in KINDS.values():
        assert kind.default is None or kind.default in catalogue.names(kind.name)


def test_listing_and_help_of_plugins_import_nothing_heavy() -> None:
    for argv in (["plugins"], ["plugins", "--json"], ["plugins", "show", "sampler", "llada"], ["plugins", "--help"]):
        code = f"import sys; from igpo_cli.main import run; assert run({argv!r}) == 0; print('torch.nn' in sys.modules)"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ended.stdout.splitlines()[-1] == "False"


def test_json_is_a_list_of_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "injection", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"injection"}
    assert {"name", "distribution", "version", "target", "status", "description"} < set(rows[0])
    assert all(row["description"] for row in rows)


def test_a_third_party_is_listed_shown_and_chosen(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "acme", sampler("bold"))
    assert run(["plugins", "sampler"]) == 0
    assert re.search(r"bold +Commits everything at once. +acme 1.0", capsys.readouterr().out)
    assert run(["plugins", "show", "sampler", "bold", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["description"] == "Commits everything at once."
    assert shown["options"][1] == {
        "name": "gamma",
        "type": "FLOAT",
        "default": "0.5",
        "bounds": "> 0, <= 1",
        "help": "How bold it is [in brackets].",
    }
    assert run(["plugins", "show", "sampler", "bold"]) == 0
    assert "How bold it is [in brackets]." in capsys.readouterr().out
    assert run(["config", "check", "--sampler", "bold", "--sampler.gamma", "0.25"]) == 0
    assert "sampler bold" in capsys.readouterr().out


def test_a_name_claimed_twice_names_both_and_is_settled_by_the_distribution(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme", sampler("llada"))
    assert run(["config", "check", "--sampler", "llada"]) == 2
    assert capsys.readouterr().err == (
        "error: two plug-ins provide sampler 'llada': igpo-sampling 0.1.0 and acme 1.0. "
        "Choose with --sampler acme:llada.\n"
    )
    assert run(["config", "show", "--sampler", "acme:llada", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["sampler"] == {
        "name": "acme:llada",
        "steps": 13,
        "gamma": 0.5,
    }
    assert run(["config", "show", "--sampler", "igpo-sampling:llada", "--json"]) == 0
    assert "block" in json.loads(capsys.readouterr().out)["values"]["sampler"]
    assert run(["plugins", "sampler"]) == 0
    assert capsys.readouterr().out.count("claimed twice") == 2


def test_a_plug_in_that_does_not_load_is_a_warning_and_a_row(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "acme", "import nowhere_to_be_found")
    assert run(["config", "check"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok:")
    assert err == (
        "warning: plug-in 'acme' did not load (ModuleNotFoundError: No module named 'nowhere_to_be_found') "
        "and is skipped. igpo doctor\n"
    )
    run(["plugins", "model", "--json"])
    row = json.loads(capsys.readouterr().out)[-1]
    assert (row["kind"], row["distribution"]) == ("", "acme")
    assert row["status"] == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


def test_a_hook_that_raises_takes_all_of_its_plug_in_away(site: Path) -> None:
    broken = "\n@hookimpl\ndef igpo_verifiers():\n    raise OSError('no table')\n"
    install(site, "acme", sampler("bold") + broken)
    catalogue = Catalogue.installed()
    assert [row.status for row in catalogue.rows if row.distribution == "acme"] == ["OSError: no table"]
    assert "bold" not in catalogue.names("sampler")


def test_a_misspelt_hook_is_reported(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "acme", sampler("bold", hook="igpo_smaplers"))
    assert run(["plugins"]) == 0
    assert capsys.readouterr().err == (
        "warning: plug-in 'acme' has an unknown hook 'igpo_smaplers'; did you mean 'igpo_samplers'?\n"
    )


def test_a_target_that_is_not_there_is_seen_without_importing_it(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "acme", sampler("bold").replace("acme_plugin:Bold", "acme_plugin:Bald"))
    run(["plugins", "sampler", "--json"])
    rows = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert rows["bold"] == "LookupError: no class Bald in acme_plugin.py"
    assert rows["llada"] == "ok"
    assert run(["config", "check", "--sampler", "bold"]) == 2
    assert "sampler 'bold' of acme 1.0 did not load (AttributeError" in capsys.readouterr().err


def test_third_parties_add_commands_but_take_none_away(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
import typer
from igpo_cli.hookspecs import hookimpl
from igpo_cli.commands import config_command

@hookimpl
def igpo_commands(app):
    @app.command()
    def hello(name: str) -> None:
        "Greet."
        print("hello", name)

    @config_command(app, "width")
    def width(config) -> None:
        "Show the width."
        print(config.run.width)

    @app.command("doctor")
    def mine() -> None:
        "Not the real one."
        print("stolen")
"""
    install(site, "acme", source)
    install(
        site, "umbra", "from igpo_cli.hookspecs import hookimpl\n@hookimpl\ndef igpo_commands(app): app.nothing()\n"
    )
    assert run(["hello", "you"]) == 0
    out, err = capsys.readouterr()
    assert out == "hello you\n"
    assert "the commands of plug-in 'umbra umbra_plugin' are skipped (AttributeError" in err
    assert run(["width", "--width", "31"]) == 0
    assert capsys.readouterr().out == "31\n"
    assert run(["doctor", "--help"]) == 0
    assert "Check versions" in capsys.readouterr().out


def test_a_single_file_is_enough(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(site)
    Path("mine.py").write_text(sampler("bold", module="mine"))
    Path("run.toml").write_text('preset = "tiny"\nplugins = ["./mine.py"]\nsampler.name = "bold"\n')
    assert run(["plugins", "sampler", "--plugin", "./mine.py"]) == 0
    assert re.search(r"bold +Commits everything at once. +mine", capsys.readouterr().out)
    for argv in (["--plugin", "./mine.py", "--sampler", "bold"], ["run.toml"], ["run.toml", "--plugin", "mine.py"]):
        assert run(["config", "show", *argv, "--json"]) == 0
        values = json.loads(capsys.readouterr().out)["values"]
        assert values["sampler"] == {"name": "bold", "steps": 13, "gamma": 0.5}
        assert Path(values["plugins"][0]) == Path("mine.py")


HOOK = "from igpo_sampling.hookspecs import hookimpl\n\n@hookimpl\ndef igpo_samplers():\n"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("class Mine: pass", "(TypeError: mine:Mine is no attrs class, whose fields are options: put @attrs.frozen above it)"),
        ("@frozen\nclass Mine:\n    at: Path = Path('x')", "[sampler] at holds a PosixPath, but options are text, numbers,"),
        ("@frozen\nclass Mine:\n    at: int", "[sampler] needs a value for 'at': set it there, or with --sampler.at"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_configured_says_why(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: str, problem: str
) -> None:
    monkeypatch.chdir(site)
    head = "from pathlib import Path\nfrom attrs import frozen\n"
    Path("mine.py").write_text(f"{head}{HOOK}    return {{'mine': 'mine:Mine'}}\n\n{body}\n")
    assert run(["config", "check", "--plugin", "mine.py", "--sampler", "mine"]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "source", "problem"),
    [
        ("mine.py", None, "there is no plug-in file 'mine.py'"),
        ("mine.py", "1 / 0", "plug-in file 'mine.py' did not load (ZeroDivisionError: division by zero)"),
        (
            "mine.py",
            "def igpo_samplers(): ...",
            "plug-in file 'mine.py' did not load (LookupError: it has no hooks: decorate one",
        ),
        (
            "mine.py",
            f"{HOOK}    return ['mine:Mine']",
            "plug-in file 'mine.py' did not load (TypeError: igpo_samplers() returned a list; it must be {name: ",
        ),
        (
            "mine.py",
            f"{HOOK}    return {{'mine': int}}",
            "plug-in file 'mine.py' did not load (TypeError: igpo_samplers() says 'mine': <class 'int'>; it must be a name",
        ),
        ("mine.txt", "", "plug-in file 'mine.txt' must have the name of a Python module, such as mine.py"),
        ("random.py", "", "plug-in file 'random.py' has the name of the module 'random'. Rename it."),
    ],
)
def test_a_file_that_was_asked_for_must_work(
    site: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str | None, problem: str
) -> None:
    monkeypatch.chdir(site)
    if source is not None:
        Path(name).write_text(source)
    with pytest.raises(UsageError) as caught:
        Catalogue.installed().add_file(name)
    assert str(caught.value).startswith(problem)
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["samplr"], "no kind of plug-in named 'samplr'. Did you mean 'sampler'? There are: model, sampler,"),
        (["show", "sampler"], "which plug-in? igpo plugins show KIND NAME"),
        (["show", "sampler", "lada"], "no sampler named 'lada'. Did you mean 'llada'?"),
        (["sampler", "llada"], "igpo plugins takes one kind and not 2"),
    ],
)
def test_wrong_words(argv: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", *argv]) == 2
    assert problem in capsys.readouterr().err
