"""`igpo data`: every subcommand as a person and as a program see it, and what it says to bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from igpo_cli.main import run

ROWS = [
    {"q": "Ann has 1 apple. How many?", "a": "So 1 apple.\n#### 1", "level": 1},
    {"q": "ann has 1 apple; how many", "a": "Two apples.\n#### 2", "level": 1},
    {
        "q": "Bob has 2 large red pears and eats one of them. How many?",
        "a": "2 - 1 = 1\nThe answer is 1\n#### 1",
        "level": 2,
    },
    {"q": "Bob has 2 large red pears and eats one of these. How many?", "a": "2 - 1 = 1\n#### 1", "level": 3},
]


@pytest.fixture
def task(tmp_path: Path) -> list[str]:
    for split, rows in (("train", ROWS), ("test", ROWS[2:3])):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"path": str(tmp_path), "prompt": "q", "answer": "a", "trace": "a", "extra": "level"}
    return ["--task", "jsonl", *(word for key, value in options.items() for word in (f"--task.{key}", value))]


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert run(["data", *words]) == code
    out, err = capsys.readouterr()
    return err if code else out


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_list_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in data(capsys, "list")}
    assert rows["gsm8k"]["splits"] == ["train", "test"]
    assert (rows["gsm8k"]["from"], rows["jsonl"]["from"], rows["lists"]["from"]) == (
        "openai/gsm8k",
        "--task.path",
        "generated",
    )
    assert all(row["description"] for row in rows.values())
    text = said(capsys, "list")
    assert all(name in text for name in rows)


def test_show(capsys: pytest.CaptureFixture[str], task: list[str]) -> None:
    rows = data(capsys, "show", *task)
    assert len(rows) == 3
    assert [rows[2]["trace"][slice(*span)] for span in rows[2]["answer_spans"]] == ["1", "1"]
    assert rows[2]["meta"] == {"level": 2}
    last = said(capsys, "show", *task, "--at", "3")
    assert "eats one of these" in last
    assert "eats one of them" not in last
    assert said(capsys, "show", *task, "--key", "train/train/3") == last
    assert said(capsys, "show", *task, "--limit", "4").count("answer  ") == 4
    assert "no task has place 9 in split 'train'" in said(capsys, "show", *task, "--at", "9", code=2)
    assert "no task has the key 'x'" in said(capsys, "show", *task, "--key", "x", code=2)
    assert "no trace: no hints" in said(capsys, "show", *task, "--task.trace", "none", "--task.answer", "level")


def test_stats(capsys: pytest.CaptureFixture[str], task: list[str], tmp_path: Path) -> None:
    found = data(capsys, "stats", *task)
    assert (found["tasks"], found["with a trace"], found["answer located in the trace"]) == (4, 4, 4)
    assert (found["different prompts"], found["repeated with another answer"]) == (3, 1)
    assert found["columns"] == {"level": {"1": 2, "2": 1, "3": 1}}
    for name, about in found["lengths"].items():
        assert sum(count for *_, count in about["histogram"]) == 4, name
        assert about["histogram"][-1][1] >= about["max"]
    text = said(capsys, "stats", *task)
    assert "█" in text
    assert "1: 2, 2: 1, 3: 1" in text
    from igpo_sampling.models.tokenizers import utf8

    utf8().save_pretrained(tmp_path / "bytes")
    tokens = data(capsys, "stats", *task, "--limit", "2", "--tokenizer", str(tmp_path / "bytes"))["lengths"]
    assert tokens["prompt, tokens"]["max"] == tokens["prompt"]["max"] == len(ROWS[0]["q"])
    assert "holds no tokenizer.json" in said(capsys, "stats", *task, "--tokenizer", str(tmp_path), code=2)


def test_unlocated_answers_are_reported_with_their_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = {"prompt": "?", "answer": "7", "trace": "It is eight.\n#### 8"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    words = ["--task", "jsonl", "--task.path", str(tmp_path / "a.jsonl"), "--task.trace", "trace"]
    found = data(capsys, "stats", *words)
    assert found["answer located, share of traces"] == 0
    assert found["not located, the first keys"] == ["a/train/0"]
    assert "not located in the trace: no hints" in said(capsys, "show", *words)


def test_dedupe_writes_what_is_left_once(capsys: pytest.CaptureFixture[str], task: list[str], tmp_path: Path) -> None:
    out = tmp_path / "new" / "kept.jsonl"
    text = said(capsys, "dedupe", *task, "--out", str(out))
    assert "4 problems, 3 kept; left out: 1 with the same words (1 of them with another answer), 0 similar" in text
    before = out.read_bytes()
    assert "exists already" in said(capsys, "dedupe", *task, "--near", "0.7", "--out", str(out), code=2)
    assert out.read_bytes() == before
    found = data(capsys, "dedupe", *task, "--near", "0.5", "--out", str(out), "--overwrite")
    assert (found["kept"], found["same words"], found["similar"]) == (2, 1, 1)
    assert not list(out.parent.glob("*.part"))
    again = ["--task", "jsonl", "--task.path", str(out), "--task.key", "key", "--task.trace", "trace"]
    rows = data(capsys, "show", *again, "--task.extra", "level")
    assert [row["key"] for row in rows] == ["train/train/0", "train/train/2"]
    assert [row["meta"] for row in rows] == [{"level": 1}, {"level": 2}]
    assert "near = 2.0 must lie above 0" in said(capsys, "dedupe", *task, "--near", "2", code=2)


def test_dedupe_keeps_what_a_task_hides(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The last list of `lists` is the answer too, which nothing in the text says."""
    out = tmp_path / "lists.jsonl"
    words = ["--task", "lists", "--limit", "5"]
    said(capsys, "dedupe", *words, "--out", str(out))
    again = ["--task", "jsonl", "--task.path", str(out), "--task.trace", "trace", "--task.key", "key"]
    one, other = (data(capsys, "show", *each, "--limit", "5") for each in (words, again))
    assert [row["answer_spans"] for row in one] == [row["answer_spans"] for row in other]
    rows = [json.loads(line) | {"answer_spans": [[1, "2"]]} for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "lists.jsonl:1: column 'answer_spans' must be a list of pairs" in said(capsys, "show", *again, code=2)


def test_contamination_of_the_test_split_or_of_every_evaluation(
    capsys: pytest.CaptureFixture[str], task: list[str]
) -> None:
    found = data(capsys, "contamination", *task, "--words", "5")
    assert {name: row["same prompt"] for name, row in found["evaluations"].items()} == {"test": 1}
    words = ["--eval.own.split", "train", "--eval.other.task", "lists", "--eval.other.limit", "20"]
    found = data(capsys, "contamination", *task, *words, "--words", "5")
    counts = {
        name: (row["problems"], row["same prompt"], row["trained on"]) for name, row in found["evaluations"].items()
    }
    assert counts == {"own": (4, 4, 4), "other": (20, 0, 0)}
    text = said(capsys, "contamination", *task, "--words", "5")
    assert "test/test/0: the same prompt" in text
    assert "no data for the split 'dev'" in said(capsys, "contamination", *task, "--against", "dev", code=2)


@pytest.mark.parametrize("command", ["show", "stats", "dedupe", "contamination", "check"])
def test_bad_data_is_the_users_to_mend(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    file = tmp_path / "train.jsonl"
    words = [command, "--task", "jsonl", "--task.path", str(tmp_path)]
    assert f"{file} (or .json" in said(capsys, *words, code=2)
    file.write_text("")
    assert "no rows; the file is empty" in said(capsys, *words, code=2)
    file.write_text('{"prompt": "?", "answer": 1}\n{"prompt"\n')
    assert "train.jsonl:2: not JSON" in said(capsys, *words, code=2)
    file.write_text('{"question": "?", "answer": 1}\n')
    assert "train.jsonl:1: no column 'prompt' for the prompt; it has 'question', 'answer'" in said(
        capsys, *words, code=2
    )
    if command != "check":
        assert "no task is chosen" in said(capsys, command, code=2)


def test_warnings_of_a_source_are_said_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = {"query": "?", "response": "The answer is: 1", "type": "GSM_AnsAug"}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    assert run(["data", "show", "--task", "metamath", "--task.path", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert "warning: " in err
    assert "1 different questions of GSM_AnsAug and MATH_AnsAug, not 12,794" in err


def test_nested_sources_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, task: list[str]) -> None:
    (tmp_path / "mix.toml").write_text(
        f"""
split = "train"
limit = 6
[task]
name = "mixture"
weights = [1.0, 2.0]
[[task.sources]]
name = "lists"
train_problems = 5
[[task.sources]]
name = "select"
by = "level"
low = 2.0
[task.sources.source]
name = "jsonl"
path = "{tmp_path.as_posix()}"
prompt = "q"
answer = "a"
trace = "a"
extra = ["level"]
"""
    )
    rows = data(capsys, "show", str(tmp_path / "mix.toml"))
    assert [row["key"] for row in rows] == ["1/train/train/2", "0/lists/train/0", "1/train/train/3"]
    text = (tmp_path / "mix.toml").read_text().replace("weights = [1.0, 2.0]", "weights = [1.0, 0.0]")
    (tmp_path / "mix.toml").write_text(text)
    assert "weights = [1.0, 0.0] must all be above 0" in said(capsys, "show", str(tmp_path / "mix.toml"), code=2)


def test_a_part_of_a_split_is_the_first_or_a_random_one(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [
        [row["key"] for row in data(capsys, "show", "--task", "lists", "--limit", "5", *more)]
        for more in ([], ["--shuffle", "1"], ["--shuffle", "1"], ["--shuffle", "2"])
    ]
    assert keys[0] == [f"lists/train/{number}" for number in range(5)]
    assert keys[1] == keys[2] != keys[3]
    assert len(set(keys[1])) == 5
