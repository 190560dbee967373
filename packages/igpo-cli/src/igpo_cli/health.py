"""What a run's numbers say about its health: read by the report when it is over, and by `Watch` while it lives.

Signs need no configuration and no torch. A trend counts from ten steps on, and where it is larger than three standard
errors of the steps' spread, because a run is looked at after every step.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from attrs import define, field, frozen

Points = list[tuple[int, float]]
"""(step, value), ascending."""

Level = Literal["good", "note", "warn", "bad"]

NBSP = "\u00a0"


@frozen
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str
    kind: str = ""
    """What it is about: of one kind a running run is told once."""


@define
class History:
    """Every metric of a run over its steps; what is missing or not finite at a step is left out."""

    columns: dict[tuple[str, str], Points] = field(factory=dict)

    def add(self, phase: str, step: int, metrics: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl."""
        for name, value in metrics.items():
            if number(value):
                self.columns.setdefault((phase, name), []).append((step, float(value)))

    def series(self, phase: str, name: str) -> Points:
        return self.columns.get((phase, name), [])

    def values(self, name: str) -> list[float]:
        """Of the RL phase."""
        return [value for _, value in self.series("igpo", name)]

    def names(self, phase: str, prefix: str) -> list[str]:
        """Of a phase's metrics, those that begin so, in the order in which they first occur."""
        return [name for found, name in self.columns if found == phase and name.startswith(prefix)]

    @property
    def largest_k(self) -> int:
        """Of correct/pass@k; 0 without one."""
        return max((int(name.rpartition("@")[2]) for name in self.names("igpo", "correct/pass@")), default=0)


