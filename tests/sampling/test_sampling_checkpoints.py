"""Reading and writing directories of checkpoints, for any network class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from igpo_sampling.models import checkpoints, tokenizers

WORDS = [f"w{number}" for number in range(29)]
SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "eos_token_id": 30,
    "pad_token_id": 31,
    "bos_token_id": None,
}
LLAMA = (LlamaForCausalLM, LlamaConfig(**SMALL))
TIED = (Qwen2ForCausalLM, Qwen2Config(**SMALL, tie_word_embeddings=True))
GEMMA = (Gemma3ForCausalLM, Gemma3TextConfig(**SMALL, head_dim=8, tie_word_embeddings=True, sliding_window=3))
BERT = (
    BertForMaskedLM,
    BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, pad_token_id=31
    ),
)


def made(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """Random weights, whatever the global generator holds."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(config).eval()


def saved(folder: Path, model: PreTrainedModel) -> Path:
    """A directory as other tools write it, with files that are none of ours."""
    model.save_pretrained(folder)
    tokenizers.words(WORDS).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.25}')
    (folder / "modeling_theirs.py").write_text("# their code\n")
    return folder


def read(folder: Path, kind: type[PreTrainedModel], config: Any, **options: Any) -> PreTrainedModel:
    with torch.device("meta"):
        network = kind(config)
    checkpoints.read_weights(folder, network, **options)
    return network.eval()


@pytest.mark.parametrize("family", [LLAMA, TIED, GEMMA, BERT], ids=lambda family: family[0].__name__)
def test_weights_and_buffers_are_those_that_transformers_loads(tmp_path, family):
    """Buffers that no file holds too: rotary frequencies, position ids, the scale of Gemma's embeddings."""
    kind, config = family
    folder = saved(tmp_path, made(kind, config))
    state = torch.random.get_rng_state()
    ours, theirs = read(folder, kind, config), kind.from_pretrained(folder).eval()
    assert torch.equal(state, torch.random.get_rng_state()), "global random state is not touched"
    for parts in ("named_parameters", "named_buffers"):
        first, second = (dict(getattr(model, parts)()) for model in (ours, theirs))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    tokens = torch.arange(20).view(2, 10)
    assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


def test_tied_weights_stay_one_weight(tmp_path):
    folder = saved(tmp_path, made(*TIED))
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    network = read(folder, *TIED, dtype=torch.float64)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    assert network.dtype == torch.float64
    copy = folder / "copy"
    checkpoints.write(copy, network, checkpoints.read_checkpoint(str(folder)))
    assert "lm_head.weight" not in load_file(copy / "model.safetensors")


def test_a_file_may_hold_either_name_of_a_tied_weight_or_both_if_they_agree(tmp_path):
    folder = saved(tmp_path, made(*TIED))
    weights = load_file(folder / "model.safetensors")
    name, twin = "model.embed_tokens.weight", "lm_head.weight"
    for held in ({twin: weights[name]}, {name: weights[name], twin: weights[name].clone()}):
        save_file({**{key: weights[key] for key in weights if key != name}, **held}, folder / "model.safetensors")
        assert torch.equal(read(folder, *TIED).lm_head.weight, weights[name])
    half = {key: weight.bfloat16() for key, weight in weights.items()}
    half[twin] = half.pop(name)
    save_file(half, folder / "model.safetensors")
    assert {weight.dtype for weight in read(folder, *TIED).parameters()} == {torch.bfloat16}
    save_file({**weights, twin: weights[name] + 1}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"model\.safetensors: {twin} differs from {name}, but config\.json ties them"
    ):
        read(folder, *TIED)


def breaking(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return apply


NORM = "model.layers.1.input_layernorm.weight"
BREAKAGES: dict[str, Callable[[Path], Any]] = {
    rf"1 weights are missing, the first is {NORM}": breaking(lambda weights: weights.pop(NORM)),
    r"model\.safetensors: unexpected weight model\.layers\.2\.x.*'llama' model of 2 layers": breaking(
        lambda weights: weights.update({"model.layers.2.x": torch.zeros(1)})
    ),
    rf"model\.safetensors: {NORM} is \(3,\), but config\.json asks for \(16,\)": breaking(
        lambda weights: weights.update({NORM: torch.zeros(3)})
    ),
    rf"{NORM} is stored as I8. Take a checkpoint that is not quantised": breaking(
        lambda weights: weights.update({NORM: torch.zeros(16, dtype=torch.int8)})
    ),
    r"model\.safetensors cannot be read .* cut short": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    r"model\.safetensors cannot be read": lambda folder: (folder / "model.safetensors").unlink(),
    r"index\.json is not an index of weights": lambda folder: (folder / "model.safetensors.index.json").write_text(
        "{}"
    ),
    r"none\.safetensors cannot be read": lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {NORM: "none.safetensors"}})
    ),
}


