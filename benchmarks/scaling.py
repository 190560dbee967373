"""How time and memory grow with sizes and processes, and what it costs to begin.

Of a series the first row is measured alone; for every further one the baseline is the first row in proportion to the
number that has grown, so "1.0x" is strictly linear growth and more is better. Rollouts take 8 steps and read 64 tokens of
prompt as well, so they grow more slowly than L. Scoring is one group, mean-field, whose rows share one forward; its
memory is the peak of forward and backward beyond weights and gradients that are there already: of it, what grows with V
is a chunk's part of the head's gradient, and what grows with L are the body's activations. Steps with more or fewer
stuck groups are those of the table on whole steps. `igpo train` runs the tiny preset; its notes are medians that the run
itself wrote, where sampling and verifying are parts of rollout and inpainting. Two processes, a thread each, stand beside
one where there are two cores. Imports and commands are processor time, the first step is wall time from the command on.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks import rollout, scoring, step
from benchmarks.harness import Row, measured, peak_mb, row, seconds
from igpo_rl.scores import token_scores
from igpo_sampling import LLaDASampler

NAME = "Scaling"
PACKAGES = ("igpo_sampling", "igpo_rl", "igpo_data", "igpo_cli")


def series(
    name: str, what: str, sizes: Sequence[int], made: Callable[[int], Callable[[], object]], repeats: int
) -> Iterator[Row]:
    """One size after the other, beside the first one in proportion."""
    first: tuple[float, float | None] | None = None
    for size in sizes:
        function = made(size)
        taken, memory = seconds(function, repeats), peak_mb(function)
        found = measured(f"{name}, {what} {size:,}", taken, memory)
        if first is None:
            first = taken, memory
        else:
            grown = size / sizes[0]
            found["baseline_s"] = first[0] * grown
            found["ratio"] = first[0] * grown / taken
            found["baseline_mb"] = None if first[1] is None else first[1] * grown
        yield found


def sampled(vocabulary: int, rows: int, width: int, body: tuple[int, int]) -> Callable[[], object]:
    model = rollout.network(vocabulary, *body)
    canvas = rollout.canvas(vocabulary, rows, width=width)
    sampler = LLaDASampler(steps=8, block=rollout.BLOCK, temperature=1.2)

    @torch.no_grad()
    def run() -> object:
        return sampler(model, canvas, torch.arange(rows), mask_id=vocabulary - 1, eos_id=0)

    return run


def scored(vocabulary: int, rows: int, width: int, body: tuple[int, int]) -> Callable[[], None]:
    """Forward and backward."""
    model = scoring.Body(vocabulary, *body).eval()
    rollouts = scoring.group(vocabulary, rows, width)
    view = scoring.plan(rollouts, vocabulary - 1)

    def run() -> None:
        model.zero_grad(set_to_none=False)
        token_scores(model, view, rollouts.completion, entropy=True).logp.sum().backward()

    return run


def sizes(quick: bool) -> Iterator[Row]:
    V, body, repeats = (1_000, (64, 2), 1) if quick else (32_000, (256, 4), 2)
    grow = [1, 2] if quick else [1, 2, 4]
    long, large = 128 * grow[-1], V * grow[-1]
    by = {"rows": 4, "G": 4, "L": 128, "V": V}
    of = {name: [first * times for times in grow] for name, first in by.items()}
    yield from series("rollout", "rows", of["rows"], lambda rows: sampled(V, rows, 128, body), repeats)
    yield from series("rollout of 8 rows", "L", [L // 2 for L in of["L"]], lambda L: sampled(V, 8, L, body), repeats)
    yield from series("rollout of 8 rows", "V", of["V"], lambda V: sampled(V, 8, 128, body), repeats)
    yield from series("scoring", "G", of["G"], lambda G: scored(V, G, 128, body), repeats)
    yield from series(
        f"scoring of 8 rows, V {large:,}", "L", [2 * L for L in of["L"]], lambda L: scored(large, 8, L, body), repeats
    )
    yield from series(f"scoring of 8 rows, L {long}", "V", of["V"], lambda V: scored(V, 8, long, body), repeats)


def stuck(quick: bool) -> Iterator[Row]:
    """Our IGPO step by the share of its groups that are stuck."""
    V, body, prompts = (1_000, (64, 2), 2) if quick else (32_000, (256, 4), 4)
    model = rollout.network(V, *body)
    for share in (0.0, 0.5, 1.0):
        problems = step.tasks(prompts, V, stuck=share)
        step.ours(model, problems, 8)
        spent = step.ours(model, problems, 8)
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in spent.items())
        yield measured(f"a step, {share:.0%} of {prompts} groups stuck", sum(spent.values()), note=parts)


# Whole commands -------------------------------------------------------------------------------------------------------


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "igpo_cli", *words]


def training(folder: Path, processes: int, *more: str) -> list[float]:
    """RL alone on the tiny preset: seconds from the command to the ends of its steps."""
    small = ["--eval.heldout.limit", "8", "--eval.common.limit", "8", "--trackers", "", "--device", "cpu", *more]
    name = ["--folder", str(folder.parent), "--name", folder.name, "--processes", str(processes)]
    words, file, ends = command("train", *name, "--sft.steps", "0", *small), folder / "metrics.jsonl", list[float]()
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as running:
        while running.poll() is None:
            rows = file.read_text().splitlines() if file.exists() else []
            done = sum("policy/loss" in row for row in rows)
            ends += [time.perf_counter() - began] * (done - len(ends))
            time.sleep(0.02)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, words)
    return ends


def processor(words: Sequence[str]) -> float:
    """Processor seconds of a command."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    return spent() - before


def beginnings(repeats: int) -> Iterator[Row]:
    every = {f"import {package}": [sys.executable, "-c", f"import {package}"] for package in PACKAGES}
    every |= {f"igpo {word}": command(word) for word in ("--help", "plugins")}
    for case, words in every.items():
        processor(words)
        yield measured(case, statistics.median(processor(words) for _ in range(repeats)))


def phases(folder: Path) -> str:
    """What the run itself says of its steps: medians."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("rollout", "inpaint", "sample", "verify", "learn")
    spent = {name: [step[f"time/{name}"] for step in steps if f"time/{name}" in step] for name in names}
    return ", ".join(f"{name} {statistics.median(times):.3f} s" for name, times in spent.items() if times)


def processes(quick: bool) -> Iterator[Row]:
    most = min(2, os.cpu_count() or 1)
    less = ("--prompts", "2", "--group", "4", "--sampler.steps", "5", "--steps", "3")
    with tempfile.TemporaryDirectory() as parent:
        folders = [Path(parent) / f"of-{count}" for count in range(1, most + 1)]
        ends = [
            training(folder, count, *(less if quick else ("--steps", "7"))) for count, folder in enumerate(folders, 1)
        ]
        notes = list(map(phases, folders))
    yield measured("the first step of igpo train", ends[0][0], note="with the evaluation before it")
    one, *more = (statistics.median(after - before for before, after in pairwise(each)) for each in ends)
    yield measured("a step of igpo train", one, note=notes[0])
    for two in more:
        yield row("a step, 2 processes beside 1", [(two, one)], note=f"one thread a process; {notes[1]}")


def run(quick: bool) -> list[Row]:
    return [*beginnings(1 if quick else 5), *processes(quick), *stuck(quick), *sizes(quick)]
