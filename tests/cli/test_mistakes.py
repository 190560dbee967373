"""Common mistakes, made through the command itself: each gets a few lines that say what to do, and the right exit code.

The ten messages of the design are in test_errors, test_plugins, test_config and test_train; here are the next sixty and more.
"""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import errors as hub_errors
from test_history import make

from igpo_cli import errors
from igpo_cli.main import run

FILES = {
    "bad.toml": "steps = = 3\n",
    "types.toml": 'preset = "tiny"\nsteps = "many"\n',
    "float.toml": 'preset = "tiny"\nsteps = 1.5\n',
    "list.toml": 'preset = "tiny"\ntrackers = "tensorboard"\n',
    "british.toml": "[optimiser]\nlr = 1\n",
    "negative.toml": 'preset = "tiny"\nwidth = -3\n',
    "syntax.py": "def broken(:\n",
    "imports.py": "import nothing_like_it\n",
    "empty.jsonl": "",
    "line.jsonl": '{"question": "1 + 1", "answer": "2"}\n{"question": oops}\n',
    "bare.toml": "steps = 3\n",
    "bare.jsonl": '{"question": "1 + 1", "answer": "2"}\n',
    "columns.jsonl": '{"q": "1 + 1", "a": "2"}\n',
    "a_file": "x",
    "folder/keep.txt": "",
    "folder.toml/keep.txt": "",
}
JSONL = ("train", "--task", "jsonl", "--task.prompt", "question", "--split", "train", "--sft.steps", "0")
LLADA = ("sample", "--model", "llada", "--prompt", "x", "--model.path")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a run and files that are wrong."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    make(tmp_path / "runs", "first")
    return tmp_path


def told(capsys, argv):
    """Exit code and message."""
    capsys.readouterr()
    code = run(argv)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    assert err.count("\n") <= 3
    assert out == ""
    return code, err


