"""Documents are tests: what a README or a page of docs/ shows is run, in order, in a directory of its own."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_blocks import Block, blocks

from igpo_cli.main import COMMANDS
from igpo_cli.plugins import KINDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "packages/*/*.md", "examples/*/*.md")
    for path in ROOT.glob(pattern)
    if blocks(path)
)


def documents(slow: bool) -> list[object]:
    """The documents that hold something to run: with `slow`, those with a command that takes minutes."""
    marks = [pytest.mark.slow, pytest.mark.timeout(1800)] if slow else []
    return [
        pytest.param(path, id=str(path.relative_to(ROOT)), marks=marks)
        for path in DOCUMENTS
        if slow == any("slow" in block.words for block in blocks(path))
    ]


@pytest.mark.parametrize("document", documents(slow=False) + documents(slow=True))
def test_document_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document):
        run(block, document, namespace)


def run(block: Block, document: Path, namespace: dict[str, object]) -> None:
    """Do what the block says; an error names the document and the line."""
    if block.file:
        Path(block.file).parent.mkdir(parents=True, exist_ok=True)
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        code = compile("\n" * (block.line - 1) + block.text, str(document), "exec")
        if "sketch" not in block.words:
            exec(code, namespace)
    elif block.language == "console" and {"run", "slow"} & set(block.words):
        ended = subprocess.run(["bash", "-euo", "pipefail", "-c", block.commands], capture_output=True, text=True)
        assert ended.returncode == 0, f"{document.name}:{block.line}\n{ended.stdout}{ended.stderr}"


def test_a_wrong_block_is_reported_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(blocks(page)[0], page, {})
    assert caught.traceback[-1].lineno == 4  # counted from 0


def test_a_failing_command_fails_the_document(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console run\n$ echo shown\nshown\n$ false\n```\n")
    with pytest.raises(AssertionError, match="shown"):
        run(blocks(page)[0], page, {})


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md"))
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def unresolved(text: str) -> list[str]:
    """Dotted names of ours in backticks that nothing answers to."""
    missing = []
    for name in set(re.findall(r"`(igpo_\w+(?:\.\w+)+)`", text)):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    return sorted(missing)


def test_names_in_documents_exist() -> None:
    pages = (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("packages/*/*.md"),
        *ROOT.glob("examples/*/*.md"),
    )
    found = {str(path.relative_to(ROOT)): unresolved(path.read_text(encoding="utf-8")) for path in pages}
    assert {page: names for page, names in found.items() if names} == {}
    assert unresolved("`igpo_rl.IGPO.collect` and `igpo_rl.IGPO.gather`") == ["igpo_rl.IGPO.gather"]


def test_every_trap_of_the_algorithm_has_a_test() -> None:
    listed = set(
        re.findall(r"^\| (\d+) \|", (ROOT / "docs/algorithm.md").read_text().partition("## Traps")[2], re.MULTILINE)
    )
    tested = {
        number
        for path in (ROOT / "tests").glob("*/test_*.py")
        for number in re.findall(r"trap[ _](\d+)", path.read_text(encoding="utf-8"), re.IGNORECASE)
        if path.parent.name != "contracts"
    }
    assert listed == {str(number) for number in range(1, 15)}
    assert sorted(listed - tested, key=int) == []


def test_the_page_of_a_kind_shows_what_igpo_new_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import plugin_pages

    assert set(plugin_pages.NAMES) == set(KINDS)
    for kind in KINDS:
        written = (ROOT / "docs" / "plugins" / f"{kind}.md").read_text(encoding="utf-8")
        assert written == plugin_pages.page(kind), "python docs/plugin_pages.py"


def test_the_page_of_commands_shows_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    import cli_page

    written = cli_page.PAGE.read_text(encoding="utf-8")
    assert [words for words in COMMANDS if f"### igpo {words}" not in written] == []
    assert written == cli_page.page(written), "python docs/cli_page.py"
