"""Rollouts of LLaDA-8B's shape on a GPU: random bfloat16 weights, 8 rows, prompt 200, completion 256, block 32, 128 steps.

Counted are the operations of the matrix products that were made: two a multiplication, of the layers' weights at the
computed columns, of attention, and of the head at the positions that were read. Their share is the time that these
would take at the rate of a large square product, measured here, over the time that was taken. Steps are single exact
forwards over 768 columns that read 32 positions a row, with sampling.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.counted import Counted
from benchmarks.harness import Row, SkippedError
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

NAME = "Rollout on a GPU"
ROWS, PROMPT, WIDTH, BLOCK, STEPS = 8, 200, 256, 32, 128


def network(config: LLaDAConfig, device: str, dtype: torch.dtype) -> LLaDAForDiffusion:
    """Random weights, made where they are used."""
    with torch.device("meta"):
        model = LLaDAForDiffusion(config).to(dtype)
    model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0) if weight.ndim == 1 else weight.normal_(0.0, 0.02, generator=generator)
    return model.eval()


def canvas(vocabulary: int, rows: int, prompt: int, width: int, device: str) -> Canvas:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(vocabulary - 1, (rows, prompt), generator=generator)
    return Canvas.blank(list(prompts), width, mask_id=vocabulary - 1, pad_id=0).to(device)


def rollout(model: LLaDAForDiffusion, blank: Canvas, sampler: LLaDASampler) -> int:
    """One rollout; the operations that it took."""
    counted = Counted(model)
    seeds = torch.arange(len(blank), device=blank.tokens.device)
    sampler(counted, blank, seeds, mask_id=model.config.vocab_size - 1, eos_id=0)
    return counted.flops


def synchronised(function: Callable[[], int], repeats: int = 3) -> tuple[float, int]:
    """Median seconds after a first run, and what the function returns."""
    result, times = function(), []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def matrix_rate(size: int = 8192) -> float:
    """Operations a second of a square bfloat16 product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products() -> int:
        for _ in range(10):
            a @ b
        return 10 * 2 * size**3

    spent, flops = synchronised(products)
    return flops / spent


def run(quick: bool) -> list[Row]:
    if not torch.cuda.is_available():
        raise SkippedError("no GPU at hand; nothing was measured and nothing is written")
    config = (
        LLaDAConfig(d_model=256, n_layers=2, n_heads=4, mlp_hidden_size=768)
        if quick
        else LLaDAConfig(mlp_hidden_size=12288)
    )
    model, rate = network(config, "cuda", torch.bfloat16), matrix_rate()
    rows: list[Row] = []

    def measure(case: str, blank: Canvas, sampler: LLaDASampler) -> None:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        spent, flops = synchronised(lambda: rollout(model, blank, sampler))
        peak = (torch.cuda.max_memory_allocated() - held) / 2**20
        tokens = int(blank.blanks.sum())
        note = f"{tokens / spent:,.0f} tokens a second; {flops / spent / rate:.0%} of the measured {rate / 1e12:.0f} TFLOP/s"
        rows.append(
            Row(case=case, ours_s=spent, baseline_s=None, ratio=None, ours_mb=peak, baseline_mb=None, note=note)
        )

    blank = canvas(config.vocab_size, ROWS, PROMPT, WIDTH, "cuda")
    for temperature in (0.0, 1.2):
        for cache in ("none", "dual"):
            sampler = LLaDASampler(steps=STEPS, block=BLOCK, temperature=temperature, cache=cache)
            measure(f"rollout, T {temperature:g}, cache {cache}", blank, sampler)
    for many in (8, 32):
        sampler = LLaDASampler(steps=1, block=BLOCK, temperature=1.2)
        measure(f"a step, T 1.2, batch {many}", canvas(config.vocab_size, many, 768 - BLOCK, BLOCK, "cuda"), sampler)
    return rows
