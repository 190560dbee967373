"""Where a text states its answer: `\\boxed{...}`, after `####`, `<answer>...</answer>`, "The answer is ...".

Two uses with opposite cautions. `extract_answer` reads what a completion finally says, for a verdict: the last box, else
the last other statement, never just some number in the text. `locate_answers` finds every statement in a worked
solution, so that none of them becomes a hint; in doubt it hides more. All patterns are linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from igpo_data.answers import equal

BOX = re.compile(r"\\(?:boxed|fbox)\s{0,8}(?P<brace>\{)?|\bboxed(?P<bare>\{)")
# Models also write boxed{...}; without a brace that is an ordinary word.
MARK = re.compile(
    r"####|<answer>|\banswer(?:(?:\s{1,8}to\s{1,8}th(?:e|is)\s{1,8}(?:question|problem))?\s{1,8}is\b(?:\s{0,8}:)?"
    r"|[*_]{0,3}\s{0,8}:)",
    re.IGNORECASE,
)
BRACE = re.compile(r"\\[^a-zA-Z]|[{}]")
END_TAG = re.compile(r"</?(?:answer|reasoning)\b", re.IGNORECASE)
SENTENCE_END = re.compile(
    r"[.!?](?=\s{1,8}[A-Z])|</?(?:answer|reasoning)\b|(?<=\S)[,;]?\s{1,4}[-(]?\s?(?:because|since|which|that is|i\.e\.)"
)
CLOSING_TAG = re.compile(r"\s</[a-z]")
UNBRACED_END = re.compile(r"[\n$<>]|\\\)|\\\]")
BESIDE = re.compile(r"\s{0,4}\}([\\$]{0,2}[A-Za-z0-9-][^\n<>\s]{0,60})[ \t]{0,8}(?:\n|<|$)")
# Models also write \boxed{}42; the box is alone on its line with the value beside it.
PADDING = " \t\r\n*_:"
# Spaces and markdown around a value: **Answer:** 12
LONGEST = 4_000
# Characters of an answer; what is longer is no answer.
UNBRACED = 200
# Characters of a box without (closing) braces at most.


def extract_answer(text: str) -> str | None:
    """The answer that a text finally states, or None where it states none (an empty last box too).

    The last box counts, even where an earlier one or another statement differs. A last box that is never closed is read
    to the end of its line.
    """
    if box := _last(BOX, text):
        start, end = _box_value(text, box)
    elif mark := _last(MARK, text):
        start, end = _statement(text, mark, hide=False)
    else:
        return None
    value = text[start:end].strip()
    return value if value and len(value) <= LONGEST else None


def locate_answers(trace: str, answer: str, pattern: str | None = None) -> tuple[tuple[int, int], ...]:
    """Half-open character spans of every stated answer in a worked solution, in order, without overlaps.

    Boxes and tags give their content, the other statements the rest of their line, `pattern` (a regular expression for
    statements of another form) its group. Empty unless one of them agrees with `answer`: without a statement that is
    known to be the answer, the rest of the trace cannot be trusted not to hold it.
    """
    spans = list(_boxes(trace))
    position = 0
    for mark in MARK.finditer(trace):
        if mark.end() > position:  # not yet hidden by the statement before
            spans.append(_statement(trace, mark, hide=True))
            position = spans[-1][1]
    if pattern is not None:
        spans += [match.span(1) for match in re.finditer(pattern, trace)]
    trimmed = [_trim(trace, start, end) for start, end in spans]
    found = _merge([(start, end) for start, end in trimmed if start < end])
    return found if any(_states(trace[start:end], answer) for start, end in found) else ()


def _states(value: str, answer: str) -> bool:
    """Does this statement give the answer? The same text, an equal value, or (in a sentence) the answer as a word."""
    answer = answer.strip()
    if not answer:
        return False
    for candidate in (value, extract_answer(value)):
        if candidate and len(candidate) <= LONGEST and equal(answer, candidate):
            return True
    return re.search(rf"(?<![\w.,-]){re.escape(answer)}(?![\w]|[.,][0-9])", value) is not None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _box_value(text: str, box: re.Match[str]) -> tuple[int, int]:
    """The content of one box; without (closing) braces, the rest of its line or formula."""
    if box["brace"] or box["bare"]:
        depth = 1
        for brace in BRACE.finditer(text, box.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0 and (beside := BESIDE.match(text, box.end())):
                return beside.span(1)
            if depth == 0:
                tag = CLOSING_TAG.search(text, box.end(), brace.start())
                return box.end(), tag.start() if tag else brace.start()
    limit = min(len(text), box.end() + UNBRACED)
    end = UNBRACED_END.search(text, box.end(), limit)
    return box.end(), end.start() if end else limit


def _boxes(text: str) -> Iterator[tuple[int, int]]:
    """The content of every box, in one pass over the braces however deep they nest."""
    boxes = {match.end(): match for match in BOX.finditer(text)}
    for match in boxes.values():
        if not (match["brace"] or match["bare"]):
            yield _box_value(text, match)
    opened: list[int] = []
    for brace in BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened:
            start = opened.pop()
            if start in boxes:
                beside = BESIDE.match(text, start)
                yield beside.span(1) if beside else (start, brace.start())
    for start in opened:
        if start in boxes:  # never closed: hide all that follows
            yield start, len(text)


def _statement(text: str, mark: re.Match[str], *, hide: bool) -> tuple[int, int]:
    """The value behind a mark. To hide: the rest of the line and of any formula begun there; to read: the sentence."""
    start = mark.end()
    if mark[0].lower() == "<answer>":
        tag = END_TAG.search(text, start)
        return start, tag.start() if tag else len(text)
    while start < len(text) and text[start] in PADDING:
        start += 1
    end = _formula_end(text, start)
    if hide:
        return start, end
    stop = SENTENCE_END.search(text, start, end)
    return _trim(text, start, stop.start() if stop else end)


def _formula_end(text: str, start: int) -> int:
    """The end of the line, or of the last line of a formula that is begun on it; of the text where it never ends."""
    end, open_parts, dollars = start, 0, 0
    while end < len(text):
        newline = text.find("\n", end + 1)
        line = text[end : newline if newline >= 0 else len(text)]
        end += len(line)
        open_parts += sum(map(line.count, ("\\begin{", "\\[", "\\(", "{")))
        open_parts -= sum(map(line.count, ("\\end{", "\\]", "\\)", "}")))
        dollars += line.count("$$")
        if open_parts <= 0 and dollars % 2 == 0:
            break
    return end


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space and markdown around it and without a full stop at its end."""
    while start < end and text[start] in PADDING:
        start += 1
    while start < end and (text[end - 1] in PADDING or text[end - 1] == "."):
        end -= 1
    return start, end


def _merge(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Overlapping spans as one, in order."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)