def number(value: object) -> bool:
    """True for what can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def share(value: float) -> str:
    """62 %."""
    return f"{100 * value:.0f}{NBSP}%"


def short(value: float) -> str:
    """Three significant digits at most, without needless zeros."""
    return f"{value:.3g}" if value else "0"


@frozen
class Trend:
    """The means of the first and of the last steps, and whether their difference is more than noise."""

    first: float
    last: float
    clear: bool

    @property
    def change(self) -> float:
        return self.last - self.first


def trend(values: Sequence[float]) -> Trend | None:
    """Over a sixth of the steps at each end, five at least; None under ten steps."""
    if len(values) < 10:
        return None
    size = max(5, len(values) // 6)
    head, tail = values[:size], values[-size:]
    error = math.sqrt((statistics.variance(head) + statistics.variance(tail)) / size)
    first, last = statistics.fmean(head), statistics.fmean(tail)
    return Trend(first, last, abs(last - first) > 3 * error)


def signs(history: History) -> Iterator[Finding]:
    """Everything that looks unhealthy so far, as plain text."""
    yield from _leak(history)
    yield from _ends(history)
    yield from _drift(history)
    yield from _entropy(history)
    yield from _collapse(history)
    yield from _hacking(history)
    yield from _verifier(history)
    yield from _hints(history)


def _leak(history: History) -> Iterator[Finding]:
    if count := math.fsum(history.values("hint/answer_leak")):
        text = f"{count:.0f} hint tokens lay inside an answer span: rescued groups were told the answer"
        yield Finding("bad", text, "leak")


def _ends(history: History) -> Iterator[Finding]:
    ends = history.values("sample/eos")
    late = ends[-max(5, len(ends) // 4) :]
    if len(ends) >= 5 and (endless := 1 - statistics.fmean(late)) > 0.2:
        text = f"{share(endless)} of completions never end: is the width too small, or EOS not learned?"
        yield Finding("warn", text, "ends")


def _drift(history: History) -> Iterator[Finding]:
    kl = history.series("igpo", "policy/kl")
    if kl and (top := max(kl, key=lambda point: point[1]))[1] > 1:
        gone = statistics.fmean(value for _, value in kl[-3:]) > 1
        after = "the policy went far away" if gone else "some updates went far, but the policy came back"
        text = f"the KL to the reference reached {short(top[1])} nats a token at step {top[0]}: {after}"
        yield Finding("warn", text, "kl")
    ratio = max(history.series("igpo", "policy/ratio_max"), key=lambda point: point[1], default=(0, 0.0))
    if ratio[1] > 100:
        text = f"a likelihood ratio reached {short(ratio[1])} at step {ratio[0]}: the inner updates move too far"
        yield Finding("warn", text, "ratio")
    clip = max(history.series("igpo", "policy/clip"), key=lambda point: point[1], default=(0, 0.0))
    if clip[1] > 0.3:
        text = (
            f"{share(clip[1])} of tokens were clipped at step {clip[0]}: the learning rate is high, or updates too many"
        )
        yield Finding("warn", text, "clip")


def _entropy(history: History) -> Iterator[Finding]:
    values = history.values("policy/entropy_own") or history.values("policy/entropy")
    if len(values) <= 10:
        return
    first, last = statistics.fmean(values[:5]), statistics.fmean(values[-5:])
    if last < 0.1 * first:
        text = "the entropy fell below a tenth of what it was: rollouts hardly differ any more"
        yield Finding("warn", text, "entropy")
    elif last > 3 * first and last > 0.1:
        text = f"the entropy rose from {short(first)} to {short(last)} nats a token: the policy may be falling apart"
        yield Finding("warn", text, "entropy")


def _collapse(history: History) -> Iterator[Finding]:
    """Sharpening what the policy could do already, at the cost of what it does now and then (2504.13837)."""
    k = history.largest_k
    one, many = trend(history.values("correct/mean")), trend(history.values(f"correct/pass@{k}"))
    if one and many and many.clear and many.change < -0.05 and one.change > many.change / 2:
        text = (
            f"pass@{k} fell from {many.first:.2f} to {many.last:.2f} while pass@1 went from {one.first:.2f} to "
            f"{one.last:.2f}: the rollouts of a problem become alike (mode collapse)"
        )
        yield Finding("warn", text, "collapse")


def _hacking(history: History) -> Iterator[Finding]:
    reward, correct = trend(history.values("reward/mean")), trend(history.values("correct/mean"))
    rose = reward is not None and reward.clear and reward.change > 0.05
    if reward is not None and rose:
        went = f"the training reward rose from {reward.first:.2f} to {reward.last:.2f}"
        if correct is not None and correct.clear and correct.change < -0.02:
            text = (
                f"{went} while correct rows fell from {correct.first:.2f} to {correct.last:.2f}: is the reward gamed?"
            )
            yield Finding("warn", text, "hacking")
        for name in history.names("igpo", "eval/"):
            if not name.endswith("/pass@1") or len(scores := history.values(name)) < 2 or scores[0] >= 0.9:
                continue
            high = history.values(name.removesuffix("pass@1") + "high")
            slack = high[-1] - scores[-1] if high else 0.0
            if scores[-1] + slack - scores[0] < reward.change / 2:
                text = (
                    f"{went}, but accuracy on {name.split('/', 1)[1].removesuffix('/pass@1')} went from {scores[0]:.2f} "
                    f"to {scores[-1]:.2f}: reward hacking, or learning the training problems by heart?"
                )
                yield Finding("warn", text, "hacking")
    derived = history.values("correct/derived")
    late = derived[-max(5, len(derived) // 6) :]
    if len(derived) >= 5 and (wrong := 1 - statistics.fmean(late)) > 0.2:
        text = f"the working of {share(wrong)} of correct samples is wrong: luck, or a shortcut that the reward allows"
        yield Finding("warn", text, "derived")


def _verifier(history: History) -> Iterator[Finding]:
    for note, what in (("unverifiable", "could not be verified"), ("timeout", "ran out of the verifier's time")):
        values = history.values(f"verdict/{note}")  # left out at steps where it is 0
        steps = max(1, len(history.values("reward/mean")))
        if (part := math.fsum(values) / steps) > 0.05 and steps >= 5:
            yield Finding("warn", f"{share(part)} of samples {what}", note)


def _hints(history: History) -> Iterator[Finding]:
    for kind in ("", "_proxy"):
        own, hint = history.values(f"gradient/own{kind}"), history.values(f"gradient/hint{kind}")
        if len(own) >= 5 and len(hint) >= 5:
            if (ratio := math.fsum(hint) / max(math.fsum(own), 1e-30)) > 1:
                text = f"the gradient of hint tokens is {short(ratio)} times that of the policy's own: fewer hints, or a lower tau"
                yield Finding("warn", text, "hints")
            return


@define
class Watch:
    """Speaks up in a running run when something begins to look unhealthy, once for each kind."""

    history: History = field(factory=History)
    told: set[str] = field(factory=set)

    def hear(self, step: int, phase: str, metrics: Mapping[str, Any]) -> list[str]:
        """One row of metrics -> what to tell the user now."""
        self.history.add(phase, step, metrics)
        return self._fresh()

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The rows of metrics.jsonl of a run that goes on: what they are signs of was told then."""
        for row in rows:
            self.history.add(row["phase"], row["step"], row)
        self._fresh()

    def _fresh(self) -> list[str]:
        fresh = [finding for finding in signs(self.history) if finding.kind not in self.told]
        self.told |= {finding.kind for finding in fresh}
        return [finding.text for finding in fresh]
