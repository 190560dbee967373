"""The native network against Hugging Face's Llama, and checkpoints with strict keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from igpo_sampling import LLaDA, Tiny
from igpo_sampling.models.llada_network import HEAD_ROWS, LLaDAConfig, LLaDAForDiffusion
from igpo_sampling.testing import check_denoiser

WORDS = [f"w{number}" for number in range(29)]
NAMES = {
    r"model\.transformer\.wte": "model.embed_tokens",
    r"model\.transformer\.ln_f": "model.norm",
    r"model\.transformer\.ff_out": "lm_head",
    r"model\.transformer\.blocks": "model.layers",
    r"\.([qkv]_proj)": r".self_attn.\1",
    r"\.attn_out": ".self_attn.o_proj",
    r"\.ff_proj": ".mlp.gate_proj",
    r"\.up_proj": ".mlp.up_proj",
    r"\.ff_out": ".mlp.down_proj",
    r"\.attn_norm": ".input_layernorm",
    r"\.ff_norm": ".post_attention_layernorm",
}


def network(kv_heads: int = 4, seed: int = 0) -> LLaDAForDiffusion:
    """Random weights, norms included, wide enough that rotations matter."""
    config = LLaDAConfig(d_model=32, n_layers=2, n_heads=4, n_kv_heads=kv_heads, mlp_hidden_size=48, vocab_size=31)
    made = LLaDAForDiffusion(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(weight.ndim == 1, 0.3, generator=generator)
    return made


def llama(ours: LLaDAForDiffusion) -> LlamaForCausalLM:
    """The same weights under Llama's names; `config.is_causal = False` reaches every kind of attention."""
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=ours.config.n_kv_heads,
        intermediate_size=48,
        vocab_size=31,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
    )
    config.is_causal = False
    theirs = LlamaForCausalLM(config).eval()
    renamed = {}
    for name, tensor in ours.state_dict().items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert (missing, unexpected) == ([], [])
    return theirs


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(31, (3, 20), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, :7] = False
    return tokens, attention


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_are_those_of_llama_without_a_causal_mask(kv_heads, padded):
    ours = network(kv_heads)
    theirs = llama(ours)
    tokens, attention = inputs()
    attention |= not padded
    where = attention.flatten().nonzero()[:, 0]
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=attention.long()).logits.flatten(0, 1)[where]
        assert torch.allclose(ours(tokens, attention, where), expected, rtol=0, atol=1e-5)
        theirs.config.is_causal = True
        causal = theirs(tokens, attention_mask=attention.long()).logits.flatten(0, 1)[where]
    assert not torch.allclose(ours(tokens, attention, where), causal, rtol=0, atol=1e-2), "the test can fail"


def test_left_padding_needs_no_shift_of_positions():
    ours = network().double()
    tokens, attention = inputs()
    alone = ours(tokens[1:2, 7:], attention[1:2, 7:], torch.arange(13))
    assert torch.allclose(ours(tokens, attention, 27 + torch.arange(13)), alone, rtol=0, atol=1e-10)


def test_conforms():
    check_denoiser(network(), 31)
    check_denoiser(network(2).double(), 31, tolerance=1e-10)


