"""What every installed sampler keeps, whatever its options: given tokens, no masks, and rows that stand on their own."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_models import catalogue, mixing

from igpo_sampling import Canvas, Sample
from igpo_sampling.plugin import igpo_samplers
from igpo_sampling.testing import TableDenoiser

VOCAB, MASK, EOS = 13, 12, 11
SAMPLERS = catalogue()
NAMES = ("completion", "order", "confidence", "forwards")

each_sampler = pytest.mark.parametrize("name", SAMPLERS)


def test_the_catalogue_holds_the_built_in_samplers_and_the_example():
    assert {*igpo_samplers(), "coin"} <= set(SAMPLERS)


@st.composite
def canvases(draw: Any, longest: int = 10) -> Canvas:
    """Unequal prompts, unequal hints."""
    width = draw(st.integers(1, longest))
    lengths = draw(st.lists(st.integers(0, 4), min_size=2, max_size=4))
    cell = st.one_of(st.just(-1), st.just(-1), st.integers(0, EOS))
    overlay = [draw(st.lists(cell, min_size=width, max_size=width)) for _ in lengths]
    prompts = [torch.arange(length) for length in lengths]
    return Canvas.blank(prompts, width, mask_id=MASK, pad_id=EOS).inpaint(torch.tensor(overlay))


def samplers(name: str, width: int) -> st.SearchStrategy[Any]:
    """With every option that this sampler has; one that is new here is drawn as its default."""
    values = {
        "steps": st.integers(1, 12),
        "block": st.integers(1, width),
        "temperature": st.sampled_from([0.0, 0.7, 1.2]),
        "top_p": st.sampled_from([1.0, 0.8, 0.3]),
        "top_k": st.sampled_from([None, 1, 4]),
        "guidance": st.sampled_from([0.0, 1.5]),
        "stop_at_eos": st.booleans(),
        "eos_after": st.integers(0, width),
        "cache": st.sampled_from(["none", "none", "prefix", "dual"]),
        "max_rows": st.integers(1, 5),
        "by": st.sampled_from(["probability", "margin", "entropy"]),
        "alg_temp": st.sampled_from([0.0, 0.4]),
        "threshold": st.sampled_from([0.0, 0.5, 0.9]),
        "factor": st.sampled_from([0.5, 1.0, 4.0]),
        "gamma": st.sampled_from([0.0, 0.1, 3.0]),
        "kl": st.sampled_from([0.01, 5.0]),
        "history": st.integers(1, 2),
        "patience": st.sampled_from([0.0, 1.0, 3.0]),
    }
    options = [option.name for option in attrs.fields(SAMPLERS[name]) if option.name in values]
    return st.builds(SAMPLERS[name], **{option: values[option] for option in options})


def rows_of(canvas: Canvas, rows: Any) -> Canvas:
    return Canvas(canvas.tokens[rows], canvas.attention[rows], canvas.given[rows], canvas.width)


def differing(first: Sample, second: Sample, names: Any = NAMES, rows: Any = slice(None)) -> list[str]:
    return [name for name in names if not torch.equal(getattr(first, name)[rows], getattr(second, name))]


def seeds_for(canvas: Canvas) -> st.SearchStrategy[torch.Tensor]:
    number = st.integers(-(2**63), 2**63 - 1)
    return st.lists(number, min_size=len(canvas), max_size=len(canvas)).map(torch.tensor)


@each_sampler
@settings(max_examples=12)
@given(data=st.data())
def test_given_tokens_stay_no_mask_is_left_and_rows_are_bit_equal(name, data):
    """The rows together; in another order with other `max_rows`; and one of them alone."""
    canvas = data.draw(canvases())
    sampler, seeds = data.draw(samplers(name, canvas.width)), data.draw(seeds_for(canvas))
    denoiser = TableDenoiser(VOCAB, seed=data.draw(st.integers(0, 99)))
    denoiser.table[:, MASK] = 50.0  # the mask would be the choice everywhere, were it not forbidden
    hint = ~canvas.blanks

    whole = sampler(denoiser, canvas, seeds, mask_id=MASK, eos_id=EOS)
    assert torch.equal(whole.completion[hint], canvas.completion[hint])
    assert not (whole.completion == MASK).any()
    assert ((whole.completion >= 0) & (whole.completion < VOCAB)).all()
    assert torch.equal(whole.order == -1, hint)
    early = canvas.blanks & (torch.arange(canvas.width) < sampler.eos_after)
    assert not (whole.completion[early] == EOS).any()

    order = data.draw(st.permutations(range(len(canvas))))
    other = attrs.evolve(sampler, max_rows=data.draw(st.integers(1, 5)))
    for rows, again in ((order, other), (order[:1], sampler)):
        part = again(denoiser, rows_of(canvas, rows), seeds[rows], mask_id=MASK, eos_id=EOS)
        assert differing(whole, part, rows=rows) == []


@each_sampler
@settings(max_examples=6)
@given(data=st.data())
def test_tokens_and_order_do_not_depend_on_the_batch_with_a_real_model(name, data):
    """In float64, as matrix products of other shapes round differently."""
    loaded = mixing(width=16, layers=2, heads=2, dtype=torch.float64, vocabulary=[f"w{n}" for n in range(9)])
    blank = data.draw(canvases(longest=8))
    tokens = torch.where(blank.attention & blank.given, blank.tokens.clamp(max=8), loaded.mask_id)
    canvas = attrs.evolve(blank, tokens=tokens)
    sampler, seeds = data.draw(samplers(name, canvas.width)), data.draw(seeds_for(canvas))
    ids = {"mask_id": loaded.mask_id, "eos_id": loaded.eos_id}

    whole = sampler(loaded.denoiser, canvas, seeds, **ids)
    order = data.draw(st.permutations(range(len(canvas))))
    for rows in (order, order[:1]):
        part = sampler(loaded.denoiser, rows_of(canvas, rows), seeds[rows], **ids)
        assert differing(whole, part, ("completion", "order", "forwards"), rows) == []
        assert torch.allclose(whole.confidence[rows], part.confidence, rtol=0, atol=1e-6)


# Several processes ------------------------------------------------------------------------------------------------


def share(process: int, processes: int, seeds: torch.Tensor) -> dict[str, Sample]:
    """What one of several processes samples: every so manieth of six rows, with each sampler."""
    prompts = [torch.arange(length) for length in (3, 0, 5, 2, 5, 1)]
    overlay = torch.full((6, 9), -1)
    overlay[1, 4:7], overlay[2, 0], overlay[5, 1:] = 3, 2, 6
    rows = list(range(6))[process::processes]
    canvas = Canvas.blank([prompts[row] for row in rows], 9, mask_id=MASK, pad_id=EOS).inpaint(overlay[rows])
    denoiser = TableDenoiser(VOCAB)
    return {
        name: kind(block=3, temperature=1.0)(denoiser, canvas, seeds[rows], mask_id=MASK, eos_id=EOS)
        for name, kind in SAMPLERS.items()
    }


def interleaved(parts: list[Sample]) -> Sample:
    fields = (field.name for field in attrs.fields(Sample))
    return Sample(*(torch.stack([getattr(part, name) for part in parts], 1).flatten(0, 1) for name in fields))


def test_two_processes_sample_together_what_one_samples():
    seeds = torch.arange(6) * 77 - 100
    whole = share(0, 1, seeds)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        halves = [task.result() for task in [pool.submit(share, process, 2, seeds) for process in (0, 1)]]
    for name in SAMPLERS:
        assert differing(whole[name], interleaved([half[name] for half in halves])) == [], name
    by_place = [share(process, 2, torch.arange(6) // 2) for process in (0, 1)]
    expected = share(0, 1, torch.arange(6))
    for name in SAMPLERS:
        assert differing(expected[name], interleaved([half[name] for half in by_place])), "seeds by place in a process"
