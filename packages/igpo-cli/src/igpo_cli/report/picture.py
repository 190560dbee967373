"""Charts as one SVG file, for papers and pages other than the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from igpo_cli.report.chart import Line, chart, escape

LEGEND = 60
"""Characters in a row of names."""


def svg(charts: Sequence[tuple[str, str, Sequence[Line]]], axis: str = "step") -> str:
    """One picture of all charts in the report's style, in its light colours: what draws SVG seldom knows CSS variables."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    palette = dict(re.findall(r"--([\w-]+): ([^;]+);", style[: style.index("}")]))
    style = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}|:root \{[^}]*\}", "", style)
    style = re.sub(r"var\(--([\w-]+)\)", lambda found: palette[found[1]], style)
    drawn: list[str] = []
    top = 10
    for metric, _, lines in charts:
        drawn.append(
            f'<text x="10" y="{top + 16}" style="font-weight:600;fill:{palette["ink"]}">{escape(metric)}</text>'
        )
        for row in legend(lines):
            words = "".join(
                f'<tspan class="a{line.arm}" fill="currentColor" dx="{14 if number else 0}">{escape(line.label)}</tspan>'
                for number, line in enumerate(row)
            )
            drawn.append(f'<text x="590" y="{top + 16}" text-anchor="end">{words}</text>')
            top += 18
        top -= 18
        figure = chart(metric, "", lines, wide=True, axis=axis)
        inner = figure[figure.index("<svg") : figure.index("</svg>") + 6]
        drawn.append(inner.replace("<svg ", f'<svg y="{top + 26}" width="600" height="290" ', 1))
        top += 330
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {top}" width="600" height="{top}" '
        f'font-family="system-ui, sans-serif"><style>{style}</style><rect width="600" height="{top}" fill="#fff"/>'
        f"{''.join(drawn)}</svg>\n"
    )


def legend(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines' names in rows that fit beside the title."""
    rows: list[list[Line]] = [[]]
    for line in lines:
        if rows[-1] and sum(len(each.label) + 3 for each in [*rows[-1], line]) > LEGEND:
            rows.append([])
        rows[-1].append(line)
    return rows
