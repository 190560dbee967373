from __future__ import annotations

import json
import os
import resource

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igpo_rl import checkpoint
from igpo_rl.checkpoint import MARKER, STATE, Checkpoints, aside, fault


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
        monkeypatch.setattr(checkpoint, "flush", killed)
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


# The best one ---------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path, keep=2, best="score")
    for step, score in enumerate([0.1, 0.9, 0.3, None, 0.2], 1):
        checkpoints.save("igpo", step, state(step), {} if score is None else {"score": score, "other": -score})
    assert names(tmp_path) == ["igpo-2", "igpo-4", "igpo-5"]
    assert checkpoints.best_of("igpo").step == 2
    assert checkpoints.best_of("igpo").metrics == {"score": 0.9, "other": -0.9}
    checkpoints.save("igpo", 6, state(6), {"score": 0.9})  # of equal ones the newest
    assert names(tmp_path) == ["igpo-5", "igpo-6"]
    assert checkpoints.best_of("sft") is None
    assert Checkpoints(folder=tmp_path).best_of("igpo") is None


def test_each_phase_has_a_best_one_of_its_own(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path, keep=1, best="score")
    for phase, step, score in [("sft", 1, 0.9), ("sft", 2, 0.1), ("igpo", 1, 0.5), ("igpo", 2, 0.4), ("igpo", 3, 0.3)]:
        checkpoints.save(phase, step, state(step), {"score": score})
    assert names(tmp_path) == ["igpo-1", "igpo-3", "sft-1", "sft-2"]


def test_checkpoints_of_steps_that_are_repeated_do_not_crowd_out_new_ones(tmp_path):
    """The newest was damaged and the run goes on from the one before it: with keep = 1 the damaged one must not stay."""
    checkpoints = Checkpoints(folder=tmp_path, keep=1)
    checkpoints.save("sft", 8, state(8))
    checkpoints.save("igpo", 1, state(1))
    damage(tmp_path / "igpo-1" / STATE)
    assert checkpoints.latest(say=lambda text: None).path.name == "sft-8"
    checkpoints.save("sft", 9, state(9))
    assert names(tmp_path) == ["sft-9"]


# Damage and full disks ------------------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([STATE, MARKER]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_detected_or_harmless(tmp_path, name, where, flip):
    folder = Checkpoints(folder=tmp_path).save("igpo", 2, state(2), {"score": 0.5}).path
    content = bytearray((folder / name).read_bytes())
    content[int(where * len(content))] ^= flip
    (folder / name).write_bytes(bytes(content))
    latest = Checkpoints(folder=tmp_path).latest(say=lambda text: None)
    if name == STATE:
        assert latest is None
    elif latest is not None:  # a number or a name that resuming does not read
        assert (latest.phase, latest.step) == ("igpo", 2)
        assert torch.equal(latest.load()["weights"]["w"], state(2)["weights"]["w"])


class Room:
    """No file may grow beyond so many bytes, as on a disk that is full."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_full_disk_leaves_everything_as_it_was(tmp_path):
    checkpoints = Checkpoints(folder=tmp_path, keep=1)
    checkpoints.save("igpo", 1, state(1))
    with Room(50_000), pytest.raises(OSError, match="File too large"):
        checkpoints.save("igpo", 2, {"weights": torch.zeros(100_000)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["igpo-1"]  # no half-written file takes up the disk
    assert checkpoints.latest().step == 1
    checkpoints.save("igpo", 2, state(2))
    assert names(tmp_path) == ["igpo-2"]


def test_what_killed_processes_left_is_swept_away(tmp_path):
    for left in (".igpo-1.writing", ".igpo-0.discarded"):
        (tmp_path / left).mkdir()
        (tmp_path / left / STATE).write_bytes(b"half")
    checkpoints = Checkpoints(folder=tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save("igpo", 2, state(2))
    assert names(tmp_path) == ["igpo-2"]


def test_any_folder_can_be_written_aside(tmp_path):
    final = tmp_path / "start"
    for text in ("one", "two"):
        with aside(final, {}) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / "file").write_text(text)
            assert not final.exists() or (final / "inner" / "file").read_text() == "one"
    assert names(tmp_path) == ["start"]
    assert (final / "inner" / "file").read_text() == "two"
    assert fault(final) is None
    with pytest.raises(RuntimeError), aside(final):
        raise RuntimeError
    assert (final / "inner" / "file").read_text() == "two"
    (final / "inner" / "file").write_text("twp")
    assert "damaged" in fault(final)
    (final / "inner" / "file").unlink()
    assert "missing" in fault(final)
    with aside(final) as folder:
        (folder / "file").write_text("unsealed")
    assert names(final) == ["file"]
