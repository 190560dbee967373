from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from a_distribution import install
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from igpo_cli import errors
from igpo_cli.errors import RunError, UsageError, close, configuring, out_of_memory
from igpo_cli.main import run

IGPO = str(Path(sys.executable).with_name("igpo"))


def said(capsys: pytest.CaptureFixture[str], *argv: str, code: int) -> str:
    """The one line on stderr of a command that ends with `code`."""
    assert run(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err.removesuffix("\n")


# The ten messages (those of plug-ins and configuration; 6 and 7 are in test_plugins) ---------------------------------


def test_message_1_no_such_plug_in(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["train", "--sampler", "lada"],
        ["config", "check", "--sampler=lada"],
        ["train", "--sampler", "lada", "--help"],
    ):
        line = said(capsys, *argv, code=2)
        assert line.startswith("error: no sampler named 'lada'. Did you mean 'llada'? Installed: ")
        assert ", llada, " in line
        assert line.endswith(" (igpo plugins sampler)")
    assert "Did you mean" not in said(capsys, "train", "--sampler", "xyzzy", code=2)


def test_message_2_unknown_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('preset = "tiny"\n[sampler]\nstepz = 13\n')
    wanted = (
        "error: run.toml: unknown key 'stepz' in [sampler]; did you mean 'steps'? (igpo plugins show sampler llada)"
    )
    assert said(capsys, "train", "run.toml", code=2) == wanted
    flag = "error: no option --sampler.stepz; did you mean --sampler.steps? (igpo plugins show sampler llada)"
    assert said(capsys, "train", "--sampler.stepz", "13", code=2) == flag


def test_message_3_a_value_that_does_not_fit_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text("width = 256\n[sampler]\nblock = 512\n")
    wanted = "error: run.toml: [sampler] block = 512 is wider than the completion, width = 256. Use at most 256."
    assert said(capsys, "train", "run.toml", code=2) == wanted


def test_message_5_a_model_that_cannot_do_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 50257}))
    argv = ["sample", "--model", "llada", "--model.path", str(tmp_path), "--prompt", "x"]
    assert said(capsys, *argv, code=2).endswith("model_type = 'gpt2' is another family; this plug-in reads 'llada'.")
    Tokenizer(WordLevel({"x": 0})).save(str(tmp_path / "tokenizer.json"))
    assert said(capsys, "sample", "--model", "bidirectional", *argv[3:], code=2).endswith(
        "model 'gpt2' has no mask token; masked diffusion needs one. "
        "Set --model.mask_id; model 'bidirectional' can also add one (add_mask)."
    )


def test_message_8_out_of_memory() -> None:
    assert str(out_of_memory("token_scores", "score_rows", 64, 512, 126464)) == (
        "out of memory in token_scores at B=64, L=512, V=126464 (15.4 GiB of logits). "
        "Try --score-rows 8, or halve --group."
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["trian"], "error: No such command 'trian'. Did you mean 'train'?"),
        (["train", "--steps"], "error: Option '--steps' requires an argument."),
        (["train", "--stepz", "3"], "error: no option --stepz; did you mean --steps? (igpo config show)"),
        (
            ["train", "--preset", "tinny"],
            "error: no preset named 'tinny'. Did you mean 'tiny'? There are: gsm8k, llada-8b-full-2x8x80gb, llada-8b-full-8x80gb, llada-8b-lora-1x80gb, paper-llada, tiny (igpo config presets)",
        ),
        (["train", "nowhere.toml"], "error: there is no file 'nowhere.toml'"),
        (["config", "check", "runs"], "error: there is no file or run 'runs'; the name of a file must end in .toml."),
        (["train", "a.toml", "b.toml"], "error: there is no file 'a.toml'"),
        (
            ["config", "show", "--plugin", "nowhere.py"],
            f"error: there is no plug-in file 'nowhere.py' (seen from {Path.cwd()})",
        ),
        (["sample", "--rows", "0"], "error: Invalid value for '--rows': Input should be greater than or equal to 1"),
    ],
)
def test_other_messages(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, *argv, code=2) == line


# The boundary --------------------------------------------------------------------------------------------------------

FAILING = """
from igpo_cli.errors import RunError, UsageError
from igpo_cli.hookspecs import hookimpl

ERRORS = {
    "usage": UsageError("wrong words"),
    "run": RunError("it broke"),
    "value": ValueError("n = 3 is too many"),
    "file": FileNotFoundError(2, "No such file or directory", "x.txt"),
    "bare-os": OSError("nothing more is known"),
    "bug": KeyError("x"),
    "interrupt": KeyboardInterrupt(),
    "hostile": RunError("a \\x1b[31mred\\x07 word"),
}

@hookimpl
def igpo_commands(app):
    @app.command()
    def fail(how: str) -> None:
        raise ERRORS[how]
"""


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs the command `igpo fail HOW`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_plugin", raising=False)
    install(tmp_path, "acme", FAILING)


@pytest.mark.usefixtures("fail")
@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("usage", 2, "error: wrong words"),
        ("run", 1, "error: it broke"),
        ("value", 1, "error: n = 3 is too many"),
        ("file", 1, "error: x.txt: No such file or directory"),
        ("bug", 1, "error: unexpected KeyError: 'x'. -v shows where; please report it."),
        ("bare-os", 1, "error: unexpected OSError: nothing more is known. -v shows where; please report it."),
        ("interrupt", 130, "interrupted"),
        ("hostile", 1, "error: a ␛[31mred␇ word"),
    ],
)
def test_every_error_is_one_line_and_an_exit_code(
    how: str, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, "fail", how, code=code) == line


@pytest.mark.usefixtures("fail")
@pytest.mark.parametrize("argv", [["-v", "fail", "run"], ["fail", "--verbose", "run"], ["fail", "run", "-v"]])
def test_verbose_shows_where(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(argv) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "raise ERRORS[how]" in err
    assert err.endswith("error: it broke\n")


@pytest.mark.usefixtures("fail")
def test_a_libraries_value_error_is_the_users_while_configuring() -> None:
    with pytest.raises(UsageError, match="too many"), configuring():
        raise ValueError("too many")
    with pytest.raises(RunError), configuring():
        raise RunError("something else passes")


def test_the_console_script() -> None:
    ended = subprocess.run([IGPO, "config", "check", "--group", "0"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: --group 0 must be >= 1\n")
    ended = subprocess.run([IGPO, "config", "check"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    ended = subprocess.run([os.fsencode(IGPO), b"config", b"check", b"--preset", b"\xff"], capture_output=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: no preset named '")
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("argv", [["plugins", "--json"], ["plugins"], ["config", "show"]], ids=" ".join)
def test_a_closed_pipe_is_silent(argv: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([IGPO, *argv], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_close_words() -> None:
    assert close("lada", ["dream", "llada"]) == "llada"
    assert close("xyzzy", ["dream", "llada"]) is None
    assert close("x", []) is None


def test_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    errors.warn("careful [bold]")
    assert capsys.readouterr().err == "warning: careful [bold]\n"
