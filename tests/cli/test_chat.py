"""Chat templates in the formats that LLaDA and Dream document: prompts, ends of turns, and what is missing said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from igpo_cli.errors import UsageError
from igpo_cli.main import run
from igpo_cli.play import EndHidden
from igpo_cli.problems import encode_pairs, encode_prompts, turn_end
from igpo_cli.settings import Prompt
from igpo_data import Task
from igpo_sampling.models.tokenizers import utf8

LLADA = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
DREAM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def tokenizer(template: str, *special: str, bos: str | None = None) -> Any:
    made = utf8()
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.bos_token, made.chat_template = bos, template
    return made


@pytest.fixture
def llada() -> Any:
    names = ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    return tokenizer(LLADA, *names, bos="<|startoftext|>")


@pytest.fixture
def dream() -> Any:
    return tokenizer(DREAM, "<|im_start|>", "<|im_end|>")


def text(made: Any, ids: torch.Tensor) -> str:
    return str(made.decode(ids.tolist(), skip_special_tokens=False))


def test_llada_prompts(llada: Any) -> None:
    prompt = Prompt(chat=True, template="{prompt} Box it.")
    (ids,) = encode_prompts(prompt, llada, ["1 + 1?"])
    assert ids.dtype == torch.long
    assert text(llada, ids) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n1 + 1? Box it.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    (ids,) = encode_prompts(Prompt(chat=True, system="Think."), llada, ["1?"])
    assert text(llada, ids).startswith(
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nThink.<|eot_id|><|start_h"
    )
    assert text(llada, ids).count("<|startoftext|>") == 1


def test_dream_prompts(dream: Any) -> None:
    (ids,) = encode_prompts(Prompt(chat=True), dream, ["1 + 1?"])
    assert text(dream, ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    (ids,) = encode_prompts(Prompt(chat=True, system="Think."), dream, ["1?"])
    assert text(dream, ids).startswith("<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n1?")


def test_markup_is_one_token_each_and_text_that_looks_like_it_stays_a_question(llada: Any, dream: Any) -> None:
    for made, name in ((llada, "<|eot_id|>"), (dream, "<|im_end|>")):
        (ids,) = encode_prompts(Prompt(chat=True), made, ["1?"])
        assert made.convert_tokens_to_ids(name) in ids.tolist()


@pytest.mark.parametrize(("which", "end"), [("llada", "<|eot_id|>"), ("dream", "<|im_end|>")])
def test_sft_teaches_the_end_of_the_turn_before_eos(which: str, end: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(which)
    assert made.convert_ids_to_tokens(turn_end(made)) == [end]
    tasks = [
        Task(key="1", prompt="1?", answer="2", trace="It is 2."),
        Task(key="2", prompt="?", answer="1", trace="x" * 9),
    ]
    pairs, left_out = encode_pairs(tasks, Prompt(chat=True), made, width=10)
    assert left_out == 1  # 9 letters, the end of the turn and no room for EOS
    assert text(made, pairs[0][1]) == f"It is 2.{end}"
    plain, _ = encode_pairs(tasks, Prompt(), made, width=10)
    assert [text(made, trace) for _, trace in plain] == ["It is 2.", "x" * 9]


def test_a_template_that_always_opens_the_next_turn_ends_the_turn_all_the_same() -> None:
    always = LLADA.replace("{% if add_generation_prompt %}", "").removesuffix("{% endif %}")
    names = ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    made = tokenizer(always, *names, bos="<|startoftext|>")
    assert made.convert_ids_to_tokens(turn_end(made)) == ["<|eot_id|>"]
    bare = tokenizer("{% for message in messages %}{{ message['content'] + '\\n' }}{% endfor %}")
    assert turn_end(bare) == []


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"chat = true, but the model's tokenizer has no chat template\. Set chat = false"
    ):
        encode_prompts(Prompt(chat=True), utf8(), ["1?"])


# What stands behind EOS ----------------------------------------------------------------------------------------------


class Recorder(torch.nn.Module):
    """Remembers what it was allowed to attend."""

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any = None) -> Any:
        self.seen = attention
        return torch.zeros(len(where), 9)


def test_nothing_behind_a_committed_eos_is_attended() -> None:
    model, eos, mask = Recorder(), 7, 8
    tokens = torch.tensor([[7, 7, 1, 2, 7, mask, 7], [1, 1, mask, mask, 2, mask, mask]])
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[0, :2] = False  # left padding; its EOS is no end
    EndHidden(model, 5, eos)(tokens, attention, torch.tensor([0]))
    assert model.seen.int().tolist() == [[0, 0, 1, 1, 1, 0, 0], [1] * 7]
    assert attention.sum() == 12  # the caller's own is left alone


def test_a_run_with_hidden_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--folder", str(tmp_path), "--name", "r", "--no-attend-eos", "--sft.steps", "3", "--steps", "2"]
    words += [
        "--sft.batch",
        "8",
        "--prompts",
        "2",
        "--group",
        "4",
        "--eval.heldout.limit",
        "2",
        "--eval.common.limit",
        "2",
    ]
    words += ["--sft.limit", "50", "--limit", "6", "--shuffle", "1", "--trackers", "", "--sft.group-lengths"]
    assert run(words) == 0
    capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows if "policy/loss" in row or "sft/loss" in row] == ["sft"] * 3 + ["igpo"] * 2
    completions = []
    for more in ([], ["--attend-eos"]):
        assert run(["sample", str(tmp_path / "r"), "--rows", "20", "--json", *more]) == 0
        completions.append([each["completion"] for each in json.loads(capsys.readouterr().out)])
    assert completions[0] != completions[1]  # a row that is partly filled when its EOS comes goes on otherwise
    assert run([*words, "--sampler.cache", "prefix"]) == 2
    assert "--sampler.cache prefix keeps what was attended" in capsys.readouterr().err


def test_tasks_without_a_located_answer_are_counted_when_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "rev", "answer": "a", "trace": trace} for trace in ("b #### a", "b #### b", None)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "--folder", str(tmp_path), "--name", "r", "--sft.steps", "0", "--steps", "1", "--group", "2"]
    words += ["--task", "jsonl", "--task.path", str(tmp_path / "t.jsonl"), "--task.trace", "trace", "--trackers", ""]
    words += ["--prompts", "2", "--eval.heldout.limit", "1", "--eval.common.limit", "1", "--model.width", "32"]
    assert run(words) == 0
    said = "2 of 3 tasks are used without hints: no trace, or its answer is not located"
    assert said in (tmp_path / "r" / "log.txt").read_text()
    assert run([*words, "--name", "s", "--injection", "none"]) == 0
    assert said not in (tmp_path / "s" / "log.txt").read_text()
