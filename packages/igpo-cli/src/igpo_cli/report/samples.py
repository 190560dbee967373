"""Rollouts as they were written: hint tokens coloured, the order of unmasking under the pointer, the verdict beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from igpo_cli.health import number, short
from igpo_cli.report.arms import Arm
from igpo_cli.report.chart import escape
from igpo_cli.tracking import read_rollouts

LONGEST = 512
"""Tokens of a row and characters of a prompt or trace (times four) that are shown."""

LOOKED_AT = 20
"""Steps, from the last one back, in which a group that was opened is looked for."""

Row = Mapping[str, Any]


def samples(arm: Arm) -> str:
    """The latest group that the second rollout opened, others of the last kept step, and one of the first, as HTML."""
    steps = list(arm.rollouts)
    kept = {step: _groups(read_rollouts(arm.folder, step)) for step in [*steps[:1], *steps[-LOOKED_AT:]]}
    opened = [(step, group) for step in reversed(kept) for group in kept[step] if _opened(group)][:1]
    last = [(step, group) for step in steps[-1:] for group in kept[step] if (step, group) not in opened]
    first = [(step, group) for step in steps[:1] for group in kept[step] if (step, group) not in [*opened, *last]]
    return "".join(_group(step, group) for step, group in [*opened, *last[: 2 - len(opened)], *first[:1]])


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The most telling first: one that was opened, one with both verdicts, any other."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.get("group"), []).append(row)
    by_telling = sorted(groups.values(), key=lambda group: -len({bool(row.get("correct")) for row in group}))
    opened = [group for group in by_telling if _opened(group)]
    others = [group for group in by_telling if not _opened(group)]
    return [*opened[:1], *others, *opened[1:]]


def _opened(group: Sequence[Row]) -> bool:
    return any(row.get("hinted") for row in group)


def _group(step: int, group: Sequence[Row]) -> str:
    head = group[0]
    correct = sum(bool(row.get("correct")) for row in group)
    hinted = sum(bool(row.get("hinted")) for row in group)
    state = f"{correct} of {len(group)} rows correct"
    if head.get("stuck"):
        state = f"was stuck; {hinted} of {len(group)} rows replaced" if hinted else "stuck"
    parts = [
        f"<article><header><b>step {step}</b><span>{escape(head.get('key', ''))}</span><span>{state}</span></header>",
        f"<dl><dt>prompt</dt><dd>{escape(_cut(head.get('prompt')))}</dd>",
        f"<dt>trace</dt><dd>{escape(_cut(head.get('trace')))}</dd></dl>" if head.get("trace") else "</dl>",
    ]
    chosen = [
        next((row for row in reversed(group) if bool(row.get("correct")) is verdict), None) for verdict in (True, False)
    ]
    return "".join(parts) + "".join(_row(row) for row in chosen if row is not None) + "</article>"


def _cut(text: object) -> str:
    words = str(text)
    return words if len(words) <= 4 * LONGEST else words[: 4 * LONGEST] + " \u2026"


def _row(row: Row) -> str:
    correct = bool(row.get("correct"))
    facts = [f"reward {short(row['reward'])}"] if number(row.get("reward")) else []
    if number(row.get("advantage")):
        facts.append(f"advantage {row['advantage']:+.2f}".replace("-", "\u2212"))
    if row.get("note"):
        facts.append(escape(row["note"]))
    badge = '<b class="ok">correct</b>' if correct else '<b class="no">wrong</b>'
    hinted = '<b class="hinted">with hints</b>' if any(row.get("hint") or []) else ""
    if row.get("hinted") and not hinted:
        hinted = '<b class="hinted">second rollout</b>'
    steps = max((int(at) for at in row.get("order") or [] if number(at)), default=-1) + 1
    replay = '<button type="button" hidden>replay</button>' if steps else ""
    return (
        f'<div class="row"><div class="verdict">{badge}{hinted}<span>{", ".join(facts)}</span>{replay}</div>'
        f'<p class="tokens" data-steps="{steps}">{"".join(_tokens(row))}</p></div>'
    )


def _tokens(row: Row) -> Iterator[str]:
    tokens = row.get("tokens") or []
    end = min(int(row["end"]) if number(row.get("end")) else len(tokens), LONGEST)
    order, confidence, hint = (
        list(row.get(name) or []) + [None] * len(tokens) for name in ("order", "confidence", "hint")
    )
    for index, token in enumerate(tokens[:end]):
        text = str(token)
        word = text.lstrip()
        yield escape(text[: len(text) - len(word)])
        if hint[index]:
            yield f'<i class="hint">{escape(word)}</i>'
        elif number(order[index]) and order[index] >= 0:
            sure = f' data-c="{confidence[index]:.2f}"' if number(confidence[index]) else ""
            yield f'<i data-s="{int(order[index]) + 1}"{sure}>{escape(word)}</i>'
        else:
            yield escape(word)
    if len(tokens) > end:
        yield f" <small>and {len(tokens) - end} more</small>"
