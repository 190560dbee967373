"""Windows over stored keys and values: the store, and a forward that computes some columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_models import BlockCausal, catalogue, mixing
from torch import Tensor

from igpo_sampling import Canvas, Decoding, KeyValues, LLaDASampler, Sample, Window
from igpo_sampling.cache import trait
from igpo_sampling.commit import probability, top
from igpo_sampling.loop import denoise
from igpo_sampling.models.llada_network import rotation_of
from igpo_sampling.testing import TableDenoiser

SAMPLERS = catalogue()


def test_the_store_keeps_what_is_put_and_knows_which_rows():
    generator = torch.Generator().manual_seed(0)
    whole = torch.zeros(2, 3, 1, 6, 4)
    store = KeyValues(3, 6)
    for rows, starts, width in (([0, 1, 2], [1, 0, 3], 2), ([0, 1, 2], [0, 0, 0], 6), ([2, 0], [4, 1], 1)):
        columns = torch.tensor(starts)[:, None] + torch.arange(width)
        k, v = torch.randn(2, len(rows), 1, width, 4, generator=generator)
        part = store if len(rows) == 3 else store.part(torch.tensor(rows))
        kept = part.put(0, columns, k, v)
        for row, start, *new in zip(rows, starts, k, v, strict=True):
            for pair, values in zip(whole, new, strict=True):
                pair[row, :, start : start + width] = values
        assert torch.equal(torch.stack(kept), whole[:, rows])
    store.take(torch.tensor([2, 0]))
    kept = store.put(0, torch.zeros(2, 1, dtype=torch.long), *whole[:, [2, 0], :, :1])
    assert torch.equal(torch.stack(kept), whole[:, [2, 0]])


def test_where_is_found_in_the_window():
    columns = torch.tensor([[2, 3, 5], [0, 1, 4]])
    where = torch.tensor([7 + 4, 2, 5, 7 + 0])
    assert Window(columns, KeyValues(2, 7)).locate(where, 7).tolist() == [5, 0, 2, 3]


def test_stale_keys_are_those_that_were_stored():
    """A token that changes outside of the window is not seen; inside it is."""
    loaded = mixing(width=16, layers=2, heads=2, dtype=torch.float64)
    tokens = torch.arange(20).view(2, 10)
    attention = torch.ones_like(tokens, dtype=torch.bool)
    columns = torch.arange(3, 7).repeat(2, 1)
    inside = torch.tensor([3, 16])
    with torch.no_grad():
        results = []
        for column in (None, 1, 4):
            store = KeyValues(2, 10)
            whole = Window(torch.arange(10).repeat(2, 1), store)
            loaded.denoiser(tokens, attention, inside, None, whole)
            other = tokens.clone()
            if column is not None:
                other[:, column] = 39
            results.append(loaded.denoiser(other, attention, inside, None, Window(columns, store)))
    assert torch.allclose(results[0], results[1], rtol=0, atol=1e-12)
    assert not torch.allclose(results[0], results[2], rtol=0, atol=1e-3)


def test_traits_are_found_behind_a_wrapper():
    class Wrapper(torch.nn.Module):
        """Hides the attributes of its module, as DDP does."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

    network = mixing(width=16, layers=1, heads=2).denoiser
    assert trait(Wrapper(Wrapper(network)), "caches", ()) == ("prefix", "dual")
    assert trait(Wrapper(network), "block", None) is None


# The sampler with a cache ---------------------------------------------------------------------------------------

VOCAB, MASK, EOS = 13, 12, 11


@st.composite
def canvases(draw: Any, least: int = 0) -> Canvas:
    """Unequal prompts, unequal hints."""
    width = draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(least, 5), min_size=1, max_size=4))
    cell = st.one_of(st.just(-1), st.just(-1), st.integers(0, VOCAB - 2))
    overlay = [draw(st.lists(cell, min_size=width, max_size=width)) for _ in lengths]
    prompts = [torch.arange(length) for length in lengths]
    return Canvas.blank(prompts, width, mask_id=MASK, pad_id=EOS).inpaint(torch.tensor(overlay))


