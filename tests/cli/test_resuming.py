"""Runs that end early, in every way that can be had without a kill; the kills themselves are in drills/."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_train import metrics, train

from igpo_cli import runs, training
from igpo_cli.config import resolve
from igpo_cli.main import run
from igpo_cli.plugins import Catalogue
from igpo_cli.resuming import write_config
from igpo_cli.tracking import Tracker, read_metrics
from igpo_cli.training import Training

MODEL = "model/model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of both phases that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    options = ["--sft.steps", "4", "--sft.batch", "8", "--task.sft-problems", "64", "--save-every", "1", "--keep", "9"]
    assert train(folder, "whole", *options) == 0
    return folder / "whole"


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def back_to(folder: Path, *checkpoints: str) -> None:
    """As if the run had been killed when these were its only checkpoints."""
    shutil.rmtree(folder / "model")
    for path in (folder / "checkpoints").iterdir():
        if path.name not in checkpoints:
            shutil.rmtree(path)


def same(folder: Path, other: Path) -> bool:
    """Weights, rollouts and answers byte for byte, metrics but for their times."""
    files = [
        sorted(str(path.relative_to(each)) for path in each.rglob("*") if path.is_file()) for each in (folder, other)
    ]
    kept = [[name for name in names if name.split("/")[0] in ("model", "start", "rollouts", "eval")] for names in files]
    return (
        metrics(folder) == metrics(other)
        and kept[0] == kept[1]
        and all((folder / name).read_bytes() == (other / name).read_bytes() for name in kept[0])
    )


def resume(folder: Path, *more: str) -> int:
    return run(["train", "--resume", str(folder), *more])


@pytest.mark.parametrize("kept", [(), ("sft-2",), ("sft-4",), ("sft-4", "igpo-1")])
def test_wherever_a_run_ended_it_goes_on_as_the_same_run(whole, copy, kept):
    back_to(copy, *kept)
    if kept != ("sft-4", "igpo-1"):
        shutil.rmtree(copy / "start")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "igpo", "st')  # killed while writing
    (copy / "rollouts" / "step-9.jsonl").write_text("{}\n")
    (copy / "rollouts" / "step-9.jsonl.new").write_text("{")
    (copy / "checkpoints").mkdir(exist_ok=True)
    (copy / "checkpoints" / ".igpo-2.writing").mkdir()
    assert resume(copy) == 0
    assert same(copy, whole)
    said = (copy / "log.txt").read_text()
    assert (f"continues after {kept[-1]}" if kept else "starts again, without a checkpoint") in said
    assert not list((copy / "checkpoints").glob(".*"))


def test_a_finished_run_says_so_and_stays_as_it_is(copy, capsys):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert resume(copy) == 0
    assert f"{copy} is finished: its model is in {copy / 'model'}. More --steps would go on." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_changed_options_are_said_and_kept(copy):
    assert resume(copy, "--steps", "4", "--eval.heldout.sampler.temperature", "0.5") == 0
    log = (copy / "log.txt").read_text()
    assert "continues after igpo-3; steps = 4 (was 3); eval.heldout.sampler.temperature = 0.5 (was 0.0)" in log
    assert metrics(copy)[-1]["step"] == 4
    assert tomllib.loads((copy / "run.toml").read_text())["steps"] == 4
    assert resume(copy) == 0  # nothing to do: run.toml says 4


def test_a_changed_option_that_does_not_fit_leaves_the_run_as_it_was(whole, copy, capsys):
    back_to(copy, "sft-4", "igpo-2")
    before = (copy / "run.toml").read_bytes()
    assert resume(copy, "--optimizer", "muon") == 1
    assert "the checkpoint has 1 optimisers and muon makes 2" in capsys.readouterr().err
    assert (copy / "run.toml").read_bytes() == before
    assert resume(copy) == 0
    assert same(copy, whole)


def test_a_damaged_start_is_made_again(whole, copy, capsys):
    back_to(copy, "sft-4", "igpo-2")
    file = copy / "start" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert resume(copy) == 0
    said = capsys.readouterr().err
    assert "start cannot be used (model.safetensors is damaged (its digest differs)): RL is repeated" in said
    assert same(copy, whole)


def test_without_any_whole_checkpoint_nothing_is_thrown_away(copy, capsys):
    back_to(copy, "igpo-3")
    (copy / "checkpoints" / "igpo-3" / "state.pt").write_bytes(b"")
    rows = (copy / "metrics.jsonl").read_bytes()
    assert resume(copy) == 2
    assert "holds no checkpoint that is whole" in capsys.readouterr().err
    assert (copy / "metrics.jsonl").read_bytes() == rows


def test_a_name_is_free_again_where_the_process_was_killed_at_once(tmp_path):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "origins.json").write_text("{}")
    (tmp_path / "early" / "run.toml.new").write_text("na")
    (tmp_path / "early" / ".lock").touch()
    assert runs.claim(tmp_path, "early", explicit=True) == tmp_path / "early"


def test_a_run_that_still_trains_is_not_touched(copy, capsys):
    """Its environment.json names the job by which a launcher that starts processes anew finds it."""
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with runs.holding(copy):
        assert resume(copy, "--steps", "9") == 2
    assert "is being trained by another process" in capsys.readouterr().err
    (copy / ".lock").unlink(missing_ok=True)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


def test_a_job_started_anew_goes_on_with_its_own_run_alone(whole, copy, monkeypatch):
    """The name of a job may be that of an earlier one, of another run."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "17")
    monkeypatch.setattr(training.launch, "restarted", lambda: "17")
    monkeypatch.setattr(training.launch, "_meeting_place", dict)  # nobody to meet
    config = resolve(None, copy / "run.toml", {"folder": str(copy.parent)}, Catalogue.installed())
    write_config(copy, config)
    runs.note_environment(copy, job="17")
    back_to(copy, "sft-4")
    assert training.run(config) == copy
    assert same(copy, whole)
    assert training.run(config.replacing(steps=1)) == copy.parent / "whole"


# Signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_after_its_step(whole, tmp_path, monkeypatch, capfd, number, code):
    options = ["--sft.steps", "4", "--sft.batch", "8", "--task.sft-problems", "64", "--save-every", "3"]
    record = Training._record

    def told(self, step, batch):
        record(self, step, batch)
        if step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Training, "_record", told)
    assert train(tmp_path, "stopped", *options) == code
    folder, said = tmp_path / "stopped", capfd.readouterr().err
    name = signal.Signals(number).name
    assert f"{name}: this step is finished and saved if 25 s are enough. A second signal stops at once." in said
    assert f"stopped by {name} after igpo step 2. Go on with igpo train --resume {folder}" in said
    assert (folder / "checkpoints" / "igpo-2").is_dir()
    assert not (folder / "model").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    assert resume(folder) == 0
    assert same(folder, whole)


def signalled(body: str) -> subprocess.CompletedProcess[str]:
    """A process that only waits to be told to stop; it imports no torch."""
    code = f"import os, signal, time\nfrom igpo_cli.signals import Signals\nme = os.getpid()\n{body}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_a_step_that_takes_too_long_is_left():
    ended = signalled("""
with Signals(0.3, "Go on so.").heard():
    os.kill(me, signal.SIGTERM)
    time.sleep(50)
""")
    assert ended.returncode == 143
    assert ended.stderr.splitlines()[-1] == "stopped: the step was not finished within 0.3 s. Go on so."


def test_a_second_signal_stops_at_once_but_an_echo_of_the_first_does_not():
    ended = signalled("""
with Signals(50, "Go on so.").heard():
    os.kill(me, signal.SIGINT)
    os.kill(me, signal.SIGINT)
    os.kill(me, signal.SIGTERM)
    time.sleep(1.2)
    print("still here", flush=True)
    os.kill(me, signal.SIGTERM)
    print("not here")
""")
    assert ended.returncode == 130
    assert ended.stdout == "still here\n"
    assert ended.stderr.splitlines()[-1] == "stopped at once. Go on so."


def test_a_process_that_waited_for_one_that_stopped_at_once_stops_too():
    """Its own second signal may be an echo, or meet it in a collective."""
    ended = signalled("""
with Signals(50, "Go on so.").heard():
    os.kill(me, signal.SIGTERM)
    raise RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:1")
""")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (143, "stopped at once. Go on so.")


