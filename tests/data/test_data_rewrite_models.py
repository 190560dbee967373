"""Rewriting by real language models: a tiny one that has learnt one answer, from its directory and behind `transformers serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from igpo_data import Numeric, Task
from igpo_data.rewrite import Result, rewrite
from igpo_data.rewriters import INSTRUCTION, Local, Server, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WIDTH = 20
LEARNT = "\\boxed{7}"


def task(number: int) -> Task:
    trace = f"Let us count to {number}, one after the other.\n\\boxed{{{number}}}"
    return Task(key=f"t/{number}", prompt="How many?", answer=str(number), trace=trace)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model of 20,000 weights that goes on from any request with LEARNT and an end."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from igpo_sampling.models.tokenizers import utf8

    folder = tmp_path_factory.mktemp("model")
    tokenizer = utf8()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %} "
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        network = transformers.LlamaForCausalLM(config)
        asked = [tokenizer(request(INSTRUCTION, task(number)) + " ")["input_ids"] for number in (7, 8)]
        told = [*tokenizer(LEARNT)["input_ids"], tokenizer.eos_token_id]
        rows = torch.tensor([ids + told for ids in asked])
        labels = rows.clone()
        labels[:, : -len(told)] = -100
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        loss = torch.tensor(1.0)
        for _ in range(1000):
            optimizer.zero_grad()
            loss = network(rows, labels=labels).loss
            if loss < 0.01:
                break
            loss.backward()
            optimizer.step()
        assert loss < 0.01
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """`transformers serve` with the model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [Path(sys.executable).with_name("transformers"), "serve", "--port", port, "--device", "cpu", model]
    log = model.with_name("serve.log")
    with log.open("wb") as said:
        server = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        try:
            end = time.monotonic() + 300
            while True:
                try:
                    socket.create_connection(("localhost", int(port)), 1).close()
                    break
                except OSError:
                    assert server.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.2)
            yield f"http://localhost:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def check(result: Result, drafts: int) -> None:
    """The one row whose answer the model knows is kept, the other is dropped; tokens are those of the byte tokenizer."""
    assert [row.reason for row in result.rows] == ["", "answer lost"]
    assert result.rows[0].text == LEARNT
    assert result.asked == drafts
    report = result.report()
    assert report["completion tokens paid"] in (2 * len(LEARNT), 2 * len(LEARNT) + 2)  # with or without its end
    lengths = [len(request(INSTRUCTION, each).encode()) + 1 for each in (task(7), task(8))]
    assert report["prompt tokens paid"] == sum(lengths)


def test_a_model_behind_transformers_serve(url: str, model: Path, tmp_path: Path) -> None:
    server = Server(url=url, model=str(model), tokens=WIDTH, retries=2)
    for drafts in (2, 0):
        check(rewrite([task(7), task(8)], server, Numeric(), journal=tmp_path / "journal", concurrency=2), drafts)
    short = Server(url=url, model=str(model), tokens=3, retries=2)
    assert [row.reason for row in rewrite([task(7)], short, Numeric()).rows] == ["cut off"]


def test_a_model_from_its_directory(model: Path) -> None:
    check(rewrite([task(7), task(8)], Local(path=str(model), tokens=WIDTH), Numeric(), concurrency=2), 2)
    assert [row.reason for row in rewrite([task(7)], Local(path=str(model), tokens=3), Numeric()).rows] == ["cut off"]
