"""Masked-diffusion supervised fine-tuning (LLaDA, arXiv 2502.09992, section 2.3).

The same log-prob kernel as in RL. Masks come from counter-based uniforms, so they do not depend on how a batch is split
into micro-batches or over ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
from attrs import field, fields, frozen, validators

from igpo_rl.records import Denoiser, Loss, View
from igpo_rl.scores import token_scores
from igpo_rl.seeds import derive, uniforms

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

LEAST_MASKED = 1e-3
"""epsilon in p = (1 - epsilon) t + epsilon."""


@frozen(kw_only=True)
class SFT:
    """Supervised fine-tuning before RL."""

    steps: int = field(default=0, validator=validators.ge(0))
    """Optimiser steps; 0 leaves the phase out."""
    batch: int = field(default=64, validator=validators.ge(1))
    """Examples of each step, over all ranks."""
    score_rows: int = field(default=64, validator=validators.ge(1))
    """Examples scored at a time; changes memory and speed, not results."""


@frozen(eq=False, kw_only=True)
class Examples:
    """Prompts with the completions to learn."""

    prompt: Tensor
    """(B, P) long, left-padded."""
    prompt_valid: Tensor
    """(B, P) bool: True on prompt tokens, False on left padding."""
    target: Tensor
    """(B, L) long, with the EOS fill."""
    target_valid: Tensor
    """(B, L) bool: True where the completion is noised and learned, the EOS fill included."""
    attention: Tensor | None = None
    """(B, L) bool: completion positions that are attended; None means all."""

    def __len__(self) -> int:
        return len(self.target)

    def part(self, rows: slice, device: torch.device | None = None) -> Examples:
        """Some of the rows, on the device."""
        columns = {one.name: getattr(self, one.name) for one in fields(type(self))}
        chosen: dict[str, Any] = {
            name: column[rows].to(device) for name, column in columns.items() if column is not None
        }
        return Examples(**chosen)

    @classmethod
    def of(
        cls, prompts: Sequence[Tensor], targets: Sequence[Tensor], width: int, *, eos_id: int, pad_id: int
    ) -> Examples:
        """Left-pads prompts (P_i,) to the longest; fills targets (H_i,) up to `width` with learned EOS."""
        longest = max(len(prompt) for prompt in prompts)
        prompt = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
        prompt_valid = torch.zeros(len(prompts), longest, dtype=torch.bool)
        target = torch.full((len(prompts), width), eos_id, dtype=torch.long)
        for row, (question, solution) in enumerate(zip(prompts, targets, strict=True)):
            if len(solution) > width:
                raise ValueError(
                    f"a target has {len(solution)} tokens, the completion width = {width}; drop it, or widen it"
                )
            prompt[row, longest - len(question) :] = question
            prompt_valid[row, longest - len(question) :] = True
            target[row, : len(solution)] = solution
        return cls(
            prompt=prompt,
            prompt_valid=prompt_valid,
            target=target,
            target_valid=torch.ones_like(target, dtype=torch.bool),
        )


def noise(examples: Examples, places: Tensor, rows: int, *, seed: int, step: int, mask_id: int) -> View:
    """The noised examples and what to score in them. `places` (B,) long: where each stands among the `rows` of the global batch.

    t_i = (u + i / rows) mod 1 with one u a step, so that the levels of a batch are spread evenly; each token is masked
    with chance p = 0.001 + 0.999 t_i and weighs 1 / (p width). A row without masks contributes nothing.
    """
    device = examples.target.device
    offset = uniforms(torch.tensor([derive(seed, step, "sft level")], device=device), 1)[0]
    t = (offset + places.to(device) / rows) % 1.0
    p = ((1 - LEAST_MASKED) * t + LEAST_MASKED)[:, None]
    seeds = torch.tensor(
        [derive(seed, step, "sft mask", place) for place in places.tolist()], dtype=torch.long, device=device
    )
    masked = (uniforms(seeds, examples.target.shape[1]) < p) & examples.target_valid
    attention = torch.ones_like(examples.target_valid) if examples.attention is None else examples.attention
    width = examples.target_valid.sum(1, keepdim=True).clamp(min=1)
    return View(
        noised=torch.cat([examples.prompt, examples.target.masked_fill(masked, mask_id)], 1),
        attention=torch.cat([examples.prompt_valid, attention], 1),
        source=torch.arange(len(examples), device=device),
        row=torch.arange(len(examples), device=device),
        scored=masked,
        weight=1 / (p * width).expand_as(masked),
    )


def sft_loss(denoiser: Denoiser, view: View, target: Tensor, *, rows: int, masked: int) -> Loss:
    """Cross-entropy of the masked tokens / p, divided by the width, a mean over the `rows` of the global batch.

    `view` and `target` (B, L) may be any part of that batch, which has `masked` masked tokens: parts add up.
    """
    scores = token_scores(denoiser, view, target, hits=True)
    value = -(scores.logp * view.weight.to(scores.logp.dtype)).sum() / rows
    loss, hits = torch.stack([value.detach(), scores.hit.sum().to(value.dtype)]).tolist()
    return Loss(value, {"sft/loss": loss, "sft/accuracy": hits / max(1, masked)})
