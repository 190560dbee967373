from __future__ import annotations

import json
import os

import pytest
import torch

from igpo_rl import checkpoint
from igpo_rl.checkpoint import MARKER, STATE, Checkpoints


def state(step: int) -> dict:
    return {"weights": {"w": torch.full((4,), float(step))}, "done": step, "memory": {"seen": ["a", 1, 2.5, None]}}


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path):
    saved = Checkpoints(folder=tmp_path).save("igpo", 3, state(3))
    latest = Checkpoints(folder=tmp_path).latest()
    assert (latest.path, latest.phase, latest.step) == (saved.path, "igpo", 3)
    loaded = latest.load()
    assert torch.equal(loaded["weights"]["w"], state(3)["weights"]["w"])
    assert loaded["memory"] == state(3)["memory"]


def test_only_the_newest_of_each_phase_are_kept(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path, keep=2)
    for phase, step in [("sft", 1), ("sft", 2), ("sft", 10), ("igpo", 1), ("igpo", 2), ("igpo", 3)]:
        checkpoints.save(phase, step, state(step))
    assert names(tmp_path) == ["igpo-2", "igpo-3", "sft-10", "sft-2"]
    assert checkpoints.latest().path.name == "igpo-3"
    assert checkpoints.latest("sft").path.name == "sft-10"


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoints(folder=tmp_path / "nowhere").latest() is None


def damage(path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (lambda path: damage(path / STATE), "damaged"),
        (lambda path: (path / STATE).write_bytes((path / STATE).read_bytes()[:100]), "damaged"),
        (lambda path: (path / STATE).unlink(), "missing"),
        (lambda path: (path / MARKER).unlink(), "missing"),
        (lambda path: (path / MARKER).write_text("{"), "cannot be read"),
    ],
)
def test_a_corrupt_newest_checkpoint_is_skipped_and_said(tmp_path, break_it, fault):
    checkpoints, said = Checkpoints(folder=tmp_path), []
    checkpoints.save("igpo", 1, state(1))
    checkpoints.save("igpo", 2, state(2))
    break_it(tmp_path / "igpo-2")
    latest = checkpoints.latest(say=said.append)
    assert latest.step == 1
    assert float(latest.load()["weights"]["w"][0]) == 1.0
    assert len(said) == 1
    assert "igpo-2 is skipped" in said[0]
    assert fault in said[0]


def test_a_bit_flip_would_go_unnoticed_without_the_digest(tmp_path):
    """torch.load alone is content with a changed weight."""
    Checkpoints(folder=tmp_path).save("igpo", 1, {"weights": torch.zeros(100_000)})
    damage(tmp_path / "igpo-1" / STATE)
    assert torch.load(tmp_path / "igpo-1" / STATE, weights_only=True)["weights"].any()
    assert Checkpoints(folder=tmp_path).latest(say=lambda text: None) is None


@pytest.mark.parametrize("moment", ["state", "marker", "rename"])
def test_a_killed_writer_leaves_the_checkpoints_before_it(tmp_path, monkeypatch, moment):
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save("igpo", 1, state(1))

    def killed(*_):
        raise KeyboardInterrupt

    if moment == "state":
        monkeypatch.setattr(checkpoint, "_flush", killed)
    elif moment == "marker":
        monkeypatch.setattr(checkpoint, "_digest", killed)
    else:
        monkeypatch.setattr("pathlib.Path.rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save("igpo", 2, state(2))
    monkeypatch.undo()
    said = []
    assert checkpoints.latest(say=said.append).step == 1
    assert said == []  # an unfinished one is not even looked at
    checkpoints.save("igpo", 2, state(2))
    assert checkpoints.latest().step == 2
    assert names(tmp_path) == ["igpo-1", "igpo-2"]


def test_the_marker_is_written_last(tmp_path):
    saved = Checkpoints(folder=tmp_path).save("sft", 5, state(5))
    marker = json.loads((saved.path / MARKER).read_text())
    assert (marker["phase"], marker["step"]) == ("sft", 5)
    assert (saved.path / MARKER).stat().st_mtime_ns >= (saved.path / STATE).stat().st_mtime_ns


def test_saving_a_repeated_step_replaces_it(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path)
    checkpoints.save("igpo", 1, state(1))
    checkpoints.save("igpo", 1, state(9))
    assert checkpoints.latest().load()["done"] == 9


def test_unknown_phases_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no phase named 'dpo'; this run has sft, igpo"):
        Checkpoints(folder=tmp_path).save("dpo", 1, {})