def sample(sampler: Any, denoiser: Any, canvas: Canvas, seeds: Any = None, mask_id: int = MASK) -> Sample:
    seeds = torch.arange(len(canvas)) if seeds is None else seeds
    return sampler(denoiser, canvas, seeds, mask_id=mask_id, eos_id=EOS)


def same(first: Sample, second: Sample) -> bool:
    names = ("completion", "order", "confidence", "forwards")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def stale(
    read: Callable[[list[int], list[int], Any], dict[int, Tensor]],
    tokens: list[int],
    blank: list[bool],
    block: int,
    cache: str,
    count: int,
    stop_at_eos: bool,
    mask_id: int,
) -> tuple[list[int], int]:
    """One row at temperature 0, `count` tokens a step, with Fast-dLLM's windows; `read(tokens, columns, kept)` keeps what
    it computes. Returns the completion, and how many columns were computed."""
    P, kept, computed = len(tokens) - len(blank), {}, 0
    open_ = [P + at for at, is_blank in enumerate(blank) if is_blank]
    hints = [P + at for at, is_blank in enumerate(blank) if not is_blank]
    entered = -1
    while open_:
        number = (open_[0] - P) // block
        start, end = P + number * block, min(P + number * block + block, len(tokens))
        if number != entered:
            columns = list(range(len(tokens)))
        else:
            columns = list(range(start, end if cache == "dual" else len(tokens)))
        entered, computed = number, computed + len(columns)
        logits = read(tokens, columns, kept)
        here = [column for column in open_ if column < end]
        known = torch.arange(len(logits[start])) != mask_id
        best = {column: int(logits[column].where(known, -torch.inf).argmax()) for column in here}
        sure = {column: float(logits[column].double().softmax(0)[best[column]]) for column in here}
        for column in sorted(here, key=lambda column: (-sure[column], column))[:count]:
            tokens[column] = best[column]
            open_.remove(column)
        if stop_at_eos and tokens[start:end] == [EOS] * (end - start) and not any(hint >= end for hint in hints):
            for column in open_:
                tokens[column] = EOS
            break
    return tokens[P:], computed


class Each(NamedTuple):
    """A rule's worth of a sampler: so many tokens a step."""

    count: int
    decoding: Decoding

    def __call__(self, denoiser: Any, canvas: Canvas, seeds: Tensor, **rest: Any) -> Sample:
        return denoise(
            denoiser,
            canvas,
            seeds,
            self.decoding,
            confidence=probability,
            rule=lambda confidence, rows, step: top(confidence, torch.full_like(rows, self.count)),
            **rest,
        )


@settings(max_examples=25)
@given(st.data())
def test_stale_keys_are_those_of_a_reference_that_keeps_them_explicitly(data):
    """A table whose keys are one number a token; unequal prompts, hints, rows that end early and rows that move up."""
    canvas = data.draw(canvases())
    denoiser = TableDenoiser(VOCAB, states=data.draw(st.sampled_from([2, 257])), seed=data.draw(st.integers(0, 99)))
    denoiser.table[:, EOS] += data.draw(st.sampled_from([0.0, 9.0]))
    block, cache = data.draw(st.integers(1, canvas.width)), data.draw(st.sampled_from(["prefix", "dual"]))
    count, stop, max_rows = data.draw(st.integers(1, 3)), data.draw(st.booleans()), data.draw(st.integers(1, 4))
    options = {"block": block, "cache": cache, "stop_at_eos": stop, "max_rows": max_rows}
    result = sample(Each(count, Decoding(temperature=0.0, **options)), denoiser, canvas)

    def read(tokens: list[int], columns: list[int], kept: dict[int, int]) -> dict[int, Tensor]:
        for column in columns:
            place = len(tokens) - column
            kept[column] = (tokens[column] + 1) * (31 * place * place + 17)
        states = {
            column: (sum(kept.values()) + 7919 * (len(tokens) - column)) % len(denoiser.table) for column in columns
        }
        return {column: denoiser.table[state] for column, state in states.items()}

    for row in range(len(canvas)):
        real = canvas.attention[row]
        tokens = torch.where(canvas.given, canvas.tokens, MASK)[row][real].tolist()
        expected, computed = stale(read, tokens, canvas.blanks[row].tolist(), block, cache, count, stop, MASK)
        assert result.completion[row].tolist() == expected
        if len(canvas) == 1:
            assert result.columns[row] == computed


