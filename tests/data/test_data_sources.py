"""Task sources that read data: columns, patterns, places in errors, and splits that stay apart."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igpo_data import GSM8K, HuggingFace, Jsonl, Math, Procedural, Task
from igpo_data.tasks.procedural import BROKEN_TEMPLATES
from igpo_data.testing import check_task_source

ROWS = [
    {"id": "a", "question": "1 + 1?", "solution": "1 + 1 = 2\n#### 2", "n": 2},
    {"id": "b", "question": "2 + 2?", "solution": "2 + 2 = 4\n#### 4", "n": 4.0},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "\n".join(json.dumps({**row, "id": f"{split}-{row['id']}"}) for row in ROWS) + "\n\n"
        )
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write((tmp_path / "test.jsonl").read_text())
    return tmp_path


def test_jsonl_maps_columns_and_locates_the_answer(folder: Path) -> None:
    source = Jsonl(path=str(folder), prompt="question", answer="n", trace="solution", key="id")
    check_task_source(source, "test")
    first, second = source("test")
    assert (first.key, first.prompt, first.answer) == ("test-a", "1 + 1?", "2")
    assert first.trace == ROWS[0]["solution"]
    assert [first.trace[slice(*span)] for span in first.answer_spans] == ["2"]
    assert first.answer_spans[0][0] > first.trace.index("####")  # the 2 before it is a step, not the statement
    assert second.answer == "4.0"
    assert second.can_hint


@pytest.mark.parametrize("path", ["test.jsonl", "packed.jsonl.gz", "{split}.jsonl", "."])
def test_a_path_is_a_file_a_folder_or_a_template(folder: Path, path: str) -> None:
    source = Jsonl(path=str(folder / path), prompt="question", answer="n")
    tasks = source("test")
    assert [task.prompt for task in tasks] == ["1 + 1?", "2 + 2?"]
    assert len({task.key for task in tasks}) == 2
    assert not tasks[0].can_hint


def test_a_solution_may_be_the_only_place_of_the_answer(folder: Path) -> None:
    path = str(folder / "test.jsonl")
    stated = Jsonl(path=path, prompt="question", answer="solution", trace="solution")("test")
    matched = Jsonl(path=path, prompt="question", answer="solution", trace="solution", answer_pattern=r"= (\d+)")(
        "test"
    )
    assert [task.answer for task in stated] == [task.answer for task in matched] == ["2", "4"]
    assert [matched[0].trace[slice(*span)] for span in matched[0].answer_spans] == [
        "2",
        "2",
    ]  # what the pattern finds is hidden too


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("{'a': 1}", {}, r"bad.jsonl:2: not JSON .*one object a line"),
        ("[1]", {}, r"bad.jsonl:2: a JSON list instead of an object"),
        ('{"q": "?", "n": 1}', {}, r"bad.jsonl:2: no column 'question' for the prompt; it has 'q', 'n'"),
        ('{"question": "?", "n": null}', {}, r"bad.jsonl:2: column 'n' for the answer is a NoneType"),
        ('{"question": "?", "n": true}', {}, r"bad.jsonl:2: column 'n' for the answer is a bool"),
        ('{"question": "?", "n": "3"}', {"trace": "why"}, r"bad.jsonl:2: no column 'why' for the trace"),
        (
            '{"question": "?", "n": "three"}',
            {"answer_pattern": r"(\d+)"},
            r"bad.jsonl:2: column 'n' does not match answer_pattern",
        ),
    ],
)
def test_a_bad_row_is_named_with_file_line_and_column(
    tmp_path: Path, line: str, options: dict[str, str], message: str
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"question": "?", "n": 1, "why": "#### 1"}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        Jsonl(path=str(file), prompt="question", answer="n", **options)("train")


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "no regular expression"), (r"\d+", "has 0 groups"), ("(a)(b)", "has 2 groups")]
)
@pytest.mark.parametrize("source", [Jsonl, HuggingFace])
def test_a_bad_pattern_is_refused_when_the_source_is_made(
    source: Callable[..., Any], pattern: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        source(path="x.jsonl", answer_pattern=pattern)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"split 'dev': .*dev\.jsonl \(or .*; there are packed\.jsonl\.gz, te"):
        Jsonl(path=str(folder))("dev")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl does not exist"):
        Jsonl(path=str(folder / "nowhere.jsonl"))("train")


def test_gsm8k_from_a_local_folder(tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\nThe answer is 24.\n#### 1,024"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    (task,) = GSM8K(path=str(tmp_path))("test")
    assert (task.key, task.prompt, task.answer) == ("gsm8k/test/0", "How many?", "1,024")
    assert task.trace == "48/2 = 24 clips.\nThe answer is 24.\n#### 1,024"
    assert [task.trace[slice(*span)] for span in task.answer_spans] == ["24", "1,024"]
    (marked,) = GSM8K(path=str(tmp_path / "test.jsonl"), calculator=True)("test")
    assert marked.trace is not None
    assert "<<48/2=24>>" in marked.trace
    (tmp_path / "test.jsonl").write_text(json.dumps({**row, "answer": "24"}))
    with pytest.raises(ValueError, match=r"test\.jsonl:1: column 'answer' does not match answer_pattern"):
        GSM8K(path=str(tmp_path))("test")


def test_huggingface_reads_local_copies(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (folder / "rows.csv").write_text("question,n\nhow?,7\n")
    columns = {"prompt": "question", "answer": "n"}
    assert [task.prompt for task in HuggingFace(path=str(folder / "test.jsonl"), **columns)("test")] == [
        "1 + 1?",
        "2 + 2?",
    ]
    assert [task.answer for task in HuggingFace(path=str(folder / "rows.csv"), **columns)("train")] == ["7"]
    with pytest.raises(ValueError, match=r"test\.jsonl:1: no column 'ask' for the prompt"):
        HuggingFace(path=str(folder / "test.jsonl"), prompt="ask", answer="n")("test")
    (folder / "rows.xyz").write_text("?")
    with pytest.raises(ValueError, match=r"cannot read '\.xyz' files; use one of"):
        HuggingFace(path=str(folder / "rows.xyz"))("train")


def test_without_a_network_the_error_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for source in (GSM8K(), HuggingFace(path="openai/gsm8k")):
        with pytest.raises(
            ConnectionError, match=r"'openai/gsm8k'.*a folder with test\.jsonl or test\.parquet.* --task\.path FOLDER"
        ):
            source("test")


def test_procedural_problems_have_located_answers_and_verify(math: Math) -> None:
    source = Procedural(train_problems=150, test_problems=100)
    train, test = source("train"), source("test")
    assert (len(train), len(test)) == (150, 100)
    assert not {task.prompt for task in train} & {task.prompt for task in test}
    check_task_source(source, "train")
    for task in train + test:
        assert task.can_hint
        assert task.trace is not None
        assert math(task.trace, task).correct
        hidden = "".join(task.trace[slice(*span)] for span in task.answer_spans)
        assert task.answer in hidden.replace(",", "")


def test_broken_templates_are_left_out() -> None:
    import reasoning_gym

    source = reasoning_gym.create_dataset("gsm_symbolic", seed=1, size=3_000)
    assert not BROKEN_TEMPLATES & set(source.task_indices)  # by the library itself, today
    assert len(BROKEN_TEMPLATES) == 15
    kept = [n for n in range(100) if n not in BROKEN_TEMPLATES]
    assert set(source.task_indices) <= set(kept)


def test_procedural_by_name() -> None:
    tasks = Procedural(dataset="leg_counting", train_problems=20, test_problems=10)("train")
    assert len(tasks) == 20
    assert all(task.answer and task.trace is None for task in tasks)
    assert Procedural(seed=1, test_problems=5)("test") != Procedural(seed=2, test_problems=5)("test")
    with pytest.raises(ValueError, match="no data set 'nonsense'"):
        Procedural(dataset="nonsense")("test")
    (scored,) = Procedural(dataset="rush_hour", test_problems=1)("test")
    assert scored.answer == ""  # only the data set's own scorer knows
    assert scored.meta["dataset"] == "rush_hour"
    assert scored.meta["entry"]["metadata"]["board_config"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        Procedural()("dev")


def test_a_data_set_that_repeats_itself_gives_what_it_has() -> None:
    tasks = Procedural(dataset="count_bits", train_problems=50, test_problems=50)("test")
    assert len({task.prompt for task in tasks}) == len(tasks) == 50


def test_a_span_outside_the_trace_is_refused() -> None:
    with pytest.raises(ValueError, match=r"answer span \(3, 9\) lies outside the trace of 4 characters"):
        Task(key="t", prompt="p", answer="a", trace="1234", answer_spans=((3, 9),))
