"""What every model of the catalogue promises, whichever family it is of."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_decoders import WORDS, publish
from sampling_models import mixing
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from igpo_sampling import Canvas, LLaDASampler, Loaded, RandomSampler
from igpo_sampling.models import tokenizers
from igpo_sampling.plugin import igpo_models
from igpo_sampling.testing import check_denoiser


def bert(folder: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=43,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
                pad_token_id=42,
                initializer_range=0.3,
            )
        )
    model.save_pretrained(folder)
    tokenizers.words(WORDS).save_pretrained(folder)


MAKERS: dict[str, Any] = {
    "bidirectional": lambda folder: publish(folder, "a2d"),
    "block": lambda folder: publish(folder, "sdar"),
    "dream": lambda folder: publish(folder, "dream"),
    "llada": lambda folder: mixing(vocabulary=WORDS).save(folder),
    "masked-lm": bert,
    "tiny": lambda folder: mixing(vocabulary=WORDS).save(folder),
}
"""Writes a directory for each name; a new model needs a line here."""


def load(name: str, folder: Path, **options: Any) -> Loaded:
    module, kind = igpo_models()[name].split(":")
    loaded: Loaded = getattr(importlib.import_module(module), kind)(path=str(folder))(**options)
    return loaded


@pytest.mark.parametrize("name", igpo_models())
def test_every_model(tmp_path, name):
    """Conforms, samples around hints, saves what it loads again, names its layers, touches no global state."""
    MAKERS[name](tmp_path / "theirs")
    state = torch.random.get_rng_state()
    model = load(name, tmp_path / "theirs")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not model.denoiser.training
    entries = model.denoiser.get_input_embeddings().num_embeddings
    check_denoiser(model.denoiser, entries, tolerance=1e-4)

    named = dict(model.denoiser.named_modules())
    head = model.denoiser.get_output_embeddings()
    assert [key for key, part in named.items() if isinstance(part, nn.Linear) and part is not head] == list(
        model.linear
    )
    assert any(type(part).__name__ in model.denoiser._no_split_modules for part in named.values())

    overlay = torch.full((2, 12), -1)
    overlay[0, 3:6] = 5
    overlay[1, 11] = 6
    prompts = [torch.arange(2), torch.arange(7)]
    canvas = Canvas.blank(prompts, 12, mask_id=model.mask_id, pad_id=model.pad_id).inpaint(overlay)
    for sampler in (LLaDASampler(steps=6, block=4, temperature=1.0), RandomSampler(steps=5, block=12, temperature=0.7)):
        sample = sampler(model.denoiser, canvas, torch.arange(2), mask_id=model.mask_id, eos_id=model.eos_id)
        assert torch.equal(sample.completion[overlay >= 0], overlay[overlay >= 0])
        assert not (sample.completion == model.mask_id).any()

    model.save(tmp_path / "ours")
    again = load(name, tmp_path / "ours")
    first, second = model.denoiser.state_dict(), again.denoiser.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert (again.mask_id, again.eos_id, again.pad_id) == (model.mask_id, model.eos_id, model.pad_id)
    assert (again.linear, again.experts, again.block) == (model.linear, model.experts, model.block)
    half = load(name, tmp_path / "ours", dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.denoiser.parameters()} == {torch.bfloat16}
    logits = half.denoiser(canvas.tokens, canvas.attention, torch.arange(7, 19))
    assert logits.isfinite().all()
