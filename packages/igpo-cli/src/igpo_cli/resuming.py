"""Going on with a run: from which checkpoint and which model, and what has changed since."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_cli import errors
from igpo_cli.errors import UsageError
from igpo_cli.options import brief
from igpo_cli.runs import ORIGINS, replace, write_json
from igpo_rl.checkpoint import Checkpoints, Saved, fault

if TYPE_CHECKING:
    from igpo_cli.config import Config

START = "start"
"""The model that the RL phase started from, where there was SFT before it."""


def checkpoints_of(folder: Path, config: Config) -> Checkpoints:
    """The checkpoints of a run."""
    return Checkpoints(folder=folder / "checkpoints", keep=config.run.keep, best=config.run.best)


def remedy(folder: Path) -> str:
    """How to go on with a run that has stopped."""
    return f"Go on with igpo train --resume {folder}"


@frozen
class Resumption:
    """A run that goes on."""

    folder: Path
    saved: Saved | None
    """The checkpoint; None where there was none yet: the run begins again."""
    changes: tuple[str, ...]
    """Options that differ from what run.toml says."""

    @classmethod
    def find(cls, folder: Path, config: Config) -> Resumption:
        """What there is to go on from; what is damaged is said and left out. UsageError where nothing is whole."""
        checkpoints = checkpoints_of(folder, config)
        saved = checkpoints.latest(say=errors.warn)
        if saved is None and checkpoints.newest_first():
            raise UsageError(f"{folder} holds no checkpoint that is whole. Start it anew under another --name.")
        if saved is not None and saved.phase == "igpo" and config.section("sft").steps:
            found = fault(folder / START)
            if found is not None:
                before = checkpoints.latest("sft", say=errors.warn)
                if before is None:
                    raise UsageError(
                        f"{folder / START}, the model that RL started from, cannot be used ({found}), and there is no whole "
                        "checkpoint of SFT to make it again. Start anew under another --name."
                    )
                errors.warn(f"{folder / START} cannot be used ({found}): RL is repeated from the end of SFT.")
                saved = before
        return cls(folder, saved, tuple(changes(folder, config)))

    def finished(self, config: Config) -> bool:
        """Whether nothing is left to do."""
        phase, steps = ("igpo", config.run.steps) if config.run.steps else ("sft", config.section("sft").steps)
        over = self.saved is not None and self.saved.phase == phase and self.saved.step >= steps
        return over and (self.folder / "model").is_dir()

    def model(self) -> str | None:
        """Where the model lies that the run goes on with; None where that is the configured one."""
        start = self.folder / START
        return str(start) if self.saved is not None and self.saved.phase == "igpo" and start.is_dir() else None

    @property
    def point(self) -> tuple[str, int]:
        """Phase and step after which everything is repeated."""
        return ("sft", -1) if self.saved is None else (self.saved.phase, self.saved.step)

    def __str__(self) -> str:
        what = "starts again, without a checkpoint" if self.saved is None else f"continues after {self.saved.path.name}"
        own = self.model() is not None and any(change.startswith("model.") for change in self.changes)
        return "; ".join([what, *self.changes, *(["the model itself is the run's own"] if own else [])])


def told_best(checkpoints: Checkpoints, folder: Path) -> str | None:
    """Which checkpoint of the last phase was the best one and how to get its model; None where none was asked for."""
    newest, *_ = [*checkpoints.newest_first(), None]
    best = None if newest is None else checkpoints.best_of(newest.phase)
    if best is None:
        return None
    value = best.metrics[str(checkpoints.best)]
    return (
        f"best by {checkpoints.best}: {best.path.name} with {value:.3f}. Its model: "
        f"igpo merge {folder} --checkpoint {best.path.name} --out DIR"
    )


def changes(folder: Path, config: Config) -> list[str]:
    """`key = new (was old)` of every option that differs from the folder's run.toml."""
    before, now = (_flat(tomllib.loads(text)) for text in ((folder / "run.toml").read_text(), config.to_toml()))
    return [
        f"{key} = {brief(now[key]) if key in now else 'left out'} (was {brief(before[key]) if key in before else 'not set'})"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def write_config(folder: Path, config: Config) -> None:
    """run.toml, last of what a run begins with; until then its name is free."""
    write_json(folder / ORIGINS, config.origins)
    replace(folder / "run.toml", config.to_toml())


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {path + key: value}
    return flat
