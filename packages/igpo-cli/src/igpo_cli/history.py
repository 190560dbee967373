"""The runs of a folder as they lie on the disk: which there are, how far each came, and what it measured last.

Read from the ends of the files, so that a list of many long runs is there at once; nothing here imports torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

from igpo_cli.errors import UsageError, close
from igpo_cli.runs import is_running
from igpo_cli.tracking import PHASES, Score, scores

EVALUATION = b'"eval/'
State = Literal["running", "finished", "interrupted"]


@frozen(kw_only=True)
class Past:
    """One run directory, as far as a list needs it."""

    folder: Path
    config: Mapping[str, Any]
    """run.toml."""
    metrics: Mapping[str, Mapping[str, Any]]
    """The last row of each phase that holds more than an evaluation."""
    scores: tuple[Score, ...]
    """The last evaluation."""
    running: bool
    sizes: Mapping[str, int] = field(factory=dict)
    """Bytes of each entry of the folder."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def planned(self) -> dict[str, int]:
        """Steps of each phase, as configured; phases without any are left out."""
        tables: dict[str, Any] = {"sft": self.config.get("sft", {}), "igpo": self.config}
        return {phase: steps for phase in PHASES if isinstance(steps := tables[phase].get("steps"), int) and steps > 0}

    @property
    def steps(self) -> dict[str, int]:
        """Steps of each phase that were finished."""
        return {phase: int(row["step"]) for phase, row in self.metrics.items()}

    @property
    def state(self) -> State:
        """A run without its process is finished if the last phase reached its end and left a model."""
        if self.running:
            return "running"
        ended = all(self.steps.get(phase, 0) >= steps for phase, steps in list(self.planned.items())[-1:])
        return "finished" if ended and (self.folder / "model").is_dir() else "interrupted"

    @property
    def seconds(self) -> float:
        """Of training, pauses left out."""
        return max((float(row.get("time", 0.0)) for row in self.metrics.values()), default=0.0)

    @property
    def started(self) -> datetime | None:
        """When run.toml was written."""
        try:
            return datetime.fromtimestamp((self.folder / "run.toml").stat().st_mtime)
        except OSError:
            return None

    def latest(self, metric: str) -> float | None:
        """The last value of a metric, of the phase that the run came to."""
        row = self.metrics.get("igpo") or self.metrics.get("sft") or {}
        value = row.get(metric)
        return float(value) if isinstance(value, int | float) else None

    def chosen(self, kind: str) -> str:
        """The name of its plug-in of a kind, "" where it has none."""
        table = self.config.get(kind)
        return str(table.get("name", "")) if isinstance(table, Mapping) else ""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return (folder / "run.toml").is_file() or (folder / "metrics.jsonl").is_file()


def read(folder: Path) -> Past:
    """One run; ValueError where its files are damaged."""
    path = folder / "run.toml"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    rows, evaluated = last_rows(folder)
    return Past(
        folder=folder,
        config=config,
        metrics=rows,
        scores=tuple(scores(evaluated)),
        running=is_running(folder),
        sizes={entry.name: size(entry) for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")},
    )


def last_rows(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Of each phase its last step, and the last evaluation, found from the end of metrics.jsonl."""
    try:
        data = (folder / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return {}, {}
    steps = {phase: _last(data, f'{{"phase": "{phase}"'.encode(), but=EVALUATION) for phase in PHASES}
    return {phase: row for phase, row in steps.items() if row}, _last(data, EVALUATION)


def _last(data: bytes, holding: bytes, but: bytes | None = None) -> dict[str, Any]:
    """The last whole line that holds the one and not the other."""
    end = len(data)
    while (at := data.rfind(holding, 0, end)) >= 0:
        start, stop = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        line, end = data[start:stop], start
        if stop >= 0 and (but is None or but not in line):  # without an end it is what a dying run left
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                return row
    return {}


def runs_in(parent: Path) -> Iterator[Path]:
    """The runs of a folder, the oldest first."""
    found = [entry for entry in parent.iterdir() if is_run(entry)] if parent.is_dir() else []
    files = {entry: next(filter(Path.is_file, (entry / "run.toml", entry / "metrics.jsonl"))) for entry in found}
    yield from sorted(found, key=lambda entry: (files[entry].stat().st_mtime, entry.name))


def find(word: str, parent: Path = Path("runs")) -> Path:
    """The folder of a run: a path, or the name of one in `parent`."""
    for folder in (Path(word), parent / word):
        if is_run(folder):
            return folder
    known = [folder.name for folder in runs_in(parent)]
    meant = close(Path(word).name, known)
    if Path(word).exists():
        what = "is a file" if Path(word).is_file() else "holds no run.toml"
        raise UsageError(
            f"{word} {what}, so it is no run. Give the folder of a run, such as runs/tiny-1 (igpo runs list)."
        )
    hint = f" Did you mean '{meant}'?" if meant else ""
    raise UsageError(f"there is no run '{word}', here or in {parent}/.{hint} (igpo runs list)")


def size(path: Path) -> int:
    """Bytes of a file, or of all files beneath a folder."""
    if path.is_symlink():
        return 0
    return sum(map(size, path.iterdir())) if path.is_dir() else path.stat().st_size


def bytes_of(count: float) -> str:
    """512 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1000 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.1f} {unit}"
