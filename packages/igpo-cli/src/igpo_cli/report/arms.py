"""A finished (or running) run as the report reads it. Several runs in one report are its arms."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from attrs import frozen

from igpo_cli.health import History, Points, number
from igpo_cli.tracking import Score, read_metrics, rollout_files, scores


@frozen(kw_only=True)
class Evaluation:
    """A score and where in the run it was measured."""

    phase: str
    step: int
    score: Score


@frozen(kw_only=True)
class Arm:
    """One run directory, read once."""

    name: str
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    rollouts: Mapping[int, Path]

    @property
    def injection(self) -> str | None:
        """What fills the canvases of the second rollout, where the configuration tells."""
        table = self.config.get("injection")
        name = table.get("name") if isinstance(table, dict) else None
        return name if isinstance(name, str) else None

    def series(self, phase: str, name: str) -> Points:
        """One metric over the steps of a phase; steps without it, or where it was not finite, are left out."""
        return self.history.series(phase, name)

    @cached_property
    def history(self) -> History:
        """All metrics."""
        found = History()
        for row in self.rows:
            found.add(row["phase"], row["step"], row)
        return found

    def last_step(self, phase: str) -> int:
        """0 where the run never entered the phase."""
        return max((row["step"] for row in self.rows if row.get("phase") == phase), default=0)

    def planned_steps(self, phase: str) -> int | None:
        """As configured; None where the configuration does not tell."""
        table = self.config if phase == "igpo" else self.config.get("sft")
        steps = table.get("steps") if isinstance(table, Mapping) else None
        return steps if isinstance(steps, int) else None

    @cached_property
    def evaluations(self) -> dict[str, list[Evaluation]]:
        """By name, in the order in which they were run."""
        found: dict[str, list[Evaluation]] = {}
        for row in self.rows:
            known = {name: value for name, value in row.items() if number(value)}
            for score in scores(known):
                found.setdefault(score.name, []).append(Evaluation(phase=row["phase"], step=row["step"], score=score))
        return found

    def before_and_after(self, name: str) -> tuple[Evaluation, Evaluation] | None:
        """The evaluation that RL started from (SFT's first, where there was no RL) and the last one; None if there are no two."""
        found = self.evaluations.get(name, [])
        sft, igpo = ([e for e in found if e.phase == phase] for phase in ("sft", "igpo"))
        start = (
            igpo[0] if igpo and (igpo[0].step == 0 or not sft) else sft[-1] if igpo and sft else sft[0] if sft else None
        )
        return None if start is None or start is found[-1] else (start, found[-1])

    def opened(self, last: int | None = None) -> tuple[float, float] | None:
        """(share of groups that were stuck, share of those that the second rollout opened), over the `last` steps or all."""
        pairs = [
            (row["stuck/before"], row["stuck/after"])
            for row in self.rows
            if row.get("phase") == "igpo" and number(row.get("stuck/before")) and number(row.get("stuck/after"))
        ]
        pairs = pairs[-last:] if last is not None else pairs
        if not pairs:
            return None
        before, after = (math.fsum(column) for column in zip(*pairs, strict=True))
        return before / len(pairs), (before - after) / before if before else 0.0

    @property
    def seconds(self) -> float | None:
        """Of the IGPO phase, evaluations included; None where it was not measured."""
        times = {
            phase: [row["time"] for row in self.rows if row.get("phase") == phase and number(row.get("time"))]
            for phase in ("sft", "igpo")
        }
        return max(times["igpo"]) - max(times["sft"] or times["igpo"][:1]) if times["igpo"] else None


def read_arm(folder: Path, name: str) -> Arm:
    """Reads a run directory; a ValueError names the path where it is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give the folder of a run, such as runs/tiny-1.")
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(
            f"{folder} is no run: it holds no metrics.jsonl. Give the folder of a run, such as runs/tiny-1."
        )
    path = folder / "run.toml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return Arm(
        name=name,
        folder=folder,
        rows=[row for row in read_metrics(folder) if row.get("phase") in ("sft", "igpo") and number(row.get("step"))],
        config=config,
        config_text=text,
        environment=_environment(folder / "environment.json"),
        rollouts=rollout_files(folder),
    )


def read_arms(folders: Sequence[Path]) -> list[Arm]:
    """One arm a folder, named after it; folders of the same name are told apart by their parents."""
    folders = [folder.resolve() for folder in folders]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise ValueError(f"{twice} was given twice. Give each run once.")
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return [read_arm(folder, "/".join(folder.parts[-depth:])) for folder in folders]


def _environment(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
