"""Random choices that depend on nothing but a row's seed, the step and the position.

A uniform number is a hash of its coordinates, so a row draws the same alone, in any batch, on any rank, and no
generator state exists. A token needs one such number (inverse CDF), not one per vocabulary entry.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
PART = 512
"""Tokens per part in `draw` and `largest`: about the square root of a large vocabulary."""
LIKELY = 1024
"""Tokens among which a nucleus is looked for first."""
TOKEN, CONFIDENCE, ORDER = 0, 1, 2
"""Streams of the denoising loop; any other number is free for a sampler's own."""


def uniform(seed: Tensor, step: Tensor | int, position: Tensor, stream: int = TOKEN) -> Tensor:
    """seed, step and position (N,) long -> (N,) float32 in [0, 1); streams are independent of each other.

    Nested splitmix64 (Steele et al. 2014, finaliser of Stafford): 24 bits of 64, on the device of the seeds.
    """
    word = _mix(seed + GOLDEN)
    for coordinate in (step, stream, position):
        word = _mix((word ^ coordinate) + GOLDEN)
    number: Tensor = _shift(word, 40).to(torch.float32) * 2.0**-24
    return number


def narrowed(logits: Tensor, temperature: float, top_p: float, top_k: int | None) -> Tensor:
    """logits (N, V) / temperature, -inf but for the `top_k` largest of the fewest that hold `top_p` of the probability.

    Nucleus sampling (1904.09751) first, as in Dream; of equal logits the lower token is kept.
    """
    scaled = logits / temperature
    total = scaled.logsumexp(1, keepdim=True)
    most = min(top_k or scaled.shape[1], scaled.shape[1])
    for limit in (min(LIKELY, most), most):  # sorting the whole vocabulary is dear, and seldom needed
        values = scaled.topk(limit, 1).values
        share = (values - total).exp()
        count = (
            (share.cumsum(1) - share < top_p).sum(1, keepdim=True).clamp(min=1)
        )  # what stands before holds too little
        if limit == most or not (count == limit).any():
            break
    least = values.gather(1, count - 1)
    above, equal = scaled > least, scaled == least
    kept = above | equal & (equal.cumsum(1) <= count - above.sum(1, keepdim=True))
    return scaled.where(kept, -torch.inf)


def draw(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """logits (N, V) float, u (N,) in [0, 1) -> (N,) long tokens by inverse CDF of the softmax; never one of logit -inf.

    In two levels, the sums of parts and then one part, so that only sums run over the whole vocabulary.
    """
    V = logits.shape[1]
    weight = (logits - logits.amax(1, keepdim=True)).div_(temperature).exp_()
    whole = V // PART * PART
    parts = weight[:, :whole].reshape(len(weight), V // PART, PART).sum(2)
    parts = torch.cat([parts, weight[:, whole:].sum(1, keepdim=True)], 1)
    edges = parts.cumsum(1)
    target = u[:, None].to(weight.dtype) * edges[:, -1:]
    part = _first_above(edges, parts, target)
    rest = (target - (edges - parts).gather(1, part)).clamp(min=0)
    column = part * PART + torch.arange(PART, device=part.device)
    inside = weight.gather(1, column.clamp(max=V - 1)) * (column < V)
    return (part * PART + _first_above(inside.cumsum(1), inside, rest))[:, 0]


def largest(logits: Tensor) -> Tensor:
    """logits (N, V) -> (N,) long: `logits.argmax(1)`, the first of equal ones, as draws of temperature 0.

    In two levels too: of a row's largest value a CPU is told ten times sooner than of its place.
    """
    V, width = logits.shape[1], min(PART, logits.shape[1])
    parts = logits[:, : V // PART * PART].reshape(len(logits), V // PART, PART).amax(2)
    parts = torch.cat(
        [parts, logits[:, -width:].amax(1, keepdim=True)], 1
    )  # the last one may reach into that before it
    start = (parts.argmax(1, keepdim=True) * PART).clamp(max=V - width)
    inside = logits.gather(1, start + torch.arange(width, device=start.device))
    return start[:, 0] + inside.argmax(1)


def _first_above(edges: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The first column (N, 1) whose edge exceeds the target, or else the last, but only a column with weight > 0.

    Rounding (u * total == total; a parallel scan that is not monotone) may point at a column of weight 0.
    """
    found = torch.searchsorted(edges, target, right=True)
    column = torch.arange(weight.shape[1], device=weight.device)
    reached: Tensor = torch.where((weight > 0) & (column <= found), column, 0)
    return reached.amax(1, keepdim=True)


def _mix(word: Tensor) -> Tensor:
    word = (word ^ _shift(word, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    word = (word ^ _shift(word, 27)) * (0x94D049BB133111EB - 2**64)
    return word ^ _shift(word, 31)


def _shift(word: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; `>>` on int64 copies the sign."""
    shifted: Tensor = (word >> bits) & (2 ** (64 - bits) - 1)
    return shifted
