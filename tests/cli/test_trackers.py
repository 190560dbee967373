"""TensorBoard, trackio and wandb, each for real: what they get, after a resumption too, and that none is worth a run."""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from igpo_cli.errors import UsageError
from igpo_cli.main import run
from igpo_cli.trackers import TABLE, Trackers, cells_of, flat, markdown, require, shown
from igpo_cli.tracking import Tracker, read_metrics

OPTIONS = {"seed": 3, "sampler": {"name": "llada", "top_k": "none"}, "trackers": ["tensorboard"]}
TOTALS = {"sft": 2, "igpo": 4}


def a_row(group, index, **values):
    row = {"key": f"p{group}", "group": group, "row": index, "prompt": "1 + 1 ?", "tokens": ["so ", "2", "!"], "end": 2}
    row |= {"hint": [1, 0, 1], "answer": "2", "expected": "2", "correct": True, "reward": 1.0, "advantage": 0.5}
    return row | {"hinted": False} | values


def sitting(folder, name, steps, *, after=None):
    """Log some steps; `after` is the (phase, step) of the checkpoint that a resumed run goes on from."""
    from accelerate import PartialState

    PartialState(cpu=True)
    said = []
    tracker = Tracker(folder, totals=TOTALS, trackers=Trackers(said.append))
    if after is not None:
        tracker.cut(*after)
    purge = None if after is None else after[1] + TOTALS["sft"] * (after[0] == "igpo") + 1
    tracker.trackers.start([name], folder, OPTIONS, purge)
    for phase, step in steps:
        if phase == "igpo":
            tracker.rollouts(step, [a_row(0, 0, prompt=f"at {step}")])
        tracker.log(step, phase, {"reward/mean": step / 8, "optimizer/lr": 0.1})
        if phase == "igpo" and step % 2 == 0:
            tracker.log(step, phase, {"eval/heldout/pass@1": step / 4})
    tracker.trackers.finish()
    assert not said, said


FIRST = [("sft", 1), ("sft", 2), ("igpo", 1), ("igpo", 2), ("igpo", 3)]
SECOND = [("igpo", 2), ("igpo", 3), ("igpo", 4)]
EXPECTED = (
    [("sft/optimizer/lr", 1), ("sft/optimizer/lr", 2), ("eval/heldout/pass@1", 4), ("eval/heldout/pass@1", 6)]
    + [("optimizer/lr", step) for step in (3, 4, 5, 6)]
    + [("sft/reward/mean", 1), ("sft/reward/mean", 2)]
    + [("reward/mean", step) for step in (3, 4, 5, 6)]
)
"""(name, step over both phases) of every number that a straight run would send."""


def in_a_process(folder, name):
    """Both sittings of a run, each in a process of its own: trackers keep global state."""
    for steps, after in ((FIRST, None), (SECOND, ("igpo", 1))):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; "
        code += (
            f"from test_trackers import sitting; sitting(Path({str(folder)!r}), {name!r}, {steps!r}, after={after!r})"
        )
        environment = os.environ | {
            "WANDB_MODE": "offline",
            "TRACKIO_DIR": str(folder / "trackio"),
            "WANDB_SILENT": "true",
        }
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=200
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


# Each for real ----------------------------------------------------------------------------------------------------------


