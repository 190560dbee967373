"""Rollouts as they were written, as data for the page's script: tokens, the order in which they were committed, verdicts.

A page holds BUDGET tokens. What does not fit is left out by whole groups, the least telling first, evenly over the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from attrs import define, field, frozen

from igpo_cli.health import number, short
from igpo_cli.pieces import visible
from igpo_cli.report.arms import Arm
from igpo_cli.tracking import read_rollouts

BUDGET = 24_000
"""Tokens that a page shows, of all its runs together: about 250 kB."""
LONGEST = 512
"""Tokens of a row and characters of a prompt or trace (times four) that are shown."""
STEPS = 24
"""Steps of a run that are read, evenly spaced, the first and the last among them."""

Row = Mapping[str, Any]
Group = Sequence[Row]

REASONS = {
    "no-answer": "no answer was found",
    "unverifiable": "could not be verified",
    "timeout": "the verifier ran out of time",
    "memory": "the verifier ran out of memory",
    "too-long": "the answer is too long to be verified",
    "error": "the verifier failed on it",
}
"""What the notes of verdicts mean; any other note is shown as it is."""


@define
class Words:
    """Every text once; the rows hold numbers."""

    places: dict[str, int] = field(factory=dict)

    def __call__(self, text: object) -> int:
        return self.places.setdefault(visible(str(text)), len(self.places))


@frozen
class Shown:
    """The groups of one run that the page holds, and how many were kept by the run."""

    groups: Sequence[tuple[int, Group]]
    """(step, rows), by step."""
    found: int
    """Groups of the steps that were read."""
    steps: int
    """Steps whose rollouts were kept."""


def chosen(arm: Arm, budget: int) -> Shown:
    """As many whole groups as hold `budget` tokens, one at least; one of each step in turn, the telling ones first."""
    steps = list(arm.rollouts)
    if len(steps) > STEPS:
        steps = [steps[round(index * (len(steps) - 1) / (STEPS - 1))] for index in range(STEPS)]
    queues = [
        [(steps[index], group) for group in _groups(read_rollouts(arm.folder, steps[index]))]
        for index in spread(len(steps))
    ]
    shown: list[tuple[int, Group]] = []
    for turn in zip_longest(*queues):
        for item in filter(None, turn):
            budget -= sum(_end(row) for row in item[1])
            if shown and budget < 0:
                break
            shown.append(item)
        if budget < 0:
            break
    order = {step: place for place, step in enumerate(steps)}
    shown.sort(key=lambda item: -order[item[0]])
    return Shown(shown, sum(map(len, queues)), len(arm.rollouts))


def spread(count: int) -> list[int]:
    """0 .. count - 1, the last and the first before the rest, and then always the middle of a gap: any beginning is even."""
    order, gaps = list(dict.fromkeys([count - 1, 0])) if count else [], [(0, count - 1)]
    for low, high in gaps:
        if high - low > 1:
            order.append((low + high) // 2)
            gaps += [(low, order[-1]), (order[-1], high)]
    return order


def rollouts(arms: Sequence[Arm], colours: Sequence[int]) -> tuple[str, str]:
    """(JSON for a data block, one sentence on what is left out); two empty texts where no run kept rollouts."""
    arms_with = [(arm, colour) for arm, colour in zip(arms, colours, strict=True) if arm.rollouts]
    words = Words()
    table: list[dict[str, Any]] = []
    names, missing, steps = [], 0, 0
    for place, (arm, colour) in enumerate(arms_with):
        shown = chosen(arm, BUDGET // len(arms_with))
        names.append([words(arm.name), colour])
        missing += shown.found - len(shown.groups)
        steps += max(0, shown.steps - STEPS)
        table += [_group(place, step, group, words) for step, group in shown.groups]
    if not table:
        return "", ""
    left = []
    if missing:
        left.append(f"{missing:,} of {missing + len(table):,} groups")
    if steps:
        left.append(f"the rollouts of {steps:,} steps")
    note = (
        f"Left out to keep the page small: {' and '.join(left)}; they are in the rollouts/ folder of the run."
        if left
        else ""
    )
    text = json.dumps(
        {"words": list(words.places), "arms": names, "groups": table}, ensure_ascii=False, separators=(",", ":")
    )
    # Nothing in a data block may end it or open a comment.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"), note


def _groups(rows: Sequence[Row]) -> list[Group]:
    """The most telling first: opened, with both verdicts, stuck, all correct in turn."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get("group"), []).append(row)
    kinds: list[list[Group]] = [[], [], [], []]
    for group in groups.values():
        verdicts = {bool(row.get("correct")) for row in group}
        opened = any(row.get("hinted") for row in group)
        kinds[0 if opened else 1 if len(verdicts) > 1 else 2 if False in verdicts else 3].append(group)
    return [group for turn in zip_longest(*kinds) for group in turn if group is not None]


