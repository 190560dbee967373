"""The page: one file, nothing fetched, and a content policy that lets nothing but our own script and style act.

Model text is hostile: it is escaped where it enters the page, and the policy holds should that ever fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from attrs import frozen

from igpo_cli import __version__
from igpo_cli.health import short
from igpo_cli.report.arms import Arm, read_arms
from igpo_cli.report.chart import Line, chart, escape, smooth, thin
from igpo_cli.report.samples import samples
from igpo_cli.report.summary import differences, eval_names, headline, sentences, table, trust

COLOURS = 6
"""Colours of the style sheet; a seventh arm gets the first one again."""

DASHED = '<span class="key dashed"></span>'
SOLID = '<span class="key"></span>'


@frozen
class Curve:
    """One chart: what it is called, how to read it, and the metrics it draws, by what each is called in it."""

    title: str
    caption: str
    metrics: dict[str, str]
    """The first is drawn solid, a second one dashed."""
    top: float | None = None
    """Upper end of the scale; by default what the values need."""


CURVES = {
    "igpo": (
        Curve("Reward", "mean of the sampled rows, before any is replaced", {"": "reward/mean"}),
        Curve(
            "Entropy",
            f"nats a token: {SOLID} own tokens, {DASHED} hint tokens",
            {"own": "policy/entropy", "hints": "policy/entropy_hint"},
        ),
        Curve("KL to the reference", "nats a token", {"": "policy/kl"}),
        Curve(
            "Hint share",
            f"{SOLID} of scored tokens, {DASHED} of rows",
            {"of tokens": "hint/tokens", "of rows": "hint/rows"},
        ),
        Curve("Gradient norm", "before clipping", {"": "optimizer/grad_norm"}),
        Curve("Clipped ratios", "share of tokens whose ratio was clipped", {"": "policy/clip"}),
        Curve("Forwards", "model forwards a rollout", {"": "sample/forwards"}),
        Curve("Completions that end", "share of rows with an end token", {"": "sample/eos"}, top=1.0),
    ),
    "sft": (
        Curve("Loss", "masked-diffusion bound, nats a token", {"": "sft/loss"}),
        Curve("Accuracy on masked tokens", "share predicted", {"": "sft/accuracy"}, top=1.0),
        Curve("Gradient norm", "before clipping", {"": "optimizer/grad_norm"}),
    ),
}


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Reads the runs, writes the page whole or not at all, and returns its path."""
    text = page(read_arms(folders))
    aside = out.with_name(out.name + ".new")
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, out)
    return out


