"""Every command that lists something, as a person sees it on any width and as a program reads it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from test_help import commands
from test_history import make

from igpo_cli.main import run

LISTS = {
    "plugins": [],
    "plugins show": ["injection", "uniform-chunks"],
    "doctor": [],
    "config presets": [],
    "config accelerate": [],
    "config show": [],
    "config check": [],
    "data list": [],
    "data show": ["--preset", "tiny"],
    "data stats": ["--preset", "tiny", "--limit", "50"],
    "data check": ["--preset", "tiny", "--limit", "20", "--judged", "2"],
    "data dedupe": ["--preset", "tiny", "--limit", "50"],
    "data contamination": ["--preset", "tiny", "--limit", "50", "--eval.heldout.limit", "20"],
    "data rewrite": ["--preset", "tiny", "--limit", "5", "--overwrite", "--out", "short.jsonl"],
    "runs list": [],
    "runs show": ["first"],
    "runs compare": ["first", "second"],
    "plot": ["first"],
    "ablate": ["--list"],
    "ablate --dry-run": ["--vary", "injection.high=0.4,0.6"],
}
WITH_A_MODEL = {"train", "sft", "sample", "eval", "push"}
"""Their --json is tested with them: it takes a model."""
NO_TABLE = {"lm-eval", "report", "merge", "new"}
SENTENCES = {"config show", "config check", "data show", "data check", "data rewrite"}
"""Those that show problems or lines to be copied, which are left to the terminal to break."""
SPARING = {"plugins", "runs list", "plot"}
"""Those that show less where there is no room for it."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two runs."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs", "first")
    make(tmp_path / "runs", "second", injection="none", more="", steps=3)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], name: str, *more: str) -> str:
    capsys.readouterr()
    assert run([*name.split(), *LISTS[name], *more]) == 0
    return capsys.readouterr().out


def test_every_command_that_lists_something_is_here() -> None:
    found = {words: {flag for each in command.params for flag in each.opts} for words, command in commands().items()}
    assert {words for words, flags in found.items() if "--json" not in flags} == NO_TABLE
    assert {words for words, flags in found.items() if "--json" in flags} - LISTS.keys() == WITH_A_MODEL


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.usefixtures("place")
def test_json_is_one_object_or_list_and_nothing_else(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, name, "--json"))
    assert found
    if isinstance(found, list):
        assert len({tuple(row) for row in found}) == 1  # the same keys in every row


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.usefixtures("place")
def test_a_table_fits(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    piped = said(capsys, name)
    assert not [each for each in piped if unicodedata.category(each) == "Cc" and each != "\n"]
    for columns in (40, 60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        page = said(capsys, name)
        assert "\x1b" not in page
        if name not in SENTENCES:
            assert max(map(len, page.splitlines())) <= columns
        assert not [line for line in page.splitlines() if "…" in line and "…" not in piped]  # nothing is cut
        if name not in SPARING:
            assert numbers(page) == numbers(piped), f"broken at {columns}"


def numbers(page: str) -> set[str]:
    """Numbers with a fraction or thousands, which a line's end might break."""
    return set(re.findall(r"\b\d+[.,]\d+\b", page))


def test_a_plug_in_is_named_with_its_description_however_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows: list[dict[str, Any]] = json.loads(said(capsys, "plugins", "--json"))
    words = " ".join(said(capsys, "plugins").split())
    assert len(rows) > 50
    assert [row["name"] for row in rows if f"{row['name']} {row['description']}" not in words] == []


def test_a_row_of_a_pipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(said(capsys, "data list", "--json"))
    lines = [re.split(r"  +", line.strip()) for line in said(capsys, "data list").splitlines()]
    assert lines[0] == ["task", "what it is", "splits", "from"]
    assert [line[0] for line in lines[1:]] == [row["name"] for row in rows]
    assert {line[-1] for line in lines[1:]} == {row["from"] for row in rows}
