"""Rewriting: what rules leave out, what is kept of a model's drafts, and that no draft is paid for twice."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from attrs import evolve, field, frozen
from hypothesis import given
from hypothesis import strategies as st
from tests.chat_server import ChatServer, Reply, completion, concise

from igpo_data import Jsonl, Numeric, Task, extract_answer
from igpo_data.rewrite import Journal, content_hash, rewrite, rough_tokens, write_rows
from igpo_data.rewriters import (
    INSTRUCTION,
    Draft,
    FailedError,
    RefusedError,
    Rules,
    Server,
    UnusableError,
    condense,
    request,
)

VERIFIER = Numeric()


def task(number: int, trace: str | None = "", answer: str | None = None) -> Task:
    """A problem whose long trace ends in its number."""
    long = f"Let us count to {number}, one after the other.\n" * 3 + f"#### {number}" if trace == "" else trace
    return Task(key=f"t/{number}", prompt=f"How many is {number}?", answer=answer or str(number), trace=long)


# Rules ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trace", "concise_trace"),
    [
        ("Wait, let me double-check that.\n3 * 4 = 12.\n\n\nHmm.\n#### 12", "3 * 4 = 12.\n#### 12"),
        ("3 * 4 = 12. Wait, is that right? Yes, that's right. So 12.", "3 * 4 = 12. So 12."),
        ("Okay, so 3 * 4 = 12.", "So 3 * 4 = 12."),
        ("Hmm, wait. Actually, 3 * 4 = 12.", "3 * 4 = 12."),
        ("Let me verify: 12 / 4 = 3.", "Let me verify: 12 / 4 = 3."),
        ("That makes sense.\nIt checks out.\n\\boxed{12}", "\\boxed{12}"),
        ("The waiter waits. Okayama is a city.", "The waiter waits. Okayama is a city."),
        (
            "We add both of the numbers.\nThen 1.\nWe add both of the numbers.\n12",
            "We add both of the numbers.\nThen 1.\n12",
        ),
        ("The answer is 12, as said before\nx\nThe answer is 12, as said before",) * 2,
        ("<think>\nLong, long.\n</think>\nIt is 3 * 4.\n\\boxed{12}", "It is 3 * 4.\n\\boxed{12}"),
        ("<think>\nIt is 3 * 4.\n\\boxed{12}\n</think>\nDone.", "It is 3 * 4.\n\\boxed{12}\nDone."),
        ("   x = 1\n\n   y = 2", "x = 1\n   y = 2"),
        ("", ""),
    ],
)
def test_rules_leave_out_reflections_and_blank_lines(trace: str, concise_trace: str) -> None:
    assert condense(trace) == concise_trace


PIECES = st.sampled_from(
    [
        "Wait, ",
        "Hmm. ",
        "Let me check. ",
        "3 * 4 = 12. ",
        "\n",
        "\n\n",
        "So x is 5. ",
        "\\boxed{12}",
        "#### 12\n",
        "</think>",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_rules_lose_no_number_and_change_nothing_twice(trace: str) -> None:
    short = condense(trace)
    assert condense(short) == short
    assert len(short) <= len(trace)
    if "</think>" not in trace:
        assert extract_answer(short) == extract_answer(trace)
        for step in ("3 * 4 = 12.", "x is 5."):
            assert (step in short) == (step in trace)


def test_rules_are_linear_in_the_text() -> None:
    for text in (
        "wait " * 100_000,
        "Let me " * 100_000,
        "\n" * 100_000,
        "a. " * 200_000,
        "so but and " * 100_000,
        "</think>" * 100_000,
    ):
        condense(text)  # milliseconds each; the limit of a test is five minutes


# What is kept --------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Scripted:
    """A rewriter whose drafts are written down beforehand; counts what it is asked."""

    drafts: dict[str, Draft | Exception] = field(factory=dict)
    asked: list[str] = field(factory=list)
    identity: tuple[str | int | float, ...] = ("scripted",)

    def __call__(self, task: Task) -> Draft:
        self.asked.append(task.key)
        draft = self.drafts.get(task.key, Draft(text=f"#### {task.answer}", prompt_tokens=7, completion_tokens=3))
        if isinstance(draft, Exception):
            raise draft
        return draft


def test_only_drafts_that_keep_the_answer_and_fit_are_kept() -> None:
    tasks = [task(number) for number in range(10)]
    tasks += [task(10, trace=None), task(11, trace="#### 12"), task(12, trace="no answer")]
    who = Scripted(
        drafts={
            "t/1": Draft(text="#### 2"),
            "t/2": Draft(text="I do not know."),
            "t/3": Draft(text=""),
            "t/4": Draft(text="#### 4", cut_off=True),
            "t/5": Draft(text="word " * 20 + "#### 5"),
            "t/6": RefusedError("400: too long"),
            "t/7": FailedError("503: busy"),
        }
    )
    result = rewrite(tasks, who, VERIFIER, tokens=20, concurrency=3)
    assert [row.reason for row in result.rows] == [
        "", "answer lost", "answer lost", "empty", "cut off", "too long", "no answer", "no answer", "", "",
        "no trace", "trace refused", "trace refused",
    ]  # fmt: skip
    assert [row.said for row in result.rows][1:8] == ["", "no-answer", "", "", "", "400: too long", "503: busy"]
    assert [row.task.key for row in result.kept] == ["t/0", "t/8", "t/9"]
    assert all(row.located for row in result.kept)
    assert sorted(who.asked) == sorted(
        f"t/{number}" for number in range(10)
    )  # nothing that could not be checked is paid for
    report = result.report(price_in=2.0, price_out=1e6)
    assert report["dropped"] == {
        "answer lost": 2, "no answer": 2, "trace refused": 2, "empty": 1, "cut off": 1, "too long": 1, "no trace": 1,
    }  # fmt: skip
    assert (report["tasks"], report["kept"], report["answer located"]) == (13, 3, 3)
    assert (report["prompt tokens paid"], report["completion tokens paid"]) == (21, 9)
    assert report["cost"] == pytest.approx(9.0, abs=1e-3)
    assert [row["key"] for row in report["dropped rows"]][:2] == ["t/1", "t/2"]


def test_short_traces_may_be_left_alone() -> None:
    tasks = [task(1), task(2, trace="#### 2")]
    who = Scripted()
    result = rewrite(tasks, who, VERIFIER, tokens=10, keep_short=True)
    assert who.asked == ["t/1"]
    assert [row.text for row in result.rows] == ["#### 1", "#### 2"]


def test_the_limit_leaves_room_for_the_end() -> None:
    who = Scripted(drafts={"t/1": Draft(text="one two three four five six seven #### 1")})
    for tokens, kept in ((8, 0), (9, 1)):
        result = rewrite([task(1)], who, VERIFIER, tokens=tokens, count=lambda text: len(text.split()) - 1)
        assert len(result.kept) == kept, tokens


def test_rows_come_in_the_order_of_the_tasks_and_are_read_back(tmp_path: Path) -> None:
    tasks = [evolve(task(number), meta={"level": number, "odd": {1, 2}}) for number in range(50)]
    file = tmp_path / "short.jsonl"
    write_rows(file, rewrite(tasks, Scripted(), VERIFIER, concurrency=8))
    back = Jsonl(path=str(file), trace="trace", key="key", extra=("level",))("train")
    assert [(each.key, each.prompt, each.answer) for each in back] == [
        (each.key, each.prompt, each.answer) for each in tasks
    ]
    assert all(each.can_hint for each in back)
    assert back[7].trace == "#### 7"
    assert back[7].meta["level"] == 7
    assert list(tmp_path.iterdir()) == [file]


def test_rough_counts_rather_too_many() -> None:
    assert rough_tokens("") == 0
    assert rough_tokens("12 + 3 = 15") == 2 + 1 + 1 + 1 + 2
    assert rough_tokens("incomprehensibly") == 3
    assert rough_tokens("a_b") == 3


# Journal -------------------------------------------------------------------------------------------------------------


def test_nothing_in_the_journal_is_asked_for_again(tmp_path: Path) -> None:
    tasks, journal = [task(number) for number in range(20)], tmp_path / "journal"
    first = Scripted()
    whole = rewrite(tasks, first, VERIFIER, journal=journal)
    again = Scripted()
    assert rewrite(tasks[::-1], again, VERIFIER, journal=journal).kept == whole.kept[::-1]
    assert again.asked == []
    # Limit and verifier are applied afterwards; another problem, trace, answer or rewriter is another draft.
    assert rewrite(tasks, again, Numeric(tolerance=0.1), journal=journal, tokens=2).report()["drafts made now"] == 0
    for other in (task(0, trace="Zero.\n#### 0"), evolve(task(0), prompt="?"), task(0, answer="0.0")):
        rewrite([other], again, VERIFIER, journal=journal)
    rewrite(tasks[:1], Scripted(identity=("other",), asked=again.asked), VERIFIER, journal=journal)
    assert again.asked == ["t/0"] * 4
    assert rewrite(tasks, Scripted(), VERIFIER, journal=journal).report()["drafts from the journal"] == 20


def test_rows_that_are_the_same_are_asked_for_once() -> None:
    who = Scripted()
    result = rewrite([task(1), evolve(task(1), key="other"), task(2)], who, VERIFIER)
    assert sorted(who.asked) in (["t/1", "t/2"], ["other", "t/2"])
    assert [row.task.key for row in result.kept] == ["t/1", "other", "t/2"]


def test_a_journal_that_ends_anywhere_is_mended(tmp_path: Path) -> None:
    tasks, journal = [task(number) for number in range(3)], tmp_path / "journal"
    whole = rewrite(tasks, Scripted(), VERIFIER, journal=journal, concurrency=1)
    content = journal.read_bytes()
    ends = [0, *(index + 1 for index, byte in enumerate(content) if byte == 10)]
    assert len(ends) == 4
    around = {end + shift for end in ends for shift in (-2, -1, 0, 1)} | {*range(0, len(content), 17)}
    for length in sorted(around & {*range(len(content) + 1)}):
        journal.write_bytes(content[:length])
        who = Scripted()
        assert rewrite(tasks, who, VERIFIER, journal=journal, concurrency=1).kept == whole.kept
        # A line is there from its last character on, with or without its end.
        assert len(who.asked) == 3 - sum(length >= end - 1 for end in ends[1:]), length
        assert journal.read_bytes() == content


def test_a_broken_line_inside_a_journal_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for line in ("nonsense", '{"text": "x"}', "[]", '{"id": "a", "words": 1}'):
        journal.write_text(f'{line}\n{{"id": "b", "text": ""}}\n')
        with pytest.raises(ValueError, match=r"journal:1: not a draft .*delete the line"):
            Journal(journal)


def test_two_runs_do_not_share_a_journal(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal"), pytest.raises(ValueError, match="being written by another run"):
        Journal(tmp_path / "journal")
    Journal(tmp_path / "journal").__exit__()


# A server ------------------------------------------------------------------------------------------------------------


def server(url: str, **options: object) -> Server:
    return Server(**{"url": url, "model": "m", "retries": 3, **options})  # type: ignore[arg-type]


def test_requests_run_side_by_side_and_are_counted() -> None:
    tasks = [task(number) for number in range(12)]
    with ChatServer(seconds=0.1) as chat:
        result = rewrite(tasks, server(chat.url), VERIFIER, concurrency=4)
    assert len(chat.asked) == len(set(chat.asked)) == 12
    assert 2 <= chat.most_at_a_time <= 4
    assert [row.text for row in result.kept] == [concise(f"#### {number}") for number in range(12)]
    assert result.report()["prompt tokens paid"] == 1200
    assert all(
        each.prompt in asked
        for each, asked in zip(tasks, sorted(chat.asked, key=lambda text: int(text.split()[-1])), strict=True)
    )


def test_a_busy_server_is_asked_again() -> None:
    statuses = {1: 429, 2: 503, 3: 500}

    def busy(asked: str, number: int) -> Reply:
        return completion(concise(asked)) if number == 4 else (statuses[number], {"error": {"message": "busy"}})

    with ChatServer(busy) as chat:
        result = rewrite([task(1)], server(chat.url), VERIFIER)
        assert len(chat.asked) == 4
        assert [row.reason for row in result.rows] == [""]
        result = rewrite([task(2)], server(chat.url, retries=1), VERIFIER)
    (row,) = result.rows
    assert row.reason == "no answer"
    assert "503" in row.said
    assert "busy" in row.said


def test_a_row_that_is_refused_is_dropped_and_the_others_go_on() -> None:
    def refuses_one(asked: str, number: int) -> Reply:
        return (400, {"error": {"message": "too long"}}) if "#### 1\n" in f"{asked}\n" else completion(concise(asked))

    with ChatServer(refuses_one) as chat:
        result = rewrite([task(0), task(1), task(2)], server(chat.url), VERIFIER)
    assert [row.reason for row in result.rows] == ["", "no answer", ""]
    assert "too long" in result.rows[1].said


def test_what_concerns_every_row_ends_the_run(tmp_path: Path) -> None:
    said = r"401.*Is the model 'm' right, and the key in OPENAI_API_KEY\?"
    refusal: Reply = (401, {"error": {"message": "no key"}})
    with ChatServer(lambda asked, number: refusal) as chat, pytest.raises(UnusableError, match=said):
        rewrite([task(1), task(2)], server(chat.url), VERIFIER, journal=tmp_path / "journal")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FailedError, match="rows in a row were not answered"):
        rewrite([task(number) for number in range(30)], server(f"http://localhost:{port}/v1", retries=0), VERIFIER)


def test_an_answer_that_was_cut_off_or_thought_aloud() -> None:
    def reply(asked: str, number: int) -> Reply:
        if "How many is 1?" in asked:
            return completion("Counting gives", finish_reason="length")
        return completion(f"<think>Hm, #### 7?</think>\n\n{concise(asked)}")

    with ChatServer(reply) as chat:
        result = rewrite([task(1), task(2)], server(chat.url), VERIFIER)
    assert [row.reason for row in result.rows] == ["cut off", ""]
    assert result.rows[1].text == concise("#### 2")


def test_a_request_holds_the_problem_whatever_is_in_it() -> None:
    strange = Task(key="a", prompt="{trace} {0} %s", answer="1", trace="\\frac{1}{2} {prompt} \\boxed{1}")
    asked = request(INSTRUCTION, strange)
    assert "{trace} {0} %s" in asked
    assert "\\frac{1}{2} {prompt} \\boxed{1}" in asked
    assert "(\\boxed{...})" in asked
    with pytest.raises(ValueError, match="does not hold"):
        server("http://x", instruction="Shorter!")


def test_the_draft_depends_on_what_is_asked_not_on_where() -> None:
    one = server("http://one/v1")
    assert content_hash(task(1), one) == content_hash(
        task(1), server("http://two/v1", retries=0, timeout=1.0, key_variable="K")
    )
    for other in ({"model": "n"}, {"temperature": 0.5}, {"tokens": 9}, {"instruction": "{trace}"}):
        assert content_hash(task(1), one) != content_hash(task(1), server("http://one/v1", **other))
    assert content_hash(task(1), one) != content_hash(task(1), Rules())


def test_a_journal_entry_is_one_line_of_plain_json(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.add("a", Draft(text="two\nlines é \x00", completion_tokens=3))
    (line,) = (tmp_path / "journal").read_text().splitlines()
    assert json.loads(line) == {
        "id": "a", "text": "two\nlines é \x00", "prompt_tokens": 0, "completion_tokens": 3, "cut_off": False,
    }  # fmt: skip
