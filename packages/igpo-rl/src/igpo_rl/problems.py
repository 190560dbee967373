"""From a tokenised task to a `Problem`: which trace tokens may be shown as a hint, and which never.

This is where the answer is kept out of every hint, so it is decided in characters of the trace: a token that touches
an answer span by a single character is not hintable.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from igpo_rl import later
from igpo_rl.records import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

Span = tuple[int, int]
"""Half-open."""

SENTENCE = re.compile(r"(?:[.!?;](?=\s|$)|\n)(?:[ \t]*\n)*")
"""Ends with the last character of a sentence or a line, line breaks included."""
STEP = re.compile(r"(?:\\\[.*?\\\]|\$\$.*?\$\$|>>|\n)(?:[ \t]*\n)*", re.DOTALL)
"""Ends with the last character of a displayed equation, of a calculation (<<6*7=42>>) or of a line."""


def problem_from_text(
    key: str,
    prompt_ids: Sequence[int] | Tensor,
    trace_ids: Sequence[int] | Tensor | None = None,
    offsets: Sequence[Span] = (),
    trace_text: str = "",
    answer_spans: Iterable[Span] = (),
    answer: str = "",
) -> Problem:
    """`offsets` and `answer_spans` are half-open, in characters of `trace_text`, as fast tokenizers give them.

    A token without characters (a special token) is never hintable. Where no answer span is known nothing is: a hint
    could state the answer (IGPO, arXiv 2509.10396, hides the final answer; the published code does not).
    """
    prompt = torch.as_tensor(prompt_ids, dtype=torch.long)
    if trace_ids is None:
        return Problem(key=key, prompt=prompt)
    trace = torch.as_tensor(trace_ids, dtype=torch.long)
    if len(offsets) != len(trace):
        raise ValueError(
            f"problem {key!r}: {len(offsets)} offsets for {len(trace)} trace tokens; "
            "tokenise the trace once, with return_offsets_mapping=True"
        )
    spans = list(answer_spans)
    hidden = touching(offsets, spans)
    hintable = [
        bool(spans) and start < end and not touched for (start, end), touched in zip(offsets, hidden, strict=True)
    ]
    return Problem(
        key=key,
        prompt=prompt,
        trace=trace,
        hintable=torch.tensor(hintable, dtype=torch.bool),
        breaks=torch.tensor(last_tokens(offsets, trace_text, SENTENCE), dtype=torch.bool),
        steps=torch.tensor(last_tokens(offsets, trace_text, STEP), dtype=torch.bool),
        answer_value=torch.tensor(touching(offsets, value_spans(trace_text, answer)), dtype=torch.bool),
    )


def touching(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """True for each token that shares a character with one of the spans."""
    return [any(max(start, low) < min(end, high) for low, high in spans) for start, end in offsets]


def last_tokens(offsets: Sequence[Span], text: str, pattern: re.Pattern[str]) -> list[bool]:
    """True for the token that holds the last character of a match of `pattern`, and for the last token of all.

    The character that ends a line may belong to no token; then the token before it is the last one.
    """
    starts = [start for start, end in offsets if start < end]
    tokens = [index for index, (start, end) in enumerate(offsets) if start < end]
    last = [match.end() - 1 for match in pattern.finditer(text)] + [len(text)]
    found = {tokens[place - 1] for character in last if (place := bisect_right(starts, character)) > 0}
    return [index in found for index in range(len(offsets))]


def value_spans(text: str, answer: str) -> list[Span]:
    """Where the answer's value stands in a text, as a word of its own: "1000" is also found as "1,000"."""
    words = [",?".join(map(re.escape, word.replace(",", ""))) for word in answer.split()]
    if not any(words):
        return []
    value = r"\s+".join(words)
    return [match.span() for match in re.finditer(rf"(?<![\w.])(?:{value})(?!\w|[.,]\d)", text)]
