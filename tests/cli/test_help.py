from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from igpo_cli.main import COMMANDS, build, run

CPU = "import resource; used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
HEAVY = ("torch.nn", "transformers", "datasets", "accelerate", "numpy", "sympy", "matplotlib")


def in_a_process(argv: list[str]) -> tuple[int, float, list[str]]:
    """Exit code, CPU seconds and heavy modules of `igpo ARGV` in a process of its own."""
    code = (
        f"import sys; from igpo_cli.main import run; code = run({argv!r}); {CPU}; "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, last = ended.stdout.splitlines()[-2:]
    modules, exit_code = last.rsplit(" ", 1)
    return int(exit_code), float(seconds), eval(modules)


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(argv) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["config", "show"], ["--version"]], ids=" ".join)
def test_no_heavy_import(argv: list[str]) -> None:
    exit_code, seconds, modules = in_a_process(argv)
    print(f"igpo {' '.join(argv)}: {seconds:.2f} s of CPU")
    assert exit_code == 0
    assert modules == []


@pytest.mark.parametrize("wrong", [["--group", "1"], ["--split", "trian"]], ids=" ".join)
def test_what_cannot_train_is_refused_before_anything_slow(wrong: list[str]) -> None:
    exit_code, seconds, modules = in_a_process(["train", *wrong])
    print(f"igpo train {' '.join(wrong)}: {seconds:.2f} s of CPU")
    assert (exit_code, modules) == (2, [])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Usage: igpo" in shown(capsys, name, "--help")


def test_without_arguments_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys)
    assert page == shown(capsys, "--help")
    for name in COMMANDS:
        assert re.search(rf"^│ {name} +\w", page, re.MULTILINE), name


@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for argv in (
        ["--help"],
        ["train", "--help"],
        ["train", "--preset", "paper-llada", "--help"],
        ["plugins"],
        ["doctor", "--help"],
    ):
        page = shown(capsys, *argv)
        assert max(map(len, page.splitlines())) <= columns
        assert "\x1b" not in page  # not a terminal
        assert not [line for line in page.splitlines() if line.rstrip("│ ").endswith("…")]  # nothing is cut off


def test_help_is_narrowed_to_the_chosen_plug_ins(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, "train", "--help")
    assert "--injection.low" in page
    assert "--model.layers" in page
    for words in (["--injection", "resample"], ["--injection=resample"], ["--injection.name", "resample"]):
        page = shown(capsys, "train", *words, "--help")
        assert "--injection " in page
        assert "--injection.low" not in page
    page = shown(capsys, "train", "--preset", "paper-llada", "--help")
    assert "--model.mask-id" in page
    assert "--model.layers" not in page
    assert "--eval.minerva.samples" in page


def test_help_reads_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text('preset = "tiny"\n[filter]\nname = "keep-all"\n[eval.mine]\nsamples = 3\n')
    page = shown(capsys, "train", "my.toml", "--help")
    assert "--filter.tau" not in page
    assert re.search(r"--eval\.mine\.samples +3 ", page)


def test_help_shows_values_bounds_and_choices(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    page = shown(capsys, "train", "--sampler.steps", "20", "--help")
    assert re.search(
        r"--sampler\.steps +20 +Denoising steps of the whole completion, shared by its blocks\. \[>= 1\]", page
    )
    assert re.search(r"--sampler +llada +Block by block, .* \[.*dream, entropy, ", page)
    assert re.search(r"--replace +0\.5 .*\[0 to 1\]", page)
    assert re.search(r"--dtype +float32 .*\[float32\|bfloat16\|float64\]", page)
    assert re.search(r"--advantage-std +off ", page)
    assert "--no-advantage-std" not in page
    assert "[sampler] llada" in page  # the brackets are no markup


def test_overrides_are_taken_though_help_does_not_list_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sft.optimizer" not in re.sub(r"Every table may .*", "", shown(capsys, "train", "--help"), flags=re.DOTALL)
    page = shown(capsys, "config", "show", "--sft.optimizer.lr", "0.5", "--eval.heldout.verifier", "exact")
    assert re.search(r"\[sft\.optimizer\]\nname = \"muon\" .*\nlr = 0\.5 +# flag", page)
    assert re.search(r"\[eval\.heldout\.verifier\]\nname = \"exact\" +# flag", page)


def test_switches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('preset = "tiny"\nadvantage_std = true\n')
    assert "advantage_std = true" in shown(capsys, "config", "show", "--advantage-std")
    assert "advantage_std = true" in shown(capsys, "config", "show", str(file))
    assert "advantage_std = false" in shown(capsys, "config", "show", "--no-advantage-std", str(file))
    page = shown(capsys, "train", str(file), "--help")
    assert re.search(r"--no-advantage-std +on ", page)


def on_a_terminal(argv: list[str], **variables: str) -> str:
    """What a command writes to a pseudo-terminal."""
    master, terminal = pty.openpty()
    code = f"from igpo_cli.main import run; run({argv!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=terminal,
        stdin=terminal,
        env={"TERM": "xterm-256color", "COLUMNS": "100", **variables},
    )
    os.close(terminal)
    page = b""
    with contextlib.suppress(OSError):  # what Linux says when the other end is closed
        while part := os.read(master, 65536):
            page += part
    os.close(master)
    assert process.wait() == 0
    return page.decode()


@pytest.mark.parametrize("argv", [["plugins", "model"], ["config", "show"], ["train", "--help"]], ids=" ".join)
def test_colours_are_for_terminals_that_want_them(argv: list[str]) -> None:
    colour = re.compile(r"\x1b\[(?:[0-9]+;)*[39][0-7](?:;[0-9]+)*m")
    page = on_a_terminal(argv)
    assert "\x1b[" in page
    if argv[0] == "train":
        assert colour.search(page)
    assert not colour.search(on_a_terminal(argv, NO_COLOR="1"))


def commands() -> dict[str, Any]:
    """Every command as Typer built it, by its words."""
    found = {}
    for name in COMMANDS:
        command = typer.main.get_command(build([name])).commands[name]  # type: ignore[attr-defined]
        found |= {f"{name} {word}": each for word, each in getattr(command, "commands", {"": command}).items()}
    return {words.strip(): command for words, command in found.items()}


def test_no_word_of_help_is_taken_for_markup() -> None:
    told = {
        words: [command.help, *(each.help or "" for each in command.params)] for words, command in commands().items()
    }
    assert len(told) > 20
    for words, texts in told.items():
        for text in texts:
            assert not re.findall(r"(?<!\\)\[(?!/?dim\])[^]]*\]", text), f"{words}: {text}"


@pytest.mark.parametrize("argv", [["push"], ["data", "check"], ["data"], ["train"], []], ids=" ".join)
def test_no_type_stands_behind_a_switch(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, *argv, "--help")
    assert re.search(r"--help +-h +Show", page)
    assert "bool" not in page


def test_help_shows_the_tables_that_a_command_uses(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, "data", "show", "--preset", "tiny", "--help")
    assert "--limit" in page
    assert "--task.seed" in page
    assert "--sampler" not in page
    page = shown(capsys, "merge", "--model", "llada", "--help")
    assert "--model.path" in page
    assert "--width" not in page