def test_stale_keys_of_a_real_model():
    """Two layers in float64; each row's keys and values kept in lists, attention written out."""
    loaded = mixing(width=16, layers=2, heads=2, dtype=torch.float64)
    parts = loaded.denoiser.model["transformer"]
    prompts = [torch.arange(length) for length in (3, 7, 1)]
    overlay = torch.full((3, 12), -1)
    overlay[1, 2:5], overlay[2, 10] = 7, 9
    canvas = Canvas.blank(prompts, 12, mask_id=loaded.mask_id, pad_id=loaded.pad_id).inpaint(overlay)

    def read(tokens: list[int], columns: list[int], kept: dict[Any, Any]) -> dict[int, Tensor]:
        cos, sin = rotation_of(len(tokens), loaded.denoiser.config, parts.wte.weight)
        x = {column: parts.wte.weight[tokens[column]] for column in columns}
        for layer, part in enumerate(parts.blocks):
            queries = {}
            for column in columns:
                h = part.attn_norm(x[column])
                q, k, v = (linear(h).view(2, 8) for linear in (part.q_proj, part.k_proj, part.v_proj))
                queries[column], k = (y * cos[column] + y.roll(4, -1) * sin[column] for y in (q, k))
                kept[layer, column] = k, v
            for column in columns:
                k, v = (torch.stack([kept[layer, at][which] for at in range(len(tokens))]) for which in (0, 1))
                shares = (torch.einsum("hd,thd->ht", queries[column], k) * 8**-0.5).softmax(1)
                x[column] = x[column] + part.attn_out(torch.einsum("ht,thd->hd", shares, v).flatten())
            for column in columns:
                h = part.ff_norm(x[column])
                gate = torch.nn.functional.silu(part.ff_proj(h))
                x[column] = x[column] + part.ff_out(gate * part.up_proj(h))
        return {column: parts.ff_out(parts.ln_f(state)) for column, state in x.items()}

    results = {
        "none": sample(Each(2, Decoding(temperature=0.0, block=4)), loaded.denoiser, canvas, None, loaded.mask_id)
    }
    for cache in ("prefix", "dual"):
        sampler = Each(2, Decoding(temperature=0.0, block=4, cache=cache, max_rows=2))
        results[cache] = sample(sampler, loaded.denoiser, canvas, None, loaded.mask_id)
        for row in range(3):
            real = canvas.attention[row]
            tokens = torch.where(canvas.given, canvas.tokens, loaded.mask_id)[row][real].tolist()
            with torch.no_grad():
                expected, _ = stale(read, tokens, canvas.blanks[row].tolist(), 4, cache, 2, False, loaded.mask_id)
            assert results[cache].completion[row].tolist() == expected
    assert not same(results["none"], results["dual"]), "keys do go stale here"


@settings(max_examples=12)
@given(st.data())
def test_windows_that_cover_everything_are_exact(data):
    """Without a prompt and with one block, or where each block takes one step."""
    name = data.draw(st.sampled_from(sorted(SAMPLERS.keys() - {"coin"})))
    canvas = data.draw(canvases())
    bare = Canvas(canvas.tokens, canvas.attention, canvas.given, canvas.width)
    if canvas.tokens.shape[1] > canvas.width:
        bare = Canvas.blank([torch.arange(0)] * len(canvas), canvas.width, mask_id=MASK, pad_id=EOS)
    denoiser, cache = TableDenoiser(VOCAB), data.draw(st.sampled_from(["prefix", "dual"]))
    exact = sample(SAMPLERS[name](block=None), denoiser, bare)
    assert same(sample(SAMPLERS[name](block=None, cache=cache), denoiser, bare), exact)
    one = {"block": 1, "temperature": 1.0, "guidance": data.draw(st.sampled_from([0.0, 1.5]))}
    assert same(
        sample(SAMPLERS[name](cache=cache, **one), denoiser, canvas), sample(SAMPLERS[name](**one), denoiser, canvas)
    )


