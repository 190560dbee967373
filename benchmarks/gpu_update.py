"""Scoring and an update of LLaDA-8B's shape with LoRA on a GPU: one group of 8, prompt 256, completion 256, bfloat16.

Beside the published way of the table on scoring, with the same model, adapters of rank 16 on all linear layers but the
head, and the same AdamW. Weights are random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import asdict, evolve
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks import scoring
from benchmarks.device import LLADA_8B, at_hand, network, peak_mb, timed
from benchmarks.harness import Row
from igpo_rl.records import Rollouts
from igpo_rl.scores import token_scores
from igpo_sampling.models.llada_network import LLaDAConfig

NAME = "Scoring and an update on a GPU"


def group(vocabulary: int, many: int, width: int, device: str) -> Rollouts:
    """Completions of one prompt, there."""
    made = scoring.group(vocabulary, many, width, prompt=width)
    fields = asdict(made, recurse=False)
    return evolve(made, **{name: field.to(device) for name, field in fields.items() if isinstance(field, Tensor)})


def rows(device: str, config: LLaDAConfig, many: int = 8, width: int = 256, rank: int = 16) -> list[Row]:
    plain = network(config, device)
    layers = [name for name, part in plain.named_modules() if isinstance(part, nn.Linear)]
    layers.remove("model.transformer.ff_out")
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        model: Any = get_peft_model(plain, LoraConfig(r=rank, target_modules=layers))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.0)
    rollouts, mask_id = group(config.vocab_size, many, width, device), config.vocab_size - 1
    view = scoring.plan(rollouts, mask_id)

    def ours() -> Tensor:
        return token_scores(model, view, rollouts.completion, entropy=True).logp

    def published() -> Tensor:
        return scoring.published(model, rollouts, mask_id)[0]

    def update(logp: Callable[[], Tensor]) -> None:
        logp().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def row(case: str, *sides: Callable[[], object]) -> Row:
        peaks, times = zip(*((peak_mb(side, device), timed(side, device)) for side in sides), strict=True)
        ratio = times[1] / times[0]
        return Row(
            case=case,
            ours_s=times[0],
            baseline_s=times[1],
            ratio=ratio,
            ours_mb=peaks[0],
            baseline_mb=peaks[1],
            note="",
        )

    return [
        row("log-probs and entropies", torch.no_grad()(ours), torch.no_grad()(published)),
        row("and an update of the adapters", lambda: update(ours), lambda: update(published)),
    ]


def run(quick: bool) -> list[Row]:
    device = at_hand()
    config = LLaDAConfig(d_model=256, n_layers=2, n_heads=4, mlp_hidden_size=768) if quick else LLADA_8B
    return rows(device, config)
