"""What a shell gets at a press of TAB, asked as the shells ask."""

import subprocess
import sys
from pathlib import Path

import pytest
from test_history import make

from igpo_cli.completion import words
from igpo_cli.main import COMMANDS, run

IGPO = Path(sys.executable).with_name("igpo")


@pytest.fixture
def offered(monkeypatch, capsys, tmp_path):
    """What is offered behind a line whose last word is being typed."""
    monkeypatch.chdir(tmp_path)

    def ask(line):
        monkeypatch.setenv("_IGPO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        assert run([]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out.split()

    return ask


def test_commands(offered):
    assert set(offered("igpo ")) >= set(COMMANDS)
    assert offered("igpo pl") == ["plot", "plugins"]
    assert set(offered("igpo runs ")) == {"list", "show", "compare"}


def test_flags_are_those_of_the_chosen_plug_ins(offered):
    assert "--sampler.alg-temp" in offered("igpo train --sampler dream --sampler.")
    assert "--sampler.alg-temp" not in offered("igpo train --sampler.")
    assert "--injection.low" in offered("igpo sft --injection.")


def test_a_line_that_is_not_right_yet_is_completed_all_the_same(offered):
    assert "--loss" in offered("igpo train --sampler lada --lo")
    assert "--loss" in offered("igpo train --steps many nowhere.toml --lo")


def test_values(offered):
    assert offered("igpo train --sampler le") == ["left-to-right"]
    assert set(offered("igpo train --preset ")) >= {"tiny", "gsm8k", "paper-llada"}
    assert offered("igpo train --loss.kl ") == ["k1", "k2", "k3"]
    assert offered("igpo train --sft.optimizer.schedule co") == ["constant", "cosine"]
    assert offered("igpo train --width ") == []
    assert offered("igpo plugins sa") == ["sampler"]


def test_runs_and_metrics(offered, tmp_path):
    make(tmp_path / "runs", "first")
    make(tmp_path / "other", "second")
    (tmp_path / "mine.toml").write_text("")
    for command in ("plot", "report", "runs show", "runs compare", "push", "sample", "eval"):
        assert offered(f"igpo {command} fi") == ["first"], command
    assert offered("igpo plot other/") == ["other/second"]
    assert offered("igpo plot first --metric stuck/b") == ["stuck/before"]
    assert offered("igpo train m") == ["mine.toml"]


def test_nothing_heavy_is_imported_for_it():
    code = (
        "import sys; from igpo_cli.main import run; run([]); "
        "print([name for name in ('torch.nn', 'numpy', 'transformers') if name in sys.modules])"
    )
    asked = {"_IGPO_COMPLETE": "complete_bash", "COMP_WORDS": "igpo train --sampler ", "COMP_CWORD": "3"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=asked)
    assert ended.stdout.splitlines()[-1] == "[]"
    assert "llada" in ended.stdout


def test_bash_itself():
    """The script that --install-completion installs, in a real bash."""
    script = (
        f'PATH="{IGPO.parent}:$PATH"; eval "$(_IGPO_COMPLETE=source_bash igpo)"; '
        "COMP_WORDS=(igpo train --sampler dr); COMP_CWORD=3; _igpo_completion igpo; echo ${COMPREPLY[@]}"
    )
    try:
        ended = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no bash")
    assert ended.stdout == "dream\n", ended.stderr


def test_the_other_shells_ways_to_ask(monkeypatch):
    monkeypatch.setenv("_IGPO_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "igpo train --sampler dr")
    assert words() == ["train", "--sampler"]
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "igpo train --sampler ")
    assert words() == ["train", "--sampler"]
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", 'igpo sample --prompt "a b')
    assert words()[:2] == ["sample", "--prompt"]
    monkeypatch.setenv("_IGPO_COMPLETE", "source_zsh")
    assert words() is None
