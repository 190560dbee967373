"""An answer inside a JSON object, for models that are asked to answer in JSON."""

from __future__ import annotations

import json
import re
from json import JSONDecodeError
from typing import Any

from attrs import field, frozen, validators

from igpo_data.answers import equal
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 200_000
# Characters from the end of a completion that are searched for an object.
EFFORT = 2_000_000
# Characters read at most, over all false starts: text that opens objects and never closes them costs no more.
OBJECT = re.compile(r'\{(?=\s{0,99}["}])')
# LaTeX is full of braces, so an object begins with a key.
NOTHING: Any = object()


@frozen(kw_only=True)
class JsonField:
    """A field of the last JSON object in the completion must be the answer."""

    path: str = field(default="answer", validator=validators.min_len(1))
    """Where the answer stands in the object. result.value is a field of a field, values.0 the first of a list."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Numbers and texts are compared as `math` does without algebra, lists and objects part by part."""
        gold = _loads(task.answer)
        if gold is NOTHING:
            gold = task.answer.strip()
        found = last_object(completion[-LONGEST:])
        for step in self.path.split("."):
            if isinstance(found, dict):
                found = found.get(step, NOTHING)
            elif isinstance(found, list) and step.isascii() and step.isdigit() and len(step) < 9:
                found = found[int(step)] if int(step) < len(found) else NOTHING
            else:
                found = NOTHING
        if gold == "" or found is NOTHING:
            return Verdict(reward=0.0, correct=False, note="unverifiable" if gold == "" else "no-answer")
        correct = same(gold, found)
        return Verdict(reward=float(correct), correct=correct, answer=_text(found))


def last_object(text: str) -> Any:
    """The last complete JSON object in a text that stands in no other one."""
    decoder, found, position, effort = json.JSONDecoder(), NOTHING, 0, 0
    while effort < EFFORT and (start := OBJECT.search(text, position)):
        position = start.end()
        try:
            found, position = decoder.raw_decode(text, start.start())
            effort += position - start.start()
        except JSONDecodeError as error:
            effort += 1_000 + error.pos - start.start()
        except (RecursionError, ValueError):  # nested too deep, or a number with thousands of digits
            effort += 50_000
    return found


def same(gold: Any, given: Any) -> bool:
    """Equal values; true and 1 are none, nor are null and ""."""
    if isinstance(gold, dict) and isinstance(given, dict):
        return gold.keys() == given.keys() and all(same(value, given[key]) for key, value in gold.items())
    if isinstance(gold, list) and isinstance(given, list):
        return len(gold) == len(given) and all(map(same, gold, given))
    if isinstance(gold, dict | list) or isinstance(given, dict | list):
        return False
    return equal(_text(gold), _text(given)) is True


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:LONGEST].strip()
    return json.dumps(value)[:1_000]


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NOTHING