@settings(max_examples=25)
@given(st.data())
def test_the_prefix_cache_is_exact_in_a_block_causal_model(data):
    """Bit for bit with a table, tokens and order with attention in float64, and fewer columns are computed."""
    name = data.draw(st.sampled_from(sorted(SAMPLERS)))
    canvas, model_block = data.draw(canvases(least=1)), data.draw(st.integers(1, 5))
    options: dict[str, Any] = {
        "block": data.draw(st.integers(1, canvas.width)),
        "temperature": data.draw(st.sampled_from([0.0, 1.0])),
        "stop_at_eos": data.draw(st.booleans()),
        "guidance": data.draw(st.sampled_from([0.0, 0.0, 1.0])),
        "max_rows": data.draw(st.integers(1, 5)),
    }
    table = TableDenoiser(VOCAB, block=model_block, seed=data.draw(st.integers(0, 99)))
    exact, kept = (sample(SAMPLERS[name](cache=cache, **options), table, canvas) for cache in ("none", "prefix"))
    assert same(exact, kept)
    assert (kept.columns <= exact.columns).all()
    real = BlockCausal(VOCAB, model_block)
    exact, kept = (sample(SAMPLERS[name](cache=cache, **options), real, canvas) for cache in ("none", "prefix"))
    assert torch.equal(exact.completion, kept.completion)
    assert torch.equal(exact.order, kept.order)


def test_a_block_causal_row_computes_each_column_about_once():
    """No refresh: the prompt and each block once, the blanks' own block at every further step, and once when it is full."""
    canvas = Canvas.blank([torch.arange(8)], 8, mask_id=MASK, pad_id=EOS)
    result = sample(Each(2, Decoding(block=4, temperature=0.0, cache="prefix")), TableDenoiser(VOCAB, block=4), canvas)
    assert result.forwards.tolist() == [4]
    assert result.columns.tolist() == [(8 + 4) + 4 + (4 + 4) + 4]


def test_a_cache_computes_less():
    canvas = Canvas.blank([torch.arange(20)] * 2, 32, mask_id=MASK, pad_id=EOS)
    options: dict[str, Any] = {"steps": 32, "block": 8, "temperature": 0.0}
    columns = {cache: LLaDASampler(cache=cache, **options) for cache in ("none", "prefix", "dual")}
    found = {
        cache: sample(sampler, TableDenoiser(VOCAB), canvas).columns.tolist() for cache, sampler in columns.items()
    }
    assert found["none"] == [32 * 52] * 2
    assert found["prefix"] == [4 * 52 + 7 * (32 + 24 + 16 + 8)] * 2
    assert found["dual"] == [4 * 52 + 28 * 8] * 2


def test_a_cache_that_a_model_cannot_offer_is_refused():
    canvas = Canvas.blank([torch.arange(2)], 4, mask_id=MASK, pad_id=EOS)
    with pytest.raises(
        ValueError, match=r"^TableDenoiser cannot keep cache = 'dual': it offers prefix. Use --sampler.cache "
    ):
        sample(LLaDASampler(block=4, cache="dual"), TableDenoiser(VOCAB, block=2), canvas)

    class Plain(torch.nn.Module):
        pass

    with pytest.raises(
        ValueError, match=r"^Plain cannot keep cache = 'prefix': it offers none. Use --sampler.cache none.$"
    ):
        sample(LLaDASampler(block=4, cache="prefix"), Plain(), canvas)


def test_a_cache_behind_peft():
    peft = pytest.importorskip("peft")
    loaded = mixing(width=16, layers=1, heads=2)
    canvas = Canvas.blank([torch.arange(3)] * 2, 8, mask_id=loaded.mask_id, pad_id=loaded.pad_id)
    sampler = LLaDASampler(steps=8, block=4, temperature=0.0, cache="dual")
    expected = sample(sampler, loaded.denoiser, canvas, None, loaded.mask_id)
    adapted = peft.get_peft_model(loaded.denoiser, peft.LoraConfig(target_modules=list(loaded.linear)))
    assert same(sample(sampler, adapted, canvas, None, loaded.mask_id), expected)
