"""Studies: what is planned, that what arms share is done once and exactly, and what is left when something fails."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpo_cli import ablation, comparison, studies
from igpo_cli.config import resolve
from igpo_cli.errors import UsageError
from igpo_cli.main import run
from igpo_cli.plugins import Catalogue
from igpo_cli.report.arms import read_arm
from igpo_cli.studies import Arm, Study, Varied, seeds_of

CATALOGUE = Catalogue.installed()
SMALL = shlex.split(r"""
    --sft.steps 2 --sft.batch 4 --steps 2 --prompts 2 --group 4 --updates 1 --sampler.steps 4 --evaluate-every 0
    --task.sft-problems 40 --task.train-problems 8 --task.test-problems 4 --task.common-problems 4
    --verifier regex --verifier.pattern '\bc\b'
""")
"""The letter c alone: what even a new model's samples hold now and then."""


# Arms and seeds --------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_of_its_options() -> None:
    study = Study(name="s").varying(["injection=none,prefix", "injection.low,injection.high=0.2,0.4"])
    assert [arm.label for arm in study.arms] == [
        f"injection={name} low+high={share}" for name in ("none", "prefix") for share in ("0.2", "0.4")
    ]
    assert study.axis == "low+high"
    assert [(arm.at, arm.line) for arm in study.arms[2:]] == [(0.2, "injection=prefix"), (0.4, "injection=prefix")]
    config = resolve("tiny", None, {}, CATALOGUE, study.arms[3].sources)
    assert config.values["injection"] | {"name": "prefix", "low": 0.4, "high": 0.4} == config.values["injection"]


def test_options_with_one_last_word_are_told_apart() -> None:
    labels = [arm.label for arm in Study(name="s").varying(["injection.low=0.1", "chunker.low=2"]).arms]
    assert labels == ["injection.low=0.1 chunker.low=2"]


@given(
    st.lists(st.from_regex(r"[a-z]+(\.[a-z_]+)?", fullmatch=True), min_size=1, max_size=3, unique=True),
    st.lists(st.one_of(st.integers().map(str), st.just("[0.9,0.99]"), st.just("[]")), min_size=1, unique=True),
)
def test_what_is_written_is_read(paths: list[str], values: list[str]) -> None:
    assert Varied.parse(f"{','.join(paths)}={','.join(values)}") == Varied(tuple(paths), tuple(values))


@pytest.mark.parametrize("text", ["injection.high", "injection.high=", "=0.2", ",a=1", "a=1,1"])
def test_a_grid_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--vary"):
        Varied.parse(text)


def test_seeds_are_a_number_or_a_list() -> None:
    assert seeds_of("3") == (1, 2, 3)
    assert seeds_of("1,2,5") == (1, 2, 5)
    assert seeds_of("7,") == (7,)
    for text in ("0", "", "many", "1,two", "-1"):
        with pytest.raises(UsageError, match="--seeds"):
            seeds_of(text)


# Plans -----------------------------------------------------------------------------------------------------------------


def planned(*arms: dict[str, Any], start: bool = False) -> list[ablation.Job]:
    """The runs of one seed of arms with these flags over the preset."""
    study = Study(
        name="s",
        arms=tuple(Arm(label=f"arm{number}") for number, _ in enumerate(arms)),
        start=studies.Source("test", {}) if start else None,
    )
    values = {f"arm{number}": resolve("tiny", None, flags, CATALOGUE).values for number, flags in enumerate(arms)}
    values[ablation.START] = resolve("tiny", None, {"steps": "0"}, CATALOGUE).values
    return ablation.plan(study, values, (1,), Path("runs/s"))


