"""Rollouts of LLaDA-8B's shape on a GPU: random bfloat16 weights, 8 rows, prompt 200, completion 256, block 32, 128 steps.

The published loop reads all positions in every forward; what our exact sampler gains over it, and the caches over that.
The roofline is the least time in which the device could do what was counted: the operations of the matrix products that
were made at the rate of a large one, or the weights and logits that were moved at the rate of a large copy, both measured
here. Random weights commit as many tokens a step as trained ones do.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks import rollout
from benchmarks.counted import Counted
from benchmarks.device import LLADA_8B, Rates, at_hand, canvas, network, peak_mb, timed
from benchmarks.harness import Row
from igpo_sampling import Canvas, LLaDASampler
from igpo_sampling.models.llada_network import LLaDAConfig, LLaDAForDiffusion

NAME = "Rollout on a GPU"


def sample(model: LLaDAForDiffusion, blank: Canvas, sampler: LLaDASampler) -> Counted:
    """One rollout, counted."""
    counted = Counted(model)
    seeds = torch.arange(len(blank), device=blank.tokens.device)
    sampler(counted, blank, seeds, mask_id=model.config.vocab_size - 1, eos_id=0)
    return counted


def rows(
    device: str, config: LLaDAConfig, many: int = 8, prompt: int = 200, width: int = 256, steps: int = 128
) -> list[Row]:
    """Times are of one run each, after a short one; memory is that of the short one, a step a block."""
    model, rates, few = network(config, device), Rates.measured(device), width // rollout.BLOCK
    blank = canvas(config.vocab_size, many, prompt, width, device)

    def ours(temperature: float, cache: str, steps: int) -> Counted:
        sampler = LLaDASampler(steps=steps, block=rollout.BLOCK, temperature=temperature, cache=cache)
        return sample(model, blank, sampler)

    def row(temperature: float, cache: str, exact: Row | None) -> Row:
        published = partial(rollout.published, model, blank, steps, temperature, torch.float64)
        counted = ours(temperature, cache, steps)  # warms up too
        spent = timed(partial(ours, temperature, cache, steps), device, repeats=1, warm=False)
        if exact is None:
            case, memory = "our exact sampler beside the published loop", peak_mb(partial(published, last=0), device)
            baseline = timed(published, device, repeats=1, warm=False)
        else:
            case, memory, baseline = f"{cache} cache beside our exact sampler", exact["ours_mb"], exact["ours_s"]
        return Row(
            case=f"T {temperature:g}, {case}",
            ours_s=spent,
            baseline_s=baseline,
            ratio=None if baseline is None else baseline / spent,
            ours_mb=peak_mb(partial(ours, temperature, cache, few), device),
            baseline_mb=memory,
            note=f"{int(blank.blanks.sum()) / spent:,.0f} tokens a second; {rates.share(counted, spent)}",
        )

    found: list[Row] = []
    for temperature in (0.0, 1.2):
        exact = row(temperature, "none", None)
        found += [exact, *(row(temperature, cache, exact) for cache in ("prefix", "dual"))]
    return found


def run(quick: bool) -> list[Row]:
    device = at_hand()
    config = LLaDAConfig(d_model=256, n_layers=2, n_heads=4, mlp_hidden_size=768) if quick else LLADA_8B
    return rows(device, config)
