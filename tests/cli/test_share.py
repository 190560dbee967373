"""`igpo merge` and `igpo push` on a run with adapters in both of its phases."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from a_hub import hub
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from igpo_cli.card import base_of, public, start_of
from igpo_cli.main import run

PLUGIN = Path(__file__).parent / "plugin_first_word.py"
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """runs/lora, and base/, the model that it started from."""
    place = tmp_path_factory.mktemp("share")
    common = ["--dtype", "float64", "--trackers", "", "--eval.common.limit", "2", "--eval.heldout.limit", "2"]
    common += ["--folder", str(place / "runs"), "--sampler.steps", "5", "--task.train-problems", "6"]
    assert run(["train", "--name", "base", "--sft.steps", "0", "--steps", "0", *common]) == 0
    learn = ["--sft.steps", "2", "--steps", "1", "--prompts", "2", "--group", "4", "--updates", "2"]
    learn += ["--sft.batch", "8", "--task.sft-problems", "32", "--lora.rank", "2", "--optimizer.lr", "0.02"]
    learn += ["--plugin", str(PLUGIN), "--verifier", "first-word", "--optimizer.warmup", "0"]
    learn += ["--sft.optimizer", "adamw", "--sft.optimizer.lr", "0.02", "--sft.optimizer.warmup", "0"]
    start = ["--model.path", str(place / "runs" / "base" / "model")]
    assert run(["train", "--name", "lora", *learn, *start, *common]) == 0
    return place


@pytest.fixture
def inside(adapted, monkeypatch):
    monkeypatch.chdir(adapted)
    return adapted


def weights(folder):
    return load_file(folder / MODEL)


def said(capsys, *argv, code=0):
    capsys.readouterr()
    assert run(argv) == code
    told = capsys.readouterr()
    return told.err if code else told.out


def test_both_phases_changed_the_weights(inside):
    base, start, model = (weights(inside / "runs" / at) for at in ("base/model", "lora/start", "lora/model"))
    assert any((start[name] - base[name]).abs().max() > 1e-4 for name in base)
    assert any((model[name] - start[name]).abs().max() > 1e-4 for name in base)


def test_a_runs_adapters_merge_into_its_model(inside, capsys):
    assert "--model.path merged" in said(capsys, "merge", "runs/lora", "--out", "merged")
    assert (inside / "merged" / MODEL).read_bytes() == (inside / "runs/lora/model" / MODEL).read_bytes()
    before = (inside / "merged" / MODEL).stat().st_mtime_ns
    assert "merged exists already and is never overwritten" in said(
        capsys, "merge", "runs/lora", "--out", "merged", code=2
    )
    assert (inside / "merged" / MODEL).stat().st_mtime_ns == before


def test_a_checkpoint_becomes_a_model(inside, capsys):
    said(capsys, "merge", "runs/lora", "--checkpoint", "igpo-1", "--out", "at-one")
    assert (inside / "at-one" / MODEL).read_bytes() == (inside / "runs/lora/model" / MODEL).read_bytes()
    said(capsys, "merge", "runs/lora", "--checkpoint", "sft-2", "--out", "at-sft")
    assert (inside / "at-sft" / MODEL).read_bytes() == (inside / "runs/lora/start" / MODEL).read_bytes()
    line = said(capsys, "merge", "runs/lora", "--checkpoint", "igpo-2", "--out", "no", code=2)
    assert "runs/lora has no checkpoint 'igpo-2'. Did you mean 'igpo-1'? There are: sft-2, igpo-1." in line


def test_stacked_adapters_are_both_phases(inside, capsys):
    """What is pushed with --adapters, merged into the base model, is the run's model up to rounding."""
    push = ("push", "lora", "me/adapters", "--adapters", "--base", "me/base", "--dry-run", "--json")
    found = json.loads(said(capsys, *push))
    assert sorted(found["files"]) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((inside / "runs/lora/adapter/adapter_config.json").read_text())
    assert (settings["r"], settings["base_model_name_or_path"]) == (4, "me/base")
    base = ("--model", "tiny", "--model.path", "runs/base/model", "--dtype", "float64")
    said(capsys, "merge", *base, "--adapter", "runs/lora/adapter", "--out", "stacked")
    ours, theirs = weights(inside / "stacked"), weights(inside / "runs/lora/model")
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() < 1e-9, name
    two = ("--adapter", "runs/lora/adapters/sft", "--adapter", "runs/lora/adapters/igpo")
    said(capsys, "merge", *base, *two, "--out", "one-by-one")
    assert (inside / "one-by-one" / MODEL).read_bytes() == (inside / "runs/lora/model" / MODEL).read_bytes()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["runs/base"], "runs/base holds no adapters: its weights were trained as a whole, or no phase ended."),
        (["runs/lora", "--adapter", "x", "--checkpoint", "sft-2"], "--adapter and --checkpoint exclude each other"),
        (["--model", "tiny"], "nothing to merge. Name a run"),
        (["--model", "tiny", "--adapter", "runs/base/model"], "holds no adapters in peft's format"),
        (["--model", "tiny", "--model.width", "32", "--adapter", "runs/lora/adapters/sft"], "made for another model"),
    ],
)
def test_merge_says_what_is_wrong(inside, argv, line, capsys):
    assert line in said(capsys, "merge", *argv, "--out", "never", code=2)
    assert not (inside / "never").exists()


