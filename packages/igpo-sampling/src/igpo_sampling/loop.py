"""The one denoising loop.

A step reads the model at the blanks of each row's current block and nowhere else, proposes a token for each, and
commits the surest. A row's current block is that of its first blank, so rows advance on their own; a row without
blanks leaves the batch. Everything stays on the device: the host waits once a micro-batch, never once a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from attrs import frozen
from torch import Tensor

from igpo_sampling import noise
from igpo_sampling.canvas import Canvas
from igpo_sampling.commit import Confidence, Rule
from igpo_sampling.denoiser import Denoiser

POSITIONS = 128
"""Positions whose logits exist at a time: 65 MB in float32 for 126,464 tokens."""
CACHED = 2**21
"""Logits that are worked on at a time on a CPU: 8 MB stay in its cache, which makes softmaxes 2-3 times faster."""


@frozen(eq=False)
class Sample:
    """What a sampler returns; rows and columns are those of the canvas's completion."""

    completion: Tensor
    """(B, L) long."""
    order: Tensor
    """(B, L) long: the step at which a token was committed, -1 where given."""
    confidence: Tensor
    """(B, L) float32: the confidence with which it was committed, 1 where given."""
    forwards: Tensor
    """(B,) long: model forwards spent on the row."""


def denoise(
    denoiser: Denoiser,
    canvas: Canvas,
    seeds: Tensor,
    *,
    block: int,
    temperature: float,
    confidence: Confidence,
    rule: Rule,
    mask_id: int,
    eos_id: int | None,
    max_rows: int,
    watch: Callable[[int, Tensor], None] | None,
) -> Sample:
    """Fill every blank. With `eos_id`, a row stops when its block is all EOS and no hint follows."""
    B, T, L = len(canvas), canvas.tokens.shape[1], canvas.width
    P = T - L
    given = canvas.given[:, P:]
    if seeds.shape != (B,):
        raise ValueError(f"seeds are {tuple(seeds.shape)}, but the canvas has {B} rows. Give one seed a row.")
    if (given & (canvas.completion == mask_id)).any():
        raise ValueError(f"a hint holds the mask token, {mask_id}. Leave a cell blank (-1) to have it filled.")
    device = canvas.tokens.device
    seeds = seeds.to(device)
    number = torch.arange(L, device=device) // block
    tokens = torch.where(canvas.given, canvas.tokens, mask_id)
    completion, blank = tokens[:, P:], ~given  # completion is a view: what is written there, the model sees
    order = torch.full((B, L), -1, device=device)
    certainty = torch.ones((B, L), device=device)
    forwards = torch.zeros(B, dtype=torch.long, device=device)
    step = 0
    with torch.no_grad():
        while len(live := blank.any(1).nonzero()[:, 0]):
            for rows in torch.split(live, max_rows):
                current = number[blank[rows].int().argmax(1)][:, None]
                row, column = (blank[rows] & (number == current)).nonzero(as_tuple=True)
                u, v = (noise.uniform(seeds[rows[row]], step, column, stream) for stream in (0, 1))
                propose = _proposer(temperature, confidence, mask_id, u, v)
                proposed, sure = denoiser(tokens[rows], canvas.attention[rows], row * T + P + column, propose)
                ranking = torch.full((len(rows), L), -torch.inf, device=device)
                ranking[row, column] = sure
                kept = rule(ranking, rows, step)[row, column]
                cells = rows[row], column
                completion[cells] = torch.where(kept, proposed, mask_id)
                certainty[cells] = sure
                order[cells] = torch.where(kept, step, -1)
                blank[cells] = ~kept
                forwards[rows] += 1
                if eos_id is not None:
                    ended = ((completion[rows] == eos_id) | (number != current)).all(1)
                    hinted = (given[rows] & (number > current)).any(1)
                    rest = rows[ended & ~hinted]
                    completion[rest] = completion[rest].where(~blank[rest], eos_id)
                    order[rest] = order[rest].where(~blank[rest], step)
                    blank[rest] = False
            if watch is not None:
                watch(step, tokens.clone())
            step += 1
    if not certainty.isfinite().all():
        raise ValueError("the model's logits are not finite. Its weights may be damaged, or its dtype too narrow.")
    return Sample(completion.clone(), order, certainty, forwards)


def _proposer(
    temperature: float, confidence: Confidence, mask_id: int, u: Tensor, v: Tensor
) -> Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]]:
    """Reads hidden states (N, d) into proposed tokens (N,) and confidences (N,) float32, a few positions at a time."""

    def choose(logits: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        mask = logits[:, mask_id].clone()
        logits[:, mask_id] = -torch.inf  # never sampled ...
        tokens = logits.argmax(1) if temperature == 0 else noise.draw(logits, u, temperature)
        logits[:, mask_id] = mask  # ... but part of the softmax that confidences are taken from
        return tokens, confidence(logits, tokens, v).float()

    def propose(head: Callable[[Tensor], Tensor], hidden: Tensor) -> tuple[Tensor, Tensor]:
        found: list[tuple[Tensor, ...]] = []
        for states, *uniforms in _parts(POSITIONS, hidden, u, v):
            logits = head(states)
            rows = max(1, CACHED // logits.shape[1]) if logits.is_cpu else POSITIONS
            found += [choose(*few) for few in _parts(rows, logits, *uniforms)]
        tokens, sure = zip(*found, strict=True)
        return torch.cat(tokens), torch.cat(sure)

    return propose


def _parts(rows: int, *tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """The tensors side by side, so many rows at a time."""
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
