"""`igpo data rewrite` as it is used: against a server that counts, killed in the middle, and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chat_server import ChatServer, concise

from igpo_cli.main import run

IGPO = Path(sys.executable).with_name("igpo")


def problems(folder: Path, rows: int) -> Path:
    """Problems with long traces."""
    file = folder / "long.jsonl"
    lines = [
        {"prompt": f"How many is {row}?", "answer": str(row), "trace": f"Wait, let me see.\n\nIt is {row}.\n#### {row}"}
        for row in range(rows)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def words(source: Path, out: Path, *more: str) -> list[str]:
    task = ["--task", "jsonl", "--task.path", str(source), "--task.trace", "trace", "--verifier", "numeric"]
    return ["data", "rewrite", *task, "--out", str(out), *more]


def test_rules_need_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = problems(tmp_path, 5), tmp_path / "new" / "short.jsonl"
    assert run(words(source, out)) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["trace"] for row in rows] == [f"It is {row}.\n#### {row}" for row in range(5)]
    assert [row["answer"] for row in rows] == list("01234")
    said = capsys.readouterr().out
    assert "kept" in said
    assert "--task.trace trace" in said
    # What is there is not written over unasked.
    assert run(words(source, out)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(words(source, out, "--overwrite", "--limit", "2", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    assert len(out.read_text().splitlines()) == 2
    report = json.loads(out.with_name("short.jsonl.report.json").read_text())
    assert (report["tasks"], report["dropped"]) == (2, {})


def test_no_torch_is_needed(tmp_path: Path) -> None:
    words_ = words(problems(tmp_path, 2), tmp_path / "short.jsonl")
    code = (
        f"import sys\nfrom igpo_cli.main import run\nassert run({words_!r}) == 0\nassert 'torch._C' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_report_says_what_it_cost_and_why_rows_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = problems(tmp_path, 6), tmp_path / "short.jsonl"
    prices = ["--price-in", "10", "--price-out", "1000", "--tokens", "11", "--json"]
    with ChatServer() as chat:
        assert run(words(source, out, "--rewriter", "server", "--url", chat.url, "--writer", "m", *prices)) == 0
        report = json.loads(capsys.readouterr().out)
        assert len(chat.asked) == 6
        assert (report["kept"], report["prompt tokens paid"], report["completion tokens paid"]) == (6, 600, 60)
        assert report["cost"] == pytest.approx((600 * 10 + 60 * 1000) / 1e6)
        out.unlink()
        assert run(words(source, out, "--rewriter", "server", "--url", chat.url, "--writer", "m", "--tokens", "5")) == 0
        assert len(chat.asked) == 12  # another token limit of the answer is another request
    assert "too long 6" in capsys.readouterr().out


def test_the_tokens_of_a_checkpoint_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from igpo_sampling.models.tokenizers import utf8

    utf8().save_pretrained(tmp_path / "model")
    source, out = problems(tmp_path, 12), tmp_path / "short.jsonl"
    assert run(words(source, out, "--tokenizer", str(tmp_path / "model"), "--tokens", "16", "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["longest after"] == len("It is 9.\n#### 9")
    assert report["dropped"] == {"too long": 2}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--rewriter", "server"], "needs --writer"),
        (["--rewriter", "nobody"], "nobody"),
        (["--task.trace", "none"], "no trace"),
    ],
)
def test_wrong_options(more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(words(problems(tmp_path, 1), tmp_path / "short.jsonl", *more))
    said = capsys.readouterr()
    assert message in said.err + said.out
    assert code == (0 if message == "no trace" else 2)


def test_a_server_that_is_gone_ends_the_run_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer() as chat:
        url = chat.url
    source, out = problems(tmp_path, 20), tmp_path / "short.jsonl"
    assert run(words(source, out, "--rewriter", "server", "--url", url, "--writer", "m", "--retries", "0")) == 1
    assert "goes on from there" in capsys.readouterr().err
    assert not out.exists()


SCRIPT = """
import sys
from pathlib import Path
from igpo_data import Jsonl, Numeric
from igpo_data.rewrite import rewrite, write_rows
from igpo_data.rewriters import Server
source, out, url = sys.argv[1:]
tasks = Jsonl(path=source, trace="trace")("train")
server = Server(url=url, model="m")
write_rows(Path(out), rewrite(tasks, server, Numeric(), journal=Path(out + ".journal"), concurrency=4))
"""


def by_library(source: Path, out: Path, url: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT, str(source), str(out), url]


def by_command(source: Path, out: Path, url: str) -> list[str]:
    more = ["--rewriter", "server", "--writer", "m", "--concurrency", "4", "--overwrite", "--url", url]
    return [str(IGPO), *words(source, out, *more)]


def killed_again_and_again(
    tmp_path: Path, command: Callable[[Path, Path, str], list[str]], rows: int, kills: int, seed: int
) -> None:
    """Kills a run `kills` times, after random numbers of requests, and compares it with one that was left alone."""
    source, whole, out = problems(tmp_path, rows), tmp_path / "whole.jsonl", tmp_path / "short.jsonl"
    journal = out.with_name("short.jsonl.journal")
    with ChatServer() as chat:
        subprocess.run(command(source, whole, chat.url), check=True, capture_output=True)
        assert len(chat.asked) == rows
    chance = random.Random(seed)
    finished: set[str] = set()
    with ChatServer(seconds=0.02) as chat:
        for killed in range(kills + 1):
            asked_before = len(chat.asked)
            process = subprocess.Popen(
                command(source, out, chat.url),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            if killed < kills:
                # Not so late that nothing is left for the kills to come.
                most = 2 * (rows - len(finished)) // (kills - killed + 1)
                wanted = asked_before + chance.randint(1, max(1, most))
                while len(chat.asked) < wanted and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0.0, 0.05))
                assert process.poll() is None, "it ended before it was killed"
                os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == (-signal.SIGKILL if killed < kills else 0)
            again = {concise(asked) for asked in chat.asked[asked_before:]} & finished
            assert again == set(), "asked again for what was in the journal"
            finished = {json.loads(line)["text"] for line in journal.read_bytes().split(b"\n")[:-1]}
        assert rows <= len(chat.asked) <= rows + 4 * kills  # those that were on their way at a kill
    assert out.read_bytes() == whole.read_bytes()
    assert len(out.read_bytes().splitlines()) == rows


def test_a_run_that_is_killed_goes_on_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, by_library, rows=60, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_command_that_is_killed_twenty_times(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, by_command, rows=1000, kills=20, seed=1)
