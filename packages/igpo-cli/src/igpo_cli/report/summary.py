"""What the runs did, in words and one table, and what speaks for and against believing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from igpo_cli.health import NBSP, Finding, Level, share, signs
from igpo_cli.report.arms import Arm, Evaluation, flatten
from igpo_cli.report.chart import escape, whisker
from igpo_cli.screen import clock

DASH = "\u2013"
OPENER = {
    "none": "no second rollout",
    "resample": "a second rollout without hints",
    "full": "the whole trace as a hint",
}
"""What opens stuck groups, by injection; any other one gives hints."""


def signed(value: float) -> str:
    """+0.19, with a true minus sign."""
    return f"{value:+.2f}".replace("-", "\u2212")


def gain(start: Evaluation, end: Evaluation) -> tuple[float, tuple[float, float] | None]:
    """end - start, with the 95 % interval of two independent shares from their own intervals (Newcombe 1998, method 10).

    The same problems are asked twice, so the true interval is usually narrower.
    """
    a, b = start.score, end.score
    change = b.value - a.value
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return change, None
    return change, (
        change - math.hypot(b.value - b.low, a.high - a.value),
        change + math.hypot(b.high - b.value, a.value - a.low),
    )


# Words -----------------------------------------------------------------------------------------------------------------


def headline(arms: Sequence[Arm]) -> str:
    """The one sentence to remember, as HTML."""
    ends = [(arm, *pair) for arm in arms for name in eval_names(arms)[:1] if (pair := arm.before_and_after(name))]
    if len(arms) == 1:
        return sentences(arms[0])
    if len(ends) < 2:
        return f"{len(arms)} runs, compared."
    ends.sort(key=lambda item: -item[2].score.value)
    (best, _, first), (second, _, other) = ends[:2]
    change, interval = gain(other, first)
    bounds = "" if interval is None else f" (95{NBSP}% interval {signed(interval[0])} to {signed(interval[1])})"
    verdict = f"<b>{escape(best.name)}</b> ends highest on {escape(first.score.name)}"
    if interval is not None and interval[0] <= 0:
        verdict = f"On {escape(first.score.name)} <b>{escape(best.name)}</b> and <b>{escape(second.name)}</b> cannot be told apart"
    return (
        f"{verdict}: <b>{first.score.value:.2f}</b> against {other.score.value:.2f} of {escape(second.name)}, "
        f"a difference of {signed(change)}{bounds}."
    )


def sentences(arm: Arm) -> str:
    """One run in words, as HTML; what was not measured is not mentioned."""
    parts = []
    if (whole := arm.opened()) is not None:
        stuck, opened = whole
        text = f"<b>{share(stuck)}</b> of groups were stuck"
        if arm.injection == "none":
            text += "; without a second rollout they stayed so"
        elif stuck:
            opener = OPENER.get(arm.injection or "", "hints" if arm.injection else "the second rollout")
            text += f", {opener} opened <b>{share(opened)}</b> of them"
        tail = max(1, arm.last_step("igpo") // 6)
        if (late := arm.opened(tail)) and tail > 1:
            text += f" (over the last {tail} steps {share(late[0])}"
            text += ")" if arm.injection == "none" else f" and {share(late[1])})"
        parts.append(text)
    for name in arm.evaluations:
        if (pair := arm.before_and_after(name)) is not None:
            start, end = pair
            text = f"accuracy on {escape(name)} {start.score.value:.2f} \u2192 <b>{end.score.value:.2f}</b>"
            text += _interval(end)
            change, interval = gain(start, end)
            text += f", a change of {signed(change)}"
            if interval is not None:
                text += f" ({signed(interval[0])} to {signed(interval[1])})"
            parts.append(text)
        elif found := arm.evaluations[name]:
            parts.append(
                f"accuracy on {escape(name)} <b>{found[-1].score.value:.2f}</b>{_interval(found[-1])} at step {found[-1].step}"
            )
    text = "; ".join(parts) or "nothing was measured yet"
    return text[:1].upper() + text[1:] + "."


def _interval(at: Evaluation) -> str:
    score = at.score
    if score.low is None or score.high is None:
        return ""
    problems = f", {score.problems} problems" if score.problems else ""
    return f" (95{NBSP}% interval {score.low:.2f} to {score.high:.2f}{problems})"


def eval_names(arms: Sequence[Arm]) -> list[str]:
    """Of all arms, in the order in which they first occur."""
    return list(dict.fromkeys(name for arm in arms for name in arm.evaluations))


# The table -------------------------------------------------------------------------------------------------------------


def table(arms: Sequence[Arm]) -> str:
    """One row an arm; a column that no arm can fill is left out, a cell that an arm cannot fill is a dash."""
    names = eval_names(arms)
    tops = {
        name: max(at.score.high or at.score.value for arm in arms for at in arm.evaluations.get(name, [])) or 1.0
        for name in names
    }

    def first_and_last(arm: Arm) -> str:
        points = arm.series("igpo", "reward/mean")
        size = max(1, len(points) // 6)
        head, tail = points[:size], points[-size:]
        return " \u2192 ".join(f"{sum(v for _, v in part) / size:.3f}" for part in (head, tail)) if points else ""

    def accuracy(name: str) -> Callable[[Arm, int], str]:
        def cell(arm: Arm, index: int) -> str:
            found = arm.evaluations.get(name)
            if not found:
                return ""
            pair = arm.before_and_after(name)
            score = found[-1].score
            text = f"{pair[0].score.value:.2f} \u2192 " if pair else ""
            graphic = whisker(score.value, score.low, score.high, index, tops[name])
            bounds = (
                ""
                if score.low is None or score.high is None
                else f" <small>{score.low:.2f} to {score.high:.2f}</small>"
            )
            return f"{text}<b>{score.value:.2f}</b>{bounds}<br>{graphic}"

        return cell

    def change(name: str) -> Callable[[Arm, int], str]:
        def cell(arm: Arm, _: int) -> str:
            pair = arm.before_and_after(name)
            if pair is None:
                return ""
            value, interval = gain(*pair)
            bounds = "" if interval is None else f"<br><small>{signed(interval[0])} to {signed(interval[1])}</small>"
            return f"{signed(value)}{bounds}"

        return cell

    def stuck(arm: Arm, _: int) -> str:
        found = arm.opened()
        return "" if found is None else f"{share(found[0])} \u2192 {share(found[0] * (1 - found[1]))}"

    def opened(arm: Arm, _: int) -> str:
        found = arm.opened()
        return "" if found is None or arm.injection == "none" or not found[0] else share(found[1])

    columns: list[tuple[str, Callable[[Arm, int], str]]] = [
        ("injection", lambda arm, _: escape(arm.injection or "")),
        ("steps", lambda arm, _: str(arm.last_step("igpo") or "")),
        ("stuck before \u2192 after", stuck),
        ("opened", opened),
        ("reward, first \u2192 last sixth", lambda arm, _: first_and_last(arm)),
    ]
    for name in names:
        columns += [(escape(name), accuracy(name)), (f"{escape(name)}, change", change(name))]
    columns.append(("time", lambda arm, _: clock(arm.seconds) if arm.seconds is not None else ""))

    cells = [(title, [cell(arm, index) for index, arm in enumerate(arms)]) for title, cell in columns]
    cells = [(title, column) for title, column in cells if any(column)]
    head = "".join(f"<th scope=col>{title}</th>" for title, _ in cells)
    body = "".join(
        f'<tr><th scope=row><span class="swatch a{index}"></span>{escape(arm.name)}</th>'
        + "".join(f'<td data-title="{title}"><div>{column[index] or DASH}</div></td>' for title, column in cells)
        + "</tr>"
        for index, arm in enumerate(arms)
    )
    return f'<div class="scroll"><table class="arms"><thead><tr><th scope=col>run</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def differences(arms: Sequence[Arm]) -> str:
    """The configuration keys in which the arms differ, as an HTML table; empty for one arm."""
    flats = [flatten(arm.config) for arm in arms]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    rows = [
        (key, [flat.get(key) for flat in flats])
        for key in keys
        if key not in ("name", "folder") and any(flat.get(key) != flats[0].get(key) for flat in flats)
    ]
    if len(arms) < 2 or not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(arm.name)}</th>" for arm in arms)
    body = "".join(
        f"<tr><th scope=row>{escape(key)}</th>"
        + "".join(f"<td>{DASH if value is None else escape(value)}</td>" for value in values)
        + "</tr>"
        for key, values in rows
    )
    return f'<div class="scroll"><table><thead><tr><th scope=col>option</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# Trust -----------------------------------------------------------------------------------------------------------------


def findings(arm: Arm) -> Iterator[Finding]:
    """Every check that this run's data allow, as plain text."""
    yield from _leak(arm)
    yield from _finished(arm)
    yield from _numbers(arm)
    yield from _learned(arm)
    yield from _signal(arm)
    yield from signs(arm.history)


