"""Each decoding rule against a slow reference for one row, written from its paper."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_sampling import (
    Canvas,
    DreamSampler,
    EntropyBoundSampler,
    EntropySampler,
    FactorSampler,
    KLASSSampler,
    LeftToRightSampler,
    MarginSampler,
    ThresholdSampler,
)
from igpo_sampling.testing import TableDenoiser

VOCAB, MASK, EOS = 13, 12, 11


@st.composite
def canvases(draw: Any) -> Canvas:
    """Unequal prompts, unequal hints."""
    width = draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    cell = st.one_of(st.just(-1), st.just(-1), st.integers(0, VOCAB - 2))
    overlay = [draw(st.lists(cell, min_size=width, max_size=width)) for _ in lengths]
    prompts = [torch.arange(length) for length in lengths]
    return Canvas.blank(prompts, width, mask_id=MASK, pad_id=EOS).inpaint(torch.tensor(overlay))


Distributions = dict[int, torch.Tensor]
"""Of each blank of the block, by its column."""


def by_hand(
    denoiser: Any, canvas: Canvas, row: int, block: int, choose: Callable[[Distributions, int, int], list[int]]
) -> tuple[list[int], list[int]]:
    """Decode one row at temperature 0: no batch, no padding, float64. `choose(distributions, block, its step)` -> columns."""
    real = canvas.attention[row]
    fixed = canvas.given[row][real].tolist()
    tokens = [token if fixed[at] else MASK for at, token in enumerate(canvas.tokens[row][real].tolist())]
    P, done, order = len(tokens) - canvas.width, 0, [-1] * canvas.width
    for number, start in enumerate(range(0, canvas.width, block)):
        blanks = [column for column in range(start, min(start + block, canvas.width)) if not fixed[P + column]]
        step = 0
        while blanks:
            ids = torch.tensor([tokens])
            logits = denoiser(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(len(tokens))).double()
            shares = {column: logits[P + column].softmax(0) for column in blanks}
            chosen = choose(shares, number, step)
            for column in chosen:
                tokens[P + column] = int(logits[P + column, :MASK].argmax())
                order[column] = done
                blanks.remove(column)
            step += 1
            done += len(chosen) > 0
    return tokens[P:], order


def agree(sampler: Any, canvas: Canvas, denoiser: Any, choose: Callable[[], Any]) -> None:
    """`choose()` is made anew for each row, as some remember."""
    result = sampler(denoiser, canvas, torch.arange(len(canvas)), mask_id=MASK, eos_id=EOS)
    for row in range(len(canvas)):
        tokens, order = by_hand(denoiser, canvas, row, sampler.block or canvas.width, choose())
        assert result.order[row].tolist() == order
        assert result.completion[row].tolist() == tokens
        assert result.forwards[row] == 1 + max(order)


def surest(sure: dict[int, float]) -> list[int]:
    return sorted(sure, key=lambda column: (-sure[column], column))


def probable(shares: Distributions) -> dict[int, float]:
    return {column: float(share[:MASK].max()) for column, share in shares.items()}


def entropies(shares: Distributions) -> dict[int, float]:
    return {column: float(-(share * share.log()).sum()) for column, share in shares.items()}


def leads(shares: Distributions) -> dict[int, float]:
    best = {column: share.sort(descending=True).values for column, share in shares.items()}
    return {column: float(two[0] - two[1]) for column, two in best.items()}


tables = st.builds(TableDenoiser, st.just(VOCAB), seed=st.integers(0, 999), scale=st.sampled_from([1.0, 3.0, 8.0]))
blocks = st.integers(1, 12)


@pytest.mark.parametrize(
    ("kind", "confidence"),
    [
        (MarginSampler, leads),
        (EntropySampler, lambda shares: {column: -value for column, value in entropies(shares).items()}),
    ],
)
@settings(max_examples=40)
@given(data=st.data())
def test_margin_and_entropy_follow_the_floor_share(kind, confidence, data):
    canvas, denoiser, steps = data.draw(canvases()), data.draw(tables), data.draw(st.integers(1, 15))
    block = min(data.draw(blocks), canvas.width)
    number_of_blocks = -(-canvas.width // block)

    def choose() -> Any:
        total: dict[int, int] = {}

        def chosen(shares: Distributions, number: int, step: int) -> list[int]:
            share = max(1, steps // number_of_blocks + (number < steps % number_of_blocks))
            count = total.setdefault(number, len(shares))
            return surest(confidence(shares))[: count // share + (step < count % share)]

        return chosen

    agree(kind(steps=steps, block=block, temperature=0.0), canvas, denoiser, choose)


@settings(max_examples=60)
@given(data=st.data())
def test_dream(data):
    """Schedule and confidences of the published code; over all of the row, which is one block."""
    canvas, denoiser, steps = data.draw(canvases()), data.draw(tables), data.draw(st.integers(1, 15))
    by = data.draw(st.sampled_from(["probability", "margin", "entropy"]))
    top_k = data.draw(st.one_of(st.none(), st.integers(1, VOCAB)))
    top_p = data.draw(st.sampled_from([1.0, 0.9, 0.4]))
    time = torch.linspace(1, 1e-3, steps + 1)

    def narrowed(share: torch.Tensor) -> torch.Tensor:
        if top_k is None and top_p == 1:
            return share
        share = share.clone()
        share[MASK] = 0
        share /= share.sum()
        values, order = share.sort(descending=True, stable=True)
        before = values.cumsum(0) - values
        kept = [at for at in range(VOCAB) if at == 0 or (before[at] < top_p and at < (top_k or VOCAB))]
        result = torch.zeros_like(share)
        result[order[kept]] = values[kept]
        return result / result.sum()

    def choose() -> Any:
        def chosen(shares: Distributions, number: int, step: int) -> list[int]:
            m = len(shares)
            count = int(m * (1 - time[step + 1] / time[step])) if step < steps - 1 else m
            shares = {column: narrowed(share) for column, share in shares.items()}
            sure = {
                "probability": lambda: {column: float(share[:MASK].max()) for column, share in shares.items()},
                "margin": lambda: leads(shares),
                "entropy": lambda: {c: float((s * s.clamp(min=1e-300).log()).sum()) for c, s in shares.items()},
            }[by]()
            # in float32 like the sampler: distributions that are narrowed to one token tie exactly
            return surest({column: float(torch.tensor(value).float()) for column, value in sure.items()})[:count]

        return chosen

    agree(DreamSampler(steps=steps, temperature=0.0, by=by, top_k=top_k, top_p=top_p), canvas, denoiser, choose)


@settings(max_examples=60)
@given(canvases(), tables, blocks, st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0]))
def test_threshold(canvas, denoiser, block, threshold):
    def chosen(shares: Distributions, number: int, step: int) -> list[int]:
        sure = probable(shares)
        return [column for column, value in sure.items() if value >= threshold] or surest(sure)[:1]

    sampler = ThresholdSampler(threshold=threshold, block=min(block, canvas.width), temperature=0.0)
    agree(sampler, canvas, denoiser, lambda: chosen)


@settings(max_examples=60)
@given(canvases(), tables, blocks, st.sampled_from([0.3, 1.0, 2.5, 6.0]))
def test_factor(canvas, denoiser, block, factor):
    def chosen(shares: Distributions, number: int, step: int) -> list[int]:
        sure = probable(shares)
        ranked = surest(sure)
        largest = max((n for n in range(1, len(ranked) + 1) if (n + 1) * (1 - sure[ranked[n - 1]]) < factor), default=1)
        return ranked[:largest]

    agree(
        FactorSampler(factor=factor, block=min(block, canvas.width), temperature=0.0), canvas, denoiser, lambda: chosen
    )


@settings(max_examples=60)
@given(canvases(), tables, blocks, st.sampled_from([0.0, 0.1, 1.0, 4.0, 100.0]))
def test_entropy_bound(canvas, denoiser, block, gamma):
    def chosen(shares: Distributions, number: int, step: int) -> list[int]:
        entropy = entropies(shares)
        ranked = sorted(entropy, key=lambda column: (entropy[column], column))
        fits = [n for n in range(1, len(ranked) + 1) if sum(entropy[column] for column in ranked[: n - 1]) <= gamma]
        return ranked[: max(fits)]

    sampler = EntropyBoundSampler(gamma=gamma, block=min(block, canvas.width), temperature=0.0)
    agree(sampler, canvas, denoiser, lambda: chosen)


@settings(max_examples=60)
@given(st.data())
def test_klass(data):
    """Few states, so that distributions come to rest now and then."""
    canvas, block = data.draw(canvases()), data.draw(blocks)
    denoiser = TableDenoiser(VOCAB, states=2, scale=4.0, seed=data.draw(st.integers(0, 999)))
    threshold, history = data.draw(st.sampled_from([0.0, 0.5, 0.9])), data.draw(st.integers(1, 3))

    def choose() -> Any:
        seen: dict[int, list[torch.Tensor]] = {}

        def chosen(shares: Distributions, number: int, step: int) -> list[int]:
            sure = probable(shares)
            ready = []
            for column, share in shares.items():
                past = [*seen.get(column, []), share]
                seen[column] = past
                moves = [float((new * (new / old).log()).sum()) for old, new in pairwise(past)]
                if sure[column] >= threshold and len(moves) >= history and max(moves[-history:]) <= 0.01:
                    ready.append(column)
            return ready or surest(sure)[:1]

        return chosen

    sampler = KLASSSampler(threshold=threshold, history=history, block=min(block, canvas.width), temperature=0.0)
    agree(sampler, canvas, denoiser, choose)


@settings(max_examples=40)
@given(canvases(), tables, blocks)
def test_left_to_right(canvas, denoiser, block):
    def chosen(shares: Distributions, number: int, step: int) -> list[int]:
        return [min(shares)]

    agree(LeftToRightSampler(block=min(block, canvas.width), temperature=0.0), canvas, denoiser, lambda: chosen)


# What the published code gets wrong, or leaves open -----------------------------------------------------------------


class Known(torch.nn.Module):
    """Says the same of a column, whatever stands on the canvas: its probabilities of tokens 0 and 1."""

    def __init__(self, *sure: float) -> None:
        super().__init__()
        first = torch.tensor(sure)
        self.logits = torch.stack([first, 1 - first, torch.zeros_like(first)], 1).log()

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any) -> Any:
        return read(lambda hidden: self.logits[hidden[:, 0]].clone(), (where % tokens.shape[1])[:, None])


def first_step(sampler: Any, *sure: float) -> list[int]:
    """The columns that the first step commits where column i is sure to the given degree."""
    canvas = Canvas.blank([torch.arange(0)], len(sure), mask_id=2, pad_id=0)
    order = sampler(Known(*sure), canvas, torch.zeros(1, dtype=torch.long), mask_id=2, eos_id=0).order[0]
    return (order == 0).nonzero()[:, 0].tolist()


def published_factor(ranked: list[float], factor: float) -> int:
    """How many Fast-dLLM's code commits: it compares c >= 1 - f / (n + 1), and finds no failure in the last place."""
    limits = [1 - factor / (n + 1) for n in range(1, len(ranked) + 1)]
    limits[0] = -1
    top = 0
    for top in range(len(ranked)):
        if ranked[top] < limits[top]:
            break
    return top + 1 if top in (0, len(ranked) - 1) else top


