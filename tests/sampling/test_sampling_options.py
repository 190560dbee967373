"""The options that samplers share, through real calls: what is drawn, how often, and what guidance and EOS rules do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sampling_models import catalogue, mixing
from test_sampling_noise import surprise
from test_sampling_samplers import EOS, MASK, VOCAB, canvases, published, same, sample

from igpo_sampling import Canvas, LeftToRightSampler, LLaDASampler
from igpo_sampling.testing import TableDenoiser

# Temperature 1: the softmax ---------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """The same logits (V,) at every place, in their own dtype."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any) -> Any:
        return read(lambda hidden: self.logits.repeat(len(hidden), 1), where[:, None])


def blanks(rows: int, width: int, mask_id: int) -> Canvas:
    tokens = torch.full((rows, width), mask_id)
    return Canvas(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool), width)


def drawn(logits: torch.Tensor, rows: int, mask_id: int, **options: Any) -> torch.Tensor:
    """Counts (V,) of the tokens that a sampler draws in `rows` rows of one blank each."""
    sampler = LLaDASampler(block=1, max_rows=rows, **options)
    result = sampler(Fixed(logits), blanks(rows, 1, mask_id), torch.arange(rows), mask_id=mask_id, eos_id=0)
    return torch.bincount(result.completion[:, 0], minlength=len(logits))


