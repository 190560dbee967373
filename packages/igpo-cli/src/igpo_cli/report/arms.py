"""A finished (or running) run as the report reads it. Several runs in one report are its arms.

Runs that differ in nothing but their seed are one family: a curve of means, a mean with its standard error.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from attrs import frozen

from igpo_cli.health import History, Points, number
from igpo_cli.tracking import Score, read_metrics, rollout_files, scores

COLOURS = 6
"""Colours of the style sheet; a seventh family gets the first one again."""


@frozen(kw_only=True)
class Evaluation:
    """A score and where in the run it was measured."""

    phase: str
    step: int
    score: Score


@frozen(kw_only=True, eq=False)
class Arm:
    """One run directory, read once."""

    name: str
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    config_text: str
    origins: Mapping[str, str]
    """Where each value of the configuration came from, by dotted key; empty where that was not kept."""
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
    origins = _object(folder / "origins.json")
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
        origins={key: origin for key, origin in origins.items() if isinstance(origin, str)},
        environment=_object(folder / "environment.json"),
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


def _object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    return found if isinstance(found, dict) else {}


# Seeds -----------------------------------------------------------------------------------------------------------------


@frozen
class Mean:
    """Of one number a seed."""

    value: float
    error: float | None
    """The standard error of the mean; None of a single number."""

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.error is None else f" \u00b1 {self.error:.2f}")


def mean(values: Sequence[float]) -> Mean | None:
    """None of no values."""
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Mean(statistics.fmean(values), error)


@frozen
class Family:
    """Runs that differ in nothing but their seed."""

    name: str
    colour: int
    arms: Sequence[Arm]

    def of(self, measure: Callable[[Arm], float | None]) -> Mean | None:
        """Over the runs that have it."""
        return mean([value for arm in self.arms if (value := measure(arm)) is not None])


def families(arms: Sequence[Arm]) -> list[Family]:
    """In the order of their first runs; a run without a configuration or a seed stands alone."""
    groups: dict[object, list[Arm]] = {}
    for arm in arms:
        key = _but_seed(arm) if "seed" in arm.config else arm.name
        groups.setdefault(key, []).append(arm)
    split = [
        part
        for members in groups.values()
        for part in (
            [members]
            if len({arm.config.get("seed") for arm in members}) == len(members)
            else [[arm] for arm in members]
        )
    ]
    names = [_common(part) for part in split]
    names = [name if names.count(name) == 1 else part[0].name for name, part in zip(names, split, strict=True)]
    return [Family(name, index % COLOURS, part) for index, (name, part) in enumerate(zip(names, split, strict=True))]


def _but_seed(arm: Arm) -> str:
    """The configuration as text without what a run is called; the seed's number in a path is no difference."""
    flat = {key: value for key, value in flatten(arm.config).items() if key not in ("name", "folder", "seed")}
    number = rf"(?<![\d.]){re.escape(str(arm.config['seed']))}(?![\d.])"
    plain = {key: re.sub(number, "seed", value) if isinstance(value, str) else value for key, value in flat.items()}
    return json.dumps(plain, sort_keys=True, default=str)


def _common(arms: Sequence[Arm]) -> str:
    """The words that the names of the runs share: igpo of igpo-1 and igpo-2, and of seed-1/igpo and seed-2/igpo too."""
    first, *others = (re.split(r"[-_/ ]", arm.name) for arm in arms)
    shared = [word for word in first if all(word in other for other in others) and word != "seed"]
    return "-".join(shared) if others and shared else arms[0].name


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