def test_factor_stops_at_equality_and_before_a_last_token_that_fails():
    options = {"block": 3, "temperature": 0.0}
    assert first_step(FactorSampler(factor=1.0, **options), 0.99, 0.98, 0.51) == [0, 1]
    assert published_factor([0.99, 0.98, 0.51], 1.0) == 3
    assert first_step(FactorSampler(factor=1.5, **options), 0.5, 0.99, 0.5) == [1]  # 3 (1 - 0.5) = 1.5 is not below 1.5
    assert first_step(FactorSampler(factor=1.5001, **options), 0.5, 0.99, 0.5) == [0, 1]


def test_entropy_bound_at_gamma_0_commits_one_and_what_is_free():
    options = {"block": 4, "temperature": 0.0, "gamma": 0.0}
    assert first_step(EntropyBoundSampler(**options), 0.9, 0.99, 0.9, 0.9) == [1]
    assert first_step(EntropyBoundSampler(**options), 0.9, 1.0, 0.99, 1.0) == [1, 2, 3], "the largest is not counted"


def test_klass_comes_to_rest_where_a_model_forbids_tokens():
    canvas = Canvas.blank([torch.arange(0)], 4, mask_id=2, pad_id=0)
    sampler = KLASSSampler(threshold=0.0, history=1, block=4, temperature=0.0)
    sample = sampler(Known(0.9, 0.8, 0.7, 0.6), canvas, torch.zeros(1, dtype=torch.long), mask_id=2, eos_id=0)
    assert sample.order.tolist() == [[0, 1, 1, 1]]


