"""The denoising loop: invariants, the published algorithm as reference, exact frequencies, and the traps."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sampling_models import mixing
from torch.utils._python_dispatch import TorchDispatchMode

from igpo_sampling import Canvas, LLaDASampler, RandomSampler, Sample
from igpo_sampling.loop import POSITIONS
from igpo_sampling.testing import TableDenoiser, check_sampler

VOCAB, MASK, EOS = 13, 12, 11
KINDS = (LLaDASampler, RandomSampler)


def sample(
    sampler: Any, denoiser: Any, canvas: Canvas, seeds: Any = None, *, mask_id: int = MASK, **options: Any
) -> Sample:
    seeds = torch.arange(len(canvas)) if seeds is None else torch.as_tensor(seeds)
    return sampler(denoiser, canvas, seeds, mask_id=mask_id, eos_id=EOS, **options)


def same(first: Sample, second: Sample, rows: Any = slice(None)) -> bool:
    names = ("completion", "order", "confidence", "forwards")
    return all(torch.equal(getattr(first, name)[rows], getattr(second, name)) for name in names)


@st.composite
def canvases(draw: Any, max_width: int = 12) -> Canvas:
    """Unequal prompts, unequal hints."""
    width = draw(st.integers(1, max_width))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    cell = st.one_of(st.just(-1), st.integers(0, VOCAB - 2))
    overlay = [draw(st.lists(cell, min_size=width, max_size=width)) for _ in lengths]
    prompts = [torch.arange(length) for length in lengths]
    return Canvas.blank(prompts, width, mask_id=MASK, pad_id=EOS).inpaint(torch.tensor(overlay))


@st.composite
def samplers(draw: Any, width: int, **options: Any) -> Any:
    kind = draw(st.sampled_from(KINDS))
    return kind(
        steps=draw(st.integers(1, 20)),
        block=draw(st.integers(1, width)),
        temperature=options.get("temperature", draw(st.sampled_from([0.0, 1.0, 1.2]))),
        stop_at_eos=options.get("stop_at_eos", draw(st.booleans())),
        max_rows=draw(st.integers(1, 5)),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0},
        {"steps": 1, "block": 1},
        {"steps": 7, "block": 9, "max_rows": 2},
        {"stop_at_eos": True},
    ],
    ids=str,
)
def test_conforms(kind, options):
    check_sampler(kind(**options))


@settings(max_examples=150)
@given(st.data())
def test_invariants(data):
    """Given tokens stay, no mask is left or sampled, blocks are filled in order, no forward is wasted."""
    canvas = data.draw(canvases())
    sampler = data.draw(samplers(canvas.width, stop_at_eos=False))
    result = sample(sampler, TableDenoiser(VOCAB, seed=data.draw(st.integers(0, 99))), canvas)
    hint = canvas.given[:, -canvas.width :]
    assert torch.equal(result.completion[hint], canvas.completion[hint])
    assert not (result.completion == MASK).any()
    assert torch.equal(result.order == -1, hint)
    assert (result.confidence[hint] == 1).all()
    for order, forwards in zip(result.order.tolist(), result.forwards.tolist(), strict=True):
        assert {step for step in order if step >= 0} == set(range(forwards)), "every forward commits something"
        blocks = [order[start : start + sampler.block] for start in range(0, canvas.width, sampler.block)]
        steps = [[step for step in block if step >= 0] for block in blocks]
        filled = [block for block in steps if block]
        assert all(max(first) < min(second) for first, second in itertools.pairwise(filled)), "blocks follow each other"


@settings(max_examples=60)
@given(st.data())
def test_a_row_is_bit_equal_alone_in_any_batch_and_order(data):
    canvas = data.draw(canvases())
    sampler = data.draw(samplers(canvas.width))
    denoiser = TableDenoiser(VOCAB)
    seeds = torch.tensor(
        data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=len(canvas), max_size=len(canvas)))
    )
    whole = sample(sampler, denoiser, canvas, seeds)
    rows = data.draw(st.permutations(range(len(canvas))))[: data.draw(st.integers(1, len(canvas)))]
    part = Canvas(canvas.tokens[rows], canvas.attention[rows], canvas.given[rows], canvas.width)
    assert same(whole, sample(sampler, denoiser, part, seeds[rows]), rows)


def test_rows_are_independent_with_a_real_model_in_float64():
    """Tokens and order equal, confidences to 1e-6, though matrix products of other shapes round differently."""
    loaded = mixing(width=32, layers=2, dtype=torch.float64)
    prompts = [torch.arange(length) for length in (5, 1, 8, 3, 3)]
    overlay = torch.full((5, 16), -1)
    overlay[1, 3:9], overlay[4, 15] = 7, 2
    canvas = Canvas.blank(prompts, 16, mask_id=loaded.mask_id, pad_id=loaded.pad_id).inpaint(overlay)
    sampler, seeds = LLaDASampler(steps=9, block=8, temperature=1.0), torch.arange(5) + 7
    whole = sample(sampler, loaded.denoiser, canvas, seeds, mask_id=loaded.mask_id)
    for rows in ([0], [1], [2], [3], [4], [3, 1], [4, 3, 2, 1, 0]):
        alone = Canvas.blank([prompts[row] for row in rows], 16, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
        part = sample(sampler, loaded.denoiser, alone.inpaint(overlay[rows]), seeds[rows], mask_id=loaded.mask_id)
        assert torch.equal(part.completion, whole.completion[rows])
        assert torch.equal(part.order, whole.order[rows])
        assert torch.allclose(part.confidence, whole.confidence[rows], rtol=0, atol=1e-6)


def test_other_rows_content_leaves_a_row_bit_identical():
    """Equal shapes, a real model in float32."""
    loaded = mixing(width=32, layers=2)
    sampler, options = LLaDASampler(steps=8, block=8, temperature=1.0), {"mask_id": loaded.mask_id}
    results = []
    for other in (0, 9):
        prompts = [torch.tensor([1, 2, 3]), torch.tensor([other, 5, other])]
        canvas = Canvas.blank(prompts, 16, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
        results.append(sample(sampler, loaded.denoiser, canvas, [3, other], **options))
    assert torch.equal(results[0].completion[0], results[1].completion[0])
    assert torch.equal(results[0].confidence[0], results[1].confidence[0])
    assert not torch.equal(results[0].completion[1], results[1].completion[1])


# The published algorithm -----------------------------------------------------------------------------------------


def published(
    denoiser: Any, canvas: Canvas, row: int, steps: int, block: int, mask_id: int
) -> tuple[list[int], list[int], float]:
    """LLaDA's low-confidence remasking (2502.09992, algorithm 5) at temperature 0, for one row.

    Slow on purpose: no batch, no padding, the model read everywhere, float64 softmax, a sort on the host.
    Returns tokens, steps, and the smallest difference of two confidences that decided something.
    """
    real = canvas.attention[row]
    fixed = canvas.given[row][real].tolist()
    tokens = [token if fixed[at] else mask_id for at, token in enumerate(canvas.tokens[row][real].tolist())]
    L, P = canvas.width, len(tokens) - canvas.width
    order, done, gap = [-1] * L, 0, math.inf
    blocks = [range(start, min(start + block, L)) for start in range(0, L, block)]
    for number, columns in enumerate(blocks):
        blanks = [column for column in columns if not fixed[P + column]]
        total, share = len(blanks), max(1, steps // len(blocks) + (number < steps % len(blocks)))
        for step in range(share):
            count = total // share + (step < total % share)
            if count == 0:
                break
            ids = torch.tensor([tokens])
            logits = denoiser(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(len(tokens))).detach().double()
            shares = logits.softmax(1)
            logits[:, mask_id] = -torch.inf
            best = logits.argmax(1).tolist()
            sure = {column: float(shares[P + column, best[P + column]]) for column in blanks}
            ranked = sorted(blanks, key=lambda column: (-sure[column], column))
            if count < len(ranked):
                gap = min(gap, (sure[ranked[count - 1]] - sure[ranked[count]]) or math.inf)
            for column in ranked[:count]:
                tokens[P + column], order[column] = best[P + column], done
                blanks.remove(column)
            done += 1
    return tokens[P:], order, gap


def agrees_with_the_published_algorithm(denoiser: Any, canvas: Canvas, steps: int, block: int, mask_id: int) -> None:
    sampler = LLaDASampler(steps=steps, block=block, temperature=0.0)
    result = sample(sampler, denoiser, canvas, mask_id=mask_id)
    for row in range(len(canvas)):
        tokens, order, gap = published(denoiser, canvas, row, steps, block, mask_id)
        assume(gap > 1e-6)
        assert result.completion[row].tolist() == tokens
        assert result.order[row].tolist() == order
        assert result.forwards[row] == 1 + max(order)


@settings(max_examples=100)
@given(st.data())
def test_the_published_algorithm_at_temperature_0(data):
    canvas = data.draw(canvases())
    denoiser = TableDenoiser(VOCAB, seed=data.draw(st.integers(0, 999)))
    agrees_with_the_published_algorithm(
        denoiser, canvas, data.draw(st.integers(1, 20)), data.draw(st.integers(1, canvas.width)), MASK
    )


@settings(max_examples=30)
@given(st.data())
def test_the_published_algorithm_with_a_real_model(data):
    layers, seed = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 99))
    loaded = mixing(width=16, layers=layers, heads=2, seed=seed, dtype=torch.float64)
    canvas = data.draw(canvases(max_width=20))
    agrees_with_the_published_algorithm(
        loaded.denoiser, canvas, data.draw(st.integers(1, 25)), data.draw(st.integers(1, canvas.width)), loaded.mask_id
    )


# Frequencies ----------------------------------------------------------------------------------------------------


def pairs(
    denoiser: Any, prompt: list[int], temperature: float, by_chance: bool, mask_id: int
) -> dict[tuple[int, ...], float]:
    """Exact probabilities of what two blanks get in two steps."""

    def read(cells: list[int]) -> torch.Tensor:
        tokens = torch.tensor([prompt + cells])
        where = torch.arange(len(prompt), len(prompt) + 2)
        return denoiser(tokens, torch.ones_like(tokens, dtype=torch.bool), where).double()

    def drawn(logits: torch.Tensor) -> list[float]:
        logits[:, mask_id] = -torch.inf
        return (logits / temperature).softmax(1).tolist()

    result: Counter[tuple[int, ...]] = Counter()
    sure, first = read([mask_id] * 2).softmax(1), drawn(read([mask_id] * 2))
    for a, b in itertools.product(range(mask_id), repeat=2):
        surer = 0 if sure[0, a] >= sure[1, b] else 1
        for at, share in ((0, 0.5), (1, 0.5)) if by_chance else ((surer, 1.0),):
            cells = [mask_id] * 2
            cells[at] = (a, b)[at]
            for token, probability in enumerate(drawn(read(cells))[1 - at]):
                both = (cells[0], token) if at == 0 else (token, cells[1])
                result[both] += first[0][a] * first[1][b] * share * probability
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_frequencies_are_the_exact_probabilities(kind, temperature):
    """Two tokens, 20,000 rows of one prompt that differ in their seeds; Pearson's chi-square over 9 cells."""
    rows, mask_id = 20_000, 3
    denoiser = TableDenoiser(mask_id + 1, scale=1.0, seed=4)
    canvas = Canvas.blank([torch.tensor([0, 1])] * rows, 2, mask_id=mask_id, pad_id=0)
    sampler = kind(steps=2, block=2, temperature=temperature, max_rows=rows)
    result = sample(sampler, denoiser, canvas, mask_id=mask_id)
    counts = Counter(map(tuple, result.completion.tolist()))
    exact = pairs(denoiser, [0, 1], temperature, kind is RandomSampler, mask_id)
    assert sum(exact.values()) == pytest.approx(1.0)
    square = sum((counts[pair] - rows * share) ** 2 / (rows * share) for pair, share in exact.items() if share)
    assert square < 27.9, "beyond 1 - 5e-4 of chi-square with 8 degrees of freedom"


