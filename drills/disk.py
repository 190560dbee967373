"""A disk that fills up while a run trains: a small file system of its own, else a limit on the size of files."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from random import Random

from drills.runs import PLUGIN, Row, differences, finish, half_written, metrics, words
from igpo_rl.checkpoint import Checkpoints

ROOM = 2**20


def drill(folder: Path, straight: Path, count: int, seed: int) -> list[Row]:
    """The run goes on to its last step; with room again, it is the run that had enough of it."""
    return [once(folder / f"disk-{number}", straight, Random(f"disk {seed} {number}")) for number in range(count)]


def once(place: Path, straight: Path, rng: Random) -> Row:
    """Fill up the disk after some of the checkpoints."""
    place.mkdir()
    size = sum(path.stat().st_size for path in straight.rglob("*") if path.is_file())
    share = rng.uniform(0.5, 0.95)
    mounted = mount(place, int(share * size))
    run, log = place / straight.name, place.with_suffix(".log")
    # Few files of a run are larger than a checkpoint, so a limit on files stands for a disk without room for one.
    limit = (
        None if mounted else limited(int(0.9 * (next(straight.glob("checkpoints/igpo-*")) / "state.pt").stat().st_size))
    )
    how = f"tmpfs of {share:.0%} of the room it needs" if mounted else "limit on the size of files"
    try:
        code = finish(words(run), log, first=limit)
        said = log.read_text()
        rows = metrics(run)
        found = [f"half written: {each}" for each in half_written(run)]
        found += [] if rows == metrics(straight)[: len(rows)] else ["metrics differ"]
        found += [] if "Make room on the disk" in said else ["nothing was said"]
        found += [] if "igpo 24/24" in said else ["it did not go on to its last step"]
        kept = Checkpoints(folder=run / "checkpoints").latest(say=found.append)
        if mounted:
            subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(place)], check=True)
        again = finish(["train", "--resume", str(run), "--plugin", str(PLUGIN)], log)
        found += [f"exit code {again}"] if again else differences(run, straight)
        last = "none" if kept is None else kept.path.name
        happened = f"{how}: ended with code {code}, newest checkpoint {last} and {len(rows)} rows of metrics, all whole"
        return Row("full disk", 1, f"{happened}; wrong after making room: {', '.join(found) or 'nothing'}", not found)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def mount(place: Path, size: int) -> bool:
    """A file system of `size` bytes; False where this user may not make one."""
    if os.geteuid() != 0:
        return False
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    return made.returncode == 0


def limited(size: int):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return limit
