"""Whole runs through the command: what must not change a run does not, and what goes wrong says so.

The model is untrained and the verifier easy (see plugin_first_word.py), so that a step takes a fraction of a second and
still has groups with and without signal. Temperature 1, float64: greedy groups are all alike and would prove nothing.
"""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_help import on_a_terminal

from igpo_cli.errors import UsageError
from igpo_cli.health import Watch
from igpo_cli.lora import adapt
from igpo_cli.main import run
from igpo_cli.settings import LoRA
from igpo_cli.training import Alarm, Training, recall, recompute_layers
from igpo_data import Lists
from igpo_sampling import Tiny

PLUGIN = Path(__file__).parent / "plugin_first_word.py"
SHARED = Path(__file__).parents[3] / "shared" / "data"


def train(folder, name, *more, command="train"):
    """Exit code of a short RL run from an untrained model."""
    return run(
        [
            command,
            *("--plugin", str(PLUGIN), "--verifier", "first-word", "--folder", str(folder), "--name", name),
            *("--sft.steps", "0", "--steps", "3", "--prompts", "3", "--group", "4", "--updates", "2"),
            *("--dtype", "float64", "--sampler.steps", "5", "--task.train-problems", "12", "--eval.heldout.limit", "4"),
            *("--eval.common.limit", "4", "--rollouts-every", "1", "--trackers", "", "--loss.negative-weight", "1"),
            *more,
        ]
    )


def metrics(folder):
    """The rows without what is about time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("time")} for row in rows]


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """One run that the others are compared with."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(folder, "reference", "--save-every", "1", "--keep", "5") == 0
    return folder / "reference"


def test_the_reference_run_learns_from_rescued_groups(reference):
    steps = [row for row in metrics(reference) if "policy/loss" in row]
    assert len(steps) == 3
    assert any(abs(row["policy/loss"]) > 1e-6 and row["optimizer/grad_norm"] > 0 for row in steps)
    assert any(row["stuck/after"] < row["stuck/before"] for row in steps)
    assert all(row["hint/answer_leak"] == 0 for row in steps)
    assert any(row["hint/shown"] > 0 for row in steps)
    assert all(0 <= row["sample/eos"] <= 1 for row in steps)
    assert all(1 <= row["sample/length"] <= 25 for row in steps)


def test_a_run_keeps_its_speed_its_verdicts_and_where_its_values_came_from(reference):
    rows = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert all(row["time/speed"] > 0 for row in rows if "time/sample" in row)
    rollouts = [json.loads(line) for line in (reference / "rollouts" / "step-1.jsonl").read_text().splitlines()]
    assert {row["derived"] for row in rollouts} == {None}  # the verifier of these tests does not look at the working
    assert all(row["expected"] for row in rollouts)
    origins = json.loads((reference / "origins.json").read_text())
    assert (origins["sampler.steps"], origins["sampler.block"]) == ("flag", "preset tiny")


def test_what_a_run_says_cannot_control_a_terminal(reference, tmp_path, capsys):
    assert train(tmp_path, "piped", "--steps", "1", "--injection", "full") == 0
    out, err = capsys.readouterr()
    assert "igpo 1/1" in out
    assert controls(out + err) == set()
    assert controls((reference / "log.txt").read_text()) == set()


def test_log_txt_holds_no_colours_though_the_screen_does(tmp_path):
    argv = ["train", "--sft.steps", "1", "--steps", "1", "--prompts", "2", "--folder", str(tmp_path), "--trackers", ""]
    page = on_a_terminal([*argv, "--eval.heldout.limit", "2", "--eval.common.limit", "2"], OMP_NUM_THREADS="1")
    assert "\x1b" in page
    log = (tmp_path / "tiny-1" / "log.txt").read_text()
    assert "igpo 1/1" in log
    assert controls(log) == set()


def controls(text):
    """Characters that would do something to a terminal."""
    return {each for each in text if unicodedata.category(each) == "Cc"} - {"\n"}


def test_micro_batches_do_not_change_a_run(reference, tmp_path):
    assert train(tmp_path, "split", "--score-rows", "1") == 0
    same = metrics(tmp_path / "split")
    for ours, theirs in zip(same, metrics(reference), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, abs=1e-9)
    for name, tensor in weights(tmp_path / "split").items():
        assert (tensor - weights(reference)[name]).abs().max() < 1e-9


def test_a_resumed_run_is_the_run(reference, tmp_path):
    shutil.copytree(reference, tmp_path / "copy")
    for late in ("igpo-2", "igpo-3"):
        shutil.rmtree(tmp_path / "copy" / "checkpoints" / late)
    shutil.rmtree(tmp_path / "copy" / "model")
    assert run(["train", "--resume", str(tmp_path / "copy")]) == 0
    assert metrics(tmp_path / "copy") == metrics(reference)
    for step in (1, 2, 3):
        path = f"rollouts/step-{step}.jsonl"
        assert (tmp_path / "copy" / path).read_bytes() == (reference / path).read_bytes()
    model = "model/model.safetensors"
    assert (tmp_path / "copy" / model).read_bytes() == (reference / model).read_bytes()


def test_a_run_resumed_in_its_sft_phase_is_the_run(tmp_path):
    options = ["--sft.steps", "4", "--steps", "1", "--save-every", "2", "--keep", "5", "--task.sft-problems", "64"]
    assert train(tmp_path, "straight", *options) == 0
    shutil.copytree(tmp_path / "straight", tmp_path / "copy")
    for late in ("checkpoints/sft-4", "checkpoints/igpo-1", "model", "start"):
        shutil.rmtree(tmp_path / "copy" / late)
    assert run(["train", "--resume", str(tmp_path / "copy")]) == 0
    assert metrics(tmp_path / "copy") == metrics(tmp_path / "straight")
    model = "model/model.safetensors"
    assert (tmp_path / "copy" / model).read_bytes() == (tmp_path / "straight" / model).read_bytes()


def test_igpo_without_stuck_groups_is_plain_grpo(tmp_path):
    """With a verifier that half of the vocabulary satisfies no group is stuck, and hints change not a bit."""
    easy = ["--verifier.among", "25", "--group", "16", "--prompts", "1"]
    assert train(tmp_path, "igpo", *easy) == 0
    assert train(tmp_path, "grpo", *easy, "--injection", "none") == 0
    steps = [row for row in metrics(tmp_path / "igpo") if "stuck/before" in row]
    assert all(row["stuck/before"] == 0 for row in steps)
    assert any(abs(row["policy/loss"]) > 1e-6 for row in steps)
    model = "model/model.safetensors"
    assert (tmp_path / "igpo" / model).read_bytes() == (tmp_path / "grpo" / model).read_bytes()


def test_adapters_are_merged_into_a_model_that_loads_without_them(tmp_path, capsys):
    assert train(tmp_path, "lora", "--lora.rank", "2", "--optimizer.lr", "0.01") == 0
    last = [row for row in metrics(tmp_path / "lora") if "eval/heldout/pass@1" in row][-1]
    start = run(["train", "--folder", str(tmp_path), "--name", "start", "--sft.steps", "0", "--steps", "0"])
    assert start == 0
    before, after = weights(tmp_path / "start"), weights(tmp_path / "lora")
    assert before.keys() == after.keys()
    changed = {name.rsplit(".", 2)[-2] for name in after if not after[name].float().equal(before[name].float())}
    assert changed == {"q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"}
    capsys.readouterr()
    assert run(["eval", str(tmp_path / "lora"), "--json", "--only", "heldout"]) == 0
    assert json.loads(capsys.readouterr().out)["heldout"]["pass@1"] == last["eval/heldout/pass@1"]


def test_a_run_that_remembers_is_resumed_with_its_memory(tmp_path):
    """Hints that adapt, own successes, refilled groups, and every measurement."""
    options = ["--injection", "adaptive", "--hints-from", "either", "--refills", "1", "--measure", "gradient,hint-kl"]
    assert train(tmp_path, "whole", *options, "--chunker", "fixed", "--chunker.length", "3", "--save-every", "1") == 0
    steps = [row for row in metrics(tmp_path / "whole") if "policy/loss" in row]
    assert all(row["hint/answer_leak"] == 0 for row in steps)
    for name in ("hint/kl", "gradient/hint", "gradient/own", "sample/refills", "correct/pass@4", "policy/logp_hint"):
        assert any(name in row for row in steps), name
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "igpo-3")
    shutil.rmtree(tmp_path / "cut" / "model")
    assert run(["train", "--resume", str(tmp_path / "cut")]) == 0
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert all(
        torch.equal(tensor, weights(tmp_path / "whole")[name]) for name, tensor in weights(tmp_path / "cut").items()
    )