def test_same_seeds_same_sample_other_seeds_another():
    canvas = Canvas.blank([torch.arange(3)] * 8, 10, mask_id=MASK, pad_id=EOS)
    sampler = LLaDASampler(steps=5, block=10, temperature=1.0)
    first = sample(sampler, TableDenoiser(VOCAB), canvas, range(8))
    assert same(first, sample(sampler, TableDenoiser(VOCAB), canvas, range(8)))
    assert len({tuple(row) for row in first.completion.tolist()}) == 8, "equal rows differ by their seeds"


# End of sequence ------------------------------------------------------------------------------------------------


class EndsEarly(TableDenoiser):
    """Says EOS from the fourth completion token to the eighth, and anything after it."""

    def __init__(self, width: int) -> None:
        super().__init__(VOCAB)
        self.width = width

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any = None) -> Any:
        column = where % tokens.shape[1] - (tokens.shape[1] - self.width)
        hidden = torch.stack([super().forward(tokens, attention, where, lambda head, hidden: hidden)[:, 0], column], 1)
        return self.head(hidden) if read is None else read(self.head, hidden)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().head(hidden)
        logits[:, EOS] = torch.where((hidden[:, 1] >= 4) & (hidden[:, 1] < 8), 1e4, -1e4)
        return logits


def test_a_row_stops_when_its_block_is_all_eos():
    """Trap 7: a sampler that does not stop writes text after the first EOS."""
    canvas = Canvas.blank([torch.arange(3)] * 2, 16, mask_id=MASK, pad_id=EOS)
    stopping, going = (LLaDASampler(steps=16, block=4, temperature=0.0, stop_at_eos=stop) for stop in (True, False))
    stopped = sample(stopping, EndsEarly(16), canvas)
    assert (stopped.completion[:, 4:] == EOS).all()
    assert stopped.forwards.tolist() == [8, 8]
    assert (stopped.order[:, 8:] == 7).all(), "the fill belongs to the step that ended the row"
    with pytest.raises(AssertionError):
        assert (sample(going, EndsEarly(16), canvas).completion[:, 4:] == EOS).all()