MISTAKES = {
    # files and places
    "wrong path": ([*LLADA, "/nowhere/at/all"], "model path '/nowhere/at/all' does not exist"),
    "relative path": ([*LLADA, "./nowhere"], "Give a saved model's folder, or a name on the Hugging Face hub, USER/NAME."),
    "file for folder": ([*LLADA, "a_file"], "model path 'a_file' is a file. Point --model.path at the folder that holds"),
    "folder without model": ([*LLADA, "folder"], "folder holds no config.json. Point --model.path at a saved model."),
    "no such file": (["train", "nowhere.toml"], "there is no file 'nowhere.toml'"),
    "a word too many": (["train", "frist"], "there is no file or run 'frist'; the name of a file must end in .toml. Did you"),
    "run misspelt": (["eval", "frist"], "Did you mean 'first'?"),
    "no run to report": (["report", "frist"], "there is no run 'frist', here or in runs/. Did you mean 'first'?"),
    "no run to resume": (["train", "--resume", "runs/nope"], "runs/nope holds no run.toml, so it is no run to resume."),
    "a file to resume": (["train", "bare.toml", "--resume", "first"], "--resume goes on with runs/first/run.toml, over which"),
    "a run behind flags": (["eval", "--suite", "paper", "first"], "Put 'first' there, or write runs/first"),
    "runs in a file": (["train", "--folder", "a_file"], "--folder a_file: a_file is a file. Choose another folder"),
    "runs below a file": (["train", "--folder", "a_file/deeper"], "a_file is a file. Choose another folder"),
    "a folder for a file": (["config", "show", "folder.toml"], "folder.toml cannot be read: Is a directory"),
    # values
    "bad TOML": (["train", "bad.toml"], "bad.toml: not valid TOML: Invalid value (at line 1, column 9)"),
    "text for a number": (["train", "types.toml"], 'types.toml: steps = "many" must be a whole number'),
    "a fraction": (["train", "float.toml"], "float.toml: steps = 1.5 must be a whole number"),
    "text for a list": (["train", "list.toml"], 'list.toml: trackers = "tensorboard" must be a list of texts'),
    "negative in a file": (["train", "negative.toml"], "negative.toml: width = -3 must be >= 1"),
    "negative flag": (["train", "--steps", "-4"], "--steps -4 must be >= 0"),
    "negative rate": (["train", "--optimizer.lr", "-1"], "--optimizer.lr -1.0 must be > 0.0"),
    "no number": (["train", "--optimizer.lr", "fast"], '--optimizer.lr "fast" must be a number'),
    "wrong dtype": (["train", "--dtype", "float8"], "--dtype \"float8\" must be 'float32' or 'bfloat16' or 'float64'"),
    "value without flag": (["train", "--steps"], "Option '--steps' requires an argument."),
    "plug-in without a name": (["train", "--eval.heldout.sampler"], "--eval.heldout.sampler needs the name of a plug-in behind"),
    "a group of one": (["train", "--group", "1"], "--group 1 gives no signal: a rollout counts by how far its reward is from"),
    "misspelt split": (["train", "--split", "trian"], "--split trian is no split of task 'lists', which has sft, train, test"),
    "split of sft": (["sft", "--sft.split", "tran"], "--sft.split tran is no split of task 'lists', which has"),
    "split to check": (["config", "check", "--split", "trian"], "Did you mean 'train'?"),
    "split to evaluate": (["eval", "--eval.heldout.split", "tst"], "--eval.heldout.split tst is no split of task 'lists'"),
    "low above high": (["train", "--injection.high", "0.1"], "[injection] low = 0.2 is above high = 0.1"),
    "no place for the question": (["train", "--prompt.template", "Solve."], "has no place for the question. Put {prompt}"),
    "unknown preset": (["train", "--preset", "tinny"], "no preset named 'tinny'. Did you mean 'tiny'?"),
    "no model": (["train", "bare.toml", "--task", "lists"], "no model is chosen. Choose one with --model NAME or [model]"),
    "no model to plan": (["train", "bare.toml", "--task", "lists", "--dry-run"], "no model is chosen."),
    "no task to plan": (["train", "bare.toml", "--model", "tiny", "--dry-run"], "no task is chosen."),
    "a path for a name": (["train", "--name", "a/b"], "--name 'a/b' is no name of one folder. Where runs are kept is --folder."),
    "no name": (["train", "--name", ""], "--name '' is no name of one folder."),
    "task without that split": (["train", "--task", "countdown"], "Choose with --sft.split, or --sft.steps 0 for no fine-tuning."),
    # flags
    "British spelling": (["train", "british.toml"], "unknown table [optimiser]; did you mean [optimizer]?"),
    "no such command": (["help"], "No such command 'help'. (igpo --help)"),
    "a command misspelt": (["trian"], "No such command 'trian'. Did you mean 'train'?"),
    "kind left out": (["new", "x"], "Missing option '--kind'. (igpo new --help)"),
    "no run named": (["report"], "Missing argument 'RUN ...'. (igpo report --help)"),
    "words of another program": (["lm-eval", "run", "first"], "unexpected extra argument"),
    "a picture of another kind": (["plot", "first", "--out", "x.bmp"], "--out x.bmp must end in .svg."),
    "seeds that are no numbers": (["ablate", "--vary", "seed=3", "--seeds", "x"], "--seeds x is neither a number of seeds"),
    "a grid without values": (["ablate", "--vary", "width"], "--vary 'width' is not OPTION=VALUE,VALUE,..."),
    "a study misspelt": (["ablate", "--preset", "etaa"], "no study or preset named 'etaa'. Did you mean 'eta'?"),
    "a run without adapters": (["merge", "first", "--out", "x"], "holds no adapters: its weights were trained as a whole"),
    "more than are sampled": (["eval", "--eval.heldout.pass-at", "4"], "--eval.heldout.pass-at 4 must lie in 1 to samples = 1."),
    "no suite": (["eval", "--suite", "nope"], "no suite named 'nope'. There are: paper, or name a TOML file."),
    "JSON of a run": (["train", "--json"], "--json prints the plan of --dry-run"),
    "steps of sft": (["sft", "--steps", "5"], "--steps counts steps of reinforcement learning, which igpo sft does without. --sft.st"),
    "leaf of a flag": (["train", "--cache", "prefix"], "no option --cache; did you mean --sampler.cache?"),
    "leaf of two": (["train", "--lr", "3"], "no option --lr; did you mean --optimizer.lr?"),
    "leaf in sampling": (["sample", "--temperature", "1"], "no option --temperature; did you mean --sampler.temperature?"),
    "flags that exclude": (
        ["merge", "runs/first", "--out", "x", "--adapter", "a", "--checkpoint", "b"],
        "--adapter and --checkpoint exclude each other",
    ),
    "estimator and loss": (
        ["train", "--sft.steps", "0", "--estimator", "elbo"],
        "loss GRPO needs log-probs per token, but estimator ELBO gives them per sequence",
    ),
    "misspelt evaluation": (["eval", "--only", "heldot"], "no evaluation named 'heldot'. Did you mean 'heldout'?"),
    "misspelt metric": (["plot", "first", "--metric", "rewrad/mean"], "no run has a metric 'rewrad/mean'. Did you mean"),
    "one run to compare": (["runs", "compare", "first"], "Name two or more, or use igpo runs show."),
    # devices and trackers
    "GPU that is not there": (["train", "--device", "cuda:7"], "--device cuda:7, but t"),
    "no such device": (["train", "--device", "tpu0"], "no device named 'tpu0'. Use auto, cpu, cuda or cuda:N."),
    "misspelt tracker": (["train", "--trackers", "wandbb"], "no tracker named 'wandbb'. Did you mean 'wandb'?"),
    "missing tracker": (["train", "--trackers", "clearml"], "--trackers clearml needs a package that is not installed. pip install clearml"),
    # plug-ins and data
    "syntax error": (["train", "--plugin", "syntax.py"], "'syntax.py' did not load (SyntaxError: invalid syntax (syntax.py, l"),
    "failing import": (["train", "--plugin", "imports.py"], "did not load (ModuleNotFoundError: No module named 'nothing_l"),
    "no plug-in file": (["train", "--plugin", "none.py"], "there is no plug-in file 'none.py'"),
    "empty data": ([*JSONL, "--task.path", "empty.jsonl"], "empty.jsonl: no rows; the file is empty"),
    "bad JSON": ([*JSONL, "--task.path", "line.jsonl"], "line.jsonl:2: not JSON"),
    "nothing for sft": ([*JSONL[:-2], "--task.path", "bare.jsonl"], "but the 1 tasks of 'jsonl' have none. Name their column"),
    "no such column": ([*JSONL, "--task.path", "columns.jsonl"], "columns.jsonl:1: no column 'answer' for the answer"),
    "no such data": ([*JSONL, "--task.path", "none.jsonl"], "none.jsonl does not exist"),
    "no path for data": ([*JSONL], "[task] needs a value for 'path': set it there, or with --task.path"),
    "no such split": (["data", "show", "--task", "lists", "--split", "trian"], "no split 'trian'; it has sft, train, test"),
    "a hint without slot": (["sample", "--hint", "abc"], "must be SLOT:TEXT, such as 0:rev"),
    "no repository": (["push", "first", "mymodel"], "'mymodel' is no name of a repository. It looks like USER/NAME."),
}  # fmt: skip


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_a_few_lines(name, capsys):
    argv, words = MISTAKES[name]
    if name == "GPU that is not there" and torch.cuda.device_count() > 7:
        pytest.skip("it is there")
    before = sorted(Path("runs").iterdir())
    code, err = told(capsys, argv)
    assert words in err
    assert err.startswith("error: ")
    assert code == 2
    assert sorted(Path("runs").iterdir()) == before  # nothing is left behind