def test_ties_go_to_the_lower_index():
    for kind in (MarginSampler, EntropySampler):
        assert first_step(kind(steps=2, block=4, temperature=0.0), 0.7, 0.8, 0.8, 0.8) == [1, 2]
    assert first_step(ThresholdSampler(block=4, temperature=0.0), 0.7, 0.8, 0.8, 0.7) == [1]


def test_a_token_at_the_threshold_is_committed():
    assert first_step(ThresholdSampler(threshold=1.0, block=3, temperature=0.0), 1.0, 0.9, 1.0) == [0, 2]


def test_alg_temp_draws_cells_without_replacement():
    """Two of three cells by softmax(confidence / alg_temp), one after the other: the probability of each left-over cell."""
    sure, rows = (0.9, 0.7, 0.5), 20_000
    canvas = Canvas.blank([torch.arange(0)] * rows, 3, mask_id=2, pad_id=0)
    sampler = DreamSampler(steps=2, temperature=0.0, alg_temp=0.3, max_rows=rows)
    order = sampler(Known(*sure), canvas, torch.arange(rows), mask_id=2, eos_id=0).order
    assert (order == 0).sum(1).tolist() == [1] * rows
    weight = (torch.tensor(sure, dtype=torch.float64) / 0.3).softmax(0)
    found = (order == 0).double().mean(0)
    assert torch.allclose(found, weight, atol=4 * 0.5 / rows**0.5)
    sampler = DreamSampler(steps=1, temperature=0.0, alg_temp=0.3, max_rows=rows)
    assert (sampler(Known(*sure), canvas, torch.arange(rows), mask_id=2, eos_id=0).order == 0).all()