def _group(arm: int, step: int, group: Group, words: Words) -> dict[str, Any]:
    head = group[0]
    correct = sum(bool(row.get("correct")) for row in group)
    hinted = sum(bool(row.get("hinted")) for row in group)
    state = f"{correct} of {len(group)} rows correct"
    if head.get("stuck"):
        state = f"was stuck; {hinted} of {len(group)} rows replaced" if hinted else "stuck"
    found = {
        "arm": arm,
        "step": step,
        "key": words(head.get("key", "")),
        "prompt": words(_cut(head.get("prompt", ""))),
        "state": words(state),
        "stuck": int(bool(head.get("stuck"))),
        "rows": [_row(row, words) for row in _by_telling(group)],
    }
    return found | ({"trace": words(_cut(head["trace"]))} if head.get("trace") else {})


def _by_telling(group: Group) -> Iterator[Row]:
    """A correct row (the one with hints, if there is one), a wrong one, then the rest."""
    best = max(group, key=lambda row: (bool(row.get("correct")), bool(row.get("hinted"))))
    other = next((row for row in group if bool(row.get("correct")) != bool(best.get("correct"))), None)
    yield best
    if other is not None:
        yield other
    yield from (row for row in group if row is not best and row is not other)


def _cut(text: object) -> str:
    whole = str(text)
    return whole if len(whole) <= 4 * LONGEST else whole[: 4 * LONGEST] + " \u2026"


def reason(row: Row) -> str:
    """Why the verdict is what it is, as far as the verifier says."""
    note, answer, expected = row.get("note"), row.get("answer"), row.get("expected")
    if note:
        return REASONS.get(str(note), str(note))
    if answer is None:
        return ""
    text = f"answer {_cut(answer)}"
    if row.get("correct"):
        return text + (", but the working is wrong" if row.get("derived") == 0 else "")
    if expected is None:
        return text
    return f"{text} is right, but not the working" if answer == expected else f"{text}, expected {_cut(expected)}"


def _end(row: Row) -> int:
    tokens = row.get("tokens") or []
    return min(int(row["end"]) if number(row.get("end")) else len(tokens), LONGEST)


def _row(row: Row, words: Words) -> list[Any]:
    """[flags, facts, tokens, order, confidence, tokens left out]; order -1 where given, confidence in percent, -1 unknown."""
    tokens, end = row.get("tokens") or [], _end(row)
    order, confidence, hint = (
        list(row.get(name) or []) + [None] * len(tokens) for name in ("order", "confidence", "hint")
    )
    facts = [f"reward {short(row['reward'])}"] if number(row.get("reward")) else []
    if number(row.get("advantage")):
        facts.append(f"advantage {row['advantage']:+.2f}".replace("-", "\u2212"))
    if why := reason(row):
        facts.insert(0, why)
    flags = bool(row.get("correct")) + 2 * bool(row.get("hinted")) + 4 * any(hint[:end])
    return [
        flags,
        words(", ".join(facts)),
        [words(token) for token in tokens[:end]],
        [int(at) if number(at) and not given else -1 for at, given in zip(order[:end], hint, strict=False)],
        [round(100 * sure) if number(sure) else -1 for sure in confidence[:end]],
        len(tokens) - end,
    ]