def refuse(monkeypatch, error):
    """The hub answers every download with this error."""
    import huggingface_hub

    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def answered(kind, status):
    """An error of the hub as its client raises it."""
    import httpx2 as httpx

    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
    return kind("refused", response=response)


@pytest.mark.usefixtures("place")
def test_models_of_the_hub(capsys, monkeypatch):
    pytest.importorskip("httpx2")
    for error, words in (
        (
            answered(hub_errors.GatedRepoError, 403),
            "model 'meta/big' is gated. Accept its terms at its page on the hub",
        ),
        (
            answered(hub_errors.RepositoryNotFoundError, 404),
            "there is no folder 'meta/big' here and no such model on the hub",
        ),
        (hub_errors.LocalEntryNotFoundError("x"), "the hub cannot be reached to look for a model of that name"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be downloaded ([Errno 28] No space left on device)"),
    ):
        refuse(monkeypatch, error)
        code, err = told(capsys, [*LLADA, "meta/big"])
        assert (code, words in err) == (2, True), err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/log.txt"), "runs/x/log.txt: No space left on device. Make"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "runs"), "runs: Permission denied. Choose a place that"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "runs"), "runs: Read-only file system. Choose a place that can be"),
        (ConnectionError("Couldn't reach 'x'"), "the network failed: Couldn't reach 'x'"),
        (ModuleNotFoundError("No module named 'openai'", name="openai"), "this needs the package 'openai', which is not inst"),
    ],
)  # fmt: skip
def test_the_systems_own_errors_come_with_a_remedy(error, line, capsys):
    assert errors.report(error, verbose=False) == 1
    assert f"error: {line}" in capsys.readouterr().err


@pytest.mark.usefixtures("place")
def test_a_prompt_that_is_longer_than_the_context_is_refused(capsys):
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x"]
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 8)
    sizes |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1)
    small = BertConfig(vocab_size=len(words), max_position_embeddings=40, pad_token_id=0, eos_token_id=3, **sizes)
    BertForMaskedLM(small).save_pretrained("bert")
    BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}).save_pretrained("bert")
    capsys.readouterr()
    words = ["sample", "--model", "masked-lm", "--model.path", "bert", "--width", "25", "--prompt", "x " * 30]
    assert run(words) in (1, 2)
    err = capsys.readouterr().err.splitlines()[-1]
    assert "Use shorter prompts or a smaller width." in err


def test_verbose_adds_where_it_came_from(place, capsys):
    assert run(["-v", "train", "bad.toml"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("error: bad.toml: not valid TOML")
    assert json.loads((place / "runs/first/environment.json").read_text())  # nothing was touched
