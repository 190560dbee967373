"""The page: one file, nothing fetched, and a content policy that lets nothing but our own script and style act.

Model text is hostile: it is escaped where it enters the page, and the policy holds should that ever fail.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from igpo_cli import __version__
from igpo_cli.report.arms import Arm, Family, families, read_arms
from igpo_cli.report.chart import escape
from igpo_cli.report.curves import costs, curves, sft_curves
from igpo_cli.report.samples import rollouts
from igpo_cli.report.setup import configuration, environment
from igpo_cli.report.summary import headline, sentences, table, trust


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
    groups = families(arms)
    title = "igpo: " + ", ".join(escape(group.name) for group in groups)
    sections = [
        _summary(groups),
        _section("trust", "Can it be trusted?", trust(groups)),
        _section("curves", "Curves", curves(groups), _legend(groups)),
        _section("sft", "Supervised fine-tuning", sft_curves(groups), _legend(groups)),
        _section("rollouts", "Rollouts", _rollouts(groups)),
        _section("cost", "Cost", costs(groups)),
        _section("configuration", "Configuration", configuration(groups)),
        _section("environment", "Environment", environment(arms)),
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


def _section(name: str, title: str, body: str, legend: str = "") -> str:
    """Empty without a body."""
    return f"<section id={name}><h2>{title}</h2>{legend}{body}</section>" if body else ""


def _summary(groups: Sequence[Family]) -> str:
    arms = [arm for group in groups for arm in group.arms]
    names = ", ".join(escape(group.name) for group in groups)
    words = ""
    if len(groups) > 1:
        items = (f"<li><b>{escape(group.name)}</b>: {sentences(group)}</li>" for group in groups)
        words = f"<ul class=words>{''.join(items)}</ul>"
    facts = [_fact(arms, key, word) for key, word in (("model", "model"), ("task", "task"), ("seed", "seed"))]
    return (
        f"<header class=top><h1>{names}</h1><p>{', '.join(fact for fact in facts if fact)}</p></header>"
        f"<section><p class=headline>{headline(groups)}</p>{table(groups)}{words}</section>"
    )


def _fact(arms: Sequence[Arm], key: str, word: str) -> str:
    """`model tiny`, where all arms agree."""
    values = []
    for arm in arms:
        value = arm.config.get(key)
        values.append(value.get("name") if isinstance(value, dict) else value)
    return f"{word} {escape(values[0])}" if values[0] is not None and all(v == values[0] for v in values) else ""


def _legend(groups: Sequence[Family]) -> str:
    if len(groups) < 2:
        return ""
    items = (f'<span><span class="swatch a{group.colour}"></span>{escape(group.name)}</span>' for group in groups)
    return f"<div class=legend>{''.join(items)}</div>"


def _rollouts(groups: Sequence[Family]) -> str:
    """What the script needs: the data, and the place where it puts them."""
    arms = [(arm, group.colour) for group in groups for arm in group.arms]
    data, note = rollouts([arm for arm, _ in arms], [colour for _, colour in arms])
    if not data:
        return ""
    note = f"<p class=fine>{note}</p>" if note else ""
    return (
        '<p class=fine><i class="hint">Hints</i> stood from the start; other tokens are tinted by when they were committed. '
        "Move a slider, or point at a token, to see the canvas as it was then.</p>"
        f"<noscript><p class=fine>The rollouts are shown by a script.</p></noscript><div id=browser></div>{note}"
        f'<script type="application/json" id=data>{data}</script>'
    )


def _footer() -> str:
    return (
        "<footer><p><b>stuck</b>: a group of rollouts of one problem without a correct one, so without anything to learn from. "
        "<b>opened</b>: stuck groups that a correct row of the second rollout was put into, out of all stuck ones. "
        "<b>change</b>: interval of the difference of two independent shares (Newcombe 1998), "
        "wider than need be because the problems are the same.</p>"
        f"<p>igpo {escape(__version__)}</p></footer>"
    )