def test_a_row_does_not_stop_before_its_last_hint():
    canvas = Canvas.blank([torch.arange(3)] * 3, 16, mask_id=MASK, pad_id=EOS)
    overlay = torch.full((3, 16), -1)
    overlay[1, 9], overlay[2, 5] = 3, EOS
    result = sample(
        LLaDASampler(steps=16, block=4, temperature=0.0, stop_at_eos=True), EndsEarly(16), canvas.inpaint(overlay)
    )
    assert result.forwards.tolist() == [8, 15, 7]
    assert (result.completion != MASK).all()
    assert result.completion[1, 9] == 3


# Traps ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(1, 70), st.integers(1, 40), st.data())
def test_any_steps_any_width_any_block(steps, width, data):
    """Trap 4; the faulty schedule stands in test_sampling_commit.py."""
    block = data.draw(st.integers(1, width))
    canvas = Canvas.blank([torch.arange(2)], width, mask_id=MASK, pad_id=EOS)
    result = sample(LLaDASampler(steps=steps, block=block, temperature=1.0), TableDenoiser(VOCAB), canvas)
    assert (result.completion != MASK).all()
    assert result.forwards <= max(steps, -(-width // block))


def test_prompts_of_unequal_length_share_a_batch():
    """Trap 6: the faulty variants stack the prompts, or attend to the padding."""
    prompts = [torch.arange(2), torch.arange(6)]
    sampler, denoiser = LLaDASampler(steps=5, block=5, temperature=1.0), TableDenoiser(VOCAB)
    alone = Canvas.blank(prompts[:1], 10, mask_id=MASK, pad_id=EOS)
    expected = sample(sampler, denoiser, alone, [0])
    canvas = Canvas.blank(prompts, 10, mask_id=MASK, pad_id=EOS)
    attended = Canvas(canvas.tokens, torch.ones_like(canvas.attention), canvas.given, canvas.width)
    assert same(sample(sampler, denoiser, canvas), expected, [0])
    assert not same(sample(sampler, denoiser, attended), expected, [0])
    with pytest.raises(RuntimeError):
        torch.stack(prompts)


class Counting(TableDenoiser):
    """Remembers how many positions its head was asked for, call by call."""

    def __init__(self, vocab: int) -> None:
        super().__init__(vocab)
        self.asked: list[int] = []

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(hidden))
        return super().head(hidden)


def test_the_head_runs_at_the_blanks_of_the_block_and_in_bounded_parts():
    """Trap 10: the published loop asks for every position at every step."""
    rows, prompt, width = 200, 8, 8
    canvas = Canvas.blank([torch.arange(prompt)] * rows, width, mask_id=MASK, pad_id=EOS)
    denoiser = Counting(VOCAB)
    sample(LLaDASampler(steps=4, block=4, temperature=1.0, max_rows=rows), denoiser, canvas)
    assert sum(denoiser.asked) == rows * (4 + 2 + 4 + 2)
    assert max(denoiser.asked) <= POSITIONS
    published = [rows * (prompt + width)] * 4
    with pytest.raises(AssertionError):
        assert sum(published) == rows * (4 + 2 + 4 + 2)


class Waits(TorchDispatchMode):
    """Counts the operations that make a host wait for its device."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += str(func).split(".")[1] in {"_local_scalar_dense", "nonzero", "equal"}
        return func(*args, **(kwargs or {}))


def waits(rows: int, temperature: float, choose: Any = None) -> int:
    canvas = Canvas.blank([torch.arange(3)] * rows, 8, mask_id=MASK, pad_id=EOS)
    with Waits() as counter:
        sample(LLaDASampler(steps=8, block=8, temperature=temperature), TableDenoiser(VOCAB), canvas)
        if choose:
            choose(torch.rand(rows, 8))
    return counter.number


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_host_waits_for_no_row(temperature):
    """Trap 10: a top-k for each row reads each row's count on the host."""
    assert waits(2, temperature) == waits(32, temperature)

    def faulty(confidence: torch.Tensor) -> None:
        for row in confidence:
            row.topk(int(row.argmax().clamp(min=1)))

    with pytest.raises(AssertionError):
        assert waits(2, temperature, faulty) == waits(32, temperature, faulty)


# What is refused, and what may be watched ---------------------------------------------------------------------


def test_a_block_wider_than_the_completion_is_refused():
    canvas = Canvas.blank([torch.arange(2)], 256, mask_id=MASK, pad_id=EOS)
    message = "^block = 512 is wider than the completion, width = 256. Use at most 256.$"
    for kind in KINDS:
        with pytest.raises(ValueError, match=message):
            sample(kind(block=512), TableDenoiser(VOCAB), canvas)


@pytest.mark.parametrize("option", [{"steps": 0}, {"block": 0}, {"temperature": -0.1}, {"max_rows": 0}])
@pytest.mark.parametrize("kind", KINDS)
def test_options_out_of_bounds_are_refused(kind, option):
    with pytest.raises(ValueError, match=next(iter(option))):
        kind(**option)


def test_inputs_that_do_not_fit_are_refused():
    canvas = Canvas.blank([torch.arange(2)] * 2, 4, mask_id=MASK, pad_id=EOS)
    sampler = LLaDASampler(block=4)
    with pytest.raises(ValueError, match="one seed a row"):
        sample(sampler, TableDenoiser(VOCAB), canvas, [1])
    with pytest.raises(ValueError, match=r"seeds are \(2,\) torch.float32"):
        sample(sampler, TableDenoiser(VOCAB), canvas, [1.0, 2.0])
    with pytest.raises(ValueError, match="a hint holds the mask token, 12"):
        sample(sampler, TableDenoiser(VOCAB), canvas.inpaint(torch.full((2, 4), MASK)))
    broken = TableDenoiser(VOCAB)
    broken.table[:] = torch.nan
    for temperature in (0.0, 1.0):
        with pytest.raises(ValueError, match="not finite"):
            sample(LLaDASampler(block=4, temperature=temperature), broken, canvas)


def test_watch_sees_every_step_and_rows_move_up_as_others_are_done():
    canvas = Canvas.blank([torch.arange(2)] * 3, 6, mask_id=MASK, pad_id=EOS)
    for max_rows, left in ((3, [12, 6, 0]), (2, [14, 10, 6, 4, 2, 0])):
        seen: list[tuple[int, int]] = []
        result = sample(
            LLaDASampler(steps=3, block=6, temperature=0.0, max_rows=max_rows),
            TableDenoiser(VOCAB),
            canvas,
            watch=lambda step, tokens: seen.append((step, int((tokens == MASK).sum()))),  # noqa: B023
        )
        assert seen == list(enumerate(left))
        assert result.forwards.tolist() == [3, 3, 3]


def test_gradients_are_not_recorded_and_modes_are_left_alone():
    loaded = mixing(width=16, layers=1, heads=2)
    loaded.denoiser.train()
    canvas = Canvas.blank([torch.tensor([0])], 4, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
    result = sample(LLaDASampler(block=4), loaded.denoiser, canvas, mask_id=loaded.mask_id)
    assert loaded.denoiser.training
    assert not result.confidence.requires_grad
