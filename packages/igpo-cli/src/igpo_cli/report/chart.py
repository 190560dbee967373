"""Curves as inline SVG, written by hand: colours come from the page's style sheet, so they follow light and dark,
and the script reads the numbers from `data-p` to show them under the pointer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from attrs import field, frozen

from igpo_cli.health import Points, short
from igpo_cli.pieces import visible

POINTS = 120
"""A longer line is drawn by the means of this many stretches."""


@frozen(kw_only=True)
class Line:
    """One curve of one arm."""

    arm: int
    """Index of the arm: its colour."""
    label: str
    points: Points
    dashed: bool = False
    intervals: Sequence[tuple[float, float, float]] = ()
    """(step, low, high)."""
    raw: Sequence[Points] = ()
    """Drawn faintly behind: what was measured, or the single seeds."""
    down_to: Points = field(factory=list)
    """A second line of the same steps; the area between them is shaded."""


def escape(text: object) -> str:
    """Safe in HTML text and in quoted attributes, whatever the text holds."""
    shown = visible(str(text))
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#x27;")):
        shown = shown.replace(character, entity)
    return shown


def smooth(points: Points, window: int) -> Points:
    """The centred running mean over `window` steps, fewer at the ends."""
    half = window // 2
    values = [value for _, value in points]
    return [
        (step, math.fsum(part) / len(part))
        for index, (step, _) in enumerate(points)
        for part in [values[max(0, index - half) : index + half + 1]]
    ]


def thin(points: Points) -> Points:
    """At most POINTS points: means of stretches of equal numbers of steps, at their middle steps."""
    if len(points) <= POINTS:
        return points
    edges = [round(index * len(points) / POINTS) for index in range(POINTS + 1)]
    return [
        (points[(start + end - 1) // 2][0], math.fsum(value for _, value in points[start:end]) / (end - start))
        for start, end in itertools.pairwise(edges)
    ]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that cover [low, high]: the first is <= low, the last >= high."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-6 * size else size
    span = span if size > 1e-30 else 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    return [float(f"{index * step:.10g}") for index in range(first, max(last, first + 1) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten that cover [low, high], at most six of them; low > 0."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = -(-(last - first) // 5)
    return [10.0**power for power in range(first, last + step, step)]


def chart(
    title: str,
    caption: str,
    lines: Sequence[Line],
    *,
    wide: bool = False,
    top: float | None = None,
    log: bool = False,
    axis: str = "step",
) -> str:
    """A figure with its title and a sentence that says how to read it. `caption` is HTML.

    `log`: a logarithmic scale; all values must be positive. Along another axis than steps places need not be whole.
    """
    width, height = (600, 290) if wide else (420, 240)
    left, right, above, below = (58, 14, 12, 34) if wide else (54, 12, 12, 32)
    steps = [step for line in lines for step, _ in line.points]
    drawn = [points for line in lines for points in (line.points, *line.raw, line.down_to)]
    values = [value for points in drawn for _, value in points]
    values += [bound for line in lines for _, low, high in line.intervals for bound in (low, high)]
    y_ticks = powers(min(values), max(values)) if log else ticks(min(0.0, *values), max(values) if top is None else top)
    scale = math.log10 if log else float
    floor, ceiling = scale(y_ticks[0]), scale(y_ticks[-1])
    whole = axis == "step"
    first, last = min(steps), max(max(steps), min(steps) + 1) if whole else max(steps)
    last = last if last > first else first + 1
    x_ticks = ticks(first, last)
    if whole and 0 < x_ticks[-1] - last < 0.02 * (last - first):
        last = int(x_ticks[-1])  # the means of the last stretch of a long line stand before its end
    x_ticks = [tick for tick in x_ticks if first <= tick <= last and (not whole or tick == int(tick))]

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (width - left - right)

    def y(value: float) -> float:
        return above + (ceiling - scale(value)) / (ceiling - floor) * (height - above - below)

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="y" x="{left - 8}" y="{y(tick):.1f}">{short(tick)}</text>'
        for tick in y_ticks
    ]
    parts += [f'<text class="x" x="{x(tick):.1f}" y="{height - 12}">{tick:g}</text>' for tick in x_ticks]
    if whole:
        parts.append(f'<text class="x step" x="{left - 16}" y="{height - 12}">step</text>')
    else:
        parts.append(f'<text class="x" x="{(left + width - right) / 2:.0f}" y="{height + 2}">{escape(axis)}</text>')
    parts += [part for line in lines for part in _areas(line, x, y)]
    parts += [part for index, line in enumerate(lines) for part in _curve(line, x, y, shift=_shift(index, lines))]
    label = escape(f"{title}: " + ", ".join(dict.fromkeys(line.label for line in lines)))
    size = "wide" if wide else "small"
    return (
        f'<figure class="{size}"><h3>{escape(title)}</h3><p>{caption}</p>'
        f'<svg viewBox="0 0 {width} {height}" role="img" tabindex="0" aria-label="{label}" data-x="{first} {last} {left} {width - right}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _shift(index: int, lines: Sequence[Line]) -> float:
    """Intervals of several arms at the same step stand side by side."""
    return (index - (len(lines) - 1) / 2) * 5 if any(line.intervals for line in lines) else 0.0


def _areas(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    if not line.down_to:
        return []
    outline = [*line.points, *reversed(line.down_to)]
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in outline)
    return [f'<polygon class="area a{line.arm}" points="{path}"/>']


def _curve(line: Line, x: Callable[[float], float], y: Callable[[float], float], shift: float) -> list[str]:
    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(step) + shift:.1f},{y(value):.1f}" for step, value in points)

    colour = f"a{line.arm}"
    parts = [f'<polyline class="raw {colour}" points="{path(points)}"/>' for points in line.raw]
    for step, low, high in line.intervals:
        parts.append(f'<path class="interval {colour}" d="M{x(step) + shift:.1f} {y(low):.1f}V{y(high):.1f}"/>')
    data = " ".join(f"{step}:{short(value)}" for step, value in line.points)
    dashed = " dashed" if line.dashed else ""
    parts.append(
        f'<polyline class="curve {colour}{dashed}" points="{path(line.points)}" '
        f'data-label="{escape(line.label)}" data-p="{data}"/>'
    )
    if line.intervals or len(line.points) == 1:
        parts += [
            f'<circle class="dot {colour}" cx="{x(step) + shift:.1f}" cy="{y(value):.1f}" r="3.5"/>'
            for step, value in line.points
        ]
    return parts


def whisker(value: float, low: float | None, high: float | None, colour: int, top: float) -> str:
    """A dot with its interval on a scale from 0 to `top`, for a table's cell."""
    width, height = 120, 16

    def x(share: float) -> float:
        return 4 + share / top * (width - 8)

    line = (
        "" if low is None or high is None else f'<path class="interval a{colour}" d="M{x(low):.1f} 8H{x(high):.1f}"/>'
    )
    return (
        f'<svg class="whisker" viewBox="0 0 {width} {height}" aria-hidden="true"><path class="grid" d="M4 8H{width - 4}"/>'
        f'{line}<circle class="dot a{colour}" cx="{x(value):.1f}" cy="8" r="3.5"/></svg>'
    )
