"""What would end a run minutes after its start, looked at before anything is loaded."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from igpo_cli.errors import UsageError, close

if TYPE_CHECKING:
    from igpo_cli.config import Config

TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")
"""What accelerate knows; the modules have the same names."""


def require(config: Config) -> None:
    """UsageError where the run's folder cannot be made, or a tracker is not there."""
    require_place(Path(config.run.folder))
    for name in config.run.trackers:
        require_tracker(name)


def require_place(folder: Path) -> None:
    """The folder, or the nearest one above it that exists, can be written to."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"--folder {folder}: {place.name} is a file. Choose another folder for the runs.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--folder {folder} cannot be made: {place} is not yours to write to. Choose another one.")


def require_tracker(name: str) -> None:
    """A tracker that accelerate knows and that is installed."""
    if name not in TRACKERS:
        meant = close(name, TRACKERS)
        hint = f" Did you mean '{meant}'?" if meant else ""
        raise UsageError(f"no tracker named '{name}'.{hint} There are: {', '.join(TRACKERS)} (igpo doctor)")
    if importlib.util.find_spec(name) is None:
        raise UsageError(
            f"tracker '{name}' is not installed. pip install {name.replace('_', '-')}, or leave it out of --trackers; "
            "metrics.jsonl is written in any case."
        )