ALIKE = (
    {"injection": "none"},
    {"estimator": "coupled"},
    {"loss.beta": "0"},
    {"optimizer.lr": "1e-4"},
    {"steps": "5"},
    {"prompts": "4"},
    {"sampler.temperature": "0.5"},
    {"verifier": "exact"},
    {"eval.heldout.limit": "3"},
    {"limit": "12"},
    {"play_rows": "8"},
)
UNLIKE = (
    {"sft.steps": "5"},
    {"sft.optimizer.lr": "1e-4"},
    {"model.width": "32"},
    {"width": "30"},
    {"lora.rank": "4"},
    {"task.seed": "1"},
    {"eval.heldout.task": "procedural"},
    {"prompt.template": "{prompt} !"},
    {"attend_eos": "false"},
    {"precision": "bfloat16"},
)


@pytest.mark.parametrize("flags", ALIKE, ids=str)
def test_arms_that_differ_in_reinforcement_learning_alone_share_a_start(flags: dict[str, Any]) -> None:
    first, *arms = planned({}, flags)
    assert (first.name, first.values["steps"], first.values["sft"]["steps"]) == ("sft-1", 0, 800)
    for job in arms:
        assert (job.start, job.values["sft"]["steps"]) == ("sft-1", 0)
        assert job.values["model"]["path"] == "runs/s/sft-1/model"


@pytest.mark.parametrize("flags", UNLIKE, ids=str)
def test_arms_that_differ_before_it_share_nothing(flags: dict[str, Any]) -> None:
    jobs = planned({}, flags)
    assert [(job.name, job.start) for job in jobs] == [("arm0-1", None), ("arm1-1", None)]
    assert all(job.values["model"]["path"] == "none" for job in jobs)


def test_the_run_that_others_start_from_can_be_started() -> None:
    """Its evaluations ask for one sample of one problem, whatever the arms' ask for."""
    many = {"eval.heldout.samples": "8", "eval.heldout.pass_at": "1,4"}
    first, *_ = planned(many, {**many, "injection": "none"})
    resolve(None, None, {}, CATALOGUE, [studies.Source("test", first.values)])


def test_a_single_arm_does_its_own_sft() -> None:
    assert [job.name for job in planned({})] == ["arm0-1"]


def test_an_arm_of_sft_alone_is_what_the_others_start_from() -> None:
    jobs = planned({}, {"steps": "0"}, {"injection": "none"})
    assert [(job.name, job.start) for job in jobs] == [("arm1-1", None), ("arm0-1", "arm1-1"), ("arm2-1", "arm1-1")]


def test_a_start_of_the_study_comes_before_what_arms_share() -> None:
    jobs = planned({"sft.steps": "0"}, {"steps": "0"}, {}, start=True)
    assert [(job.name, job.start) for job in jobs] == [
        ("start-1", None),
        ("arm1-1", "start-1"),
        ("arm0-1", "start-1"),
        ("arm2-1", "arm1-1"),
    ]
    assert [job.values["sft"]["steps"] for job in jobs] == [800, 800, 0, 0]


# Shipped studies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("name", studies.shipped())
def test_a_shipped_study_holds(
    name: str, scale: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = studies.read(name, scale)
    labels = [arm.label for arm in study.arms]
    assert study.question.endswith("?")
    assert all(arm.about for arm in study.arms)
    assert study.against in labels
    assert (study.axis is None) == all(arm.at is None for arm in study.arms)

    assert run(["ablate", "--preset", name, "--scale", scale, "--seeds", "2", "--dry-run", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert {job["arm"] for job in jobs} >= {*labels}
    told = {json.dumps([job["options"], str(job["starts from"])[:-2]]) for job in jobs if job["arm"] in labels}
    assert len(told) == len(labels)
    done = [job["run"] for job in jobs]
    for number, job in enumerate(jobs):
        assert job["state"] == "new"
        assert job["starts from"] is None or job["starts from"] in done[:number]
    assert any(job["starts from"] for job in jobs) == (scale == "small" or name == "sft-igpo")
    assert list(tmp_path.iterdir()) == []


def test_the_list_names_every_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ablate", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in studies.shipped())


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "nothing is varied"),
        (["--preset", "ta"], "no study or preset named 'ta'. Did you mean 'tau'?"),
        (["--vary", "injection.hihg=1"], "did you mean --injection.high"),
        (["--vary", "injection.high=2"], "--injection.high"),
        (["--preset", "tau", "--seeds", "none"], "--seeds none"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(
    words: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["ablate", *words]) == 2
    assert fault in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Runs ------------------------------------------------------------------------------------------------------------------


def igpo(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "igpo_cli", *words], cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one arm of a study finished and the other could not."""
    folder = tmp_path_factory.mktemp("ablate")
    ended = igpo("ablate", "--vary", "trackers=[],nothing", "--seeds", "1", *SMALL, cwd=folder)
    assert ended.returncode == 1, ended.stderr
    assert "trackers=nothing-1 failed: error: " in ended.stderr
    assert "1 of 3 runs failed" in ended.stderr
    return folder / "runs" / "ablation"


def test_a_failure_does_not_stop_the_others(place: Path) -> None:
    found = json.loads((place / "results.json").read_text())
    good, bad = found["arms"]
    assert (good["seeds"], bad["seeds"]) == ([1], [])
    assert good["metrics"]["eval/heldout/pass@1"]["by_seed"].keys() == {"1"}
    manifest = json.loads((place / "manifest.json").read_text())
    assert {row["run"]: row["state"] for row in manifest["runs"]} == {
        "sft-1": "finished",
        "trackers=_-1": "finished",
        "trackers=nothing-1": "new",
    }
    assert "| trackers=[] | 1 |" in (place / "table.md").read_text()


def test_a_shared_start_changes_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arm that began with another run's SFT against one run of both phases."""
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--seed", "1", "--name", "whole", "--trackers", "", *SMALL]) == 0
    whole, arm = read_arm(Path("runs/whole"), "whole"), read_arm(place / "trackers=_-1", "arm")
    for metric in ("reward/mean", "policy/loss", "optimizer/grad_norm", "eval/heldout/pass@1"):
        assert arm.series("igpo", metric) == whole.series("igpo", metric)
        assert arm.series("igpo", metric)
    assert any(value for _, value in arm.series("igpo", "optimizer/grad_norm"))


def test_what_is_finished_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.parent.parent)
    before = {path: path.stat().st_mtime_ns for path in place.glob("*/model/*")}
    assert run(["ablate", "--vary", "trackers=[]", "--vary", "seed=1", "--dry-run", "--seeds", "1", *SMALL]) == 0
    assert run(["ablate", "--vary", "trackers=[],nothing", "--seeds", "1", "--steps", "3", *SMALL[:4], *SMALL[6:]]) == 2
    assert {path: path.stat().st_mtime_ns for path in place.glob("*/model/*")} == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    words = ["ablate", "--preset", "stuck", "--seeds", "1", *SMALL, "--steps", "8", "--save-every", "1"]
    command = [sys.executable, "-m", "igpo_cli", *words, "--trackers", ""]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "stuck" / "grpo-1" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count('"igpo"') > 2):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        json.loads(igpo(*words, "--trackers", "", "--dry-run", "--json", cwd=tmp_path).stdout)[1]["state"]
        == "interrupted"
    )
    ended = igpo(*words, "--trackers", "", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "sft-1" not in ended.stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"reward/mean"' in line]
    assert steps == list(range(1, 9))
    assert (metrics.parents[1] / "plot.svg").read_text().startswith("<svg")
    assert not (metrics.parents[1] / "cut").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_runs_at_a_time_give_what_one_does(tmp_path: Path) -> None:
    tables = []
    for jobs in ("1", "2"):
        ended = igpo(
            *("ablate", "--preset", "igpo", "--seeds", "1", "--jobs", jobs, "--name", f"jobs{jobs}"),
            *(*SMALL, "--trackers", ""),
            cwd=tmp_path,
        )
        assert ended.returncode == 0, ended.stderr
        tables.append((tmp_path / "runs" / f"jobs{jobs}" / "table.md").read_text())
    assert tables[0] == tables[1]


# Measures --------------------------------------------------------------------------------------------------------------


def made(folder: Path, values: list[float], score: float) -> Any:
    """A run that measured these rewards, and the score at its end."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [{"phase": "igpo", "step": 0, "time": 0.0, "eval/held/pass@1": 0.1}]
    rows += [
        {"phase": "igpo", "step": number, "time": 1.0, "reward/mean": value} for number, value in enumerate(values, 1)
    ]
    rows.append({"phase": "igpo", "step": len(values), "time": 2.0, "eval/held/pass@1": score})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_arm(folder, folder.name)


def test_means_errors_and_paired_leads_are_those_of_the_textbook(tmp_path: Path) -> None:
    study = Study(name="s", arms=(Arm(label="a"), Arm(label="b", at=1.0)), against="a", metrics=("reward/mean",))
    done = {
        "a": {1: made(tmp_path / "a1", [9.0] * 10 + [0.2, 0.4], 0.5), 2: made(tmp_path / "a2", [0.0] * 12, 0.7)},
        "b": {1: made(tmp_path / "b1", [0.5] * 12, 0.6), 2: made(tmp_path / "b2", [0.5] * 12, 1.0)},
    }
    found = comparison.results(study, done)
    one, other = found["arms"]
    assert one["metrics"]["reward/mean"]["by_seed"] == {1: pytest.approx(0.3), 2: 0.0}  # the last sixth: two steps
    assert one["metrics"]["eval/held/pass@1"]["mean"] == pytest.approx(0.6)
    assert one["metrics"]["eval/held/pass@1"]["error"] == pytest.approx(0.1)  # sd .1414 over sqrt 2
    assert other["lead"]["eval/held/pass@1"]["mean"] == pytest.approx(0.2)
    assert other["lead"]["eval/held/pass@1"]["by_seed"] == {1: pytest.approx(0.1), 2: pytest.approx(0.3)}
    assert other["lead"]["eval/held/pass@1"]["error"] == pytest.approx(0.1)
    titles, rows = comparison.table(found)
    assert titles == ["arm", "seeds", "held", "reward/mean", "lead over a"]
    assert rows[1] == ["b", "2", "0.100 → 0.800 ± 0.200", "0.500 ± 0.000", "+0.200 ± 0.100"]


def test_a_plot_stands_over_the_axis_or_over_the_steps(tmp_path: Path) -> None:
    arms = tuple(Arm(label=str(place), at=place) for place in (0.2, 0.4, 1.0))
    done = {arm.label: {1: made(tmp_path / arm.label, [float(arm.at or 0)] * 6, 0.5)} for arm in arms}
    over_axis = comparison.drawing(Study(name="s", arms=arms, axis="share", plot="reward/mean"), done)
    over_steps = comparison.drawing(Study(name="s", arms=arms, plot="reward/mean"), done)
    assert over_axis is not None
    assert over_steps is not None
    assert 'data-p="0.2:0.2 0.4:0.4 1.0:1"' in over_axis
    assert over_axis.count("<polyline") == 1
    assert over_steps.count("<polyline") == 3
    assert ">share</text>" in over_axis
    assert comparison.drawing(Study(name="s", arms=arms), {arm.label: {} for arm in arms}) is None


def test_a_plot_that_could_not_be_drawn_is_not_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from igpo_cli.commands.ablate import show

    study = Study(name="s", arms=(Arm(label="a"),), plot="hint/kl", metrics=("reward/mean",))
    done = {"a": {1: made(tmp_path / "a1", [0.5] * 6, 0.5)}}
    assert comparison.drawing(study, done) is None
    show(comparison.results(study, done), tmp_path)
    out, err = capsys.readouterr()
    assert "plot.svg" not in out
    assert err == "note: no run has measured hint/kl yet, by which arms lead and which the plot shows\n"
