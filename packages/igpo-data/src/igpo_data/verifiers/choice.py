"""Multiple choice: the letter that a completion finally names, however it is set: (C), C., \\text{C}, C) 12, option C."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import field, frozen, validators

from igpo_data.answers import clean, equal
from igpo_data.extraction import extract_answer
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 500
# Characters of a statement: a letter and the text of its choice.
LETTER = re.compile(
    r"(?:the\s)?(?:(?:correct|right|best|final)\s)?(?:(?:answer|option|choice)\s?(?:is\s?:?\s?)?)?"
    r"(?:(?P<open>[({\[])\s?)?(?P<letter>[A-Za-z])(?(open)\s?[)}\]])(?:(?(open)|\s?[.:)-])\s?[.:-]?\s?(?P<text>.*))?",
    re.IGNORECASE | re.DOTALL,
)
# The letter alone or in brackets; behind brackets or a separator maybe the text of the choice.
ANOTHER = re.compile(r"(?:or|and|nor|not)\b|[,/&|]|[({\[]?[A-Za-z][)}\]]?(?:[\s,.:/&)]|$)", re.IGNORECASE)


@frozen(kw_only=True)
class Choice:
    """Multiple choice: the stated letter must be the answer's; the text of that choice is as good."""

    letters: str = field(default="ABCDEFGHIJ", validator=validators.matches_re(r"[A-Z]{2,26}"))
    """The letters of the choices, in order; small ones are read as these."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """`task.meta["choices"]`, texts in the order of the letters, allows answers by text. Two letters are wrong."""
        choices = [str(choice) for choice in task.meta.get("choices", ())]
        gold = self._letter(extract_answer(task.answer) or task.answer, choices)
        bare = completion.strip() if len(completion) <= 8 else ""
        stated = extract_answer(completion) or (bare if self._letter(bare, ()) else None)
        if gold is None or stated is None:
            return Verdict(reward=0.0, correct=False, answer=stated, note="no-answer" if gold else "unverifiable")
        correct = self._letter(stated, choices) == gold
        return Verdict(reward=float(correct), correct=correct, answer=stated)

    def _letter(self, text: str, choices: Sequence[str]) -> str | None:
        """The one letter that a statement names, by itself or by its choice's text; None where it names none or two."""
        if len(text) > LONGEST:
            return None
        text = re.sub(r"[\x02\x03\"'*]", "", clean(text)).strip()
        meant = [name for name, choice in zip(self.letters, choices, strict=False) if equal(choice, text)]
        if meant:
            return meant[0] if len(meant) == 1 else None
        match = LETTER.fullmatch(text)
        if match is None or match["letter"].upper() not in self.letters:
            return None
        letter, rest = match["letter"].upper(), match["text"] or ""
        if ANOTHER.match(rest):
            return None
        said = [name for name, choice in zip(self.letters, choices, strict=False) if equal(choice, rest)]
        return letter if not said or letter in said else None
