"""Small models made from nothing, and tokenizers that need no download."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling_models import mixing
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from igpo_sampling import LLaDA, Tiny
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


def test_reads_text_with_a_tokenizer_of_ones_own(tmp_path):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(["the theme"] * 9, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="the").save_pretrained(tmp_path / "tokenizer")
    made = Tiny(tokenizer=str(tmp_path / "tokenizer"))(vocabulary=WORDS)
    made.save(tmp_path / "model")
    for loaded in (made, LLaDA(path=str(tmp_path / "model"))()):
        assert loaded.tokenizer.decode(loaded.tokenizer("the theme").input_ids) == "the theme"
        assert loaded.denoiser.get_input_embeddings().num_embeddings == len(loaded.tokenizer)
        assert loaded.eos_id == loaded.tokenizer.convert_tokens_to_ids("the")  # its own; mask and padding are added
        assert loaded.mask_id == core.get_vocab_size() < loaded.pad_id
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        Tiny(tokenizer=str(tmp_path))()
