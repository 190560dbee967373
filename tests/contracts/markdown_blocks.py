"""The fenced code blocks of a Markdown file, so that documents run as tests.

The word after the language says what happens: `python` runs, `python sketch` is only compiled, `console run` runs its
`$` lines, `console slow` too but among the slow tests, `console installed` there too, from wheels; `file=NAME` writes the
block to a file. Others are prose.
"""

from __future__ import annotations

import re
from pathlib import Path

from attrs import frozen

FENCE = re.compile(r"^```(?P<language>\w+)(?P<words>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@frozen
class Block:
    """One fenced block."""

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    """Line of the file on which the text starts, counted from 1."""

    @property
    def file(self) -> str | None:
        """Name of the file that the block is written to, if any."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)

    @property
    def commands(self) -> str:
        """The `$` lines of a console block, as a shell script; what they print is left out."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))


def blocks(path: Path) -> list[Block]:
    """All fenced blocks with a language, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            language=found["language"],
            words=tuple(found["words"].split()),
            text=found["text"],
            line=text.count("\n", 0, found.start("text")) + 1,
        )
        for found in FENCE.finditer(text)
    ]