def page(arms: Sequence[Arm]) -> str:
    """The whole HTML document."""
    files = resources.files("igpo_cli.report")
    style = (files / "style.css").read_text(encoding="utf-8")
    script = (files / "script.js").read_text(encoding="utf-8")
    policy = f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; base-uri 'none'; form-action 'none'"
    title = "igpo: " + ", ".join(escape(arm.name) for arm in arms)
    sections = [
        _summary(arms),
        _section("Can it be trusted?", trust(arms)),
        _section("Curves", _curves(arms, "igpo"), _legend(arms)),
        _section("Supervised fine-tuning", _curves(arms, "sft"), _legend(arms)),
        _samples(arms),
        _configuration(arms),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head><body><main>{''.join(sections)}{_footer()}</main>"
        f"<script>{script}</script></body></html>\n"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _section(title: str, body: str, legend: str = "") -> str:
    """Empty without a body."""
    return f"<section><h2>{title}</h2>{legend}{body}</section>" if body else ""


def _summary(arms: Sequence[Arm]) -> str:
    names = ", ".join(escape(arm.name) for arm in arms)
    words = ""
    if len(arms) > 1:
        items = (f"<li><b>{escape(arm.name)}</b>: {sentences(arm)}</li>" for arm in arms)
        words = f"<ul class=words>{''.join(items)}</ul>"
    facts = [_fact(arms, key, word) for key, word in (("model", "model"), ("task", "task"), ("seed", "seed"))]
    return (
        f"<header class=top><h1>{names}</h1><p>{', '.join(fact for fact in facts if fact)}</p></header>"
        f"<section><p class=headline>{headline(arms)}</p>{table(arms)}{words}</section>"
    )


def _fact(arms: Sequence[Arm], key: str, word: str) -> str:
    """`model tiny`, where all arms agree."""
    values = []
    for arm in arms:
        value = arm.config.get(key)
        values.append(value.get("name") if isinstance(value, dict) else value)
    return f"{word} {escape(values[0])}" if values[0] is not None and all(v == values[0] for v in values) else ""


def _legend(arms: Sequence[Arm]) -> str:
    if len(arms) < 2:
        return ""
    items = (f'<span><span class="swatch a{index}"></span>{escape(arm.name)}</span>' for index, arm in enumerate(arms))
    return f"<div class=legend>{''.join(items)}</div>"


def _window(arms: Sequence[Arm], phase: str) -> int:
    """Steps of a running mean: odd, a twelfth of the phase, 25 at most."""
    return min(25, max((arm.last_step(phase) for arm in arms), default=0) // 12 | 1)


def _lines(arms: Sequence[Arm], phase: str, curve: Curve) -> list[Line]:
    window = _window(arms, phase)
    lines = []
    for index, arm in enumerate(arms):
        for place, (label, metric) in enumerate(curve.metrics.items()):
            if points := arm.series(phase, metric):
                lines.append(
                    Line(
                        arm=index % COLOURS,
                        label=f"{arm.name} {label}".rstrip(),
                        points=thin(smooth(points, window)),
                        dashed=place > 0,
                        raw=thin(points) if len(arms) == 1 and window > 1 else [],
                    )
                )
    return lines


def _stuck(arms: Sequence[Arm]) -> str:
    lines = []
    for index, arm in enumerate(arms):
        before, after = (
            thin(smooth(arm.series("igpo", f"stuck/{when}"), _window(arms, "igpo"))) for when in ("before", "after")
        )
        if before:
            lines.append(
                Line(arm=index % COLOURS, label=f"{arm.name} before", points=before, dashed=True, down_to=after)
            )
        if after:
            lines.append(Line(arm=index % COLOURS, label=f"{arm.name} after", points=after))
    caption = f"share of groups without a correct row: {DASHED} before hints, {SOLID} after"
    return chart("Stuck groups", caption, lines, wide=True, top=1.0) if lines else ""


def _accuracy(arms: Sequence[Arm], phase: str, *, wide: bool) -> str:
    figures: list[str] = []
    for name in eval_names(arms):
        lines = []
        for index, arm in enumerate(arms):
            found = [at for at in arm.evaluations.get(name, []) if at.phase == phase]
            if found:
                lines.append(
                    Line(
                        arm=index % COLOURS,
                        label=arm.name,
                        points=[(at.step, at.score.value) for at in found],
                        intervals=[
                            (at.step, at.score.low, at.score.high)
                            for at in found
                            if at.score.low is not None and at.score.high is not None
                        ],
                    )
                )
        if lines:
            bars = "; bars are 95\u00a0% intervals" if any(line.intervals for line in lines) else ""
            figures.append(
                chart(f"Accuracy on {name}", f"share of problems solved{bars}", lines, wide=wide and not figures)
            )
    return "".join(figures)


def _curves(arms: Sequence[Arm], phase: str) -> str:
    """All charts of a phase; one whose every value is the same becomes a word in the remarks."""
    wide = phase == "igpo"
    figures = (_stuck(arms) if wide else "") + _accuracy(arms, phase, wide=wide)
    constant = []
    for curve in CURVES[phase]:
        lines = _lines(arms, phase, curve)
        values = {value for line in lines for _, value in [*line.points, *line.raw]}
        if len(values) > 1:
            figures += chart(curve.title, curve.caption, lines, top=curve.top)
        elif values:
            constant.append(f"{curve.title.lower()} {short(values.pop())}")
    return f"<div class=figures>{figures}</div>{_remarks(arms, phase, constant)}" if figures or constant else ""


def _remarks(arms: Sequence[Arm], phase: str, constant: Sequence[str]) -> str:
    remarks = []
    if (window := _window(arms, phase)) > 1:
        raw = ", the faint ones what was measured" if len(arms) == 1 else ""
        remarks.append(f"Lines are running means over {window} steps{raw}; accuracies are as measured.")
    if constant:
        remarks.append(f"The same at every step: {', '.join(constant)}.")
    return f"<p class=fine>{' '.join(remarks)}</p>" if remarks else ""


def _samples(arms: Sequence[Arm]) -> str:
    parts: list[str] = []
    for index, arm in enumerate(arms):
        if (found := samples(arm)) and len(arms) > 1:
            name = f'<summary><span class="swatch a{index % COLOURS}"></span>{escape(arm.name)}</summary>'
            found = f"<details{'' if parts else ' open'}>{name}{found}</details>"
        parts += [found] if found else []
    how = (
        '<p class=fine><i class="hint">Hints</i> stood from the start. The stronger the tint of another token, '
        "the earlier it was committed: point at one to see the canvas as it was then.</p>"
    )
    return _section("Rollouts", f"{how}<div class=samples>{''.join(parts)}</div>" if parts else "")


def _configuration(arms: Sequence[Arm]) -> str:
    body = differences(arms)
    if body:
        body = f"<h3>Where the runs differ</h3>{body}"
    for arm in arms:
        for title, text in (
            ("run.toml", arm.config_text),
            ("environment.json", json.dumps(arm.environment, indent=2, ensure_ascii=False) if arm.environment else ""),
        ):
            if text:
                name = f"{escape(arm.name)}: {title}" if len(arms) > 1 else title
                body += f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>"
    return _section("Configuration", body)


def _footer() -> str:
    return (
        "<footer><p><b>stuck</b>: a group of rollouts of one problem without a correct one, so without anything to learn from. "
        "<b>opened</b>: stuck groups that a correct row of the second rollout was put into, out of all stuck ones. "
        "<b>change</b>: interval of the difference of two independent shares (Newcombe 1998), "
        "wider than need be because the problems are the same.</p>"
        f"<p>igpo {escape(__version__)}</p></footer>"
    )