def test_the_card_tells_the_run_and_its_code_runs(inside, capsys):
    found = json.loads(said(capsys, "push", "lora", "me/lists-tiny", "--new-card", "--dry-run", "--json"))
    assert found["url"] is None
    assert set(found["files"]) >= {"README.md", "config.json", MODEL, "tokenizer.json"}
    text = Path(found["card"]).read_text()
    assert str(inside) not in text
    assert str(PLUGIN.parent) not in text
    data = ModelCard(text).data
    assert data.library_name == "igpo"
    assert set(data.tags) >= {"masked-diffusion", "sft", "lora"}
    assert {result.dataset_name for result in data.eval_results} == {"heldout", "common"}
    assert "2 steps of masked-diffusion SFT and 1 step of [IGPO]" in text
    assert "A masked-diffusion language model, trained from nothing, post" in text
    assert "| lora | (rank 2, alpha 64.0, dropout 0.0) |" in text
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, object] = {}
    exec(program.replace("me/lists-tiny", "runs/lora/model"), space)
    assert space["sample"].completion.shape == (1, 25)
    (shell,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    words = shell.splitlines()[-1].replace("me/lists-tiny", "runs/lora/model")
    assert words.startswith("igpo sample --model tiny --model.path runs/lora/model --width 25")
    import shlex

    assert "forwards" in said(capsys, *shlex.split(words)[1:])


def test_an_edited_card_is_kept(inside, capsys):
    card = inside / "runs/lora/model/README.md"
    card.write_text("mine")
    assert "kept as it was" in said(capsys, "push", "lora", "me/lists", "--dry-run")
    assert card.read_text() == "mine"
    said(capsys, "push", "lora", "me/lists", "--dry-run", "--new-card")
    assert card.read_text().startswith("---\n")


def pushed(*argv, **environment):
    """Exit code, output and errors of `igpo push` in a process of its own: the hub's address is read at import."""
    code = f"import sys; from igpo_cli.main import run; sys.exit(run({['push', *argv]!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment},
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.usefixtures("inside")
def test_push_sends_everything_and_says_where(inside):
    with hub() as there:
        code, out, err = pushed("lora", "me/lists", "--private", HF_ENDPOINT=there.url, HF_TOKEN=there.token)
        assert (code, err) == (0, "")
        assert f"Pushed to {there.url}/me/lists" in out
        assert there.made[0]["name"] == "lists"
        assert {"private", "visibility"} & there.made[0].keys()
        folder = inside / "runs/lora/model"
        assert set(there.files) == {path.name for path in folder.iterdir()}
        assert there.files["README.md"] == (folder / "README.md").read_bytes()
        digest = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
        assert there.files[MODEL] == digest
        assert there.stored[digest] == (folder / MODEL).read_bytes()
        code, _, err = pushed("lora", "me/lists", HF_ENDPOINT=there.url, HF_TOKEN="hf_wrong")
        assert (code, err.startswith("error: the hub does not know who you are. Log in with: hf auth login")) == (
            1,
            True,
        )
        code, _, err = pushed("lora", "others/lists", HF_ENDPOINT=there.url, HF_TOKEN=there.token)
        assert (code, "does not let you write to others/lists" in err) == (1, True)
    code, _, err = pushed("lora", "me/lists", HF_ENDPOINT=there.url.rpartition(":")[0] + ":9", HF_TOKEN="x")
    assert (code, "cannot be reached" in err, err.count("\n")) == (1, True, 1)


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["lora", "lists"], "'lists' is no name of a repository. It looks like USER/NAME."),
        (["lroa", "me/lists"], "there is no run 'lroa', here or in runs/. Did you mean 'lora'?"),
        (["lora", "me/lists", "--adapters", "--dry-run"], "or name its published twin with --base USER/NAME."),
        (["base", "me/lists", "--dry-run"], "runs/base is no run: it holds no metrics.jsonl."),
    ],
)
def test_push_says_what_is_wrong(argv, line, capsys):
    assert line in said(capsys, "push", *argv, code=2)


