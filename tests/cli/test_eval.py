"""igpo eval as a whole: suites, several models, evaluations that are cut off, several processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from igpo_cli import contestants
from igpo_cli.commands.eval import judged
from igpo_cli.config import resolve
from igpo_cli.errors import UsageError
from igpo_cli.ledger import Ledger, differing
from igpo_cli.main import run
from igpo_cli.plugins import Catalogue

PLUGIN = Path(__file__).parent / "plugin_first_word.py"
EASY = ["--plugin", str(PLUGIN), "--verifier", "first-word", "--verifier.among", "14"]
DRAWN = ["--eval.heldout.sampler.temperature", "1", "--eval.heldout.samples", "4", "--eval.heldout.limit", "6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with all weights and one with adapters, of three steps each, with every checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (("full", []), ("lora", ["--lora.rank", "2"])):
        words = ["train", *EASY, "--folder", str(folder), "--name", name, "--sft.steps", "0", "--steps", "3", *more]
        words += ["--prompts", "3", "--group", "4", "--updates", "1", "--sampler.steps", "3", "--trackers", ""]
        words += ["--task.train-problems", "12", "--eval.heldout.limit", "2", "--eval.common.limit", "2"]
        words += ["--optimizer.lr", "0.05", "--save-every", "1", "--keep", "3", "--rollouts-every", "0", "--seed", "3"]
        assert run(words) == 0
    return folder


def evaluated(run_folder, *more):
    return run(["eval", str(run_folder), *DRAWN, "--eval.heldout.sampler.max-rows", "5", "--only", "heldout", *more])


def config_of(folder, *, suite=None, preset=None):
    return resolve(preset, folder and folder / "run.toml", {}, Catalogue.installed(), suite=suite)


def lines(path):
    return path.read_text().splitlines(keepends=True)


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_sample_is_kept_with_all_that_is_known_of_it(trained, tmp_path):
    assert evaluated(trained / "full", "--out", str(tmp_path)) == 0
    rows = [json.loads(line) for line in lines(tmp_path / "heldout.jsonl")]
    assert [(row["key"], row["sample"]) for row in rows] == [
        (f"lists/test/{problem}", sample) for problem in range(6) for sample in range(4)
    ]
    assert {*rows[0]} == {
        *[
            "key",
            "sample",
            "prompt",
            "completion",
            "answer",
            "expected",
            "correct",
            "reward",
            "note",
            "forwards",
            "seed",
        ]
    }
    assert all(row["forwards"] == 3 for row in rows)
    assert len({row["seed"] for row in rows}) == 24
    assert len({row["completion"] for row in rows}) > 1
    head = json.loads((tmp_path / "heldout.json").read_text())
    correct = sum(row["correct"] for row in rows)
    assert 0 < correct < 24
    assert head["metrics"]["avg@4"] == pytest.approx(correct / 24)
    settings = head["settings"]
    assert (settings["dtype"], settings["device"], settings["batch"]) == ("float32", "cpu", 5)
    assert (settings["sampler"]["block"], settings["sampler"]["steps"], settings["sampler"]["temperature"]) == (
        25,
        3,
        1,
    )


@pytest.mark.parametrize("kept", [0, 2, 7.5, 23, 24])
def test_an_evaluation_that_was_cut_off_goes_on_and_gives_the_same_file(trained, tmp_path, kept):
    assert evaluated(trained / "full", "--out", str(tmp_path)) == 0
    rows = lines(tmp_path / "heldout.jsonl")
    head = json.loads((tmp_path / "heldout.json").read_text())
    (tmp_path / "heldout.json").write_text(json.dumps(head | {"metrics": None}))
    half = [rows[int(kept)][:20]] if kept % 1 else []
    (tmp_path / "heldout.jsonl").write_text("".join(rows[: int(kept)] + half))
    assert evaluated(trained / "full", "--out", str(tmp_path)) == 0
    assert lines(tmp_path / "heldout.jsonl") == rows
    assert json.loads((tmp_path / "heldout.json").read_text()) == head


def test_what_is_there_is_not_drawn_again(trained, tmp_path, capsys):
    assert evaluated(trained / "full", "--out", str(tmp_path)) == 0
    path = tmp_path / "heldout.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": true'))
    capsys.readouterr()
    assert evaluated(trained / "full", "--out", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["heldout"]["pass@1"] == 1.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--eval.heldout.sampler.temperature", "0.5"], "sampler.temperature = 1.0, and now it is 0.5"),
        (["--seed", "4"], "seed = 3, and now it is 4"),
        (["--eval.heldout.samples", "8"], "samples = 4, and now it is 8"),
        (["--dtype", "float64"], "weights = "),
        (["--eval.heldout.prompt.template", "? {prompt}"], 'prompt.template = "{prompt}", and now it is "? {prompt}"'),
        (["--task.seed", "9"], "problems = "),
    ],
)
def test_samples_of_two_settings_are_never_mixed(trained, tmp_path, capsys, change, named):
    assert evaluated(trained / "full", "--out", str(tmp_path)) == 0
    before = (tmp_path / "heldout.jsonl").read_bytes()
    capsys.readouterr()
    assert evaluated(trained / "full", "--out", str(tmp_path), *change) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"heldout.jsonl was made with {named}" in error
    assert "Choose another --out, or delete that file" in error
    assert (tmp_path / "heldout.jsonl").read_bytes() == before


def test_samples_without_their_settings_are_left_alone(trained, capsys):
    assert evaluated(trained / "full", "--out", str(trained / "full" / "eval")) == 2
    assert "no heldout.json that says how they were drawn" in " ".join(capsys.readouterr().err.split())


def test_any_text_survives_the_ledger(tmp_path):
    ledger = Ledger(folder=tmp_path, name="x", settings={}, about={})
    assert ledger.open(1) == []
    rows = [{"completion": text} for text in ("a\u2028b", "lone \ud800", "né", "\x00\n")]
    ledger.keep(rows)
    assert ledger.open(1) == rows


def test_differences_are_named_by_their_path():
    before, now = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4}
    assert list(differing(before, now)) == [("a.c", 2, 5), ("d", 3, None), ("e", None, 4)]


# Models ---------------------------------------------------------------------------------------------------------------


def test_runs_checkpoints_and_adapters_are_the_models_that_they_were(trained):
    config = config_of(trained / "full")
    paths = {"lora": "lora", "adapters": "lora/adapters/igpo", "last": "lora/checkpoints/igpo-3"}
    paths |= {"own": "full/model", "own last": "full/checkpoints/igpo-3", "earlier": "full/checkpoints/igpo-1"}
    found = {
        name: contestants.digest(contestants.load(config, path and str(trained / path)).denoiser)
        for name, path in {"config": None, **paths}.items()
    }
    assert found["lora"] == found["adapters"] == found["last"]
    assert found["config"] == found["own"] == found["own last"]
    assert len({found["lora"], found["config"], found["earlier"]}) == 3


def test_several_models_in_one_table_and_their_differences(trained, tmp_path, capsys):
    words = ["--compare", str(trained / "lora"), "--compare", str(trained / "full/checkpoints/igpo-1")]
    assert evaluated(trained / "full", *words, "--out", str(tmp_path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["models"]) == ["full", "lora", "full/igpo-1"]
    for label, models in found["models"].items():
        alone = json.loads((tmp_path / label.replace("/", "-") / "heldout.json").read_text())
        assert alone["metrics"] == models["heldout"]
        gain = models["heldout"]["pass@1"] - found["models"]["full"]["heldout"]["pass@1"]
        if label != "full":
            other = found["differences"]["heldout"][label]
            assert other["value"] == pytest.approx(gain)
            assert other["low"] <= gain <= other["high"]
    assert evaluated(trained / "full", *words, "--out", str(tmp_path)) == 0
    assert "against full, problem by problem:" in capsys.readouterr().out


def test_labels_are_short_and_all_different(trained):
    config = config_of(trained / "full")
    paths = ["a/lora", "b/lora", "x/model", "r/checkpoints/igpo-20", "r/adapters/igpo", "GSAI-ML/LLaDA-8B-Base"]
    names = [*contestants.labels(config, paths)]
    assert names == ["full", "lora", "b/lora", "x/model", "r/igpo-20", "r/igpo", "LLaDA-8B-Base"]
    with pytest.raises(UsageError, match="named twice"):
        contestants.labels(config, ["a/lora", "b/lora", "b/lora"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "holds no run.toml and no config.json"),
        ("unfinished", "its training has not finished. Name one of its"),
    ],
)
def test_what_is_no_model_is_refused(trained, tmp_path, path, message):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "unfinished").mkdir()
    shutil.copy(trained / "full" / "run.toml", tmp_path / "unfinished")
    with pytest.raises(UsageError, match=message):
        contestants.load(config_of(trained / "full"), str(tmp_path / path))


# Suites ---------------------------------------------------------------------------------------------------------------


def test_the_paper_suite_says_what_the_paper_preset_says():
    suite, preset = config_of(None, suite="paper"), config_of(None, preset="paper-llada")
    assert {*suite.evals()} == {*preset.evals()} == {"gsm8k", "math500", "minerva", "amc"}
    assert suite.run.width == preset.run.width == 256
    for name in suite.evals():
        scope = f"eval.{name}"
        assert suite.evaluation(name) == preset.evaluation(name)
        for kind in ("task", "verifier", "sampler"):
            assert suite.plugin(kind, scope) == preset.plugin(kind, scope), (name, kind)
        assert suite.section("prompt", scope) == preset.section("prompt", scope)
        sampler = suite.plugin("sampler", scope)
        assert (sampler.block, sampler.steps) == (32, 128)
        assert (sampler.temperature, suite.evaluation(name).samples) == ((0.1, 16) if name == "amc" else (0.0, 1))


def test_a_suite_replaces_the_evaluations_of_a_run_and_flags_go_over_it(trained, tmp_path, capsys):
    suite = tmp_path / "mine.toml"
    suite.write_text("[sampler]\nsteps = 5\ntemperature = 1.0\n[eval.rare]\nlimit = 3\nsamples = 4\npass_at = [3]\n")
    words = ["eval", str(trained / "full"), "--suite", str(suite), "--json"]
    assert run(words) == 0
    (rare,) = json.loads(capsys.readouterr().out).items()
    assert rare[0] == "rare"
    assert (rare[1]["problems"], rare[1]["forwards"]) == (3, 5)
    assert "pass@3" in rare[1]
    assert "pass@2" not in rare[1]
    assert run([*words, "--eval.rare.limit", "2", "--sampler.steps", "4"]) == 0
    (again,) = json.loads(capsys.readouterr().out).values()
    assert (again["problems"], again["forwards"]) == (2, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "papr"], "no suite named 'papr'. Did you mean 'paper'?"),
        (["--suite", "{tmp}/none.toml"], "there is no file"),
        (["--suite", "{tmp}/empty.toml"], "has no table [eval.NAME]"),
        (["--eval.heldout.pass-at", "8"], "--eval.heldout.pass-at 8 must lie in 1 to samples = 1"),
        (["--only", "held"], "no evaluation named 'held'. Did you mean 'heldout'?"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, words, message):
    (tmp_path / "empty.toml").write_text("width = 3\n")
    assert run(["eval", *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


# Processes ------------------------------------------------------------------------------------------------------------


def test_two_processes_write_what_one_writes(trained, tmp_path):
    assert evaluated(trained / "full", "--out", str(tmp_path / "one")) == 0
    words = [str(Path(sys.executable).with_name("igpo")), "eval", str(trained / "full"), *DRAWN]
    words += ["--eval.heldout.sampler.max-rows", "5", "--only", "heldout", "--out", str(tmp_path / "two"), "--json"]
    ended = subprocess.run(
        [*words, "--processes", "2", "--device", "cpu"], capture_output=True, text=True, env={**os.environ}, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert (two / "heldout.jsonl").read_bytes() == (one / "heldout.jsonl").read_bytes()
    assert (two / "heldout.json").read_bytes() == (one / "heldout.json").read_bytes()
    assert json.loads(ended.stdout)["heldout"] == json.loads((one / "heldout.json").read_text())["metrics"]


def test_scores_are_objects_too(trained):
    (found,) = judged(config_of(trained / "full"), ["common"], [], None).values()
    assert {*found["common"].correct.values()} <= {0, 1}
    assert len(found["common"].correct) == 2