def without_mask(logits: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Probabilities (V,) in float64."""
    logits = logits.double().clone()
    logits[mask_id] = -torch.inf
    return logits.softmax(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_frequencies_at_temperature_1_are_the_softmax_over_4096_tokens(dtype):
    """Chi-square of 30,000 draws; the same statistic rejects Gumbel noise in bfloat16 and a temperature that is 10 % off."""
    V, rows, mask_id = 4096, 30_000, 4000
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(V, generator=generator)
    logits[7], logits[mask_id] = 8.0, 9.0  # about a third, and a mask that would be drawn as often
    logits = logits.to(dtype)
    shares = without_mask(logits, mask_id)
    assert abs(surprise(drawn(logits, rows, mask_id, temperature=1.0), shares)) < 4
    assert surprise(drawn(logits, rows, mask_id, temperature=1.1), shares) > 10

    coarse = logits.bfloat16()
    coarse[mask_id] = -1e9
    counts = torch.zeros(V, dtype=torch.long)
    for _ in range(rows // 1000):
        u = torch.rand(1000, V, generator=generator).bfloat16().clamp(1 / 512, 255 / 256)  # no infinities
        counts += torch.bincount((coarse - (-u.log()).log()).argmax(1), minlength=V)
    assert surprise(counts, shares) > 10


# Guidance -----------------------------------------------------------------------------------------------------------


class Guided:
    """One row's model with guidance as published: un + (w + 1) (cond - un), un of a row with masks for all that is given.

    `hints` = False leaves the hints in un, `more` is what is added to w: two faults when changed.
    """

    def __init__(self, denoiser: Any, canvas: Canvas, row: int, w: float, mask_id: int, **faults: Any) -> None:
        self.denoiser, self.factor, self.mask_id = denoiser, w + faults.get("more", 1.0), mask_id
        self.given = canvas.given[row][canvas.attention[row]].clone()
        if not faults.get("hints", True):
            self.given[-canvas.width :] = False

    def __call__(self, tokens: torch.Tensor, attention: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        cond = self.denoiser(tokens, attention, where).detach().double()
        without = torch.where(self.given, self.mask_id, tokens)
        un = self.denoiser(without, attention, where).detach().double()
        return un + self.factor * (cond - un)


@settings(max_examples=60)
@given(data=st.data())
def test_guidance_decodes_as_published(data):
    """Prompts of unequal length, so with padding and without, and hints anywhere."""
    canvas, w = data.draw(canvases()), data.draw(st.sampled_from([0.3, 1.0, 4.0]))
    steps, block = data.draw(st.integers(1, 15)), data.draw(st.integers(1, canvas.width))
    denoiser = TableDenoiser(VOCAB, seed=data.draw(st.integers(0, 99)), scale=1.0)
    sampler = LLaDASampler(steps=steps, block=block, temperature=0.0, guidance=w, max_rows=data.draw(st.integers(1, 8)))
    result = sample(sampler, denoiser, canvas)
    for row in range(len(canvas)):
        tokens, order, gap = published(Guided(denoiser, canvas, row, w, MASK), canvas, row, steps, block, MASK)
        assume(gap > 1e-5)
        assert result.completion[row].tolist() == tokens
        assert result.order[row].tolist() == order


def test_guided_values_with_a_real_model():
    """Confidences are the softmax of the published formula: to 1e-6, where either fault is off by more than 0.01."""
    loaded, L, w = mixing(width=16, layers=2, heads=2, dtype=torch.float64), 6, 1.5
    prompts = [torch.arange(length) for length in (2, 5, 0)]
    overlay = torch.full((3, L), -1)
    overlay[0, 2:4], overlay[1, 5], overlay[2, 0] = 7, 3, 9
    canvas = Canvas.blank(prompts, L, mask_id=loaded.mask_id, pad_id=loaded.pad_id).inpaint(overlay)
    sampler = LLaDASampler(steps=1, block=L, temperature=0.0, guidance=w)
    result = sample(sampler, loaded.denoiser, canvas, mask_id=loaded.mask_id)

    def furthest(row: int, **faults: Any) -> float:
        tokens = canvas.tokens[row][canvas.attention[row]][None]
        where = torch.arange(tokens.shape[1] - L, tokens.shape[1])
        guided = Guided(loaded.denoiser, canvas, row, w, loaded.mask_id, **faults)
        shares = guided(tokens, torch.ones_like(tokens, dtype=torch.bool), where).softmax(1)
        found = shares.gather(1, result.completion[row][:, None])[:, 0]
        return float((found - result.confidence[row])[canvas.blanks[row]].abs().max())

    for row in range(3):
        assert furthest(row) < 1e-6
        assert furthest(row, more=0.0) > 0.01
        assert furthest(row, hints=False) > 0.01


class Rows(TableDenoiser):
    """Counts the rows of its forwards."""

    seen = 0

    def forward(self, tokens: Any, *rest: Any) -> Any:
        self.seen += len(tokens)
        return super().forward(tokens, *rest)


@pytest.mark.parametrize("name", catalogue())
def test_only_guidance_costs_a_second_forward(name):
    canvas = Canvas.blank([torch.arange(2), torch.arange(5)], 6, mask_id=MASK, pad_id=EOS)
    for w, ways in ((0.0, 1), (0.5, 2)):
        denoiser = Rows(VOCAB)
        result = sample(catalogue()[name](block=3, temperature=0.0, guidance=w), denoiser, canvas)
        assert denoiser.seen == ways * int(result.forwards.sum())


# The end of a sequence --------------------------------------------------------------------------------------------


def test_eos_after_forbids_eos_before_and_changes_nothing_after():
    """Before: the softmax without EOS. Behind: the same tokens, bit by bit. EOS that is given stays."""
    rows, logits = 20_000, torch.randn(VOCAB, generator=torch.Generator().manual_seed(0))
    logits[EOS] = 2.0
    overlay = torch.full((rows, 5), -1)
    overlay[:, 1] = EOS
    canvas = blanks(rows, 5, MASK).inpaint(overlay)
    free, late = (
        sample(LeftToRightSampler(temperature=1.0, eos_after=after, max_rows=rows), Fixed(logits), canvas)
        for after in (0, 3)
    )
    assert (free.completion[:, 0] == EOS).sum() > rows / 10
    early = late.completion[:, [0, 2]]
    assert not (early == EOS).any()
    assert (late.completion[:, 1] == EOS).all()
    assert torch.equal(late.completion[:, 3:], free.completion[:, 3:])
    assert (late.completion[:, 3:] == EOS).any()

    shares = without_mask(logits, MASK)
    known = torch.bincount(free.completion[:, 0], minlength=VOCAB)
    assert abs(surprise(known, shares)) < 4
    shares[EOS] = 0.0
    assert abs(surprise(torch.bincount(early.flatten(), minlength=VOCAB), shares / shares.sum())) < 4


# Top-p and top-k --------------------------------------------------------------------------------------------------


def nucleus(logits: torch.Tensor, mask_id: int, temperature: float, top_p: float, top_k: int | None) -> torch.Tensor:
    """Probabilities (V,) of the fewest tokens that hold top_p, the first top_k of them, written out."""
    shares = without_mask(logits.double() / temperature, mask_id)
    kept, held = torch.zeros_like(shares), 0.0
    for token in sorted(range(len(shares)), key=lambda token: -float(shares[token]))[:top_k]:
        kept[token] = shares[token]
        held += float(shares[token])
        if held >= top_p:
            break
    return kept / kept.sum()


@pytest.mark.parametrize("vocab", [13, 700])
@pytest.mark.parametrize(("top_p", "top_k"), [(0.5, None), (0.9, None), (1.0, 3), (0.9, 4), (0.4, 100)])
def test_only_the_nucleus_is_drawn_by_its_own_softmax(vocab, top_p, top_k):
    """`surprise` also fails on any token outside; a nucleus taken before the temperature is another distribution."""
    mask_id, rows = 5, 8_000
    logits = -0.7 * torch.randperm(vocab, generator=torch.Generator().manual_seed(vocab))
    logits[mask_id] = 5.0
    counts = drawn(logits, rows, mask_id, temperature=2.0, top_p=top_p, top_k=top_k)
    expected = nucleus(logits, mask_id, 2.0, top_p, top_k)
    assert (expected > 0).sum() > 1
    assert abs(surprise(counts, expected)) < 4
    faulty = nucleus(logits, mask_id, 1.0, top_p, top_k)
    assert (counts[faulty == 0] > 0).any() or surprise(counts, faulty) > 10


@settings(max_examples=40)
@given(data=st.data())
def test_top_1_is_the_most_probable_token(data):
    canvas = data.draw(canvases())
    greedy = LLaDASampler(steps=data.draw(st.integers(1, 9)), block=canvas.width, temperature=0.0)
    denoiser = TableDenoiser(VOCAB, seed=data.draw(st.integers(0, 99)))
    expected = sample(greedy, denoiser, canvas)
    for option in ({"top_k": 1}, {"top_p": 1e-6}):
        assert same(expected, sample(evolve(greedy, temperature=1.3, **option), denoiser, canvas))