def test_the_base_is_followed_through_runs(tmp_path):
    first = tmp_path / "first"
    (first / "model").mkdir(parents=True)
    (first / "run.toml").write_text('[model]\nname = "llada"\npath = "GSAI-ML/LLaDA-8B-Instruct"\n')
    assert base_of({"model": {"path": str(first / "model")}}) == "GSAI-ML/LLaDA-8B-Instruct"
    assert base_of({"model": {"path": "none"}}) is None
    assert base_of({"model": {"path": str(tmp_path)}}) is None
    assert start_of({"model": {"path": str(first / "model")}}) == "GSAI-ML/LLaDA-8B-Instruct"
    assert start_of({"model": {"path": "none"}}) is None
    assert start_of({"model": {"path": str(tmp_path)}}) == str(tmp_path)


def test_a_card_does_not_say_that_files_of_ones_own_are_nothing(inside, capsys):
    shutil.copytree("runs/lora", "other/on", dirs_exist_ok=True)
    told = Path("other/on/run.toml")
    shutil.copytree("runs/base/model", "kept", dirs_exist_ok=True)
    for path, words in (
        (inside / "runs/base/model", "trained from nothing"),
        ("kept", "made from an unpublished model"),
    ):
        told.write_text(
            re.sub(r'(?m)^path = ".*base/model"$', f'path = "{path}"', Path("runs/lora/run.toml").read_text())
        )
        capsys.readouterr()
        assert run(["push", "on", "me/on", "--folder", "other", "--private", "--dry-run", "--new-card"]) == 0
        out, err = capsys.readouterr()
        assert words in Path("other/on/model/README.md").read_text()
        assert "igpo push on me/on --private --folder other\n" in out
        assert ("the card does not say what kept is. --new-card --base USER/NAME" in err) == (path == "kept")


def test_what_was_saved_is_as_readable_as_the_rest(inside):
    said_of = {"config.json": MODEL, "adapter_config.json": "adapter_model.safetensors"}
    found = [(at, at.with_name(weights)) for name, weights in said_of.items() for at in Path("runs/lora").rglob(name)]
    found = [(beside, weights) for beside, weights in found if weights.exists()]
    assert len(found) >= 4
    assert all(beside.stat().st_mode == weights.stat().st_mode for beside, weights in found)


def test_places_stay_at_home():
    config = {
        "folder": "/data/me/runs",
        "plugins": ["./mine.py", "/data/me/other.py"],
        "model": {"path": "GSAI-ML/LLaDA-8B-Instruct"},
        "task": {"path": "~/data/x.jsonl"},
        "prompt": {"template": "<reasoning>{prompt}</reasoning>\nx/y/z"},
    }
    assert public(config) == {
        "plugins": ["mine.py", "other.py"],
        "model": {"path": "GSAI-ML/LLaDA-8B-Instruct"},
        "task": {"path": "x.jsonl"},
        "prompt": {"template": "<reasoning>{prompt}</reasoning>\nx/y/z"},
    }


def test_global_random_state_is_left_alone(inside):
    before = torch.random.get_rng_state()
    assert run(["merge", "runs/lora", "--out", str(inside / "quiet")]) == 0
    assert before.equal(torch.random.get_rng_state())