def test_rotations_and_norms_are_float32_in_a_bfloat16_model():
    """Against the same arithmetic with bfloat16 rotations, which is what Hugging Face's Llama does."""
    from igpo_sampling.models.llada_network import rotate, rotation_of

    x = torch.randn(1, 2, 300, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = rotation_of(300, network().config, x.bfloat16())
    assert cos.dtype == torch.float32
    exact = rotate(x.bfloat16().float(), cos, sin)
    error = (rotate(x.bfloat16(), cos, sin).float() - exact).abs().max()
    coarse = (rotate(x.bfloat16(), cos.bfloat16(), sin.bfloat16()).float() - exact).abs().max()
    assert error < coarse / 1.5
    y = network().model["transformer"]["ln_f"].bfloat16()(x[0, 0, :, :1].bfloat16().expand(-1, 32))
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 3, 15])
def test_few_rows_of_the_head_have_the_bits_of_many(rows):
    ours = network()
    hidden = torch.randn(HEAD_ROWS, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.head(hidden[:rows]), ours.head(hidden)[:rows])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_checkpointing_changes_memory_only(mode):
    """In eval mode too: the policy is trained in eval mode, and Hugging Face's layers would ignore the flag there."""
    gradients, recomputed = [], []
    for checkpointing in (False, True):
        ours = getattr(network(), mode)()
        calls: list[int] = []
        ours.model["transformer"]["blocks"][0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            ours.gradient_checkpointing_enable()
        tokens, attention = inputs()
        ours(tokens, attention, torch.arange(50)).square().mean().backward()
        gradients.append([weight.grad for weight in ours.parameters()])
        recomputed.append(len(calls))
    assert recomputed == [1, 2]
    assert all(torch.equal(first, second) for first, second in zip(*gradients, strict=True))


def test_making_a_network_touches_no_global_random_state():
    state = torch.random.get_rng_state()
    Tiny(width=16, layers=1, heads=2)(vocabulary=WORDS)
    assert torch.equal(state, torch.random.get_rng_state())


# Checkpoints ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Tiny(width=16, layers=2, heads=2)(vocabulary=WORDS).save(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **settings: Any) -> None:
    """Settings of a JSON file; None removes a key."""
    values = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def shard(folder: Path) -> None:
    """Rewrite the weights in the published form: numbered files and an index."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {name: f"model-0000{1 + 2 * at // len(names)}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_saved_model_loads_again(folder, sharded):
    made = Tiny(width=16, layers=2, heads=2)(vocabulary=WORDS)
    if sharded:
        shard(folder)
    for loaded in (LLaDA(path=str(folder))(), Tiny(path=str(folder))()):
        first, second = made.denoiser.state_dict(), loaded.denoiser.state_dict()
        assert list(first) == list(second)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert loaded.tokenizer.get_vocab() == made.tokenizer.get_vocab()
        assert (loaded.mask_id, loaded.eos_id, loaded.pad_id) == (made.mask_id, made.eos_id, made.pad_id)
        assert loaded.linear == made.linear


def test_names_are_the_published_ones(folder):
    names = set(load_file(folder / "model.safetensors"))
    block = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out", "attn_norm", "ff_norm")
    assert names == {
        "model.transformer.wte.weight",
        "model.transformer.ln_f.weight",
        "model.transformer.ff_out.weight",
        *(f"model.transformer.blocks.{number}.{part}.weight" for number in range(2) for part in block),
    }
    settings = json.loads((folder / "config.json").read_text())
    assert settings["model_type"] == "llada"
    assert {"d_model", "n_layers", "n_heads", "mlp_hidden_size", "mask_token_id", "eos_token_id"} <= settings.keys()


def test_keys_that_we_do_not_know_survive(folder):
    change(
        folder / "config.json", auto_map={"AutoModel": "modeling_llada.LLaDAModelLM"}, alibi=False, init_fn="mitchell"
    )
    LLaDA(path=str(folder))().save(folder)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["auto_map"] == {"AutoModel": "modeling_llada.LLaDAModelLM"}
    assert settings["init_fn"] == "mitchell"


def test_weights_do_not_hang_on_the_file(folder):
    """Saving over the directory that a model was loaded from must not change the model."""
    loaded = LLaDA(path=str(folder))()
    before = {name: tensor.clone() for name, tensor in loaded.denoiser.state_dict().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    save_file(other, folder / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.denoiser.state_dict().items())


def test_dtype_is_the_stored_one_or_the_one_asked_for(folder):
    assert LLaDA(path=str(folder))().denoiser.dtype == torch.float32
    half = LLaDA(path=str(folder))(dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in half.denoiser.state_dict().values()} == {torch.bfloat16}
    half.save(folder)
    assert LLaDA(path=str(folder))().denoiser.dtype == torch.bfloat16


def test_lora_targets_are_every_linear_layer_but_the_head():
    """Trap 5: seven a block; a list of Llama's names would find four, the suffix ff_out would find the head."""
    linear = Tiny(width=16, layers=2, heads=2)(vocabulary=WORDS).linear
    assert len(linear) == 14
    assert "model.transformer.ff_out" not in linear
    assert linear[0] == "model.transformer.blocks.0.q_proj"
    usual = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    with pytest.raises(AssertionError):
        assert len([name for name in linear if name.endswith(usual)]) == 14


def test_another_family_is_refused(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=10, n_positions=8))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"config\.json: model_type = 'gpt2' is another family"):
        LLaDA(path=str(tmp_path))()


def test_the_mask_token_is_that_of_the_option_the_config_or_the_tokenizer(folder):
    change(folder / "config.json", mask_token_id=None, pad_token_id=None)
    assert LLaDA(path=str(folder))().mask_id == 29
    tokens = json.loads((folder / "tokenizer.json").read_text())
    names = {"<mask>": "<none>", "<pad>": "<fill>"}
    tokens["added_tokens"] = [
        {**each, "content": names.get(each["content"], each["content"])} for each in tokens["added_tokens"]
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    change(folder / "tokenizer_config.json", mask_token=None, pad_token=None)
    with pytest.raises(ValueError, match="has no mask token"):
        LLaDA(path=str(folder))()
    loaded = LLaDA(path=str(folder), mask_id=3)()
    assert loaded.mask_id == 3
    assert loaded.pad_id == loaded.eos_id, "LLaDA pads with EOS"
    loaded.save(folder)
    assert LLaDA(path=str(folder))().mask_id == 3
    with pytest.raises(ValueError, match="mask_id = 32 lies outside of the model's 32 tokens"):
        LLaDA(path=str(folder), mask_id=32)()


def rewritten(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


LAST = "model.transformer.ln_f.weight"
BREAKAGES = {
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "weights are missing, the first is " + LAST: lambda folder: rewritten(folder, lambda weights: weights.pop(LAST)),
    "unexpected weight extra.weight": lambda folder: rewritten(
        folder, lambda weights: weights.update({"extra.weight": torch.zeros(1)})
    ),
    LAST + r" is \(3,\), but config.json asks for \(16,\)": lambda folder: rewritten(
        folder, lambda weights: weights.update({LAST: torch.zeros(3)})
    ),
    r"model\.safetensors cannot be read": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:-100]
    ),
    "block_type = 'sequential' is not supported": lambda folder: change(
        folder / "config.json", block_type="sequential"
    ),
    "weight_tying = True is not supported": lambda folder: change(folder / "config.json", weight_tying=True),
}


@pytest.mark.parametrize("message", BREAKAGES)
def test_broken_directories_are_refused_by_file_and_key(folder, message):
    BREAKAGES[message](folder)
    with pytest.raises(ValueError, match=message):
        LLaDA(path=str(folder))()


def test_a_missing_shard_is_named(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors cannot be read"):
        LLaDA(path=str(folder))()


def test_a_name_that_is_no_directory_is_looked_up_and_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="does not exist, seen from"):
        LLaDA(path=str(tmp_path / "nothing"))()
    with pytest.raises(ValueError, match="the hub cannot be reached to look for a model of that name"):
        LLaDA(path="nobody/nothing")()
