"""The run directory: where a run lives, and the promise that nothing in it is overwritten."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from igpo_cli.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
ORIGINS = "origins.json"
ASIDE = ".new"
"""Ending of a file that is being written."""


def last_step(folder: Path) -> int | None:
    """The highest RL step that a run directory holds, from its metrics; None where there is none yet."""
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return None
    steps = [int(found.group(1)) for line in lines if (found := re.search(r'"step": (\d+)', line))]
    return steps[-1] if steps else None


def require_place(folder: Path) -> None:
    """UsageError unless the folder, or the nearest one above it that exists, can be written to."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"--folder {folder}: {place.name} is a file. Choose another folder for the runs.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--folder {folder} cannot be made: {place} is not yours to write to. Choose another one.")


def claim(parent: Path, name: str, *, explicit: bool) -> Path:
    """A new, empty run directory: `parent/name` if the name was chosen, else the first free `parent/name-N`."""
    if explicit:
        folder = parent / name
        if folder.exists() and not _unborn(folder):
            step = last_step(folder)
            held = f"already holds step {step}" if step is not None else "is not empty"
            raise UsageError(f"{folder} {held}. Continue with --resume {folder} or choose --name.")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()  # exclusive: two runs that start at once get two names
        except FileExistsError:
            number += 1
        else:
            return folder


def _unborn(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a process left that was killed before it wrote run.toml."""
    return all(path.name in (LOCK, ORIGINS) or path.name.endswith(ASIDE) for path in folder.iterdir())


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Mark a run as running. The lock goes with the process, however that ends; UsageError if another one has it."""
    with (folder / LOCK).open("a") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"{folder} is being trained by another process. Wait for its end, or choose --name."
                ) from None
        yield


def is_running(folder: Path) -> bool:
    """Whether a process of this machine trains in the folder now; False where the system has no such locks."""
    if fcntl is None or not (folder / LOCK).is_file():
        return False
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def of_job(parent: Path, job: str | None) -> Iterator[Path]:
    """The folders of runs of a job of this name, newest first: names may be given again (`--rdzv_id 17`)."""
    if job is not None:
        written = sorted(parent.glob("*/environment.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        yield from (path.parent for path in written if json.loads(path.read_text()).get("job") == job)


def environment(device: str) -> dict[str, object]:
    """What the run ran on, for environment.json: versions and hardware; no names of people, hosts or paths."""
    names = ["igpo-sampling", "igpo-rl", "igpo-data", "igpo-cli", "torch", "transformers", "accelerate", "datasets"]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "device": device,
        "packages": versions,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def note_environment(folder: Path, **found: object) -> None:
    """Add what only the run itself could tell to its environment.json."""
    path = folder / "environment.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | found)


def write_json(path: Path, value: object) -> None:
    """Pretty JSON with a final newline."""
    replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Write a file that is whole or as it was before, whenever the process is killed. OSError where the disk is full."""
    aside = path.with_name(path.name + ASIDE)
    try:
        with aside.open("w", encoding="utf-8", errors="backslashreplace") as file:  # a lone surrogate: JSON's \udXXX
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def append(path: Path, text: str) -> None:
    """Write at the end of a file, all of it or nothing. OSError where the disk is full."""
    data = memoryview(text.encode("utf-8", errors="backslashreplace"))
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise
