"""What the runs were told and what they ran on: values with their origins, differences, versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from igpo_cli.report.arms import Arm, Family, flatten
from igpo_cli.report.chart import escape

DASH = "\u2013"
NAMES = ("name", "folder")
"""Keys in which any two runs differ."""


def configuration(families: Sequence[Family]) -> str:
    """Where the arms differ; then, by arm, what was set and by whom, and all values as TOML."""
    arms = [arm for family in families for arm in family.arms]
    body = differences(families)
    if body:
        body = f"<h3>Where the runs differ</h3>{body}"
    for family in families:
        arm = family.arms[0]
        whose = f"{escape(family.name)}: " if len(arms) > 1 else ""
        if chosen := origins(arm):
            of = "" if len(family.arms) == 1 else f" (of {escape(arm.name)})"
            body += f"<details><summary>{whose}what was set, and where{of}</summary>{chosen}</details>"
    for arm in arms:
        if arm.config_text:
            whose = f"{escape(arm.name)}: " if len(arms) > 1 else ""
            body += f"<details><summary>{whose}run.toml, every value</summary><pre>{escape(arm.config_text)}</pre></details>"
    return body


def origins(arm: Arm) -> str:
    """Every value that is no default, with where it came from; empty where that was not kept."""
    flat = flatten(arm.config)
    rows = [
        f"<tr><th scope=row>{escape(key)}</th><td>{escape(flat[key])}</td><td>{escape(origin)}</td></tr>"
        for key, origin in arm.origins.items()
        if origin != "default" and key in flat
    ]
    head = "<thead><tr><th scope=col>option</th><th scope=col>value</th><th scope=col>from</th></tr></thead>"
    return f"<div class=scroll><table class=plain>{head}<tbody>{''.join(rows)}</tbody></table></div>" if rows else ""


def differences(families: Sequence[Family]) -> str:
    """The configuration keys in which the arms differ, as an HTML table; empty for one arm."""
    return _differing([(family.name, flatten(family.arms[0].config)) for family in families], but=(*NAMES, "seed"))


def environment(arms: Sequence[Arm]) -> str:
    """Versions and hardware: once where all runs agree, else as a table; and how each run was started."""
    flats = [
        (arm.name, flatten({key: value for key, value in arm.environment.items() if key != "command"})) for arm in arms
    ]
    flats = [(name, flat) for name, flat in flats if flat]
    if not flats:
        return ""
    first = flats[0][1]
    common = [(key, value) for key, value in first.items() if all(flat.get(key, DASH) == value for _, flat in flats)]
    facts = "".join(
        f"<div><dt>{escape(key.removeprefix('packages.'))}</dt><dd>{escape(value)}</dd></div>" for key, value in common
    )
    commands = "".join(
        f"<pre>{escape(' '.join(map(str, arm.environment['command'])))}</pre>"
        for arm in arms
        if isinstance(arm.environment.get("command"), list)
    )
    how = f"<details><summary>How it was started</summary>{commands}</details>" if commands else ""
    return (f"<dl class=facts>{facts}</dl>" if facts else "") + _differing(flats) + how


def _differing(columns: Sequence[tuple[str, Mapping[str, Any]]], but: Sequence[str] = ()) -> str:
    keys = list(dict.fromkeys(key for _, flat in columns for key in flat))
    table = [(key, [flat.get(key) for _, flat in columns]) for key in keys if key not in but]
    rows = [(key, values) for key, values in table if any(value != values[0] for value in values)]
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name, _ in columns)
    body = "".join(
        f"<tr><th scope=row>{escape(key)}</th>"
        + "".join(f"<td>{DASH if value is None else escape(value)}</td>" for value in values)
        + "</tr>"
        for key, values in rows
    )
    return (
        f'<div class="scroll"><table class=plain><thead><tr><th scope=col>option</th>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )
