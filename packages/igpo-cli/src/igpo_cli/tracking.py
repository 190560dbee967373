"""What a run leaves behind: metrics.jsonl, rollouts/step-N.jsonl and log.txt, and the way back to them.

Lines are appended whole, so a run that dies loses at most the end of one line; the readers know that. What finds no
room on the disk waits for the next time. On resumption everything after the checkpoint is cut away: it is repeated.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_cli.pieces import pieces, visible
from igpo_cli.runs import ASIDE, append, replace
from igpo_rl.checkpoint import flush

if TYPE_CHECKING:
    from igpo_cli.screen import Screen
    from igpo_cli.trackers import Trackers
    from igpo_data import Task
    from igpo_rl.records import Rollouts

PHASES = ("sft", "igpo")
"""In the order in which a run goes through them."""


def position(phase: str, step: int) -> tuple[int, int]:
    """Where a step stands in the run: tuples that compare in the order of training."""
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} is none of {', '.join(PHASES)}")
    return PHASES.index(phase), step


def overall(phase: str, step: int, totals: Mapping[str, int]) -> int:
    """A step's number among those of all phases: trackers have one axis."""
    return step + sum(totals.get(each, 0) for each in PHASES[: PHASES.index(phase)])


def tag_of(phase: str, name: str) -> str:
    """A metric's name for trackers, which know no phases: sft/optimizer/lr, optimizer/lr."""
    return name if phase == "igpo" or name.startswith(f"{phase}/") else f"{phase}/{name}"


# Writing ---------------------------------------------------------------------------------------------------------------


class Tracker:
    """Appends a run's metrics, rollouts and messages to its folder, and shows and forwards them where asked to."""

    def __init__(
        self,
        folder: Path,
        *,
        writes: bool = True,
        trackers: Trackers | None = None,
        screen: Screen | None = None,
        totals: Mapping[str, int] | None = None,
    ) -> None:
        """`writes`: True in the process of several that does. `trackers` get every number. `totals`: steps of each phase."""
        self.folder = folder
        self.writes = writes
        self.trackers = trackers
        self.screen = screen
        self.totals = dict(totals or {})
        self._sent: set[tuple[str, int, str]] = set()
        self._waiting = ""
        self._unsaid = True
        self._started = time.monotonic() - max(
            (row["time"] for row in read_metrics(folder) if "time" in row), default=0
        )

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before a resumption included."""
        return time.monotonic() - self._started

    def log(self, step: int, phase: str, metrics: Mapping[str, float | None]) -> None:
        """One row of metrics.jsonl. Numbers that are not finite are written as null: JSON has no NaN."""
        position(phase, step)
        if not self.writes:
            return
        values = {name: _finite(value) for name, value in metrics.items()}
        row = {"phase": phase, "step": step, "time": round(self.seconds, 3)} | values
        self._waiting += _lines([row])
        with self.unless_full("metrics wait in memory until there is room"):
            self._write()
        known = {name: value for name, value in values.items() if value is not None}
        total = self.totals.get(phase, 0)
        self._note(line(phase, step, total, known))
        if self.trackers is not None:
            tags = {tag_of(phase, name): value for name, value in known.items()}
            seen = {tag: value for tag, value in tags.items() if (phase, step, tag) in self._sent}
            with self.unless_full("trackers miss what follows"):
                self.trackers.log(tags, overall(phase, step, self.totals), seen=seen)
        if self.screen is not None:
            self.screen.step(phase, step, total, known)

    def rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """rollouts/step-N.jsonl, one object a row (see `rollout_rows`); the last row goes to the screen."""
        if not self.writes or not rows:
            return
        path = self.folder / "rollouts" / f"step-{step}.jsonl"
        with self.unless_full(f"the rollouts of step {step} are not kept"):
            path.parent.mkdir(exist_ok=True)
            replace(path, _lines(rows))
        if self.trackers is not None:
            with self.unless_full("trackers miss what follows"):
                seen = ("igpo", step, "rollouts") in self._sent
                self.trackers.table(rows, overall("igpo", step, self.totals), seen=seen)
        if self.screen is not None:
            row = next((row for row in reversed(rows) if row["hinted"]), rows[-1])
            self.screen.sample(row["tokens"][: row["end"]], row["hint"][: row["end"]])

    def message(self, text: str) -> None:
        """A line for people: into log.txt and onto the screen."""
        if not self.writes:
            return
        self._note(visible(text))
        if self.screen is not None:
            self.screen.message(text)

    def flush(self) -> None:
        """Everything that was logged is on the disk when this returns; OSError where it is full."""
        if self.writes:
            self._write()
            flush(self.folder / "metrics.jsonl")

    def cut(self, phase: str, step: int) -> None:
        """Forget what was written after this checkpoint; its steps will be repeated. log.txt keeps everything."""
        if not self.writes:
            return
        last = position(phase, step)
        rows: list[dict[str, Any]] = []
        late: list[dict[str, Any]] = []
        for row in read_metrics(self.folder):
            (rows if position(row["phase"], row["step"]) <= last else late).append(row)
        for row in late:
            self._sent |= {(row["phase"], row["step"], tag_of(row["phase"], name)) for name in row}
        replace(self.folder / "metrics.jsonl", _lines(rows))
        for place in (".", "rollouts", "eval"):
            for left in (self.folder / place).glob(f"*{ASIDE}"):
                left.unlink()
        for number, path in rollout_files(self.folder).items():
            if position("igpo", number) > last:
                self._sent.add(("igpo", number, "rollouts"))
                path.unlink()
        self._started = time.monotonic() - max((row["time"] for row in rows), default=0)

    def _write(self) -> None:
        if self._waiting:
            append(self.folder / "metrics.jsonl", self._waiting)
            self._waiting, self._unsaid = "", True

    def _note(self, text: str) -> None:
        with suppress(OSError):  # whatever finds no room is said on the screen as well
            append(self.folder / "log.txt", f"{self.seconds:9.1f} s  {text}\n")

    @contextmanager
    def unless_full(self, loss: str) -> Iterator[None]:
        """The run outlives a disk that is full; said once until metrics find room again."""
        try:
            yield
        except OSError as error:
            if self._unsaid:
                self.message(f"warning: {self.folder}: {error.strerror or error}; {loss}. Make room on the disk.")
            self._unsaid = False


def rollout_rows(
    batch: Rollouts,
    *,
    step: int,
    decode: Callable[[list[int]], str],
    tasks: Mapping[str, Task],
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """A batch as plain rows of text, whole groups, up to `limit` rows; `tasks` by problem key.

    `decode` keeps special tokens and spaces (`pieces.decoder`).
    """
    columns = {
        name: getattr(batch, name).tolist()
        for name in ("prompt", "prompt_valid", "completion", "given", "valid", "order", "confidence", "reward", "correct", "group")
    }  # fmt: skip
    size = len(batch)
    advantage = [0.0] * size if batch.advantage is None else batch.advantage.tolist()
    hinted = [False] * size if batch.hinted is None else batch.hinted.tolist()
    stuck = [False] * size if batch.stuck is None else batch.stuck.tolist()
    derived = [math.nan] * size if batch.derived is None else batch.derived.tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(columns["group"]):
        groups.setdefault(group, []).append(row)
    rows: list[dict[str, Any]] = []
    for group, members in groups.items():
        if limit is not None and rows and len(rows) + len(members) > limit:
            break
        for index, row in enumerate(members):
            prompt = [
                token for token, ok in zip(columns["prompt"][row], columns["prompt_valid"][row], strict=True) if ok
            ]
            key = batch.keys[row] if batch.keys else str(group)
            task = tasks.get(key)
            rows.append(
                {
                    "phase": "igpo",
                    "step": step,
                    "key": key,
                    "group": group,
                    "row": index,
                    "prompt": decode(prompt),
                    "trace": task.trace if task else None,
                    "tokens": pieces(decode, columns["completion"][row]),
                    "hint": [int(given) for given in columns["given"][row]],
                    "order": columns["order"][row],
                    "confidence": [_finite(round(value, 4)) for value in columns["confidence"][row]],
                    "end": sum(columns["valid"][row]),
                    "reward": columns["reward"][row],
                    "correct": columns["correct"][row],
                    "note": batch.notes[row] if batch.notes else "",
                    "answer": batch.answers[row] if batch.answers else None,
                    "expected": task.answer if task else None,
                    "derived": _finite(derived[row]),
                    "advantage": advantage[row],
                    "hinted": hinted[row],
                    "stuck": stuck[row],
                }
            )
    return rows


# Reading ---------------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, none where there is no file. An unfinished last line is left out."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split(
        "\n"
    )  # JSON text may hold U+2028: no splitlines
    rows = []
    for number, text in enumerate([*lines, rest], 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError("no object")
        except ValueError as error:
            if number > len(lines):
                break  # the run died while writing it
            raise ValueError(f"{path}, line {number} is not a JSON object ({error}); was the file edited?") from None
        rows.append(row)
    return rows


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl in the order in which they were written."""
    return read_lines(folder / "metrics.jsonl")