def test_hints_without_worked_solutions_come_from_own_successes(tmp_path):
    """Without a trace in the task: what was solved once is remembered, and shown without its answer when stuck again."""
    problems = tmp_path / "bare.jsonl"
    problems.write_text("".join(f'{{"prompt": "{number}", "answer": "{number}"}}\n' for number in "12"))
    small = ["--steps", "1", "--prompts", "2", "--group", "2", "--sft.steps", "0", "--width", "8", "--trackers", ""]
    small += ["--sampler.block", "8", "--eval.heldout.limit", "2", "--eval.common.limit", "2", "--verifier", "math"]
    task = ["--task", "jsonl", "--task.path", str(problems), "--eval.common.split", "test", "--name", "own"]
    assert run(["train", "--folder", str(tmp_path), *small, *task, "--hints-from", "own-success"]) == 0


@pytest.fixture
def own_precision():
    """accelerate keeps one precision a process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_layers_computed_again_give_the_same_run(reference, tmp_path):
    assert train(tmp_path, "again", "--gradient-checkpointing") == 0
    for ours, theirs in zip(metrics(tmp_path / "again"), metrics(reference), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("rank", [0, 2])
def test_layers_are_computed_again_in_the_backward_pass(rank):
    """In eval mode too, which is the one that RL trains in, and below adapters."""
    denoiser = Tiny(width=32, layers=2, heads=2)(vocabulary=Lists().vocabulary(), seed=0)
    network = adapt(denoiser, LoRA(rank=rank), 0)[0].eval()
    calls = []
    block = next(module for module in network.modules() if type(module).__name__ == "LLaDABlock")
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    tokens = torch.ones(2, 5, dtype=torch.long)

    def count() -> int:
        calls.clear()
        network(tokens, tokens.bool(), torch.arange(10)).sum().backward()
        return len(calls)

    assert count() == 1
    recompute_layers(denoiser.denoiser)
    assert count() == 2
    with pytest.raises(UsageError, match="Linear cannot compute its layers again"):
        recompute_layers(torch.nn.Linear(2, 2))


@pytest.mark.usefixtures("own_precision")
@pytest.mark.parametrize("more", [[], ["--lora.rank", "2"]])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights(tmp_path, more, monkeypatch):
    seen, began = [], Training._begin

    def watched(self, phase):
        policy = began(self, phase)
        inner = self.accelerator.unwrap_model(policy)
        seen.append({weight.dtype for weight in inner.parameters() if weight.requires_grad})
        linear = next(module for name, module in inner.named_modules() if name.endswith("q_proj"))
        linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        return policy

    monkeypatch.setattr(Training, "_begin", watched)
    options = ["--precision", "bfloat16", "--dtype", "float32", "--loss.beta", "0.1", "--optimizer.lr", "0.01"]
    assert train(tmp_path, "mixed", *options, *more) == 0
    assert seen[0] == {torch.float32}
    assert set(seen[1:]) == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights(tmp_path / "mixed").values()} == {torch.float32}
    steps = [row for row in metrics(tmp_path / "mixed") if "policy/loss" in row]
    assert any(abs(row["policy/loss"]) > 1e-6 for row in steps)
    # The reference computes in the same precision: before the first step nothing separates it from the policy.
    first = next(row for row in steps if row["policy/loss"])
    assert first["policy/kl"] < 0.05


# What goes wrong -------------------------------------------------------------------------------------------------------


def test_a_run_that_exists_is_refused_and_untouched(reference, capsys):
    before = (reference / "metrics.jsonl").read_bytes()
    assert train(reference.parent, "reference") == 2
    said = capsys.readouterr().err
    assert f"{reference} already holds step 3. Continue with --resume {reference} or choose --name." in said
    assert (reference / "metrics.jsonl").read_bytes() == before


def test_hints_need_worked_solutions(tmp_path, capsys):
    problems = tmp_path / "bare.jsonl"
    problems.write_text('{"question": "2 + 2", "answer": "4"}\n')
    options = ["--task", "jsonl", "--task.path", str(problems), "--task.prompt", "question", "--split", "train"]
    assert run(["train", "--folder", str(tmp_path), "--sft.steps", "0", "--verifier", "math", *options]) == 2
    said = capsys.readouterr().err
    assert "--injection uniform-chunks needs tasks with worked solutions, but 'jsonl' has none." in said
    assert "or --injection none (plain GRPO)" in said
    assert not list(tmp_path.glob("run*"))
    assert not list(tmp_path.glob("tiny*"))


def test_evaluating_what_is_trained_on_is_said(tmp_path, capsys):
    problems = tmp_path / "mine.jsonl"
    problems.write_bytes(
        b'\xef\xbb\xbf{"prompt": "2 + 2", "answer": 4}\r\n\r\n{"prompt": "\xe2\x86\x92?", "answer": "x"}\r\n'
    )
    mine = ["--task", "jsonl", "--task.path", str(problems), "--verifier", "regex", "--verifier.pattern", "{answer}$"]
    short = ["--steps", "1", "--sft.steps", "0", "--width", "8", "--sampler.block", "8", "--injection", "none"]
    other = ["--eval.common.task", "lists", "--eval.common.limit", "2"]
    assert run(["train", "--folder", str(tmp_path), "--name", "own", *short, *mine, *other]) == 0
    warning = "warning: 2 of the 2 problems of [eval.heldout] are trained on too, so its score is not held out."
    assert warning in (log := (tmp_path / "own" / "log.txt").read_text())
    assert "[eval.common] are" not in log


def test_out_of_memory_says_what_to_lower(tmp_path, capsys):
    assert train(tmp_path, "big", "--loss", "out-of-memory") == 1
    said = capsys.readouterr().err
    assert "out of memory in token_scores at B=1, L=25, V=28 (0.0 GiB of logits). One row cannot be halved: try" in said
    log = (tmp_path / "big" / "log.txt").read_text()
    assert "out of memory in token_scores of 12 rows at a time; from here on score_rows = 6" in log


def test_a_device_that_is_too_small_does_not_change_a_run(reference, tmp_path):
    small = ["--plugin", str(Path(__file__).parent / "plugin_faulty.py"), "--model", "small"]
    assert train(tmp_path, "small", *small) == 0
    log = (tmp_path / "small" / "log.txt").read_text()
    assert log.count("out of memory in token_scores of ") == log.count("score_rows = ") == 2
    assert "out of memory in sampling of 12 rows at a time; from here on play_rows = 6" in log
    assert log.count("play_rows = 2") == 2  # in both evaluations
    assert log.count("play_rows = 3") == 1
    for ours, theirs in zip(metrics(tmp_path / "small"), metrics(reference), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-9)
    for name, tensor in weights(tmp_path / "small").items():
        assert (tensor - weights(reference)[name]).abs().max() < 1e-9


@pytest.mark.parametrize("words", [["--prompt", "hello world"], ["--hint", "0:hello"]])
def test_words_that_the_model_does_not_know_are_named(reference, capsys, words):
    assert run(["sample", str(reference), *words]) == 2
    assert "the model does not know the word 'hello'. Its vocabulary has 28 words: a b c" in capsys.readouterr().err


def test_sampling_around_a_hint_keeps_it(reference, capsys):
    capsys.readouterr()
    words = ["--prompt", "rev zip rotl : a b c d e ?", "--hint", "3:rev e", "--rows", "2", "--json"]
    assert run(["sample", str(reference), *words]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2
    ended = [len(row["completion"].split()) < 5 for row in rows]
    assert all(short or "rev e" in row["completion"] for row, short in zip(rows, ended, strict=True))
    assert not all(ended)


def test_resuming_what_is_no_run_says_so(tmp_path, capsys):
    assert run(["train", "--resume", str(tmp_path)]) == 2
    assert "holds no run.toml" in capsys.readouterr().err


def test_the_alarm_speaks_once_after_fifty_steps_without_a_correct_rollout():
    alarm = Alarm()
    hopeless = {"correct/mean": 0.0, "hint/shown": 0.41, "sample/eos": 0.29, "stuck/rescued": 0.0}
    heard = [alarm.hear(hopeless) for _ in range(120)]
    assert [step for step, text in enumerate(heard, 1) if text] == [50]
    assert heard[49] == (
        "50 steps without one correct rollout, even with hints (hint share 0.41). "
        "Usual causes: answer format, verifier, L too short (71% never end)."
    )


def test_the_alarm_counts_on_where_a_run_goes_on(tmp_path):
    rows = [{"phase": "sft", "step": 1}, {"phase": "igpo", "step": 0, "eval/heldout/pass@1": 0.0}]
    rows += [{"phase": "igpo", "step": step, "correct/mean": 0.0, "sample/eos": None} for step in range(1, 50)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alarm = Alarm()
    recall(tmp_path, alarm, Watch())
    assert alarm.hear({"correct/mean": 0.0}).startswith("50 steps without one correct rollout")
    assert alarm.hear({"correct/mean": 0.0}) is None


@pytest.mark.parametrize("sign", [{"correct/mean": 0.1}, {"correct/mean": 0.0, "stuck/rescued": 0.5}])
def test_any_success_quiets_the_alarm(sign):
    alarm = Alarm(patience=2)
    assert [alarm.hear({"correct/mean": 0.0}), alarm.hear(sign), alarm.hear({"correct/mean": 0.0})] == [None] * 3
    assert alarm.hear({"correct/mean": 0.0}) is not None


def test_what_a_block_causal_model_cannot_see_is_said():
    from attrs import evolve

    from igpo_cli.assemble import unseen
    from igpo_cli.config import resolve
    from igpo_cli.plugins import Catalogue

    loaded = Tiny(width=32, layers=1, heads=2)(vocabulary=Lists().vocabulary(), seed=0)
    catalogue = Catalogue.installed()

    def said(**flags):
        return unseen(resolve("tiny", None, flags, catalogue), evolve(loaded, block=4))

    assert unseen(resolve("tiny", None, {}, catalogue), loaded) == []
    assert [text.split("(")[0].split(",")[0] for text in said()] == ["the model sees no block behind its own "] * 2
    assert "estimator RandomMask masks earlier blocks" in said()[0]
    assert "hints help the blocks that they stand in" in said()[1]
    assert said(estimator="trajectory", injection="none") == []


# Problems that nobody here wrote ---------------------------------------------------------------------------------------

FOREIGN = [
    *("--preset", "gsm8k", "--sft.steps", "2", "--sft.batch", "4", "--steps", "2", "--prompts", "2", "--group", "2"),
    *("--width", "96", "--sampler.steps", "8", "--eval.heldout.limit", "2", "--eval.heldout.sampler.steps", "8"),
    *("--trackers", ""),
]


def checked(capsys, *options):
    capsys.readouterr()
    assert run(["data", "check", "--json", "--limit", "300", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_on_reasoning_gym(tmp_path, capsys):
    task = [
        "--task",
        "procedural",
        "--task.dataset",
        "gsm_symbolic",
        "--task.train-problems",
        "300",
        "--task.test-problems",
        "8",
    ]
    found = checked(capsys, "--preset", "gsm8k", *task)
    assert found["tasks"] == found["answer located in the trace"] == found["usable for hints"] == 300
    assert found["references judged correct"] == found["references judged"] > 0
    assert run(["train", "--folder", str(tmp_path), "--name", "gym", *task, *FOREIGN]) == 0
    steps = [row for row in metrics(tmp_path / "gym") if "stuck/before" in row]
    assert len(steps) == 2
    assert all(row["hint/answer_leak"] == 0 for row in steps)


@pytest.mark.skipif(not (SHARED / "gsm8k").is_dir(), reason="needs the GSM8K files of ../shared/data")
def test_a_run_on_gsm8k(tmp_path, capsys):
    task = ["--task", "gsm8k", "--task.path", str(SHARED / "gsm8k")]
    found = checked(capsys, "--preset", "gsm8k", *task)
    assert found["tasks"] == found["answer located in the trace"] == found["usable for hints"] == 300
    assert found["references judged correct"] == found["references judged"] > 0
    assert found["answer's value also occurs in the working"] > 250
    assert run(["train", "--folder", str(tmp_path), "--name", "gsm8k", *task, *FOREIGN]) == 0
    rows = [json.loads(line) for line in (tmp_path / "gsm8k" / "rollouts" / "step-1.jsonl").read_text().splitlines()]
    hinted = [row for row in rows if any(row["hint"])]
    steps = [row for row in metrics(tmp_path / "gsm8k") if "stuck/before" in row]
    assert all(row["hint/answer_leak"] == 0 for row in steps)
    for row in hinted:  # none unless a hinted row was right: then its hints stand at their slots of the trace
        assert all(token in row["trace"] for token, given in zip(row["tokens"], row["hint"], strict=True) if given)
