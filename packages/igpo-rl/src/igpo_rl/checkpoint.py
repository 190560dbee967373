"""Checkpoints that are either whole or not there.

A checkpoint is written aside, flushed to the disk, and only then renamed; its marker, written last, holds a digest of
the state. So a killed process, a full disk or a flipped bit costs at most one checkpoint, never the run.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
else:
    torch = lazy.load("torch")

STATE, MARKER = "state.pt", "complete.json"


@frozen(eq=False)
class Saved:
    """A checkpoint on disk that was found whole."""

    path: Path
    phase: str
    step: int
    """Steps that were finished when it was written."""

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
    phases: tuple[str, ...] = ("sft", "igpo")
    """In the order in which they run: any checkpoint of a later phase is newer than all of an earlier one."""

    def save(self, phase: str, step: int, state: Mapping[str, Any]) -> Saved:
        """Write a checkpoint and then drop the oldest ones. One process calls this."""
        if phase not in self.phases:
            raise ValueError(f"no phase named {phase!r}; this run has {', '.join(self.phases)}")
        final = self.folder / f"{phase}-{step}"
        aside = self.folder / f".{phase}-{step}.writing"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        torch.save(dict(state), aside / STATE)
        _flush(aside / STATE)
        (aside / MARKER).write_text(json.dumps({"phase": phase, "step": step, "digest": _digest(aside / STATE)}))
        _flush(aside / MARKER)
        _flush(aside)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        _flush(self.folder)
        for old in self._newest_first(phase)[self.keep :]:
            shutil.rmtree(old.path)
        return Saved(final, phase, step)

    def latest(self, phase: str | None = None, say: Callable[[str], None] = warnings.warn) -> Saved | None:
        """The newest whole checkpoint (of one phase); what is wrong with a newer one is said."""
        for saved in self._newest_first(phase):
            fault = _fault(saved)
            if fault is None:
                return saved
            say(f"checkpoint {saved.path.name} is skipped: {fault}. The one before it is used.")
        return None

    def _newest_first(self, only: str | None) -> list[Saved]:
        found = []
        for path in self.folder.glob("*-*"):
            phase, _, step = path.name.rpartition("-")
            if phase in self.phases and only in (None, phase) and step.isdecimal():
                found.append(Saved(path, phase, int(step)))
        return sorted(found, key=lambda saved: (self.phases.index(saved.phase), saved.step), reverse=True)


def _fault(saved: Saved) -> str | None:
    """What is wrong with a checkpoint, or None."""
    if not (saved.path / MARKER).is_file() or not (saved.path / STATE).is_file():
        return f"{MARKER} or {STATE} is missing"
    try:
        digest = json.loads((saved.path / MARKER).read_text())["digest"]
    except (ValueError, KeyError, TypeError):
        return f"{MARKER} cannot be read"
    return None if digest == _digest(saved.path / STATE) else f"{STATE} is damaged (its digest differs)"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "blake2b").hexdigest()


def _flush(path: Path) -> None:
    """Out of the operating system's buffers; for a folder: its list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
