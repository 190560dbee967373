"""Masked-diffusion supervised fine-tuning (LLaDA, arXiv 2502.09992, section 2.3).

The same log-prob kernel as in RL. Masks come from counter-based uniforms, so they do not depend on how a batch is split
into micro-batches or over ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, fields, frozen, validators

from igpo_rl import later
from igpo_rl.records import Denoiser, Loss, View
from igpo_rl.scores import token_scores
from igpo_rl.seeds import derive, permutation_stream, uniforms

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

LEAST_MASKED = 1e-3
"""epsilon in p = (1 - epsilon) t + epsilon."""
GROUPED = 50
"""Batches among which examples of like length are looked for: enough to be alike, few enough to be mixed."""


@frozen(kw_only=True)
class SFT:
    """Supervised fine-tuning before RL."""

    steps: int = field(default=0, validator=validators.ge(0))
    """Optimiser steps; 0 leaves the phase out."""
    batch: int = field(default=64, validator=validators.ge(1))
    """Examples of each step, over all ranks."""
    score_rows: int = field(default=64, validator=validators.ge(1))
    """Examples scored at a time; changes memory and speed, not results."""
    group_lengths: bool = False
    """Put examples of like length into a batch: less padding. Each is still learned once an epoch."""
    fill: Literal["width", "longest"] = field(default="width", validator=validators.in_(("width", "longest")))
    """EOS behind a completion: up to the run's width, or as LLaDA's own SFT to the longest of the batch."""


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
        cls,
        prompts: Sequence[Tensor],
        targets: Sequence[Tensor],
        width: int,
        *,
        eos_id: int,
        pad_id: int,
        attend_eos: bool = True,
    ) -> Examples:
        """Left-pads prompts (P_i,) to the longest; fills targets (H_i,) up to `width` with learned EOS.

        Without `attend_eos` only the first EOS of a row is learned, and what stands behind it is not attended.
        """
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
        lengths = torch.tensor([len(solution) for solution in targets], dtype=torch.long)
        own = torch.arange(width) <= lengths[:, None]
        return cls(
            prompt=prompt,
            prompt_valid=prompt_valid,
            target=target,
            target_valid=torch.ones_like(own) if attend_eos else own,
            attention=None if attend_eos else own,
        )


def grouped_stream(lengths: Sequence[int], batch: int, *seed: int | str, start: int = 0) -> Iterator[int]:
    """Endless indices, each once an epoch, so that each `batch` in a row are of like length; `start` indices are skipped.

    An epoch is shuffled, sorted by length within every fifty batches, cut into batches, and these are shuffled. A batch
    that the epoch before left unfinished is finished first.
    """
    epoch, skip = divmod(start, len(lengths))
    while True:
        rng = Random(derive(*seed, "epoch", epoch))
        order = list(range(len(lengths)))
        rng.shuffle(order)
        many = GROUPED * batch
        order = [
            index
            for at in range(0, len(order), many)
            for index in sorted(order[at : at + many], key=lengths.__getitem__)
        ]
        head = min(-epoch * len(order) % batch, len(order))
        tail = (len(order) - head) % batch
        place = (
            rng.randrange(len(order) - head - tail + 1) // batch * batch + head
        )  # anywhere: the shortest are no rest
        first, rest = order[:head], order[place : place + tail]
        middle = order[head:place] + order[place + tail :]
        batches = [middle[at : at + batch] for at in range(0, len(middle), batch)]
        rng.shuffle(batches)
        yield from [*first, *chain.from_iterable(batches), *rest][skip:]
        epoch, skip = epoch + 1, 0


def example_batches(
    options: SFT,
    pairs: Sequence[tuple[Tensor, Tensor]],
    width: int,
    *seed: int | str,
    eos_id: int,
    pad_id: int,
    attend_eos: bool = True,
    start: int = 0,
) -> Iterator[Examples]:
    """The global batches of (prompt (P_i,), completion (H_i,)) pairs from step `start` on, endlessly."""
    skip = start * options.batch
    if options.group_lengths:
        order = grouped_stream([len(q) + len(o) for q, o in pairs], options.batch, *seed, start=skip)
    else:
        order = permutation_stream(len(pairs), *seed, start=skip)
    while True:
        prompts, targets = zip(*(pairs[index] for index in islice(order, options.batch)), strict=True)
        wide = width if options.fill == "width" else min(width, 1 + max(map(len, targets)))
        yield Examples.of(prompts, targets, wide, eos_id=eos_id, pad_id=pad_id, attend_eos=attend_eos)


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
