"""Uniform numbers by hashing, and tokens drawn with them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_sampling import noise
from igpo_sampling.noise import PART, draw, largest, narrowed, uniform


def surprise(counts: torch.Tensor, shares: torch.Tensor) -> float:
    """Pearson's chi-square as a normal deviate (Wilson and Hilferty); cells expected below 5 times are pooled."""
    expected = shares.double() * counts.sum()
    assert not counts[shares == 0].any()
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    ratio = float(((counts - expected) ** 2 / expected).sum()) / freedom
    return (ratio ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))


def by_hand(seed: int, step: int, position: int, stream: int) -> float:
    """The same hash in Python's unbounded integers."""
    top = 2**64

    def mix(word: int) -> int:
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % top
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % top
        return word ^ (word >> 31)

    word = mix((seed + 0x9E3779B97F4A7C15) % top)
    for coordinate in (step, stream, position):
        word = mix(((word ^ coordinate) + 0x9E3779B97F4A7C15) % top)
    return (word >> 40) / 2**24


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10_000), st.integers(0, 100_000), st.integers(0, 3))
def test_uniform_is_the_hash_that_it_says(seed, step, position, stream):
    u = uniform(torch.tensor([seed]), step, torch.tensor([position]), stream)
    assert u.dtype == torch.float32
    assert u.item() == by_hand(seed, step, position, stream)


@pytest.mark.parametrize("axis", ["seed", "step", "position", "stream"])
def test_uniform_is_uniform_and_neighbours_are_independent(axis):
    """Along each coordinate: the 64 x 64 cells of (this number, the next one) are equally full."""
    fast, slow = torch.arange(200).repeat(200), torch.arange(200).repeat_interleave(200)
    u = {
        "seed": lambda: uniform(fast, 5, slow),
        "position": lambda: uniform(slow, 5, fast),
        "step": lambda: torch.stack([uniform(slow[::200], step, slow[::200]) for step in range(200)], 1),
        "stream": lambda: torch.stack([uniform(slow[::200], 5, slow[::200], stream) for stream in range(200)], 1),
    }[axis]().reshape(200, 200)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    cells = (u[:, :-1] * 64).long() * 64 + (u[:, 1:] * 64).long()
    assert abs(surprise(torch.bincount(cells.flatten(), minlength=4096), torch.full((4096,), 1 / 4096))) < 4


@pytest.mark.parametrize(("vocab", "temperature"), [(3, 1.2), (PART - 1, 1.0), (PART, 0.7), (2 * PART + 3, 1.2)])
def test_draw_follows_the_softmax(vocab, temperature):
    logits = 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(vocab))
    logits[vocab // 2] = -torch.inf
    rows = 20_000
    u = uniform(torch.zeros(rows, dtype=torch.long), 0, torch.arange(rows))
    tokens = torch.cat([draw(logits.expand(len(part), -1), part, temperature) for part in u.split(5_000)])
    assert abs(surprise(torch.bincount(tokens, minlength=vocab), (logits / temperature).softmax(0))) < 4


@given(st.data())
def test_draw_never_takes_a_token_without_probability(data):
    """Whatever the number: 0, the largest below 1, and logits so far apart that most weights underflow."""
    vocab = data.draw(st.sampled_from([2, 5, PART, PART + 1, 3 * PART + 7]))
    seed = data.draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    scale = data.draw(st.sampled_from([0.1, 10.0, 1000.0]))
    logits = scale * torch.randn(8, vocab, generator=generator)
    banned = torch.rand(8, vocab, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 0.99]))
    banned[:, data.draw(st.integers(0, vocab - 1))] = False
    logits[banned] = -torch.inf
    u = torch.tensor([0.0, 2.0**-24, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-23, 1 - 2.0**-24])
    tokens = draw(logits, u)
    assert (logits.softmax(1).gather(1, tokens[:, None]) > 0).all()


@given(st.data())
def test_largest_is_argmax_and_the_first_of_equal_ones(data):
    vocab = data.draw(st.sampled_from([1, 5, PART - 1, PART, PART + 1, 3 * PART + 7]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32)))
    logits = torch.randint(data.draw(st.sampled_from([2, 10, 10**6])), (8, vocab), generator=generator).float()
    logits[torch.rand(8, vocab, generator=generator) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = -torch.inf
    logits[torch.rand(8, vocab, generator=generator) < data.draw(st.sampled_from([0.0, 1e-3]))] = torch.nan
    first = [next((i for i, x in enumerate(row) if x != x), row.index(max(row))) for row in logits.tolist()]
    assert largest(logits).tolist() == first
    assert largest(logits[:0]).shape == (0,)


@pytest.mark.parametrize("likely", [1, 3, 1024])
def test_a_narrowed_distribution_is_that_of_a_stable_sort(likely, monkeypatch):
    """With ties, forbidden tokens, and nuclei that are wider than where they are looked for first."""
    monkeypatch.setattr(noise, "LIKELY", likely)
    generator = torch.Generator().manual_seed(likely)
    sizes = []
    for case in range(200):
        vocab = 1 + case % 12
        logits = torch.randint(-2, 3, (4, vocab), generator=generator).float()
        logits = logits.where(torch.rand(4, vocab, generator=generator) < 0.8, -torch.inf)
        logits[:, case % vocab] = 0.0
        top_p, top_k = (0.05, 0.5, 0.9, 1.0)[case % 4], (None, 1, 3, 20)[case // 4 % 4]
        order = logits.sort(dim=1, descending=True, stable=True)
        before = order.values.softmax(1).cumsum(1) - order.values.softmax(1)
        kept = (before < top_p) & (torch.arange(vocab) < (top_k or vocab))
        expected = torch.full_like(logits, -torch.inf).scatter(1, order.indices, order.values.where(kept, -torch.inf))
        assert torch.equal(narrowed(logits, 1.0, top_p, top_k), expected)
        sizes.append(int(kept.sum(1).max()))
    assert max(sizes) > 3


def test_draw_is_the_inverse_of_the_cumulative_sum():
    logits = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(6, 4)
    u = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.75, 0.99])
    assert draw(logits, u).tolist() == [0, 0, 2, 2, 3, 3]


def test_bfloat16_noise_distorts_the_distribution():
    """Trap 3. One token has probability .5, twenty thousand share the rest; coarse Gumbel noise cannot let those win."""
    vocab, rows = 20_000, 400
    shares = torch.full((vocab,), 0.5 / (vocab - 1))
    shares[0] = 0.5
    logits = shares.log()
    generator = torch.Generator().manual_seed(0)

    def faulty() -> torch.Tensor:
        u = torch.rand(rows, vocab, generator=generator).to(torch.bfloat16).clamp(max=1 - 2**-8)
        return (logits.to(torch.bfloat16) - (-(u.log())).log()).argmax(1)

    u = uniform(torch.zeros(rows, dtype=torch.long), 0, torch.arange(rows))
    ours = draw(logits.expand(rows, -1), u)
    assert abs((ours == 0).float().mean() - 0.5) < 0.1
    with pytest.raises(AssertionError):
        assert abs((faulty() == 0).float().mean() - 0.5) < 0.1