def test_a_run_that_ends_in_time_is_left_alone_and_other_threads_too():
    ended = signalled("""
import threading
with (signals := Signals(0.2, "")).heard():
    os.kill(me, signal.SIGTERM)
assert signals.received == signal.SIGTERM
time.sleep(0.5)
def other():
    with Signals(1, "").heard():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
threading.Thread(target=other).start()
""")
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1)


# A full disk ----------------------------------------------------------------------------------------------------------


class Room:
    """No file may grow beyond so many bytes, as on a disk that is full."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Room:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))
        return self

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_metrics_wait_for_room_and_are_never_torn(tmp_path):
    tracker, said = Tracker(tmp_path), []
    tracker.message = said.append
    for step in range(1, 4):
        tracker.log(step, "igpo", {"reward/mean": 0.5})
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    with Room(len(kept) + 10):  # the next line fits in part
        for step in (4, 5):
            tracker.log(step, "igpo", {"reward/mean": 0.5})
            assert (tmp_path / "metrics.jsonl").read_bytes() == kept
        with pytest.raises(OSError, match="File too large"):
            tracker.flush()
    assert len(said) == 1
    assert "File too large; metrics wait in memory until there is room" in said[0]
    tracker.log(6, "igpo", {"reward/mean": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_costs_checkpoints_not_the_run(whole, tmp_path, monkeypatch, capsys):
    """From the second step of RL on; there is no room for the model at the end either."""
    room, record = Room(4096), Training._record

    def full(self, step, batch):
        if step == 2:
            room.__enter__()
        record(self, step, batch)

    monkeypatch.setattr(Training, "_record", full)
    options = ["--sft.steps", "4", "--sft.batch", "8", "--task.sft-problems", "64", "--save-every", "1"]
    try:
        assert train(tmp_path, "full", *options) == 1
    finally:
        room.__exit__()
    folder, said = tmp_path / "full", capsys.readouterr()
    for words in ("rollouts of step 2 are not kept", "NO CHECKPOINT of igpo step 2", "NO CHECKPOINT of igpo step 3"):
        assert words in " ".join(said.out.split()), words
    assert "could not be written (File too large). Make room on the disk, and then: Go on with" in said.err
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["igpo-1", "sft-3", "sft-4"]
    assert all(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    monkeypatch.undo()
    assert resume(folder) == 0
    assert same(folder, whole)


def test_without_a_start_there_are_no_checkpoints_of_rl(tmp_path, monkeypatch, capsys):
    room, save = Room(4096), Training._save

    def full(self, name, note=None):
        with room:
            save(self, name, note)

    monkeypatch.setattr(Training, "_save", full)
    options = ["--sft.steps", "2", "--sft.batch", "8", "--task.sft-problems", "64", "--save-every", "1"]
    assert train(tmp_path, "full", *options) == 1
    assert "NO CHECKPOINTS will be written from here on" in " ".join(capsys.readouterr().out.split())
    assert sorted(path.name for path in (tmp_path / "full" / "checkpoints").iterdir()) == ["sft-1", "sft-2"]


# The best one ---------------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_kept_by_the_metric_that_is_named(tmp_path, capsys):
    options = ["--best", "eval/heldout/pass@1", "--evaluate-every", "1", "--keep", "1", "--steps", "4"]
    assert train(tmp_path, "best", *options) == 0
    scores = {
        row["step"]: row["eval/heldout/pass@1"] for row in metrics(tmp_path / "best") if "eval/heldout/low" in row
    }
    best = max(range(1, 5), key=lambda step: (scores[step], step))
    kept = {path.name for path in (tmp_path / "best" / "checkpoints").iterdir()}
    assert kept == {f"igpo-{best}", "igpo-4"}
    said = (
        f"best by eval/heldout/pass@1: igpo-{best} with {scores[best]:.3f}. Its model: igpo merge {tmp_path / 'best'} "
    )
    assert said in (tmp_path / "best" / "log.txt").read_text()
    assert run(["merge", str(tmp_path / "best"), "--checkpoint", f"igpo-{best}", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert train(tmp_path, "none", "--best", "eval/held/pass@1") == 2
    assert "--best eval/held/pass@1 is no metric of an evaluation" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
