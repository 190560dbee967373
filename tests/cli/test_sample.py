"""`igpo sample`: one sampler or several on the same canvas, as a person and as a program see them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForCausalLM

from igpo_cli.commands.sample import Take, show
from igpo_cli.main import run
from igpo_cli.screen import watch
from igpo_sampling.models import tokenizers

PROMPT = "rev zip rotl : a b c d e ?"


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """Output and notes of `igpo sample` with an untrained model."""
    assert run(["sample", "--width", "12", "--sampler.block", "12", *words]) == code
    out, err = capsys.readouterr()
    return out, err


def samples(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, "--json", "--prompt", PROMPT, "--rows", "2", "--hint", "3:zip a", *words)[0])


# Several samplers -----------------------------------------------------------------------------------------------------


def test_compared_samplers_give_what_each_gives_alone(capsys: pytest.CaptureFixture[str]) -> None:
    compared = samples(capsys, "--compare", "llada,random", "--sampler.steps", "4")
    assert [each["sampler"] for each in compared] == ["llada", "random"]
    for each in compared:
        assert each["samples"] == samples(capsys, "--sampler", each["sampler"], "--sampler.steps", "4")
        assert each["tokens"] == 2 * (12 - 2)  # hints are not filled
        assert each["tokens_per_second"] == pytest.approx(each["tokens"] / each["seconds"], rel=0.01)
    assert compared[0]["samples"] != compared[1]["samples"]


def test_a_compared_sampler_takes_the_options_that_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    out, notes = said(capsys, "--json", "--compare", "coin,llada", "--sampler.steps", "5", "--sampler.patience", "0")
    coin, llada = json.loads(out)
    assert coin["samples"][0]["forwards"] == 1  # everything at once
    assert llada["samples"][0]["forwards"] == 5
    assert "[sampler] steps of the flags dropped: not meant for 'coin'" in notes
    assert "[sampler] patience of the flags dropped: not meant for 'llada'" in notes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compare", "llada,lada"), "error: no sampler named 'lada'. Did you mean 'llada'? Installed: "),
        (("--compare", "llada,,random"), "error: --compare takes the names of samplers with commas between them"),
        (("--compare",), "error: --compare takes the names of samplers with commas between them"),
        (("--compare", "llada,random", "--sampler.stepz", "3"), "error: No such option: --sampler.stepz"),
        (("--compare", "llada,random", "--sampler.steps", "x"), 'error: --sampler.steps "x" must be a whole number'),
    ],
)
def test_what_cannot_be_compared(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    out, err = said(capsys, *words, code=2)
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_help_has_the_options_of_all_compared_samplers(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = said(capsys, "--compare", "llada,coin", "--help")
    assert "--sampler.patience" in out
    assert out.count("--sampler.temperature") == 1
    assert "--sampler.patience" not in said(capsys, "--help")[0]


def test_a_block_causal_model_says_how_far_hints_reach(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = tokenizers.words(["a", "b", "c"])
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8}
    with torch.random.fork_rng():
        Qwen3ForCausalLM(Qwen3Config(vocab_size=len(words), num_key_value_heads=1, **sizes)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    model = ("--model", "block", "--model.path", str(tmp_path), "--model.block", "4", "--prompt", "a b")
    note = "note: attention is block-causal, 4 tokens a block: a hint is seen by its own and later blocks, not by those before"
    assert note in said(capsys, *model, "--hint", "3:c")[1]
    assert "block-causal" not in said(capsys, *model)[1]


# What is shown --------------------------------------------------------------------------------------------------------


def take(name: str, text: str, forwards: int = 3) -> Take:
    tokens = re.findall(r"\s?\S+", text)
    return Take(
        name=name,
        texts=(text,),
        rows=((tokens, [at == 1 for at in range(len(tokens))]),),
        forwards=(forwards,),
        tokens=3000,
        seconds=2.0,
    )


def screen(width: int, *, height: int = 24, terminal: bool = True, **more: Any) -> Console:
    return Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=terminal,
        legacy_windows=False,
        _environ={},
        **more,
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> list[str]:
    return [line.rstrip() for line in re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text).splitlines()]


LONG = "word " * 40


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_samplers_stand_side_by_side(width: int) -> None:
    console = screen(width)
    takes = [take("llada", LONG), take("threshold", "a b\x1b[2J c"), take("entropy-bound", LONG, 7)]
    show(["how many?"], takes, console)
    lines = plain(written(console))
    assert lines[0] == "how many?"
    assert lines[1].split() == ["llada", "threshold", "entropy-bound"]
    assert max(map(len, lines)) <= width
    starts = [lines[1].index(each.name) for each in takes]
    assert next(line[starts[2] :].split() for line in lines if "forwards" in line) == ["7", "forwards"]
    assert "a b␛[2J c" in lines[2]  # model text never controls the terminal
    assert lines[-1].split() == ["entropy-bound", "7.0", "1,500", "2.00"]


@pytest.mark.parametrize(("width", "terminal"), [(60, True), (200, False)])
def test_on_a_narrow_terminal_and_on_a_pipe_they_stand_below_each_other(width: int, terminal: bool) -> None:
    console = screen(width, terminal=terminal)
    show(["how many?"], [take(name, "a b c") for name in ("llada", "threshold", "entropy-bound")], console)
    lines = plain(written(console))
    assert lines[:8] == ["how many?", "llada", "a b c", "3 forwards", "", "threshold", "a b c", "3 forwards"]


def test_one_sampler_alone_has_neither_name_nor_table() -> None:
    console = screen(80, color_system="standard")
    show(["how many?"], [take("", "a b c")], console)
    assert plain(written(console)) == ["how many?", "a b c", "3 forwards", ""]
    assert re.search(r"\x1b\[1;4;36mb", written(console))  # a hint


# The canvas -----------------------------------------------------------------------------------------------------------


def test_several_samplers_are_watched_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--compare", "llada,random", "--sampler.steps", "2", "--hint", "0:rev", "--watch")
    lines = said(capsys, "--prompt", PROMPT, *words)[0].splitlines()
    heads = ["llada step 0: rev", "llada step 1: rev", "random step 0: rev", "random step 1: rev"]
    assert [line[: len(head)] for line, head in zip(lines, heads, strict=False)] == heads
    assert [line.count("·") for line in lines[:4]] == [5, 0, 5, 0]
    assert lines[4:6] == [PROMPT, "llada"]


WORDS = ["<mask>", "<eos>", "rev", "a", "b"]


def decode(ids: list[int]) -> str:
    return " ".join(WORDS[index] for index in ids)


def test_a_step_shows_what_is_new_and_how_many_blanks_are_left() -> None:
    console = screen(80, color_system="standard")
    given = torch.tensor([[True, False, False, False]])
    with watch(decode, given, mask_id=0, eos_id=1, title="llada", prompts=["a ?\nb"], console=console) as picture:
        picture(0, torch.tensor([[4, 2, 3, 0, 0]]))
        first = written(console)
        picture(1, torch.tensor([[4, 2, 3, 0, 1]]))
        second = written(console)[len(first) :]
    assert plain(first) == ["llada  step 0, 2 blanks left, new hint", "a ?", "rev a · ·"]
    assert re.search(r"\x1b\[32m *a", first)
    assert not re.search(r"\x1b\[32m *a", second)
    assert plain(second)[-1] == "rev a · ▪"  # the end of the text is a sign, however long its token


def test_what_does_not_fit_on_the_terminal_is_left_out() -> None:
    console = screen(20, height=8)
    given = torch.zeros(3, 60, dtype=torch.bool)
    tokens = torch.full((3, 60), 3)
    tokens[:, 50:] = 0
    with watch(decode, given, mask_id=0, console=console) as picture:
        picture(0, tokens)
        shown = plain(written(console))
    assert len(shown) <= 8
    assert shown[-1] == "and 2 more"
    assert "·" in "".join(shown)  # the blanks stay in sight
