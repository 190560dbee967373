"""Experiment trackers beside metrics.jsonl, through accelerate's classes: TensorBoard, trackio, wandb and others.

A tracker is never worth a run: one that cannot be started or that fails later is named once and dropped, and the run goes
on. Only a tracker that is not installed, or that nobody knows, is an error, before anything has begun.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from igpo_cli.errors import UsageError, close
from igpo_cli.pieces import visible

KNOWN = ("tensorboard", "trackio", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab")
"""Those of accelerate; each is the module that it needs."""
EXTRAS = ("trackio", "wandb")
"""Those that are extras of igpo-cli."""
PROJECT = "igpo"
TABLE = 16
"""Rollouts of a step that are shown at most, whole groups."""
CELL = 2000
"""Characters of a text that are shown at most."""
COLUMNS = ("key", "row", "prompt", "completion", "hint tokens", "answer", "expected", "correct", "reward", "advantage")
IDENTITY = "tracker-id"
"""File in a run's folder with the name by which trackers know the run again."""


def require(names: Sequence[str]) -> None:
    """UsageError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in KNOWN:
            meant = close(name, KNOWN)
            hint = f"Did you mean '{meant}'? " if meant else ""
            raise UsageError(f"no tracker named '{name}'. {hint}There are: {', '.join(KNOWN)}")
        if importlib.util.find_spec(name) is None:
            what = f"'igpo-cli[{name}]'" if name in EXTRAS else name
            raise UsageError(
                f"--trackers {name} needs a package that is not installed. pip install {what}, or leave it out."
            )


@define
class Trackers:
    """The trackers of one run; used by its first process alone."""

    say: Callable[[str], None]
    """Tells the user that a tracker failed."""
    running: dict[str, Any] = field(factory=dict)
    """accelerate's trackers by name."""

    def start(self, names: Sequence[str], folder: Path, values: Mapping[str, Any], purge: int | None = None) -> None:
        """Start each; `values` are a run's options, nested. `purge`: the run goes on, and this step is the first to come."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        identity = known_as(folder)
        again = purge is not None
        settings: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": purge} if again else {},
            "wandb": {
                "name": folder.name,
                "id": identity,
                "resume": "allow",
                "dir": str(folder),
                "settings": {"quiet": True},
            },
            "trackio": {
                "name": f"{folder.name}-{identity}",
                "resume": "allow" if again else "never",
                "embed": False,
                "auto_log_cpu": False,
            },
        }
        for name in names:
            cls = LOGGER_TYPE_TO_CLASS[name]
            project = "trackers" if name == "tensorboard" else os.environ.get("WANDB_PROJECT", PROJECT)
            where = {"logging_dir": folder} if cls.requires_logging_directory else {}
            with self._alive(name):
                tracker = cls(project, **where, **settings.get(name, {}))
                tracker.start()
                self.running[name] = tracker
                if not (again and name == "tensorboard"):  # which would make a second run of it
                    tracker.store_init_configuration(flat(values))

    def log(self, values: Mapping[str, float], step: int, *, seen: Mapping[str, float] | None = None) -> None:
        """Numbers of a step, counted over all phases. `seen`: those among them that were sent before the run was resumed,
        and of which only a tracker that has been purged gets a second copy."""
        fresh = {key: value for key, value in values.items() if key not in (seen or {})}
        for name, tracker in list(self.running.items()):
            if some := (values if name == "tensorboard" else fresh):
                with self._alive(name):
                    tracker.log(dict(some), step=step)

    def table(self, rows: Sequence[Mapping[str, Any]], step: int, *, seen: bool = False) -> None:
        """Rollouts as a table, where the tracker has tables (wandb, trackio) or texts (TensorBoard)."""
        if seen:
            return  # nobody takes a table back
        cells = [cells_of(row) for row in shown(rows)]
        for name, tracker in list(self.running.items()):
            with self._alive(name):
                if name == "tensorboard":
                    tracker.writer.add_text("rollouts", markdown(cells), step)
                elif name == "wandb":
                    tracker.log_table("rollouts", columns=list(COLUMNS), data=cells, step=step)
                elif name == "trackio":
                    import trackio

                    table = trackio.Table(columns=list(COLUMNS), data=cells)
                    tracker.log({"rollouts": table}, step=step)

    def finish(self) -> None:
        """Send what is left."""
        for name, tracker in list(self.running.items()):
            with self._alive(name):
                tracker.finish()

    @contextmanager
    def _alive(self, name: str) -> Iterator[None]:
        """A full disk may get room again, and is the caller's to tell; whoever fails otherwise gets nothing more."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.running.pop(name, None)
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            self.say(
                f"warning: the tracker {name} failed ({reason}) and gets nothing more. metrics.jsonl has everything."
            )


def known_as(folder: Path) -> str:
    """The run's name for trackers, made once."""
    file = folder / IDENTITY
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8] + "\n")
    return file.read_text().strip()


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, str | float | bool]:
    """Nested options -> dotted names and plain values, as all trackers take them."""
    found: dict[str, str | float | bool] = {}
    for key, value in values.items():
        name = f"{path}.{key}".strip(".")
        if isinstance(value, Mapping):
            found |= flat(value, name)
        else:
            found[name] = value if isinstance(value, str | int | float | bool) else repr(value)
    return found


def shown(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The first groups, up to `TABLE` rows; of a larger group its first rows."""
    ends = [at for at in range(1, len(rows) + 1) if at == len(rows) or rows[at]["group"] != rows[at - 1]["group"]]
    fits = [end for end in ends if end <= TABLE]
    return rows[: fits[-1] if fits else TABLE]


def cells_of(row: Mapping[str, Any]) -> list[str | float | bool]:
    """One rollout under `COLUMNS`."""
    completion = "".join(row["tokens"][: row["end"]])
    texts = [row["prompt"], completion]
    prompt, completion = (visible(text) if len(text) <= CELL else visible(text[:CELL]) + " ..." for text in texts)
    answer, expected = (visible(row[name] or "") for name in ("answer", "expected"))
    hints = sum(row["hint"][: row["end"]])
    return [
        row["key"], row["row"], prompt, completion, hints, answer, expected, row["correct"], row["reward"], row["advantage"]
    ]  # fmt: skip


def markdown(cells: Sequence[Sequence[object]]) -> str:
    """A table of Markdown in which the cells' own markup is text."""

    def plain(cell: object) -> str:
        text = f"{cell:.3g}" if isinstance(cell, float) else str(cell)
        for mark, name in (
            ("&", "&amp;"),
            ("<", "&lt;"),
            ("|", "&#124;"),
            ("`", "&#96;"),
            ("*", "&#42;"),
            ("\n", "<br>"),
        ):
            text = text.replace(mark, name)
        return text

    rows = [COLUMNS, ["---"] * len(COLUMNS), *[list(map(plain, row)) for row in cells]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
