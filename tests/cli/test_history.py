"""`igpo runs` and `igpo plot` on run directories as a tracker leaves them."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from igpo_cli.errors import UsageError
from igpo_cli.history import bytes_of, find, last_rows, read, runs_in
from igpo_cli.main import run
from igpo_cli.runs import holding
from igpo_cli.tracking import Tracker

TOML = 'steps = 4\nname = "{name}"\n[injection]\nname = "{injection}"\n{more}[sft]\nsteps = 2\n[model]\nname = "tiny"\n'


def make(parent, name, *, injection="uniform-chunks", more="low = 0.2\n", steps=4, gain=0.1, model=True):
    """A run of `steps` RL steps that ends with an evaluation."""
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "run.toml").write_text(TOML.format(name=name, injection=injection, more=more))
    (folder / "environment.json").write_text(
        json.dumps({"device": "cpu", "packages": {"torch": "2.13"}, "peak_memory": steps << 20})
    )
    tracker = Tracker(folder)
    for step in (1, 2):
        tracker.log(step, "sft", {"sft/loss": 3.0 / step, "optimizer/lr": 0.1})
    for step in range(1, steps + 1):
        tracker.log(
            step, "igpo", {"reward/mean": gain * step, "stuck/before": 0.8, "stuck/after": 0.4, "policy/kl": None}
        )
    found = {"pass@1": gain * steps, "low": gain, "high": 0.9, "problems": 64.0}
    tracker.log(steps, "igpo", {f"eval/heldout/{key}": value for key, value in found.items()})
    if model:
        (folder / "model").mkdir()
        (folder / "model" / "model.safetensors").write_bytes(b"0" * 2048)
    return folder


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A working directory with runs/: one that ended, one that was cut off, a folder that is none."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "runs", "first")
    make(tmp_path / "runs", "second", injection="none", more="", steps=3, gain=0.05, model=False)
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def said(capsys, *argv, code=0):
    assert run(argv) == code
    return capsys.readouterr().out


def test_the_last_rows_are_found_from_the_end(shelf):
    rows, evaluated = last_rows(shelf / "first")
    assert {phase: row["step"] for phase, row in rows.items()} == {"sft": 2, "igpo": 4}
    assert rows["igpo"]["reward/mean"] == pytest.approx(0.4)
    assert evaluated["eval/heldout/pass@1"] == pytest.approx(0.4)
    with (shelf / "first" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "igpo", "step": 5, "reward/mean": 0.')  # what a killed run leaves
    assert last_rows(shelf / "first") == (rows, evaluated)
    assert last_rows(shelf / "notes") == ({}, {})


def test_a_run_is_running_finished_or_interrupted(shelf):
    states = {folder.name: read(folder).state for folder in runs_in(shelf)}
    assert states == {"first": "finished", "second": "interrupted"}
    with holding(shelf / "second"):
        assert read(shelf / "second").state == "running"
    (shelf / "second" / "model").mkdir()  # that of an earlier, shorter run does not make it finished
    assert read(shelf / "second").state == "interrupted"


def test_runs_are_found_by_path_and_by_name(shelf):
    assert find("first").resolve() == shelf / "first" == find(str(shelf / "first"))
    with pytest.raises(UsageError, match=r"there is no run 'frist'.* Did you mean 'first'\? \(igpo runs list\)"):
        find("frist")
    with pytest.raises(UsageError, match=r"runs/notes holds no run.toml"):
        find("runs/notes")
    with pytest.raises(UsageError, match=r"run.toml is a file"):
        find("runs/first/run.toml")


@pytest.mark.usefixtures("shelf")
def test_list(capsys, monkeypatch):
    lines = said(capsys, "runs", "list").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["first", "finished"], ["second", "interrupted"]]
    assert "sft 2, igpo 3/4" in lines[2]
    rows = json.loads(said(capsys, "runs", "list", "--json"))
    assert [row["name"] for row in rows] == ["first", "second"]
    assert rows[1]["steps"] == {"sft": 2, "igpo": 3}
    assert rows[1]["planned"] == {"sft": 2, "igpo": 4}
    assert rows[0]["evaluations"]["heldout"]["low"] == pytest.approx(0.1)
    assert rows[0]["bytes"] > 2048
    monkeypatch.setenv("COLUMNS", "30")
    assert "  steps      sft 2, igpo 3/4" in said(capsys, "runs", "list")
    assert said(capsys, "runs", "list", "runs/notes") == "runs/notes holds no runs yet. Make one with igpo train.\n"


@pytest.mark.usefixtures("shelf")
def test_show(capsys):
    page = said(capsys, "runs", "show", "second")
    assert "interrupted" in page
    assert "stuck/before" in page
    assert "igpo train runs/second/run.toml --name NEW" in page  # it left no checkpoint
    found = json.loads(said(capsys, "runs", "show", "first", "--json"))
    assert found["last"]["igpo"]["reward/mean"] == pytest.approx(0.4)
    assert found["environment"]["device"] == "cpu"
    assert found["next"][0] == "igpo report runs/first"


@pytest.mark.usefixtures("shelf")
def test_compare(capsys):
    found = json.loads(said(capsys, "runs", "compare", "first", "second", "--json"))
    assert found["options"] == {
        "injection.name": {"first": "uniform-chunks", "second": "none"},
        "injection.low": {"first": 0.2, "second": None},
    }
    assert found["environment"] == {}  # the peak of memory is a result
    first, second = (found["results"][name] for name in ("first", "second"))
    assert first["reward, last sixth"] == pytest.approx(0.4)
    assert (first["stuck"], first["opened"]) == (pytest.approx(0.8), pytest.approx(0.5))
    row = second["evaluations"]["heldout"]
    assert row["change"] == pytest.approx(-0.25)
    assert row["change low"] < row["change"] < row["change high"]
    page = said(capsys, "runs", "compare", "first", "second")
    assert "injection.low" in page
    assert "-0.250" in page
    assert re.search(r"peak of memory +4\.0 MiB +3\.0 MiB", page)
    assert run(["runs", "compare", "first"]) == 2


def test_equal_runs_are_said_to_be_equal(shelf, capsys):
    make(shelf, "again")
    assert "The runs have the same options." in said(capsys, "runs", "compare", "first", "again")


@pytest.mark.usefixtures("shelf")
def test_plot_draws_where_the_values_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = said(capsys, "plot", "first", "second", "--height", "9").splitlines()
    assert lines[0] == "reward/mean  igpo"
    rows = lines[1:10]
    assert all(len(line) <= 60 for line in lines)
    assert rows[0].split("│")[0].strip() == "0.4"
    assert rows[0].endswith("o")  # the first run ends at 0.4
    assert rows[7].split("│")[1].startswith("x")  # the second one begins at 0.05
    assert lines[10].split() == ["1", "step", "4"]
    assert lines[11] == "o first   x second"
    curves = json.loads(said(capsys, "plot", "first", "--metric", "sft/loss", "--json"))
    assert curves == [{"metric": "sft/loss", "phase": "sft", "run": "first", "points": [[1, 3.0], [2, 1.5]]}]
    smoothed = json.loads(said(capsys, "plot", "first", "--smooth", "3", "--json"))
    assert [value for _, value in smoothed[0]["points"]] == pytest.approx([0.15, 0.2, 0.3, 0.35])


@pytest.mark.usefixtures("shelf")
def test_plot_to_a_file(capsys, tmp_path):
    out = tmp_path / "figures" / "a.svg"
    said(capsys, "plot", "first", "second", "--metric", "reward/mean", "--metric", "stuck/before", "--out", str(out))
    text = out.read_text()
    root = ET.fromstring(text)
    curves = [
        node for node in root.iter() if node.tag.endswith("polyline") and node.get("class", "").startswith("curve")
    ]
    assert [node.get("data-label") for node in curves] == ["first", "second"] * 2
    assert "var(" not in text
    assert "prefers-color-scheme" not in text


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--metric", "rewrad/mean"], "no run has a metric 'rewrad/mean'. Did you mean 'reward/mean'?"),
        (["--metric", "loss"], "no run has a metric 'loss'. Did you mean 'sft/loss'?"),
        (["--metric", "reward/mean", "--phase", "sft"], "no run has a metric 'reward/mean' in phase sft."),
        (["--out", "a.png"], "--out a.png must end in .svg."),
    ],
)
def test_plot_says_what_is_wrong(argv, line, capsys):
    assert run(["plot", "first", *argv]) == 2
    assert line in capsys.readouterr().err


def test_sizes():
    assert [bytes_of(count) for count in (0, 999, 1024, 1536, 150 * 2**20, 3 * 2**30)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "1.5 KiB",
        "150 MiB",
        "3.0 GiB",
    ]
