"""What the runs did, in words and one table, and what speaks for and against believing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from igpo_cli.health import NBSP, Finding, Level, share, signs
from igpo_cli.report.arms import Arm, Evaluation, Family, Mean, mean
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


def headline(families: Sequence[Family]) -> str:
    """The one sentence to remember, as HTML."""
    arms = [arm for family in families for arm in family.arms]
    if len(families) == 1:
        return sentences(families[0])
    names = eval_names(arms)[:1]
    if any(len(family.arms) > 1 for family in families):
        return _leaders(families, names[0]) if names else f"{len(families)} arms, compared."
    ends = [(arm, *pair) for arm in arms for name in names if (pair := arm.before_and_after(name))]
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


def _leaders(families: Sequence[Family], name: str) -> str:
    """The two best families of several seeds; two standard errors are what tells them apart."""
    ends = [(family, found) for family in families if (found := family.of(partial(_end, name))) is not None]
    if len(ends) < 2:
        return f"{len(families)} arms, compared."
    ends.sort(key=lambda item: -item[1].value)
    (best, first), (second, other) = ends[:2]
    change = first.value - other.value
    seeds = f"{len(best.arms)} and {len(second.arms)} seeds"
    values = f"<b>{first}</b> against {other} of {escape(second.name)} ({seeds})"
    if first.error is None or other.error is None:
        return f"<b>{escape(best.name)}</b> ends highest on {escape(name)}: {values}; one seed does not tell how sure that is."
    error = math.hypot(first.error, other.error)
    difference = f"a difference of {signed(change)} \u00b1 {error:.2f} (standard error)"
    if change <= 2 * error:
        return f"On {escape(name)} <b>{escape(best.name)}</b> and <b>{escape(second.name)}</b> cannot be told apart: {values}, {difference}."
    return f"<b>{escape(best.name)}</b> ends highest on {escape(name)}: {values}, {difference}."


def _end(name: str, arm: Arm) -> float | None:
    found = arm.evaluations.get(name)
    return found[-1].score.value if found else None


def _change(name: str, arm: Arm) -> float | None:
    pair = arm.before_and_after(name)
    return None if pair is None else pair[1].score.value - pair[0].score.value


def sentences(family: Family) -> str:
    """One arm in words, as HTML; of several seeds their means."""
    return _run_words(family.arms[0]) if len(family.arms) == 1 else _seeds_words(family)


def _seeds_words(family: Family) -> str:
    parts = []
    found = [whole for arm in family.arms if (whole := arm.opened()) is not None]
    if found and (stuck := mean([before for before, _ in found])) is not None:
        text = f"<b>{share(stuck.value)}</b> of groups were stuck"
        opened = mean([part for before, part in found if before])
        if family.arms[0].injection != "none" and opened is not None:
            text += f", {_opener(family.arms[0])} opened <b>{share(opened.value)}</b> of them"
        parts.append(text)
    for name in eval_names(family.arms):
        end, change = (
            family.of(partial(_end, name)),
            family.of(partial(_change, name)),
        )
        if end is not None:
            text = f"accuracy on {escape(name)} "
            if change is not None:
                text += f"{end.value - change.value:.2f} \u2192 "
            parts.append(text + f"<b>{end}</b>")
    text = "; ".join(parts) or "nothing was measured yet"
    return f"{text[:1].upper()}{text[1:]} (mean \u00b1 standard error of {len(family.arms)} seeds)."


def _opener(arm: Arm) -> str:
    return OPENER.get(arm.injection or "", "hints" if arm.injection else "the second rollout")


def _run_words(arm: Arm) -> str:
    """One run in words, as HTML; what was not measured is not mentioned."""
    parts = []
    if (whole := arm.opened()) is not None:
        stuck, opened = whole
        text = f"<b>{share(stuck)}</b> of groups were stuck"
        if arm.injection == "none":
            text += "; without a second rollout they stayed so"
        elif stuck:
            text += f", {_opener(arm)} opened <b>{share(opened)}</b> of them"
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


Cells = list[tuple[str, list[str]]]
"""Columns: a title (HTML), and a cell (HTML, empty where there is nothing to say) for every row."""


def table(families: Sequence[Family]) -> str:
    """One row an arm, means where there are several seeds; then one row a run. A column that nobody can fill is left out."""
    arms = [arm for family in families for arm in family.arms]
    colours = [family.colour for family in families for _ in family.arms]
    runs = _rows([arm.name for arm in arms], colours, _by_run(arms, colours), "run")
    if len(arms) == len(families):
        return runs
    means = _rows([family.name for family in families], [f.colour for f in families], _by_family(families), "arm")
    return f"{means}<details><summary>Every run</summary>{runs}</details>"


def _by_family(families: Sequence[Family]) -> Cells:
    def shares(found: Mean | None) -> str:
        if found is None:
            return ""
        return share(found.value) + ("" if found.error is None else f" <small>\u00b1 {100 * found.error:.0f}</small>")

    def stuck(arm: Arm, *, after: bool) -> float | None:
        found = arm.opened()
        return None if found is None else found[0] * (1 - found[1] * after)

    def opened(arm: Arm) -> float | None:
        found = arm.opened()
        return None if found is None or arm.injection == "none" or not found[0] else found[1]

    def late(arm: Arm) -> float | None:
        values = arm.history.values("reward/mean")
        tail = values[-max(1, len(values) // 6) :]
        return math.fsum(tail) / len(tail) if tail else None

    def wide(found: Mean | None, form: str = ".2f") -> str:
        if found is None:
            return ""
        error = "" if found.error is None else f" <small>\u00b1 {found.error:.2f}</small>"
        return f"<b>{format(found.value, form)}</b>{error}".replace("-", "\u2212")

    columns: Cells = [
        ("seeds", [str(len(family.arms)) for family in families]),
        ("stuck before", [shares(family.of(partial(stuck, after=False))) for family in families]),
        ("stuck after", [shares(family.of(partial(stuck, after=True))) for family in families]),
        ("opened", [shares(family.of(opened)) for family in families]),
        ("reward, last sixth", [wide(family.of(late)) for family in families]),
    ]
    for name in eval_names([arm for family in families for arm in family.arms]):
        ends = [wide(family.of(partial(_end, name))) for family in families]
        changes = [wide(family.of(partial(_change, name)), "+.2f") for family in families]
        columns += [(escape(name), ends), (f"{escape(name)}, change", changes)]
    return columns


def _rows(names: Sequence[str], colours: Sequence[int], columns: Cells, first: str) -> str:
    columns = [(title, cells) for title, cells in columns if any(cells)]
    head = "".join(f"<th scope=col>{title}</th>" for title, _ in columns)
    body = "".join(
        f'<tr><th scope=row><span class="swatch a{colour}"></span>{escape(name)}</th>'
        + "".join(f'<td data-title="{title}"><div>{cells[index] or DASH}</div></td>' for title, cells in columns)
        + "</tr>"
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    )
    single = " single" if len(names) == 1 else ""
    return (
        f'<div class="scroll"><table class="arms{single}"><thead><tr><th scope=col>{first}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _by_run(arms: Sequence[Arm], colours: Sequence[int]) -> Cells:
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
        def cell(arm: Arm, colour: int) -> str:
            found = arm.evaluations.get(name)
            if not found:
                return ""
            pair = arm.before_and_after(name)
            score = found[-1].score
            text = f"{pair[0].score.value:.2f} \u2192 " if pair else ""
            graphic = whisker(score.value, score.low, score.high, colour, tops[name])
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

    return [(title, [cell(arm, colour) for arm, colour in zip(arms, colours, strict=True)]) for title, cell in columns]


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
        if pair[0].score.value >= 0.95 and interval[0] <= 0 <= interval[1]:
            yield Finding("good", f"accuracy on {name} stayed as high as it was")
        elif interval[0] > 0:
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


def comparison(families: Sequence[Family]) -> Iterator[Finding]:
    """What several arms, or one, can and cannot show together."""
    arms = [arm for family in families for arm in family.arms]
    several = any(len(family.arms) > 1 for family in families)
    if len(arms) > 1:
        for what, values in (
            ("steps", dict.fromkeys(arm.last_step("igpo") for arm in arms)),
            ("seeds", dict.fromkeys(_seeds(family) for family in families if _seeds(family))),
        ):
            if len(values) > 1:
                yield Finding("warn", f"The runs differ in their {what}: {'; '.join(map(str, values))}")
        for name in eval_names(arms):
            firsts: dict[Any, set[float]] = {}
            for arm in arms:
                if pair := arm.before_and_after(name):
                    firsts.setdefault(arm.config.get("seed") if several else None, set()).add(pair[0].score.value)
            sizes = {found[-1].score.problems for arm in arms if (found := arm.evaluations.get(name))}
            if len(sizes) > 1:
                yield Finding("warn", f"The runs were evaluated on different numbers of problems of {name}")
            if any(len(values) > 1 for values in firsts.values()):
                yield Finding(
                    "warn", f"The runs did not start from the same accuracy on {name}: from the same checkpoint?"
                )
        sees = [any(value for _, value in arm.series("igpo", "hint/tokens")) for arm in arms]
        if any(sees) and not all(sees):
            hinted, blind = (
                owners(families, [arm for arm, saw in zip(arms, sees, strict=True) if saw is side])
                for side in (True, False)
            )
            yield Finding(
                "note", f"Not the same information: {hinted} saw parts of the reference traces, {blind} did not"
            )
        for twins in _twins(families):
            names = " and ".join(family.name for family in twins)
            yield Finding("warn", f"{names} gave the very same numbers: what they differ in had no effect")
    if any(at.score.low is not None for arm in arms for found in arm.evaluations.values() for at in found):
        if several:
            text = "Standard errors cover the luck of training; all seeds are asked the same held-out problems"
        else:
            runs = "each run is one seed" if len(arms) > 1 else "this is one seed"
            text = f"Intervals cover the choice of held-out problems, not the luck of training: {runs}"
        yield Finding("note", text)


def owners(families: Sequence[Family], arms: Sequence[Arm]) -> str:
    """Names of runs; of an arm all of whose seeds are among them its own."""
    names = []
    for family in families:
        found = [arm.name for arm in family.arms if arm in arms]
        names += [family.name] if len(found) == len(family.arms) else found
    return ", ".join(names)


def _twins(families: Sequence[Family]) -> Iterator[Sequence[Family]]:
    """Arms whose runs trained alike to the last digit, seed by seed."""
    alike: dict[object, list[Family]] = {}
    for family in families:
        runs = {
            str(arm.config.get("seed")): [arm.history.values(name) for name in ("reward/spliced", "policy/loss")]
            for arm in family.arms
        }
        if all(values for run in runs.values() for values in run):
            alike.setdefault(repr(sorted(runs.items())), []).append(family)
    yield from (found for found in alike.values() if len(found) > 1)


def _seeds(family: Family) -> str:
    return " ".join(sorted(str(arm.config["seed"]) for arm in family.arms if "seed" in arm.config))


MARKS = {"good": "\u2713", "note": "i", "warn": "!", "bad": "\u2717"}


def trust(families: Sequence[Family]) -> str:
    """All findings as an HTML list, the worst first; the same finding of several arms is one line."""
    arms = [arm for family in families for arm in family.arms]
    alike: dict[object, list[tuple[Arm, Finding]]] = {}
    for arm in arms:
        for finding in findings(arm):
            alike.setdefault(finding.kind or finding, []).append((arm, finding))
    lines = []
    for found in alike.values():
        first, finding = found[0]
        text = escape(finding.text)
        text = text[:1].upper() + text[1:]
        if len(arms) > 1 and len({other.text for _, other in found}) > 1:
            others = owners(families, [arm for arm, _ in found[1:]])
            text = f"<b>{escape(first.name)}</b>: {text}; alike in {escape(others)}"
        elif len(arms) > 1:
            names = owners(families, [arm for arm, _ in found]) if len(found) < len(arms) else "All runs"
            text = f"<b>{escape(names)}</b>: {text}"
        lines.append((finding.level, text))
    lines += [(finding.level, escape(finding.text)) for finding in comparison(families)]
    order: list[Level] = ["bad", "warn", "note", "good"]
    lines.sort(key=lambda item: order.index(item[0]))
    items = "".join(
        f'<li class="{level}"><span>{MARKS[level]}</span><div>{text}{"" if text.endswith("?") else "."}</div></li>'
        for level, text in lines
    )
    return f'<ul class="trust">{items}</ul>'