def rollout_files(folder: Path) -> dict[int, Path]:
    """Step -> file, ascending."""
    found = [
        (re.fullmatch(r"step-(\d+)\.jsonl", path.name), path) for path in (folder / "rollouts").glob("step-*.jsonl")
    ]
    return dict(sorted((int(match.group(1)), path) for match, path in found if match))


def read_rollouts(folder: Path, step: int) -> list[dict[str, Any]]:
    """The rows that were kept of one step."""
    return read_lines(folder / "rollouts" / f"step-{step}.jsonl")


@frozen(kw_only=True)
class Score:
    """One evaluation: a share with its 95 % interval where one was written."""

    name: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    problems: int | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.name} {self.metric} {self.value:.3f}{interval}" + (
            f" of {self.problems}" if self.problems else ""
        )


def scores(metrics: Mapping[str, Any]) -> list[Score]:
    """The evaluations among metrics named eval/NAME/METRIC; low and high belong to pass@1."""
    tables: dict[str, dict[str, float]] = {}
    for path, value in metrics.items():
        first, _, rest = path.partition("/")
        name, _, metric = rest.rpartition("/")
        if first == "eval" and name and value is not None:
            tables.setdefault(name, {})[metric] = value
    return [
        Score(
            name=name,
            metric="pass@1",
            value=table["pass@1"],
            low=table.get("low"),
            high=table.get("high"),
            problems=int(table["problems"]) if "problems" in table else None,
        )
        for name, table in tables.items()
        if "pass@1" in table
    ]


# Words -----------------------------------------------------------------------------------------------------------------

_WORDS = (
    ("rescued", "stuck/rescued", ".2f"),
    ("reward", "reward/mean", ".3f"),
    ("loss", "sft/loss", ".3f"),
    ("accuracy", "sft/accuracy", ".3f"),
    ("entropy", "policy/entropy", ".3f"),
    ("kl", "policy/kl", ".4f"),
    ("grad", "optimizer/grad_norm", ".2f"),
    ("tok/s", "time/speed", ".0f"),
)


def line(phase: str, step: int, total: int, metrics: Mapping[str, float]) -> str:
    """One row of metrics in one plain line; what was not measured is left out."""
    parts = [f"{phase:<4} {step:>{len(str(total))}}/{total}" if total else f"{phase:<4} {step}"]
    if "stuck/before" in metrics:
        after = f" -> {metrics['stuck/after']:.2f}" if "stuck/after" in metrics else ""
        parts.append(f"stuck {metrics['stuck/before']:.2f}{after}")
    parts += [f"{label} {metrics[name]:{form}}" for label, name, form in _WORDS if name in metrics]
    return "  ".join(parts + [str(score) for score in scores(metrics)])


# Files -----------------------------------------------------------------------------------------------------------------


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
