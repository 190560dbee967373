"""What a benchmark case needs: medians of interleaved runs, peak memory, and a table of both sides.

A case is a module of this package with `NAME: str` and `run(quick: bool) -> list[Row]`, or a `str` that is a table of
another kind; its docstring says what is compared. It runs in a process of its own, so that one case's memory is not another's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "performance.md"
COLUMNS = ("case", "ours, s", "baseline, s", "faster", "ours, MB", "baseline, MB", "note")


class SkippedError(Exception):
    """This machine lacks what a case needs; nothing is measured and nothing is written."""


class Row(TypedDict):
    """One comparison: seconds and megabytes of both sides, None where not measured."""

    case: str
    ours_s: float | None
    baseline_s: float | None
    ratio: float | None
    ours_mb: float | None
    baseline_mb: float | None
    note: str


def seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time over `repeats` runs, after one that warms up."""
    function()
    return statistics.median(once(function) for _ in range(repeats))


def once(function: Callable[[], object]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_mb(function: Callable[[], object]) -> float | None:
    """Peak resident memory that one run adds to what the process holds, in MB; None where the kernel does not tell.

    Linux keeps the high-water mark and resets it on request, so short peaks inside one operation are seen too.
    """
    gc.collect()
    with suppress(
        AttributeError, OSError
    ):  # what malloc keeps for later would hide a peak; other systems keep it elsewhere
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        function()
        return max(0.0, _resident("VmHWM") - before)
    except OSError:
        return None


def compare(
    case: str,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    *,
    repeats: int = 5,
    memory: bool = True,
    small: tuple[Callable[[], object], Callable[[], object]] | None = None,
    note: str = "",
) -> Row:
    """Time both sides in turns, so that a change of the machine's speed meets both.

    A first run of each warms up, and its memory is measured. Where that would take long, `small` are shorter runs with
    the same peak.
    """
    peaks = [peak_mb(side) if memory else side() for side in small or (ours, baseline)]
    pairs = [(once(ours), once(baseline)) for _ in range(repeats)]
    return row(case, pairs, peaks if memory else (None, None), note)


def row(case: str, pairs: Iterable[tuple[float, float]], peaks: Sequence[Any] = (None, None), note: str = "") -> Row:
    """The medians of both sides, in seconds."""
    ours_s, baseline_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(
        case=case,
        ours_s=ours_s,
        baseline_s=baseline_s,
        ratio=baseline_s / ours_s,
        ours_mb=peaks[0],
        baseline_mb=peaks[1],
        note=note,
    )


def measured(case: str, taken: float, memory: float | None = None, note: str = "") -> Row:
    """A row without a baseline."""
    return Row(case=case, ours_s=taken, baseline_s=None, ratio=None, ours_mb=memory, baseline_mb=None, note=note)


def cases() -> list[str]:
    """Names of the case modules, in alphabetical order."""
    return sorted(
        path.stem
        for path in HERE.glob("*.py")
        if path.stem not in {"__init__", "__main__", "counted", "device", "harness"}
    )


def run_apart(case: str, quick: bool) -> dict[str, Any]:
    """Run one case in a fresh process: {"name", "about", "rows", "machine"}."""
    command = [sys.executable, "-m", "benchmarks", "--apart", case, *(["--quick"] if quick else [])]
    ended = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


def table(rows: Iterable[Row]) -> str:
    """A Markdown table that also reads well as plain text."""
    lines: list[Sequence[str]] = [COLUMNS]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}x"
        figures = [_figure(row[key]) for key in ("ours_s", "baseline_s", "ours_mb", "baseline_mb")]
        lines.append((row["case"], *figures[:2], ratio, *figures[2:], row["note"]))
    return grid(lines)


def grid(lines: Iterable[Sequence[str]]) -> str:
    """The same of cells as they are, the first line being the head."""
    head, *rest = lines
    widths = [max(map(len, column)) for column in zip(head, *rest, strict=True)]
    every = [head, ["-" * width for width in widths], *rest]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in every)


def section(result: dict[str, Any]) -> str:
    """A case's part of the report."""
    rows = result["rows"]
    tables = rows if isinstance(rows, str) else table(rows)
    return f"## {result['name']}\n\n{result['about']}\n\n{tables}\n\n{result['machine']}"


def write(case: str, text: str, report: Path | None = None) -> None:
    """Replace the case's part of the report, or append it; everything outside the markers stays as it is."""
    before, after = f"<!-- begin {case} -->", f"<!-- end {case} -->"
    part = f"{before}\n{text}\n{after}"
    report = report or REPORT
    old = report.read_text(encoding="utf-8") if report.exists() else "# Performance\n"
    new, found = re.subn(re.escape(before) + ".*?" + re.escape(after), lambda _: part, old, flags=re.DOTALL)
    report.write_text(new if found else f"{old.rstrip()}\n\n{part}\n", encoding="utf-8")


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise OSError(f"the kernel does not report {field}")


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