def test_tensorboard_has_every_number_once_after_a_resumption(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sitting(tmp_path, "tensorboard", FIRST)
    sitting(tmp_path, "tensorboard", SECOND, after=("igpo", 1))
    events = EventAccumulator(str(tmp_path / "trackers"))
    events.Reload()
    found = Counter((tag, event.step) for tag in events.Tags()["scalars"] for event in events.Scalars(tag))
    assert found == Counter(EXPECTED)
    texts = events.Tensors("rollouts/text_summary")
    assert [event.step for event in texts] == [3, 4, 5, 6]
    assert b"| p0 | 0 | at 4 | so 2 | 1 | 2 | 2 | True | 1 | 0.5 |" in texts[-1].tensor_proto.string_val[0]
    (settings,) = (tmp_path / "trackers").glob("*/hparams.yml")
    assert "sampler.name: llada" in settings.read_text()


@pytest.mark.slow
def test_trackio_has_every_number_once_after_a_resumption(tmp_path):
    in_a_process(tmp_path, "trackio")
    with sqlite3.connect(tmp_path / "trackio" / "igpo.db") as base:
        rows = [
            (run_, step, json.loads(text))
            for run_, step, text in base.execute("select run_name, step, metrics from metrics")
        ]
        (configured,) = base.execute("select config from configs").fetchall()
    assert len({name for name, _, _ in rows}) == 1
    found = Counter((name, step) for _, step, values in rows for name in values)
    assert found == Counter(EXPECTED) + Counter([("rollouts", step) for step in (3, 4, 5, 6)])
    (table,) = [values["rollouts"]["_value"] for _, step, values in rows if step == 4 and "rollouts" in values]
    assert (table[0]["completion"], table[0]["hint tokens"], table[0]["prompt"]) == ("so 2", 1, "at 2")
    assert json.loads(configured[0])["sampler.name"] == "llada"


@pytest.mark.slow
def test_wandb_offline_has_every_number_once_after_a_resumption(tmp_path):
    in_a_process(tmp_path, "wandb")
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1  # one run: the second file is appended to it when they are synced
    found, settings = Counter(), {}
    for file in files:
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "history":
                names = ["/".join(item.nested_key) or item.key for item in record.history.item]
                values = {
                    name: json.loads(item.value_json) for name, item in zip(names, record.history.item, strict=True)
                }
                found.update((name, values["_step"]) for name in values if not name.startswith("_"))
            for item in [*record.run.config.update, *record.config.update]:
                settings["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    tables = Counter({pair: count for pair, count in found.items() if pair[0].startswith("rollouts")})
    assert found - tables == Counter(EXPECTED)
    assert sorted(step for name, step in tables.elements() if name == "rollouts/_type") == [3, 4, 5, 6]
    assert settings["sampler.name"] == "llada"


def wandb_records(path):
    """The records of wandb's own file: blocks of 32 KiB in LevelDB's log format, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


# Not worth a run ---------------------------------------------------------------------------------------------------------


def test_a_tracker_that_cannot_start_is_named_once_and_the_run_goes_on(tmp_path):
    (tmp_path / "trackers").write_text("in the way")
    said = []
    tracker = Tracker(tmp_path, trackers=Trackers(said.append))
    tracker.trackers.start(["tensorboard"], tmp_path, OPTIONS)
    for step in (1, 2):
        tracker.log(step, "igpo", {"reward/mean": 0.5})
        tracker.rollouts(step, [a_row(0, 0)])
    tracker.trackers.finish()
    (warning,) = said
    assert warning.startswith("warning: the tracker tensorboard failed (")
    assert warning.endswith("and gets nothing more. metrics.jsonl has everything.")
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_tracker_that_dies_later_takes_no_other_along(tmp_path):
    class Dying:
        def log(self, values, step):
            raise ConnectionError("the server is gone\nfor good")

    from accelerate import PartialState

    PartialState(cpu=True)
    said = []
    trackers = Trackers(said.append)
    trackers.start(["tensorboard"], tmp_path, OPTIONS)
    trackers.running = {"other": Dying()} | trackers.running
    for step in (1, 2):
        trackers.log({"reward/mean": 0.5}, step)
    assert said == [
        "warning: the tracker other failed (the server is gone) and gets nothing more. metrics.jsonl has everything."
    ]
    assert [*trackers.running] == ["tensorboard"]
    trackers.finish()


def test_missing_and_unknown_trackers_are_errors_before_anything_begins(tmp_path, capsys, monkeypatch):
    assert run(["train", "--folder", str(tmp_path / "runs"), "--trackers", "tensorbord"]) == 2
    assert "no tracker named 'tensorbord'. Did you mean 'tensorboard'?" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match=r"--trackers aim needs a package that is not installed. pip install aim"):
        require(["tensorboard", "aim"])
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    with pytest.raises(UsageError, match=r"pip install 'igpo-cli\[wandb\]', or leave it out"):
        require(["wandb"])


# Tables -----------------------------------------------------------------------------------------------------------------


def test_options_are_flat_for_trackers():
    assert flat(OPTIONS) == {
        "seed": 3,
        "sampler.name": "llada",
        "sampler.top_k": "none",
        "trackers": "['tensorboard']",
    }


@pytest.mark.parametrize(("sizes", "kept"), [([8, 8, 8], 16), ([8, 9], 8), ([40], TABLE), ([3], 3), ([5, 5, 5, 5], 15)])
def test_whole_groups_are_shown(sizes, kept):
    rows = [a_row(group, row) for group, size in enumerate(sizes) for row in range(size)]
    assert list(shown(rows)) == rows[:kept]


def test_a_table_of_hostile_text_stays_a_table():
    cells = cells_of(a_row(0, 0, prompt="a | b\n<script>\x1b[31m `x` **y**", answer=None))
    assert cells[2] == "a | b\n<script>␛[31m `x` **y**"
    *_, line = markdown([cells]).splitlines()
    assert line.count("|") == 11
    assert "<script>" not in line
    assert "<br>&lt;script>" in line
