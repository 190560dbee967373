"""Small models made from nothing, and tokenizers that need no download."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling_models import mixing

from igpo_sampling import Tiny
from igpo_sampling.models import tokenizers
from igpo_sampling.testing import check_denoiser

WORDS = ["a", "b", "rev", ":", "?", "####"]


def test_weights_depend_on_the_seed_and_on_nothing_else():
    first, again, other = (Tiny()(vocabulary=WORDS, seed=seed).denoiser.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.transformer.wte.weight"], other["model.transformer.wte.weight"])


def test_conforms():
    check_denoiser(mixing(vocabulary=WORDS).denoiser, len(WORDS) + 3)
    check_denoiser(
        mixing(vocabulary=None, width=24, layers=1, heads=2, dtype=torch.float64).denoiser, 259, tolerance=1e-10
    )


def test_blocks_begin_as_the_identity():
    """At the start a token's logits depend on that token alone; training mixes them."""
    model = Tiny()(vocabulary=WORDS)
    tokens = torch.tensor([[0, 1, 2], [0, 3, 4]])
    logits = model.denoiser(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.arange(6))
    assert torch.equal(logits[0], logits[3])
    assert not torch.equal(logits[1], logits[4])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width = 20 must be a multiple of 2 x heads = 8"):
        Tiny(width=20, heads=4)


def test_words_are_one_token_each_and_special_tokens_come_last():
    tokenizer = tokenizers.words(WORDS)
    assert tokenizer("rev : a b ?").input_ids == [2, 3, 0, 1, 4]
    assert tokenizer.decode([2, 3, 0, 1, 4]) == "rev : a b ?"
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (6, 7, 8)
    assert tokenizer.decode([0, 7, 8, 6], skip_special_tokens=True) == "a"
    encoded = tokenizer("a ####  b", return_offsets_mapping=True)
    assert encoded.offset_mapping == [(0, 1), (2, 6), (8, 9)]


@given(st.lists(st.sampled_from(WORDS)))
def test_words_round_trip(words):
    tokenizer = tokenizers.words(WORDS)
    assert tokenizer.decode(tokenizer(" ".join(words)).input_ids) == " ".join(words)


@pytest.mark.parametrize("vocabulary", [["a", "a"], ["a b"], [""], ["a", "<eos>"]])
def test_unusable_vocabularies_are_refused(vocabulary):
    with pytest.raises(ValueError, match="repetitions or unusable words"):
        tokenizers.words(vocabulary)


@given(st.text().filter(lambda text: "<" not in text))
def test_bytes_round_trip_any_text(text):
    tokenizer = tokenizers.utf8()
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_bytes_need_259_tokens():
    assert len(tokenizers.utf8()) == 259
    assert tokenizers.utf8().mask_token_id == 256
