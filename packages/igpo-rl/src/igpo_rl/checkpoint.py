"""Checkpoints that are either whole or not there.

A checkpoint is written aside, flushed to the disk, sealed by a marker with the digests of its files, and only then gets
its name. So a killed process, a full disk or a flipped bit costs at most one checkpoint, never the run.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen, validators

from igpo_rl import later

if TYPE_CHECKING:
    import torch
else:
    torch = later.load("torch")

STATE, MARKER = "state.pt", "complete"


@frozen(eq=False)
class Saved:
    """A checkpoint on disk."""

    path: Path
    phase: str
    step: int
    """Steps that were finished when it was written."""

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured at its step, as far as `save` was told; empty where the marker cannot be read."""
        metrics = _marker(self.path).get("metrics")
        return metrics if isinstance(metrics, dict) else {}

    def load(self) -> dict[str, Any]:
        """The state, on the CPU; nothing but tensors and plain values is unpickled."""
        state: dict[str, Any] = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        return state


@frozen(kw_only=True)
class Checkpoints:
    """The checkpoints of one run: `folder/PHASE-STEP/`."""

    folder: Path = field(converter=Path)
    """Where they lie."""
    keep: int = field(default=2, validator=validators.ge(1))
    """How many of each phase are kept, the newest ones."""
    best: str | None = None
    """Name of a metric: of each phase the checkpoint with its highest value is kept as well."""
    phases: tuple[str, ...] = ("sft", "igpo")
    """In the order in which they run: any checkpoint of a later phase is newer than all of an earlier one."""

    def save(
        self, phase: str, step: int, state: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> Saved:
        """Write a checkpoint, then drop what is not to be kept. One process calls this.

        Checkpoints of later steps go too: these are steps that the run repeats. OSError where the disk is full; then
        everything is as it was before.
        """
        if phase not in self.phases:
            raise ValueError(f"no phase named {phase!r}; this run has {', '.join(self.phases)}")
        saved = Saved(self.folder / f"{phase}-{step}", phase, step)
        self.folder.mkdir(parents=True, exist_ok=True)
        _sweep(self.folder)
        with aside(saved.path, {"phase": phase, "step": step, "metrics": dict(metrics or {})}) as folder:
            _write(dict(state), folder / STATE)
        for other in self._surplus(saved):
            _discard(other.path)
        return saved

    def latest(self, phase: str | None = None, say: Callable[[str], None] = warnings.warn) -> Saved | None:
        """The newest whole checkpoint (of one phase); what is wrong with a newer one is said."""
        for saved in self.newest_first(phase):
            found = fault(saved.path)
            if found is None:
                return saved
            say(f"checkpoint {saved.path.name} is skipped: {found}. The one before it is used.")
        return None

    def newest_first(self, phase: str | None = None) -> list[Saved]:
        """All checkpoints (of one phase), whole or not."""
        found = []
        for path in self.folder.glob("*-*"):
            name, _, step = path.name.rpartition("-")
            if name in self.phases and phase in (None, name) and step.isdecimal():
                found.append(Saved(path, name, int(step)))
        return sorted(found, key=self._age, reverse=True)

    def best_of(self, phase: str) -> Saved | None:
        """The checkpoint with the highest value of the metric `best`, of equal ones the newest."""
        rated = [saved for saved in self.newest_first(phase) if self.best in saved.metrics]
        return max(rated, key=lambda saved: saved.metrics[str(self.best)], default=None)

    def _surplus(self, newest: Saved) -> list[Saved]:
        every = self.newest_first()
        later = [saved for saved in every if self._age(saved) > self._age(newest)]
        old = [saved for saved in every if saved.phase == newest.phase and saved not in later][self.keep :]
        best = self.best_of(newest.phase)
        return later + [saved for saved in old if best is None or saved.path != best.path]

    def _age(self, saved: Saved) -> tuple[int, int]:
        return self.phases.index(saved.phase), saved.step


# Folders that are whole or not there ----------------------------------------------------------------------------------


@contextmanager
def aside(final: Path, note: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """A new folder to write into, which becomes `final` once it is whole, in the place of one that is there.

    A marker holds digests of its files and the `note`; without a note there is none. Where the body fails nothing is left.
    """
    draft = final.with_name(f".{final.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        paths = sorted(draft.rglob("*"))
        for path in paths:
            flush(path)
        if note is not None:
            digests = {path.relative_to(draft).as_posix(): _digest(path) for path in paths if path.is_file()}
            (draft / MARKER).write_text(json.dumps({**note, "files": digests}))
            flush(draft / MARKER)
        flush(draft)
        _discard(final)
        draft.rename(final)
        flush(final.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # frees the disk that it may have filled
        raise


def fault(folder: Path) -> str | None:
    """What is wrong with a folder that was written `aside`, or None."""
    if not (folder / MARKER).is_file():
        return f"{MARKER} is missing"
    files = _marker(folder).get("files")
    if not isinstance(files, dict) or not files:
        return f"{MARKER} cannot be read"
    for name, digest in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if digest != _digest(folder / name):
            return f"{name} is damaged (its digest differs)"
    return None


def flush(path: Path) -> None:
    """Out of the operating system's buffers; for a folder: its list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _marker(folder: Path) -> dict[str, Any]:
    try:
        marker = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def _write(state: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, but a full disk is the OSError that it was before torch made a RuntimeError of it."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()


def _discard(folder: Path) -> None:
    """Out of sight first, so that nobody meets one that is half deleted."""
    if folder.exists():
        hidden = folder.with_name(f".{folder.name}.discarded")
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)


def _sweep(folder: Path) -> None:
    """What killed processes left behind."""
    for left in [*folder.glob(".*.writing"), *folder.glob(".*.discarded")]:
        shutil.rmtree(left, ignore_errors=True)