def _leak(arm: Arm) -> Iterator[Finding]:
    leaks = arm.history.values("hint/answer_leak")
    if leaks and not any(leaks) and any(arm.history.values("hint/rows")):
        yield Finding("good", "no hint token lay inside an answer span")


def _finished(arm: Arm) -> Iterator[Finding]:
    planned, done = arm.planned_steps("igpo"), arm.last_step("igpo")
    if planned is None or not arm.rows:
        return
    if done < planned:
        yield Finding("warn", f"ended, or still running, at step {done} of {planned}")
    else:
        yield Finding("good", "all planned steps were taken")


def _numbers(arm: Arm) -> Iterator[Finding]:
    skipped = sum(value > 0 for phase in ("sft", "igpo") for _, value in arm.series(phase, "optimizer/skipped"))
    broken = sum(any(value is None for value in row.values()) for row in arm.rows)
    if skipped or broken:
        yield Finding("warn", f"updates were refused at {skipped} steps, and numbers were not finite at {broken}")
    else:
        yield Finding("good", "all numbers were finite and no update was refused")


def _learned(arm: Arm) -> Iterator[Finding]:
    for name in arm.evaluations:
        if (pair := arm.before_and_after(name)) is None or (interval := gain(*pair)[1]) is None:
            continue
        problems = pair[1].score.problems
        if interval[0] > 0:
            yield Finding("good", f"the change on {name} is larger than the choice of problems explains")
        elif interval[1] < 0:
            yield Finding("warn", f"accuracy on {name} fell by more than the choice of problems explains")
        else:
            asked = f" with {problems} problems" if problems else ""
            yield Finding("warn", f"the change on {name} cannot be told from none{asked}")