@pytest.mark.parametrize("message", BREAKAGES)
def test_broken_weights_are_refused_by_file_and_key_and_nothing_is_filled(tmp_path, message):
    folder = saved(tmp_path, made(*LLAMA))
    BREAKAGES[message](folder)
    with torch.device("meta"):
        network = LLAMA[0](LLAMA[1])
    with pytest.raises(ValueError, match=message):
        checkpoints.read_weights(folder, network)
    assert all(weight.is_meta for weight in network.parameters())


def test_broken_directories_are_refused(tmp_path):
    folder = saved(tmp_path, made(*LLAMA))
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        checkpoints.read_checkpoint(str(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        checkpoints.read_checkpoint(str(folder))


def test_keys_that_the_class_ignores_may_be_left_over(tmp_path):
    """Old files hold rotary frequencies."""
    folder = saved(tmp_path, made(*LLAMA))
    breaking(lambda weights: weights.update({"model.rotary.inv_freq": torch.zeros(4)}))(folder)
    with pytest.raises(ValueError, match="unexpected weight"):
        read(folder, *LLAMA)
    with torch.device("meta"):
        network = LLAMA[0](LLAMA[1])
    network._keys_to_ignore_on_load_unexpected = [r"rotary\.inv_freq"]
    checkpoints.read_weights(folder, network)


@pytest.mark.parametrize("size", [2**40, 2000])
def test_what_is_written_is_the_same_directory_again(tmp_path, monkeypatch, size):
    """Sharded or not, over the directory itself too: no shard and no index of before stays behind."""
    folder = saved(tmp_path / "theirs", made(*LLAMA))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    weights = load_file(folder / "model.safetensors")
    network, checkpoint = read(folder, *LLAMA), checkpoints.read_checkpoint(str(folder))
    monkeypatch.setattr(checkpoints, "SHARD", size)
    for target in (tmp_path / "other", folder):
        checkpoints.write(target, network, checkpoint)
        files = sorted(target.glob("*.safetensors"))
        assert (len(files) == 1) == (size > 2000)
        assert all(file.stat().st_size < size + 2000 for file in files)
        assert (target / "model.safetensors.index.json").is_file() == (size == 2000)
        assert (target / "generation_config.json").read_text() == '{"temperature": 0.25}'
        assert (target / "modeling_theirs.py").is_file()
        assert json.loads((target / "config.json").read_text()) == checkpoint.settings
        theirs = LlamaForCausalLM.from_pretrained(target).state_dict()
        assert theirs.keys() == weights.keys()
        assert all(torch.equal(theirs[name], weights[name]) for name in weights)
        read(target, *LLAMA)


def test_parts_of_a_weight_are_files_own_weights(tmp_path):
    """A spread: the network's matrix of keys and values is two matrices in files."""

    def spread(name: str, weight: Tensor) -> dict[str, Tensor]:
        if not name.endswith("gate_up.weight"):
            return {name: weight}
        return dict(zip((name.replace("_up", ""), name.replace("gate_", "")), weight.chunk(2), strict=True))

    class Fused(PreTrainedModel):
        config_class = LlamaConfig
        _supports_sdpa = True

        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            self.gate_up = torch.nn.Linear(3, 4, bias=False)
            self.post_init()

    first = made(Fused, LLAMA[1])
    files = checkpoints.Checkpoint(folder=tmp_path, settings={}, tokenizer=tokenizers.words(WORDS), new_tokenizer=True)
    checkpoints.write(tmp_path, first, files, spread=spread)
    weights = load_file(tmp_path / "model.safetensors")
    assert torch.equal(torch.cat([weights["gate.weight"], weights["up.weight"]]), first.gate_up.weight)
    second = read(tmp_path, Fused, LLAMA[1], spread=spread)
    assert torch.equal(first.gate_up.weight, second.gate_up.weight)


def test_qwen_vocabularies_without_a_tokenizer_file(tmp_path):
    """As Dream's directory has them: vocab.json and merges.txt, and a class of its own that is not run."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2, "<|mask|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "DreamTokenizer",
                "mask_token": "<|mask|>",
                "auto_map": {"AutoTokenizer": ["x.X", None]},
            }
        )
    )
    tokenizer = checkpoints.read_tokenizer(tmp_path)
    assert tokenizer("aba").input_ids == [2, 0]
    assert tokenizer.mask_token_id == 3
