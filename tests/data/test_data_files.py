"""Local files of every format: the same rows from each, and a clear word for each that cannot be read."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igpo_data import GSM8K, HuggingFace, Jsonl
from igpo_data.tasks.files import ENDINGS, read_files, split_files

ROWS = [{"question": f"{n} + 1?\nSay it.", "answer": f"{n + 1}", "level": n} for n in range(5)]
COLUMNS = {"prompt": "question", "extra": ("level",)}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    with gzip.open(file, "wt", newline="") if file.suffix == ".gz" else file.open("w", newline="") as text:
        if name.endswith(".csv"):
            table = csv.DictWriter(text, rows[0])
            table.writeheader()
            table.writerows(rows)
        elif name.endswith(".json"):
            json.dump(rows, text)
        else:
            text.writelines(json.dumps(row) + "\n" for row in rows)
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_format_gives_the_same_tasks(tmp_path: Path, name: str) -> None:
    tasks = Jsonl(path=str(write(tmp_path / name, ROWS)), **COLUMNS)("train")
    assert [(task.prompt, task.answer) for task in tasks] == [(row["question"], row["answer"]) for row in ROWS]
    assert [int(task.meta["level"]) for task in tasks] == [0, 1, 2, 3, 4]
    assert tasks[3].key == "a/train/3"
    same = HuggingFace(path=str(tmp_path / name), **COLUMNS)("train")
    assert [task.prompt for task in same] == [task.prompt for task in tasks]


def test_json_may_also_hold_a_line_an_object(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS).rename(tmp_path / "a.json")
    assert len(Jsonl(path=str(tmp_path / "a.json"), **COLUMNS)("train")) == 5


@pytest.mark.parametrize(
    "names",
    [
        ["test.csv"],
        ["data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"],  # as on the hub
        ["main/test-00000-of-00001.parquet"],
        ["test-1.jsonl", "test-2.jsonl", "test-3.jsonl"],
    ],
)
def test_a_clone_of_the_hubs_repository_is_read_as_it_lies(tmp_path: Path, names: list[str]) -> None:
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(6)]
    size = 6 // len(names)
    for number, name in enumerate(names):
        write(tmp_path / name, rows[number * size : (number + 1) * size])
    assert [task.answer for task in GSM8K(path=str(tmp_path))("test")] == list("012345")


def test_a_data_set_saved_by_datasets(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    source = HuggingFace(path=str(tmp_path / "saved"), **COLUMNS)
    assert [task.answer for task in source("test")] == [row["answer"] for row in ROWS]
    with pytest.raises(ValueError, match=r"saved has no split 'train'; it has test"):
        source("train")


def test_the_hub_and_a_copy_give_the_same_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is played by `load_dataset` on the same rows; what is asked of it is checked."""
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(path: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((path, config, split, streaming))
        rows = datasets.Dataset.from_list(ROWS)
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    copy = HuggingFace(path=str(write(tmp_path / "set" / "test.parquet", ROWS).parent), **COLUMNS)("test")
    assert HuggingFace(path="somebody/set", **COLUMNS)("test") == copy
    stream = HuggingFace(path="somebody/set", stream=True, **COLUMNS)("test")
    assert isinstance(stream, Iterator)
    assert list(stream) == copy
    assert asked == [("somebody/set", None, "test", False), ("somebody/set", None, "test", True)]


def test_a_split_that_the_hub_lacks_is_an_error_that_names_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(path: str, config: str | None, *, split: str, streaming: bool) -> Any:
        raise ValueError(f"Unknown split {split!r}. Should be one of ['train', 'test'].")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(
        ValueError, match=r"the data set 'openai/gsm8k' of the hub: Unknown split 'dev'\. Should be one of"
    ):
        GSM8K()("dev")


def test_a_stream_reads_no_further_than_it_is_asked(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    with file.open("a") as text:
        text.write("{broken\n")
    stream = iter(Jsonl(path=str(file), stream=True, **COLUMNS)("train"))
    assert [next(stream).answer for _ in range(5)] == ["1", "2", "3", "4", "5"]
    with pytest.raises(ValueError, match=r"a\.jsonl:6: not JSON"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl: no rows; the file is empty"),
        ("a.jsonl", b"\n \n", r"no rows; the file is empty"),
        ("a.json", b"", r"no rows; the file is empty"),
        ("a.json", b"[]", r"no rows; the file is empty"),
        ("a.csv", b"question,answer\n", r"no rows; the file is empty"),
        ("a.jsonl", b'{"question": 1, "answer": 2}\n{"question": \n', r"a\.jsonl:2: not JSON .*one object a line"),
        ("a.jsonl", b'{"question": 1, "answer": 2, "answer": 3}', r"a\.jsonl:1: not JSON \('answer' occurs twice"),
        ("a.json", b'[{"question": 1, "question": 1, "answer": 3}]', r"a\.json: not JSON \('question' occurs twice"),
        ("a.jsonl", b'{"question": 1, "answer": ' + b"9" * 5000 + b"}", r"a\.jsonl:1: not JSON .*digits"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        ("a.json", b"[{]", r"a\.json: not JSON"),
        ("a.json", b"[1, 2]", r"a\.json: row 0: a JSON int instead of an object"),
        ("a.csv", b"question,answer\n1,2,3\n", r"a\.csv:2: another number of fields than the 2 columns"),
        ("a.csv", b"question,answer\n1\n", r"a\.csv:2: another number of fields"),
        ("a.csv", b"question,question\n1,2\n", r"a\.csv:1: a column occurs twice: question, question"),
        ("a.csv", b'question,answer\n"1,2\n', r"a\.csv: not CSV"),
        ("a.parquet", b"PAR1 or not", r"a\.parquet: not a parquet file"),
        ("a.jsonl", b'{"question": "\xff"}', r"a\.jsonl: not UTF-8 text"),
        ("a.jsonl.gz", b"plain", r"a\.jsonl\.gz: not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"question": 1, "answer": 2}\n' * 99)[:50], r"not a whole gzip file"),
        ("a.txt", b"1", r"cannot read '\.txt' files; use one of \.jsonl, \.json, \.csv, \.parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Jsonl(path=str(tmp_path / name), prompt="question")("train")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.json"])
def test_files_of_windows_are_read(tmp_path: Path, name: str) -> None:
    text = "question,answer\r\n1?,2\r\n" if ".csv" in name else '\r\n{"question": "1?", "answer": 2}\r\n \r\n'
    content = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [task.prompt for task in Jsonl(path=str(tmp_path / name), prompt="question")("train")] == ["1?"]


def test_a_wrong_path_or_split_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "data" / "dev-1.parquet", ROWS)
    with pytest.raises(
        FileNotFoundError, match=r"split 'test': .*test\.jsonl \(or .* there are dev-1\.parquet, train\.cs"
    ):
        split_files(str(tmp_path), "test")
    (tmp_path / "empty").mkdir()
    for source in (Jsonl(path=str(tmp_path / "empty")), HuggingFace(path=str(tmp_path / "empty"))):
        with pytest.raises(FileNotFoundError, match="the folder holds no such file"):
            source("test")
    for source in (Jsonl(path="./nowhere.jsonl"), GSM8K(path="./nowhere"), HuggingFace(path="./{split}.jsonl")):
        with pytest.raises(FileNotFoundError, match=r"does not exist"):
            source("test")


def test_large_fields_and_many_rows_are_read(tmp_path: Path) -> None:
    rows = [{"question": "x" * 200_000, "answer": str(n)} for n in range(3)]
    for name in ("a.csv", "a.parquet"):
        assert [len(row["question"]) for _, row in read_files([write(tmp_path / name, rows)])] == [200_000] * 3
    many = [{"question": str(n), "answer": str(n)} for n in range(1_000)]
    places = [place for place, _ in read_files([write(tmp_path / "b.parquet", many)])]
    assert places[0].endswith("b.parquet: row 0")
    assert places[-1].endswith("b.parquet: row 999")


@pytest.mark.parametrize("key", [1, "one"])
def test_a_key_that_occurs_twice_is_refused(tmp_path: Path, key: object) -> None:
    file = write(tmp_path / "a.jsonl", [{"id": 0, **ROWS[0]}, {"id": key, **ROWS[1]}, {"id": key, **ROWS[2]}])
    with pytest.raises(
        ValueError, match=rf"a\.jsonl:3: the key '{key}' of column 'id' was that of .*a\.jsonl:2 already"
    ):
        Jsonl(path=str(file), prompt="question", key="id")("train")


def test_a_row_without_a_trace_is_a_task_without_hints(tmp_path: Path) -> None:
    rows = [{"q": "?", "a": "1", "s": "#### 1"}, {"q": "!", "a": "2", "s": None}, {"q": ".", "a": "3", "s": ""}]
    tasks = Jsonl(path=str(write(tmp_path / "a.jsonl", rows)), prompt="q", answer="a", trace="s")("train")
    assert [task.trace for task in tasks] == ["#### 1", None, None]
    assert [task.can_hint for task in tasks] == [True, False, False]


def refusal(file: Path) -> str:
    """Why the file cannot be read; its name where it can."""
    try:
        Jsonl(path=str(file), prompt="question")("train")
    except ValueError as error:
        return str(error)
    return file.name


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80),
    st.sampled_from(ENDINGS),
    st.sampled_from([b"", b"[", b'{"question": ', b"question,answer\n", b"PAR1"]),
)
def test_no_bytes_lead_to_another_error_than_one_that_names_the_file(
    tmp_path: Path, content: bytes, ending: str, start: bytes
) -> None:
    file = tmp_path / f"a{ending}"
    file.write_bytes(gzip.compress(start + content) if ending.endswith(".gz") else start + content)
    assert file.name in refusal(file)


def test_damaged_copies_of_a_good_file_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    for ending in ENDINGS:
        good = write(tmp_path / f"good{ending}", ROWS).read_bytes()
        for number in range(40):
            bad = bytearray(good[: rng.randrange(1, len(good) + 1)])
            for _ in range(rng.randrange(4)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            file = tmp_path / f"bad{number}{ending}"
            file.write_bytes(bad)
            assert file.name in refusal(file)