def _signal(arm: Arm) -> Iterator[Finding]:
    found = arm.opened(max(5, arm.last_step("igpo") // 6))
    if found is not None and found[0] * (1 - found[1]) > 0.95:
        yield Finding("warn", "hardly a group had a correct row at the end: there was next to nothing to learn from")


def comparison(arms: Sequence[Arm]) -> Iterator[Finding]:
    """What several arms, or one, can and cannot show together."""
    if len(arms) > 1:
        for what, values in (
            ("steps", dict.fromkeys(arm.last_step("igpo") for arm in arms)),
            ("seeds", dict.fromkeys(arm.config["seed"] for arm in arms if "seed" in arm.config)),
        ):
            if len(values) > 1:
                yield Finding("warn", f"The runs differ in their {what}: {', '.join(map(str, values))}")
        for name in eval_names(arms):
            firsts = {pair[0].score.value for arm in arms if (pair := arm.before_and_after(name))}
            sizes = {found[-1].score.problems for arm in arms if (found := arm.evaluations.get(name))}
            if len(sizes) > 1:
                yield Finding("warn", f"The runs were evaluated on different numbers of problems of {name}")
            if len(firsts) > 1:
                yield Finding(
                    "warn", f"The runs did not start from the same accuracy on {name}: from the same checkpoint?"
                )
        sees = [any(value for _, value in arm.series("igpo", "hint/tokens")) for arm in arms]
        if any(sees) and not all(sees):
            hinted, blind = (
                ", ".join(arm.name for arm, saw in zip(arms, sees, strict=True) if saw is side)
                for side in (True, False)
            )
            yield Finding(
                "note", f"Not the same information: {hinted} saw parts of the reference traces, {blind} did not"
            )
    if any(at.score.low is not None for arm in arms for found in arm.evaluations.values() for at in found):
        runs = "each run is one seed" if len(arms) > 1 else "this is one seed"
        yield Finding("note", f"Intervals cover the choice of held-out problems, not the luck of training: {runs}")


MARKS = {"good": "\u2713", "note": "i", "warn": "!", "bad": "\u2717"}


def trust(arms: Sequence[Arm]) -> str:
    """All findings as an HTML list, the worst first; the same finding of several arms is one line."""
    by_finding: dict[Finding, list[int]] = {}
    for index, arm in enumerate(arms):
        for finding in findings(arm):
            by_finding.setdefault(finding, []).append(index)
    lines = []
    for finding, owners in by_finding.items():
        text = escape(finding.text)
        if len(arms) > 1:
            who = ", ".join(f"<b>{escape(arms[index].name)}</b>" for index in owners)
            text = f"{who if len(owners) < len(arms) else 'all runs'}: {text}"
        lines.append((finding.level, text[:1].upper() + text[1:]))
    lines += [(finding.level, escape(finding.text)) for finding in comparison(arms)]
    order: list[Level] = ["bad", "warn", "note", "good"]
    lines.sort(key=lambda item: order.index(item[0]))
    items = "".join(f'<li class="{level}"><span>{MARKS[level]}</span><div>{text}.</div></li>' for level, text in lines)
    return f'<ul class="trust">{items}</ul>'
