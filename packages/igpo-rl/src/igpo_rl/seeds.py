"""Every random number of this package comes from an explicit seed, never from a global generator.

Host-side choices (chunk lengths, hint shares) use `random.Random(derive(...))`. Choices per token use counter-based
uniforms u(seed, stream, position): a row's numbers are the same alone, in any batch and on any rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING

from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

# The constants of splitmix64 (Steele, Lea, Flood 2014) as signed 64-bit integers; products wrap around.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
MIX_A = 0xBF58476D1CE4E5B9 - (1 << 64)
MIX_B = 0x94D049BB133111EB - (1 << 64)


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any mix of integers and words; `derive(1, "2")` and `derive("1", 2)` differ."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = repr(part).encode()
        digest.update(len(data).to_bytes(4, "big") + data)
    return int.from_bytes(digest.digest(), "big") >> 1


def row_seeds(seed: int, step: int, keys: Sequence[str], samples: Sequence[int], purpose: str) -> Tensor:
    """(B,) long: one seed a row, from the run's seed, the step, the problem's key and the row's place in its group."""
    pairs = zip(keys, samples, strict=True)
    return torch.tensor([derive(seed, step, key, sample, purpose) for key, sample in pairs], dtype=torch.long)


def uniforms(seeds: Tensor, width: int, stream: int = 0) -> Tensor:
    """(n,) long seeds -> (n, width) float32 in [0, 1): u(seed, stream, position), each a multiple of 2**-24."""
    position = torch.arange(1, width + 1, device=seeds.device)
    key = _mix(_mix(seeds) + seeds.new_tensor(stream + 1) * GOLDEN)
    return _shift(_mix(key[:, None] + position * GOLDEN), 40).float() * 2.0**-24


def permutation_stream(count: int, *seed: int | str, start: int = 0) -> Iterator[int]:
    """Endless indices in [0, count), each once per epoch, every epoch in an order of its own; `start` indices are skipped."""
    if count < 1:
        raise ValueError("there are no problems to draw from; count = 0. Check the task and its split.")
    epoch, skip = divmod(start, count)
    while True:
        order = list(range(count))
        Random(derive(*seed, "epoch", epoch)).shuffle(order)
        yield from order[skip:]
        epoch, skip = epoch + 1, 0


@contextmanager
def drawn_from(seed: int, device: torch.device) -> Iterator[None]:
    """What draws from torch's global generators inside, such as dropout, draws from `seed`; they are put back afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        for each in cuda:
            torch.cuda.set_rng_state(torch.Generator(each).manual_seed(seed).get_state(), each)
        yield


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * MIX_A
    value = (value ^ _shift(value, 27)) * MIX_B
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right: torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
