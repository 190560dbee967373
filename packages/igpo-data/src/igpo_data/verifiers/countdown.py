"""Countdown: an expression over the given numbers that comes to the target. Any solution counts, not only a known one.

The expression is parsed here, with exact fractions: nothing of it is evaluated as Python.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from attrs import frozen

from igpo_data.answers import clean
from igpo_data.extraction import extract_answer
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 400
# Characters of an expression; a model that goes on longer has not solved it.
DIGITS = 12
DEPTH = 32
TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/(){}\[\]])|(x|\\(?:times|cdot|div|frac))(?![a-zA-Z]))")
SIGNS = {"x": "*", "\\times": "*", "\\cdot": "*", "\\div": "/", "\\frac": "frac"}
CLOSING = {"(": ")", "[": "]", "{": "}"}


@frozen(kw_only=True)
class Countdown:
    """Countdown: the stated expression must use the given numbers and come to the target."""

    every_number: bool = True
    """Each given number must be used, not only none more often than it is given."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Numbers and target stand in `task.meta`, or as JSON `[[numbers], target]` in the answer."""
        problem, stated = _problem(task), extract_answer(completion)
        if problem is None or stated is None:
            return Verdict(reward=0.0, correct=False, answer=stated, note="no-answer" if problem else "unverifiable")
        (numbers, target), result = problem, evaluate(stated)
        correct = False
        if result is not None and result[0] == target:
            used = Counter(result[1])
            correct = used == Counter(numbers) if self.every_number else used <= Counter(numbers)
        return Verdict(reward=float(correct), correct=correct, answer=stated)


def _problem(task: Task) -> tuple[list[int], int] | None:
    meta: Any = task.meta
    if "numbers" not in meta and "entry" in meta:
        meta = meta["entry"]["metadata"]
    try:
        numbers, target = (meta["numbers"], meta["target"]) if "numbers" in meta else json.loads(task.answer)
        return [int(number) for number in numbers], int(target)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """The value of an expression of whole numbers, + - * / and brackets, and the numbers in it; None for other text.

    What stands behind an `=` is only what the model believes that it comes to.
    """
    if len(text) > LONGEST:
        return None
    expression = clean(text).split("=")[0]
    tokens, position = [], 0
    while match := TOKEN.match(expression, position):
        tokens.append(match[1] or match[2] or SIGNS[match[3]])
        position = match.end()
    if expression[position:].strip() or not tokens:
        return None
    numbers = [int(token) for token in tokens if token.isdigit() and len(token) <= DIGITS]
    try:
        rest = iter([*tokens, ""])
        value, last = _sum(next(rest), rest, 0)
    except (ValueError, ZeroDivisionError):
        return None
    return (value, numbers) if last == "" else None


def _sum(token: str, rest: Iterator[str], depth: int) -> tuple[Fraction, str]:
    """Value of terms joined by + and -, and the token behind it."""
    value, token = _product(token, rest, depth)
    while token in ("+", "-"):
        sign = token
        term, token = _product(next(rest), rest, depth)
        value = value + term if sign == "+" else value - term
    return value, token


def _product(token: str, rest: Iterator[str], depth: int) -> tuple[Fraction, str]:
    value, token = _factor(token, rest, depth)
    while token in ("*", "/"):
        sign = token
        factor, token = _factor(next(rest), rest, depth)
        value = value * factor if sign == "*" else value / factor
    return value, token


def _factor(token: str, rest: Iterator[str], depth: int) -> tuple[Fraction, str]:
    if depth > DEPTH:
        raise ValueError("nested too deep")
    if token == "-":
        value, token = _factor(next(rest), rest, depth + 1)
        return -value, token
    if token == "frac":
        top, token = _factor(next(rest), rest, depth + 1)
        bottom, token = _factor(token, rest, depth + 1)
        return top / bottom, token
    if token in CLOSING:
        value, last = _sum(next(rest), rest, depth + 1)
        if last != CLOSING[token]:
            raise ValueError("brackets do not match")
        return value, next(rest)
    if not token.isdigit() or len(token) > DIGITS:
        raise ValueError("a number is needed")
    return Fraction(int(token)), next(rest)
